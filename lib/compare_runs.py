"""Training runs side by side: which of them differ in one thing only, and what that thing did to the colours.

A run is trained several times, with other seeds, since another seed alone moves its error more than most changes do.
Verdicts come from a model in which photos and trainings are both random (`stats.effect_over_draws`).
"""

from itertools import combinations

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from lib.metrics import COLUMNS, read_metrics
from lib.stats import METRIC, by_photo, differences, effect_over_draws, holm, obedience, of_model, subjects_of, summary
from lib.study import RUNS

FACTORS = {  # what a run can differ in, by the column of its `run.csv`
    **dict(base="base model", start="start", photos="photos", epochs="epochs", rate="learning rate", batch="batch"),
    **dict(prompts="training prompts", dropout="prompt dropout", other="other settings"),
}
ONE_FACTOR = {"photos", "epochs"}  # count as one where both differ: more photos want fewer passes
FILES = {  # that a run's reports must hold, and the notebook that writes them
    "run.csv": "03_train_controlnet",
    "strip.jpg": "04_colorize_photos",
    "metrics.csv": "05_evaluate",
    "steering.csv": "05_evaluate",
}
ASKED = [("study_1", "study_2"), ("study_2", "study_3"), ("study_3", "stock_recipe")]  # whatever changed between them
TRAININGS = 3  # of a run that a verdict needs
CONTRASTS_OF_RUNS = (("detailed", "vague"), ("vague", "gray"), ("detailed", "gray"))  # asked of every run
EFFECTS_OF_CHANGES = (("vague", ""), ("detailed", ""), ("detailed", "vague"))  # asked of every pair of runs


def read_runs(profile):
    """The runs below a profile's reports that colorized all photos of its own run: rows of `run.csv`, {run: metrics}.

    The metrics are of the own run's photos; the order is that of `RUNS`, then of names. A folder that lacks one of
    `FILES`, or a column of today's metrics, is no run; where the own run's lacks a file, it is a ValueError that says
    which notebook to run first.
    """
    for name, notebook in FILES.items():
        if not (profile.folders.reports_dir / name).exists():
            raise ValueError(f"the reports of run {profile.folders.run} hold no {name}: run notebook {notebook} first")
    photos, runs = set(read_metrics(profile.folders.reports_dir / "metrics.csv")["image_id"]), {}
    for folder in sorted(path.parent for path in profile.folders.reports_home.glob("**/run.csv")):
        if all((folder / name).exists() for name in FILES):
            facts = pd.read_csv(folder / "run.csv", keep_default_na=False, dtype={"run": str}).assign(folder=folder)
            metrics = read_metrics(folder / "metrics.csv")
            if set(COLUMNS) <= set(metrics) and photos <= set(metrics["image_id"]):
                runs[facts["run"][0]] = facts, metrics[metrics["image_id"].isin(photos)]
    names = [run for run in RUNS if run in runs] + sorted(set(runs) - set(RUNS))
    facts = pd.concat([runs[name][0] for name in names], ignore_index=True)
    return facts, {name: runs[name][1] for name in names}


def values_of(metrics, first, second=""):
    """CIEDE2000 by photo of a prompt or system, less that of a second one where it is named."""
    return differences(metrics, METRIC, first, second) if second else by_photo(metrics, METRIC, first)


def values_of_trainings(metrics, runs, first, second=""):
    """A table (photos, trainings) of `values_of` several runs."""
    return pd.DataFrame({run: values_of(metrics[run], first, second) for run in runs})


def trainings_of(facts):
    """{name: its runs}: those that differ in the training seed only, under the name of the first."""
    groups = facts.groupby(list(FACTORS), sort=False, dropna=False)["run"].agg(list)
    return {runs[0]: runs for runs in groups}


def table_of_runs(facts, metrics):
    """A row a training: what it was, and what came out: means of CIEDE2000 and of the chroma ratio (detailed prompt).

    `obeyed` is over the things that all runs steered, as many as `things_measured`.
    """
    rows, steering = [], read_steering(facts)
    for fact in facts.itertuples():
        table, things = metrics[fact.run], steering[fact.run]
        row = {name: getattr(fact, name) for name in ("run", *FACTORS, "seed")}
        row["seeds"] = table.loc[table["system"] == "controlnet", "seed"].nunique()
        row["photos_measured"] = table["image_id"].nunique()
        row |= {name: values_of(table, name).mean() for name in ("vague", "detailed", "gray")}
        means = summary(of_model(table[table["prompt_level"] == "detailed"]))
        row["chroma_ratio"] = means["chroma_ratio"].item()
        row["things_measured"] = things["image_id"].nunique()
        row["obeyed"] = obedience(things)["reached"] if len(things) else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def contrasts_of_runs(facts, metrics):
    """The contrasts first - second within each run, in CIEDE2000, over its trainings: `effect_over_draws`.

    `seed_sd`: the standard deviation of the trainings' means.
    """
    rows = []
    for run, runs in trainings_of(facts).items():
        for first, second in CONTRASTS_OF_RUNS:
            table = values_of_trainings(metrics, runs, first, second)
            row = {"run": run, "first": first, "second": second, "trainings": len(runs), "n": len(table)}
            effect = effect_over_draws(table, subjects=subjects_of(metrics[run])[table.index])
            rows.append({**row, **effect, "seed_sd": table.mean().std()})
    return pd.DataFrame(rows).drop(columns="df")


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
    """What each change between two runs did to CIEDE2000: `effect_over_draws`, first run - second run.

    The first run is the one after the change. A row is about one prompt (`first`; `second` is empty) or about the
    difference of two (`first` - `second`). `trainings`: of the run that has fewer; below `TRAININGS` there is no p.
    p is corrected by Holm's method over all rows.
    """
    columns = ["changed", "first_run", "second_run", "first", "second", "trainings", "n", "mean", "low", "high", "p"]
    rows, runs = [], trainings_of(facts)
    for changed, before, after in pairs_of_runs(facts[facts["run"].isin(list(runs))]):
        trainings = min(len(runs[before]), len(runs[after]))
        for first, second in EFFECTS_OF_CHANGES:
            new, old = (values_of_trainings(metrics, runs[run], first, second) for run in (after, before))
            row = dict(changed=changed, first_run=after, second_run=before, first=first, second=second)
            effect = effect_over_draws(new, old, subjects_of(metrics[after])[new.index])
            effect["p"] = effect["p"] if trainings >= TRAININGS else np.nan
            rows.append({**row, "trainings": trainings, "n": len(new), **effect})
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table["p"]), metric=METRIC)
