"""Tables and the written report, every number from the files that the notebooks wrote."""

import json
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
from lib.prompts import COMPARED
from lib.sampling import with_chosen_sampling
from lib.stats import MARGIN, METRIC, verdict

MAIN_CONTRASTS = (  # of the report's table and notebook 06; all others are in effects.csv
    ("detailed", "vague"), ("detailed", "gray"), ("vague", "gray"), ("detailed", "object"), ("gray_caption", "vague"),
)  # fmt: skip
COLUMNS_BY_FORMAT = {  # {format: the columns whose numbers are written so}
    ".2f": "psnr, ciede2000, ab_error, mean_error, deviation_error, chroma_ratio, vague, detailed, gray",
    ".1f": "colorfulness, colorfulness_difference, true_chroma, clip_score, fid",
    ".3f": "ssim, ssim_luma",
    ".4f": "kid, lpips",
    "+.2f": "mean, low, high, median, over_vague, over_gray, detailed - vague, vague - gray, detailed - gray",
    ".2g": "p, p_holm, p_equal",
    ".0%": "improved, hue_error_share",
    ".0f": "steps, df",
    ".0e": "learning_rate",
    "g": "train_epochs",
}
FORMATS = {name: form for form, names in COLUMNS_BY_FORMAT.items() for name in names.split(", ")}
ANSWERS = {"better": "Yes", "worse": "No, the reverse", "equivalent": "No", "inconclusive": "It can't be told"}
LAYOUT = dict(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
TEMPLATES = Environment(loader=PackageLoader("lib"), **LAYOUT)
TEMPLATES.globals |= {"answers": ANSWERS, "margin": MARGIN}


def begin(profile_name: str, run: str, overrides: dict, sampling_is_chosen: bool = True) -> Config:
    """Returns a notebook's config, with the sampling that 04 chose if it has; sets figures' style, shows provenance."""
    config = get_config(profile_name, **{"run": run, **overrides})
    figures.use_style()
    display(show_facts(provenance(config)))
    return with_chosen_sampling(config) if sampling_is_chosen else config


def provenance(config: Config) -> dict:
    """Returns versions, device and revision that a result rests on; raises ValueError for an unusable precision."""
    require_precision(config.mixed_precision)
    facts = {"profile": config.profile, "python": platform.python_version()}
    facts |= {name: version(name) for name in ("torch", "diffusers", "transformers", "datasets", "scikit-image")}
    facts |= {"lib": version("prompted-colorization")}
    facts |= {"device": "cuda" if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return facts | {"commit": commit.stdout.strip() or "unknown"}


def save_table(table: pd.DataFrame, config: Config, name: str) -> Path:
    """Saves a table as CSV in the reports of the profile's run, and returns its path."""
    path = config.reports_dir / f"{name}.csv"
    write_table(table, path)
    return path


def markdown_table(table: pd.DataFrame) -> str:
    """Returns a table in Markdown; numbers as `FORMATS` says for their column, a missing one as a dash."""

    def text(cell, form):
        return "-" if cell != cell else cell if isinstance(cell, str) else format(cell, form)

    cells = {name.replace("_", " "): [text(cell, FORMATS.get(name, "")) for cell in table[name]] for name in table}
    return pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True)


def show(table: pd.DataFrame, *columns: str, csv: Path | None = None) -> Markdown:
    """Returns a table for a notebook, or some of its columns; `csv`: a file with all columns, to which a link leads."""
    link = f"\n\nAll columns: [{csv.name}]({quote(os.path.relpath(csv))})" if csv else ""
    return Markdown(markdown_table(table[list(columns)] if columns else table) + link)


def show_facts(facts: dict) -> Markdown:
    """Returns facts by name for a notebook, in a line; numbers with three digits, without those that are empty."""
    texts = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in facts.items()}
    return Markdown(", ".join(f"{name} **{text}**" for name, text in texts.items() if text != ""))


TEMPLATES.filters |= {"fmt": format, "one_line": lambda text: " ".join(text.split()), "table": markdown_table}


def render(template: str, **values) -> str:
    """Returns the text of `lib/templates/<template>.md.j2` with these values; a missing one raises UndefinedError."""
    return TEMPLATES.get_template(f"{template}.md.j2").render(values)


def write_report(config: Config, metrics: pd.DataFrame, effects: pd.DataFrame) -> None:
    """Writes `report.md`, one page, from `metrics.csv` and `effects.csv`; a person writes its `findings.md`."""
    folder, home = config.reports_dir, config.reports_home
    findings, study = folder / "findings.md", ROOT / "reports/confirmatory"
    run = study / "run.json"  # of the model that was studied on photos that nobody had looked at
    studied = run.exists() and json.loads(run.read_text())["profile"] == config.profile
    text = render(
        "report",
        config=config,
        provenance=provenance(config),
        subjects=stats.subjects_of(metrics),
        effects=in_words(effects, MAIN_CONTRASTS),
        unseen=next(pd.read_csv(study / "effects.csv").itertuples()) if studied else None,
        study_page=os.path.relpath(home.parent / "confirmatory/report.md", folder),
        hue_off={name: stats.by_photo(metrics, "hue_error_share", name).mean() for name in COMPARED},
        findings=findings.read_text("utf-8").strip() if findings.exists() else "",
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


def in_words(effects: pd.DataFrame, pairs=None) -> pd.DataFrame:
    """Returns effects in CIEDE2000 with `contrast`, `verdict` and `estimate` as text; of `pairs`, those measured."""
    effects = effects[effects["metric"] == METRIC].set_index(["first", "second"], drop=False)
    rows = effects.loc[[pair for pair in pairs or effects.index if pair in effects.index]]
    estimates = [with_interval(row.mean, row.low, row.high) for row in rows.itertuples()]
    verdicts = [verdict(row) for row in rows.itertuples()]
    return rows.assign(contrast=rows["first"] + " - " + rows["second"], verdict=verdicts, estimate=estimates)


def update_runs(config: Config, measures: dict) -> pd.DataFrame:
    """Writes a run's row, its settings and measures, to the profile's `runs.csv`; other rows stay.

    Returns the rows of runs on the same photos, with equal number and mean error `gray`, in the order of `RUNS`.
    """
    path, table = config.reports_home / "runs.csv", pd.DataFrame([describe_run(config) | measures])
    if path.exists():
        table = pd.concat([pd.read_csv(path, dtype={"run": str}).query("run != @config.run"), table])
    known = [*RUNS[config.profile], *sorted(table["run"])]
    table = table.sort_values("run", key=lambda runs: runs.map(known.index), ignore_index=True)
    write_table(table, path)
    return table[(table["n"] == measures["n"]) & (table["gray"] - measures["gray"]).abs().lt(1e-3)]
