"""Tables and the written report, every number from the files that the notebooks wrote."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import torch
from IPython.display import Markdown, display
from jinja2 import Environment, PackageLoader, StrictUndefined

from lib import ROOT, figures, stats
from lib.cache import write_table, write_text
from lib.config import RUNS, Config, describe_run, get_config
from lib.models import require_precision
from lib.sampling import with_chosen_sampling
from lib.stats import MARGIN, METRIC, label, verdict

MAX_COLUMNS = 8  # of a table in a notebook
MAIN_CONTRASTS = (  # of the report's table and notebook 06; all others are in effects.csv
    ("detailed", "vague"),
    ("detailed", "gray"),
    ("vague", "gray"),
    ("detailed", "object"),
    ("gray_caption", "vague"),
)
RUN_SETTINGS = ("base", "start", "photos", "epochs", "rate", "batch", "prompts", "dropout", "other", "seed")
RUN_CONTRASTS = (("detailed", "vague"), ("vague", "gray"), ("detailed", "gray"))
SIGNED = (*("mean", "low", "high", "median"), *("detailed - vague", "vague - gray", "detailed - gray"))
FORMATS = {  # of a column's numbers
    **dict.fromkeys(("psnr", "ciede2000", "ab_error", "mean_error", "deviation_error", "chroma_ratio"), ".2f"),
    **dict.fromkeys(("vague", "detailed", "gray"), ".2f"),
    **dict.fromkeys(("colorfulness", "colorfulness_difference", "clip_score", "fid"), ".1f"),
    **dict.fromkeys(("true_chroma",), ".1f"),
    **dict.fromkeys(("ssim", "ssim_luma"), ".3f"),
    **dict.fromkeys(("kid", "lpips"), ".4f"),
    **dict.fromkeys((*SIGNED, "over_vague", "over_gray"), "+.2f"),
    **dict.fromkeys(("p", "p_holm", "p_equal"), ".2g"),
    **dict.fromkeys(("improved", "hue_error_share"), ".0%"),
    **dict(steps=".0f", df=".0f", learning_rate=".0e", train_epochs="g"),
}


def begin(profile_name: str, run: str, overrides: dict, sampling_is_chosen: bool = True) -> Config:
    """Returns a notebook's config, sets the style of its figures and shows what its results rest on.

    Args:
        profile_name, run, overrides: the notebook's parameters.
        sampling_is_chosen: whether notebook 04 has chosen steps and guidance; else they are the profile's own.

    Raises:
        ValueError: for an unknown or wrong parameter, an unusable precision, or if notebook 04 has not run.
    """
    config = get_config(profile_name, **{"run": run, **overrides})
    figures.use_style()
    display(show_facts(provenance(config)))
    return with_chosen_sampling(config) if sampling_is_chosen else config


def provenance(config: Config) -> dict:
    """Returns versions, device and revision that a result rests on; raises ValueError for an unusable precision."""
    require_precision(config.mixed_precision)
    packages = ("torch", "diffusers", "transformers", "datasets", "scikit-image")
    revision = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(revision, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "profile": config.profile,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "lib": version("prompted-colorization"),
        "device": "cuda" if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "commit": commit.stdout.strip() or "unknown",
    }


def save_table(table: pd.DataFrame, config: Config, name: str) -> Path:
    """Saves a table as CSV in the reports of the profile's run, and returns its path."""
    path = config.reports_dir / f"{name}.csv"
    write_table(table, path)
    return path


def markdown_table(table: pd.DataFrame) -> str:
    """Returns a table in Markdown; numbers as `FORMATS` says for their column, a missing one as a dash."""
    cells = {}
    for name in table:
        form = FORMATS.get(name, "")
        texts = ["-" if cell != cell else cell if isinstance(cell, str) else format(cell, form) for cell in table[name]]
        cells[name.replace("_", " ")] = texts
    return pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True)


def show(table: pd.DataFrame, *columns: str, csv: Path | None = None) -> Markdown:
    """Returns a table for a notebook, formatted like the report's.

    Args:
        table: the table.
        *columns: names of columns; none: all. More than `MAX_COLUMNS` raise ValueError.
        csv: a file with all columns, to which a link leads.
    """
    shown = table[list(columns)] if columns else table
    if len(shown.columns) > MAX_COLUMNS:
        raise ValueError(f"{len(shown.columns)} columns do not fit on a page: name at most {MAX_COLUMNS}")
    link = f"\n\nAll columns: [{csv.name}]({quote(os.path.relpath(csv))})" if csv else ""
    return Markdown(markdown_table(shown) + link)


def show_facts(facts: dict) -> Markdown:
    """Returns facts by name for a notebook, in a line; numbers with three digits, without those that are empty."""
    texts = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in facts.items()}
    return Markdown(", ".join(f"{name} **{text}**" for name, text in texts.items() if text != ""))


