"""Training runs side by side: which of them differ in one thing only, and what that thing did to the colours."""

from itertools import combinations

import pandas as pd

from lib.metrics import read_metrics
from lib.profiles import RUNS
from lib.statistics import by_photo, contrast, corrected, interval, obedience, summary

FACTORS = {  # what a run can differ in, by the column of its `run.csv`
    "base": "base model",
    "start": "start",
    "photos": "photos",
    "epochs": "epochs",
    "rate": "learning rate",
    "batch": "batch",
    "prompts": "training prompts",
    "dropout": "prompt dropout",
    "seed": "seed",
    "other": "other settings",
}
ONE_FACTOR = {"photos", "epochs"}  # count as one where both differ: more photos want fewer passes
FILES = ("run.csv", "metrics.csv", "steering.csv", "strip.jpg")  # that a run's reports must hold
ASKED = [("study_1", "study_2"), ("study_2", "study_3"), ("study_3", "stock_recipe")]  # whatever changed between them
METRIC = "ciede2000"


def read_runs(profile):
    """The runs below a profile's reports that colorized all photos of its own run: rows of `run.csv`, {run: metrics}.

    The metrics are of the own run's photos; the order is that of `RUNS`, then of names. A folder that lacks one of
    `FILES` is no run.
    """
    photos = set(read_metrics(profile.reports_dir / "metrics.csv")["image_id"])
    facts, metrics = [], {}
    for folder in sorted(path.parent for path in profile.reports_home.glob("**/run.csv")):
        if all((folder / name).exists() for name in FILES):
            fact = pd.read_csv(folder / "run.csv", keep_default_na=False, dtype={"run": str}).assign(folder=folder)
            table = read_metrics(folder / "metrics.csv")
            if photos <= set(table["image_id"]):
                facts.append(fact)
                metrics[fact["run"][0]] = table[table["image_id"].isin(photos)]
    facts = sorted(facts, key=lambda fact: ([*RUNS, fact["run"][0]].index(fact["run"][0]), fact["run"][0]))
    return pd.concat(facts, ignore_index=True) if facts else pd.DataFrame(columns=["run"]), metrics


def prompt_series(metrics):
    """CIEDE2000 by photo under the vague and the detailed prompt, and what the detail adds."""
    vague, detailed = (by_photo(metrics, METRIC, "controlnet", level) for level in ("vague", "detailed"))
    return {"vague": vague, "detailed": detailed, "detailed - vague": detailed - vague}


def table_of_runs(facts, metrics):
    """A row a run: what it was, what the study saw in it, and what came out (means over photos, 95 % interval)."""
    rows = []
    for fact in facts.itertuples():
        series = prompt_series(metrics[fact.run])
        mean, low, high = interval(series["detailed - vague"])
        means = summary(metrics[fact.run]).query("merged").set_index(["system", "prompt_level"])
        steering = pd.read_csv(fact.folder / "steering.csv")
        rows.append({
            "run": fact.run, "base": fact.base, "photos": fact.photos, "rate": fact.rate, "epochs": fact.epochs,
            "prompts": fact.prompts, "dropout": fact.dropout, "other": fact.other,
            "the study saw": RUNS[fact.run].seen if fact.run in RUNS else "",
            "n": len(series["vague"]), "vague": series["vague"].mean(), "detailed": series["detailed"].mean(),
            "gain": mean, "gain_low": low, "gain_high": high,
            "gray": means.loc[("gray", ""), METRIC], "chroma_ratio": means.loc[("controlnet", "detailed"), "chroma_ratio"],
            "obeyed": obedience(steering)["reached"] if len(steering) else float("nan"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def pairs_of_runs(facts):
    """[(what changed, first run, second run)] for runs that differ in one factor, and for those of `ASKED`."""
    pairs, by_run = [], facts.set_index("run")
    for first, second in combinations(facts["run"], 2):
        changed = [column for column in FACTORS if by_run[column][first] != by_run[column][second]]
        if len(changed) == 1 or set(changed) == ONE_FACTOR or (changed and (first, second) in ASKED):
            pairs.append((" and ".join(FACTORS[column] for column in changed), first, second))
    return pairs


def effects_of_factors(facts, metrics):
    """What each pair of runs tells: `contrast` of CIEDE2000, second - first, for both prompts and for their difference.

    Photos are paired; p is corrected by Holm's method over all rows.
    """
    series = {run: prompt_series(table) for run, table in metrics.items()}
    rows = [
        {"changed": changed, "runs": f"{second} - {first}", "prompt": prompt}
        | contrast(series[second][prompt], series[first][prompt], METRIC)
        for changed, first, second in pairs_of_runs(facts)
        for prompt in ("vague", "detailed", "detailed - vague")
    ]
    columns = ["changed", "runs", "prompt", "metric", "n", "mean", "low", "high", "p", "p_holm", "improved"]
    return corrected(pd.DataFrame(rows))[columns] if rows else pd.DataFrame(columns=columns)
