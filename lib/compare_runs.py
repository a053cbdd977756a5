"""Training runs side by side: which of them differ in one thing only, and what that thing did to the colours."""

from itertools import combinations

import pandas as pd
from pandas.api.types import is_numeric_dtype

from lib.metrics import read_metrics
from lib.stats import by_photo, contrast, corrected, interval, obedience, summary
from lib.study import RUNS

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
FILES = {  # that a run's reports must hold, and the notebook that writes them
    "run.csv": "03_train_controlnet",
    "strip.jpg": "04_colorize_photos",
    "metrics.csv": "05_evaluate",
    "steering.csv": "05_evaluate",
}
ASKED = [("study_1", "study_2"), ("study_2", "study_3"), ("study_3", "stock_recipe")]  # whatever changed between them
METRIC, DIFFERENCES = "ciede2000", ("detailed - vague", "vague - gray", "detailed - gray")


def read_runs(profile):
    """The runs below a profile's reports that colorized all photos of its own run: rows of `run.csv`, {run: metrics}.

    The metrics are of the own run's photos; the order is that of `RUNS`, then of names. A folder that lacks one of
    `FILES` is no run; where the own run's lacks one, it is a ValueError that says which notebook to run first.
    """
    for name, notebook in FILES.items():
        if not (profile.folders.reports_dir / name).exists():
            raise ValueError(f"the reports of run {profile.folders.run} hold no {name}: run notebook {notebook} first")
    photos = set(read_metrics(profile.folders.reports_dir / "metrics.csv")["image_id"])
    facts, metrics = [], {}
    for folder in sorted(path.parent for path in profile.folders.reports_home.glob("**/run.csv")):
        if all((folder / name).exists() for name in FILES):
            fact = pd.read_csv(folder / "run.csv", keep_default_na=False, dtype={"run": str}).assign(folder=folder)
            table = read_metrics(folder / "metrics.csv")
            if photos <= set(table["image_id"]):
                facts.append(fact)
                metrics[fact["run"][0]] = table[table["image_id"].isin(photos)]
    facts = sorted(facts, key=lambda fact: ([*RUNS, fact["run"][0]].index(fact["run"][0]), fact["run"][0]))
    return pd.concat(facts, ignore_index=True) if facts else pd.DataFrame(columns=["run"]), metrics


def prompt_series(metrics):
    """CIEDE2000 by photo under the vague and the detailed prompt, and their differences from each other and from gray."""
    vague, detailed = (by_photo(metrics, METRIC, "controlnet", level) for level in ("vague", "detailed"))
    gray = by_photo(metrics, METRIC, "gray")
    differences = {
        "detailed - vague": detailed - vague,
        "vague - gray": vague - gray,
        "detailed - gray": detailed - gray,
    }
    return {"vague": vague, "detailed": detailed, **differences}


def table_of_runs(facts, metrics):
    """A row a run: what it was, and what came out: means over photos, of differences with their 95 % interval.

    `obeyed` is over the things that all runs steered, as many as `things measured`.
    """
    rows, steering = [], read_steering(facts)
    for fact in facts.itertuples():
        table = metrics[fact.run]
        row = {name: getattr(fact, name) for name in ("run", *FACTORS)}
        row["seeds"] = table.loc[table["system"] == "controlnet", "seed"].nunique()
        for name, values in prompt_series(table).items():
            row["photos measured"], row[name] = len(values), values.mean()
            if name in DIFFERENCES:
                _, row[f"{name}, low"], row[f"{name}, high"] = interval(values)
        means = summary(table[table["prompt_level"] == "detailed"]).query("merged and system == 'controlnet'")
        row["chroma_ratio"] = means["chroma_ratio"].item()
        row["things measured"] = steering[fact.run]["image_id"].nunique()
        row["obeyed"] = obedience(steering[fact.run])["reached"] if len(steering[fact.run]) else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def read_steering(facts):
    """{run: its `steering.csv`}, of the things that all runs have that steered any."""
    tables = {
        fact.run: pd.read_csv(fact.folder / "steering.csv", dtype={"image_id": str}) for fact in facts.itertuples()
    }
    things = [set(table["image_id"]) for table in tables.values() if len(table)]
    shared = set.intersection(*things) if things else set()
    return {run: table[table["image_id"].isin(shared)] for run, table in tables.items()}


def pairs_of_runs(facts):
    """[(what changed, first run, second run)] for runs that differ in one factor, and for those of `ASKED`.

    The first has the smaller number, or what comes first in the table.
    """
    pairs, by_run = [], facts.set_index("run")
    for first, second in combinations(facts["run"], 2):
        changed = [column for column in FACTORS if by_run[column][first] != by_run[column][second]]
        label = " and ".join(FACTORS[column] for column in changed)
        if len(changed) == 1:
            values = by_run[changed[0]]
            order = sorted(values.unique()) if is_numeric_dtype(values) else list(values.unique())
            first, second = sorted((first, second), key=lambda run: order.index(values[run]))
        if len(changed) == 1 or set(changed) == ONE_FACTOR or (changed and (first, second) in ASKED):
            pairs.append((label, first, second))
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
