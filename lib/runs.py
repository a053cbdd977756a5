"""Training runs side by side: which of them differ in one thing only, and what that thing did to the colours."""

from itertools import combinations

import pandas as pd

from lib.metrics import read_metrics
from lib.profiles import RUNS
from lib.statistics import by_photo, contrast, corrected, interval, obedience, summary

FACTORS = {  # what a run can differ in: the columns of its `run.csv`
    "base model": ["base"],
    "start": ["start"],
    "photos and epochs": ["photos", "epochs"],
    "learning rate": ["rate"],
    "batch": ["batch"],
    "training prompts": ["prompts"],
    "prompt dropout": ["dropout"],
    "seed": ["seed"],
}
ASKED = [("study_1", "study_2"), ("study_2", "study_3"), ("study_3", "stock_recipe")]  # whatever changed between them
METRIC = "ciede2000"


def read_runs(home):
    """What the runs below a profile's reports were (rows of `run.csv`), and {run: metrics} of the photos common to all.

    The order is that of `RUNS`, then of names. Runs without both files, or a folder without any, are left out.
    """
    paths = [path for path in home.glob("**/run.csv") if (path.parent / "metrics.csv").exists()]
    facts = [pd.read_csv(path, keep_default_na=False, dtype={"run": str}).assign(folder=path.parent) for path in paths]
    facts = sorted(facts, key=lambda row: ([*RUNS, row["run"][0]].index(row["run"][0]), row["run"][0]))
    metrics = {row["run"][0]: read_metrics(row["folder"][0] / "metrics.csv") for row in facts}
    common = set.intersection(*(set(table["image_id"]) for table in metrics.values())) if metrics else set()
    metrics = {run: table[table["image_id"].isin(common)] for run, table in metrics.items()}
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
            "prompts": fact.prompts, "dropout": fact.dropout,
            "the study saw": RUNS[fact.run].seen if fact.run in RUNS else "",
            "vague": series["vague"].mean(), "detailed": series["detailed"].mean(),
            "gain": mean, "gain_low": low, "gain_high": high,
            "gray": means.loc[("gray", ""), METRIC], "chroma_ratio": means.loc[("controlnet", "detailed"), "chroma_ratio"],
            "obeyed": obedience(steering)["reached"] if len(steering) else float("nan"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def pairs_of_runs(facts):
    """[(what changed, first run, second run)] for runs that differ in one factor, and for those of `ASKED`."""
    pairs, by_run = [], facts.set_index("run")
    for first, second in combinations(facts["run"], 2):
        changed = [
            name for name, columns in FACTORS.items() if any(by_run[c][first] != by_run[c][second] for c in columns)
        ]
        if len(changed) == 1 or (changed and (first, second) in ASKED):
            pairs.append((" and ".join(changed), first, second))
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
