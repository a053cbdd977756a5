"""Training runs side by side: `runs.csv` of a profile has one row for each run that was measured."""

import pandas as pd

from lib import stats
from lib.cache import write_table
from lib.config import RUNS

SETTINGS = ("base", "start", "photos", "epochs", "rate", "batch", "prompts", "dropout", "other", "seed")  # of `run.csv`
ERRORS = (("vague", ""), ("detailed", ""), ("detailed", "vague"), ("vague", "gray"), ("detailed", "gray"))


def measure_run(settings: dict, metrics: pd.DataFrame) -> dict:
    """Returns the row of a run in `runs.csv`.

    CIEDE2000 under two prompts, and its differences, have 95 % intervals over photos (`_low`, `_high`). `gray` is the
    error of the photos left gray. `chroma_ratio` is that of the detailed prompt.

    Args:
        settings: the run's row of `run.csv`.
        metrics: `metrics.csv` of the run.
    """
    row = {name: settings.get(name, "") for name in ("run", *SETTINGS)}
    subjects, detailed = stats.subjects_of(metrics), stats.of_model(metrics[metrics["prompt_level"] == "detailed"])
    row |= {"n": len(subjects), "gray": stats.by_photo(metrics, stats.METRIC, "gray").mean()}
    for first, second in ERRORS:
        names = (first, second) if second else (first,)
        errors = (stats.differences if second else stats.by_photo)(metrics, stats.METRIC, *names)
        row |= stats.named_ends(stats.label(first, second), stats.interval(errors, subjects[errors.index]))
    return row | {"chroma_ratio": stats.summary(detailed)["chroma_ratio"].item()}


def update_runs(config, row: dict) -> pd.DataFrame:
    """Writes a run's row to the profile's `runs.csv`; rows of other runs stay as they are.

    Returns:
        The rows of the runs on the same photos as this one, in the order of `RUNS`, then of names. Photos are the same
        if their number and their mean error when left gray are.
    """
    path, table = config.reports_home / "runs.csv", pd.DataFrame([row])
    if path.exists():
        kept = pd.read_csv(path, keep_default_na=False, na_values="", dtype={"run": str}).fillna({"other": ""})
        table = pd.concat([kept[kept["run"] != row["run"]], table], ignore_index=True)
    known = list(RUNS[config.profile])
    ranks = {run: rank for rank, run in enumerate([*known, *sorted(set(table["run"]) - set(known))])}
    table = table.sort_values("run", key=lambda runs: runs.map(ranks), ignore_index=True)
    write_table(table, path)
    return table[(table["n"] == row["n"]) & (table["gray"] - row["gray"]).abs().lt(1e-3)]
