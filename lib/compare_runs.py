"""Training runs side by side: which of them differ in one thing only, and what that thing did to the colours."""

from itertools import combinations

import pandas as pd
from pandas.api.types import is_numeric_dtype

from lib.metrics import read_metrics
from lib.stats import by_photo, contrast, corrected, interval, obedience, summary
from lib.study import RUNS

FACTORS = {  # what a run can differ in, by the column of its `run.csv`
    **dict(base="base model", start="start", photos="photos", epochs="epochs", rate="learning rate", batch="batch"),
    **dict(prompts="training prompts", dropout="prompt dropout", seed="seed", other="other settings"),
}
ONE_FACTOR = {"photos", "epochs"}  # count as one where both differ: more photos want fewer passes
FILES = {  # that a run's reports must hold, and the notebook that writes them
    "run.csv": "03_train_controlnet",
    "strip.jpg": "04_colorize_photos",
    "metrics.csv": "05_evaluate",
    "steering.csv": "05_evaluate",
}
ASKED = [("study_1", "study_2"), ("study_2", "study_3"), ("study_3", "stock_recipe")]  # whatever changed between them
METRIC = "ciede2000"
CONTRASTS_OF_RUNS = (("detailed", "vague"), ("vague", "gray"), ("detailed", "gray"))  # asked of every run
EFFECTS_OF_CHANGES = (("vague", ""), ("detailed", ""), ("detailed", "vague"))  # asked of every pair of runs


def read_runs(profile):
    """The runs below a profile's reports that colorized all photos of its own run: rows of `run.csv`, {run: metrics}.

    The metrics are of the own run's photos; the order is that of `RUNS`, then of names. A folder that lacks one of
    `FILES` is no run; where the own run's lacks one, it is a ValueError that says which notebook to run first.
    """
    for name, notebook in FILES.items():
        if not (profile.folders.reports_dir / name).exists():
            raise ValueError(f"the reports of run {profile.folders.run} hold no {name}: run notebook {notebook} first")
    photos, runs = set(read_metrics(profile.folders.reports_dir / "metrics.csv")["image_id"]), {}
    for folder in sorted(path.parent for path in profile.folders.reports_home.glob("**/run.csv")):
        if all((folder / name).exists() for name in FILES):
            facts = pd.read_csv(folder / "run.csv", keep_default_na=False, dtype={"run": str}).assign(folder=folder)
            metrics = read_metrics(folder / "metrics.csv")
            if photos <= set(metrics["image_id"]):
                runs[facts["run"][0]] = facts, metrics[metrics["image_id"].isin(photos)]
    names = [run for run in RUNS if run in runs] + sorted(set(runs) - set(RUNS))
    facts = pd.concat([runs[name][0] for name in names], ignore_index=True)
    return facts, {name: runs[name][1] for name in names}


def values_of(metrics, first, second=""):
    """CIEDE2000 by photo of a prompt or system, less that of a second one where it is named."""
    values = by_photo(metrics, METRIC, first)
    return values - by_photo(metrics, METRIC, second) if second else values


def table_of_runs(facts, metrics):
    """A row a run: what it was, and what came out: means of CIEDE2000 and of the chroma ratio (detailed prompt).

    `obeyed` is over the things that all runs steered, as many as `things_measured`.
    """
    rows, steering = [], read_steering(facts)
    for fact in facts.itertuples():
        table, things = metrics[fact.run], steering[fact.run]
        row = {name: getattr(fact, name) for name in ("run", *FACTORS)}
        row["seeds"] = table.loc[table["system"] == "controlnet", "seed"].nunique()
        row["photos_measured"] = table["image_id"].nunique()
        row |= {name: values_of(table, name).mean() for name in ("vague", "detailed", "gray")}
        means = summary(table[table["prompt_level"] == "detailed"]).query("merged and system == 'controlnet'")
        row["chroma_ratio"] = means["chroma_ratio"].item()
        row["things_measured"] = things["image_id"].nunique()
        row["obeyed"] = obedience(things)["reached"] if len(things) else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def contrasts_of_runs(metrics):
    """The contrasts first - second within each run, in CIEDE2000: `n` photos, `mean` and its 95 % interval."""
    rows = []
    for run, table in metrics.items():
        for first, second in CONTRASTS_OF_RUNS:
            values = values_of(table, first, second)
            ends = dict(zip(("mean", "low", "high"), interval(values), strict=True))
            rows.append({"run": run, "first": first, "second": second, "n": len(values), **ends})
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
    """[(what changed, run before, run after)] for runs that differ in one factor, and for those of `ASKED`.

    Before is the smaller number, or what comes first in the table.
    """
    pairs, by_run = [], facts.set_index("run")
    for before, after in combinations(facts["run"], 2):
        changed = [column for column in FACTORS if by_run[column][before] != by_run[column][after]]
        if len(changed) == 1:
            values = by_run[changed[0]]
            order = sorted(values.unique()) if is_numeric_dtype(values) else list(values.unique())
            before, after = sorted((before, after), key=lambda run: order.index(values[run]))
        if len(changed) == 1 or set(changed) == ONE_FACTOR or (changed and (before, after) in ASKED):
            pairs.append((" and ".join(FACTORS[column] for column in changed), before, after))
    return pairs


def effects_of_changes(facts, metrics):
    """What each change between two runs did: `contrast` of CIEDE2000, first run - second run, photo by photo.

    The first run is the one after the change. A row is about one prompt (`first`; `second` is empty) or about the
    difference of two (`first` - `second`). p is corrected by Holm's method over all rows.
    """
    columns = ["changed", "first_run", "second_run", "first", "second", "metric", "n", "mean", "low", "high", "p"]
    rows = []
    for changed, before, after in pairs_of_runs(facts):
        for first, second in EFFECTS_OF_CHANGES:
            values = [values_of(metrics[run], first, second) for run in (after, before)]
            facts_of_row = dict(changed=changed, first_run=after, second_run=before, first=first, second=second)
            rows.append(facts_of_row | contrast(*values, METRIC))
    table = pd.DataFrame(rows, columns=[*columns, "improved"])
    return corrected(table) if rows else table
