"""Tables and the written report, every number from the files that the notebooks wrote."""

import os
import platform
import subprocess
from importlib.metadata import version
from urllib.parse import quote

import pandas as pd
import torch
from IPython.display import Markdown
from jinja2 import Environment, PackageLoader, StrictUndefined

from lib import ROOT
from lib.cache import write_table, write_text
from lib.config import Config
from lib.models import require_precision
from lib.stats import MARGIN, METRIC, label, verdict

MAX_COLUMNS = 8  # of a table in a notebook
MAIN_CONTRASTS = (  # of the report's table and notebook 06; all others are in effects.csv
    ("detailed", "vague"),
    ("detailed", "gray"),
    ("vague", "gray"),
    ("detailed", "object"),
    ("gray_caption", "vague"),
)
FORMATS = {  # of a column's numbers
    **dict.fromkeys(("psnr", "ciede2000", "ab_error", "chroma_ratio", "bleed"), ".2f"),
    **dict.fromkeys(("hue_error", "colorfulness", "colorfulness_difference", "colorfulness_error"), ".1f"),
    **dict.fromkeys(("fid", "clip_score", "chroma_deficit", "true_chroma", "colors"), ".1f"),
    **dict.fromkeys(("ssim", "ssim_luma"), ".3f"),
    **dict.fromkeys(("kid", "lpips"), ".4f"),
    **dict.fromkeys(("mean", "low", "high", "median", "over_vague", "over_gray"), "+.2f"),
    **dict.fromkeys(("p", "p_holm", "p_equal"), ".2g"),
    **dict.fromkeys(("vague", "detailed", "gray", "mean_error", "deviation_error"), ".2f"),
    **dict.fromkeys(("improved", "hue_share", "own_word", "other_word"), ".0%"),
    **dict.fromkeys(("steps", "df"), ".0f"),
    **dict(learning_rate=".0e", train_epochs="g"),
}


def provenance(config):
    """Versions, device and revision that a result rests on, by name; a precision that can't be used is a ValueError."""
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


def save_table(table, config, name):
    """Save a table as CSV, whole or not at all, in the reports of the profile's run; its path."""
    path = config.reports_dir / f"{name}.csv"
    write_table(table, path)
    return path


def markdown_table(table):
    """A table in Markdown; numbers as `FORMATS` says for their column, a missing one as a dash."""
    lines = ["| " + " | ".join(name.replace("_", " ") for name in table) + " |", "|" + "---|" * len(table.columns)]
    for _, row in table.iterrows():
        cells = ("-" if value != value else format(value, FORMATS.get(name, "")) for name, value in row.items())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show(table, *columns, csv=None):
    """A table for a notebook, formatted like the report's; `columns`: which ones, or all; `csv`: a file of all.

    More than `MAX_COLUMNS` do not fit on a page: ValueError.
    """
    shown = table[list(columns)] if columns else table
    if len(shown.columns) > MAX_COLUMNS:
        raise ValueError(f"{len(shown.columns)} columns do not fit on a page: name at most {MAX_COLUMNS}")
    link = f"\n\nAll columns: [{csv.name}]({quote(os.path.relpath(csv))})" if csv else ""
    return Markdown(markdown_table(shown) + link)


def show_facts(facts):
    """Facts by name for a notebook, in a line; numbers with three digits, nothing of what is empty."""
    said = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in facts.items()}
    return Markdown(", ".join(f"{name} **{value}**" for name, value in said.items() if value != ""))


LAYOUT = dict(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
TEMPLATES = Environment(loader=PackageLoader("lib"), undefined=StrictUndefined, **LAYOUT)
TEMPLATES.filters |= {"fmt": format, "one_line": lambda text: " ".join(text.split()), "table": markdown_table}


def render(template, **values):
    """The text of `lib/templates/<template>.md.j2` with these values; one that is missing is an UndefinedError.

    Templates have three filters beside Jinja's: `fmt` (Python's `format`), `one_line` (joins lines by a space) and
    `table` (`markdown_table`).
    """
    return TEMPLATES.get_template(f"{template}.md.j2").render(values)


def write_report(config: Config, metrics: pd.DataFrame, tables: dict, judged: str = "") -> None:
    """Writes `report.md`, every number from the metrics and the tables of notebook 06.

    Args:
        config: of the run.
        metrics: `metrics.csv`.
        tables: `effects`, `writers` and `binding` as notebook 06 makes them.
        judged: what people chose, in a sentence.
    """
    effects, writers = tables["effects"], tables["writers"].set_index("writer")
    folder, home = config.reports_dir, config.reports_home
    ours = metrics[metrics["system"] == "controlnet"]
    crossed = None
    if "all" in writers.index:
        n_writers = len(writers.index.difference(["all", "others"]))
        crossed = {"n_writers": n_writers, "estimate": with_interval(*writers.loc["all", ["mean", "low", "high"]])}
    text = render(
        "report",
        config=config,
        provenance=provenance(config),
        answer=answer(effects),
        photos=ours["image_id"].nunique(),
        subjects=ours["subject"].nunique(),
        most_seeds=ours["seed"].nunique(),
        main=main_effects(effects)[["contrast", "n", "estimate", "p_holm", "verdict"]],
        writers=crossed,
        binding=len(tables["binding"]) > 0,
        sets=config.set_metrics,
        margin=MARGIN,
        judged=judged,
        runs_page=os.path.relpath(home / "runs.md", folder) if (home / "runs.md").exists() else "",
    )
    write_text(text, folder / "report.md")


def write_runs(config, table):
    """Write `runs.md` at the profile's home from rows of `runs.csv` (`compare_runs`)."""
    shown = table[["run", "base", "photos", "epochs", "rate", "prompts", "vague", "detailed"]].copy()
    for name in ("detailed - vague", "vague - gray", "detailed - gray"):
        ends = zip(*(table[f"{name}{end}"] for end in ("", "_low", "_high")), strict=True)
        shown[name] = [with_interval(*values) for values in ends]
    shown = shown.assign(chroma_ratio=table["chroma_ratio"])
    values = {"profile": config.profile, "stand_ins": config.stand_ins, "photos": table["n"].max()}
    text = render("runs", **values, table=shown, gray=table["gray"].mean())
    write_text(text, config.reports_home / "runs.md")


def estimate(row, form="+.2f"):
    """A difference with its interval, as text."""
    return with_interval(row.mean, row.low, row.high, form)


def with_interval(mean, low, high, form="+.2f"):
    """A number with its interval, as text; without one where there is none."""
    return f"{mean:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low == low else "")


def answer(effects: pd.DataFrame) -> str:
    """Returns the answer to the primary question, as its interval allows to say."""
    rows = in_words(effects).query("first == 'detailed' and second == 'vague'")
    return render("answer", row=next(rows.itertuples(), None)).strip()


def in_words(effects: pd.DataFrame) -> pd.DataFrame:
    """Returns the effects in CIEDE2000 with `contrast`, `verdict` and `estimate` (mean and interval) as text."""
    effects = effects[effects["metric"] == METRIC]
    rows = list(effects.itertuples())
    return effects.assign(
        contrast=[label(row.first, row.second) for row in rows],
        verdict=list(map(verdict, rows)),
        estimate=list(map(estimate, rows)),
    )


def main_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of `in_words` for `MAIN_CONTRASTS`, those that were measured."""
    told = in_words(effects).set_index(["first", "second"], drop=False)
    return told.loc[[pair for pair in MAIN_CONTRASTS if pair in told.index]]