LAYOUT = dict(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
TEMPLATES = Environment(loader=PackageLoader("lib"), undefined=StrictUndefined, **LAYOUT)
TEMPLATES.filters |= {"fmt": format, "one_line": lambda text: " ".join(text.split()), "table": markdown_table}


def render(template: str, **values) -> str:
    """Returns the text of `lib/templates/<template>.md.j2` with these values; a missing one raises UndefinedError.

    Templates have three filters beside Jinja's: `fmt` (Python's `format`), `one_line` (joins lines by a space) and
    `table` (`markdown_table`).
    """
    return TEMPLATES.get_template(f"{template}.md.j2").render(values)


def write_report(config: Config, metrics: pd.DataFrame, effects: pd.DataFrame) -> None:
    """Writes `report.md`, one page; findings come from `findings.md` beside it, which a person writes.

    Args:
        config: of the run.
        metrics: `metrics.csv`.
        effects: `effects.csv`.
    """
    folder, home = config.reports_dir, config.reports_home
    ours, findings = metrics[metrics["system"] == "controlnet"], folder / "findings.md"
    wrong = ours[ours["restored"]].groupby(["prompt_condition", "image_id"])["hue_error_share"].mean()
    text = render(
        "report",
        config=config,
        provenance=provenance(config),
        answer=answer(effects),
        wrong_hue=wrong.groupby(level=0).mean(),
        photos=ours["image_id"].nunique(),
        subjects=ours["subject"].nunique(),
        main=main_effects(effects)[["contrast", "n", "estimate", "p_holm", "verdict"]],
        findings=findings.read_text("utf-8").strip() if findings.exists() else "",
        margin=MARGIN,
        runs_page=os.path.relpath(home / "runs.md", folder) if (home / "runs.md").exists() else "",
        tables=sorted(path.name for path in folder.glob("*.csv")),
    )
    write_text(text, folder / "report.md")


def publish(config: Config, metrics: pd.DataFrame) -> str:
    """Publishes the ControlNet with its scores on the Hub if `hub_repo_id` is set, and returns what it did."""
    from lib.l4 import hub

    return hub.push_controlnet(config, stats.summary(metrics), len(set(stats.side_by_side(metrics)["image_id"])))


def with_interval(mean: float, low: float, high: float, form: str = "+.2f") -> str:
    """Returns a number with its interval, as text; without one if it is missing."""
    return f"{mean:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low == low else "")


def answer(effects: pd.DataFrame) -> str:
    """Returns the answer to the primary question, as its interval allows to say."""
    words = {"better": "Yes", "worse": "No, the reverse", "equivalent": "No", "inconclusive": "It can't be told"}
    row = next(in_words(effects).query("first == 'detailed' and second == 'vague'").itertuples(), None)
    if row is None or row.low != row.low:
        return "**Too few photos to tell**, or no difference between them."
    return (
        f"**{words[row.verdict]}, for this model and these photos.** Detailed prompts change CIEDE2000 by "
        f"**{row.mean:+.2f}** against vague ones (95 % interval {row.low:+.2f} to {row.high:+.2f}, p {row.p_holm:.2g}, "
        f"n = {row.n}; lower is better). Verdict: {row.verdict}. The error of {row.improved:.0%} of the photos falls; "
        f"the median photo changes by {row.median:+.2f}."
    )


def in_words(effects: pd.DataFrame) -> pd.DataFrame:
    """Returns the effects in CIEDE2000 with `contrast`, `verdict` and `estimate` (mean and interval) as text."""
    effects = effects[effects["metric"] == METRIC]
    rows = list(effects.itertuples())
    return effects.assign(
        contrast=[label(row.first, row.second) for row in rows],
        verdict=[verdict(row) for row in rows],
        estimate=[with_interval(row.mean, row.low, row.high) for row in rows],
    )


def main_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of `in_words` for `MAIN_CONTRASTS`, those that were measured."""
    rows = in_words(effects).set_index(["first", "second"], drop=False)
    return rows.loc[[pair for pair in MAIN_CONTRASTS if pair in rows.index]]


def measure_run(config: Config, metrics: pd.DataFrame) -> dict:
    """Returns the row of a run in `runs.csv`.

    CIEDE2000 under two prompts, and its differences, have 95 % intervals over photos (`_low`, `_high`). `gray` is the
    error of the photos left gray. `chroma_ratio` is that of the detailed prompt.

    Args:
        config: of the run.
        metrics: `metrics.csv` of the run.
    """
    settings, subjects = describe_run(config), stats.subjects_of(metrics)
    row = {name: settings.get(name, "") for name in ("run", *RUN_SETTINGS)}
    row |= {"n": len(subjects), "gray": stats.by_photo(metrics, METRIC, "gray").mean()}
    errors = {name: stats.by_photo(metrics, METRIC, name) for name in ("vague", "detailed")}
    errors |= {label(*pair): stats.differences(metrics, METRIC, *pair) for pair in RUN_CONTRASTS}
    for name, values in errors.items():
        row |= stats.named_ends(name, stats.interval(values, subjects[values.index]))
    chroma, true_chroma = (stats.by_photo(metrics, name, "detailed").mean() for name in ("chroma", "true_chroma"))
    return row | {"chroma_ratio": chroma / true_chroma}


def update_runs(config: Config, row: dict) -> pd.DataFrame:
    """Writes a run's row to the profile's `runs.csv`, and `runs.md`; rows of other runs stay as they are.

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
    table = table[(table["n"] == row["n"]) & (table["gray"] - row["gray"]).abs().lt(1e-3)]
    shown = table[["run", "base", "photos", "epochs", "rate", "prompts", "vague", "detailed"]].copy()
    for name in (label(*pair) for pair in RUN_CONTRASTS):
        ends = zip(*(table[f"{name}{end}"] for end in ("", "_low", "_high")), strict=True)
        shown[name] = [with_interval(*values) for values in ends]
    shown["chroma_ratio"] = table["chroma_ratio"]
    values = {"profile": config.profile, "stand_ins": config.stand_ins, "photos": table["n"].max()}
    text = render("runs", **values, table=shown, gray=table["gray"].mean())
    write_text(text, path.with_name("runs.md"))
    return table
