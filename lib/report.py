"""Tables and the written report, every number from the files that the notebooks wrote."""

import math
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
from lib.color_words import find_places, has_color_words
from lib.files import write_table, write_text
from lib.models import require_precision
from lib.profiles import get_profile
from lib.prompts import DOSES, LADDER
from lib.stats import (
    FAMILIES,
    MARGIN,
    METRIC,
    QUESTIONS,
    label,
    side_by_side,
    verdict,
)

MAX_COLUMNS = 8  # of a table in a notebook
COLUMNS_OF_EFFECTS = ["contrast", "n", "mean", "low", "high", "p_holm", "verdict"]  # of the report
SYSTEM_COLUMNS = ["system", "prompt_level", "psnr", "ssim", "ciede2000", "hue_error", "colorfulness", "chroma_ratio"]
NAMES = {"psnr": "PSNR", "ssim": "SSIM", "ciede2000": "CIEDE2000"}
FORMATS = {  # of a column's numbers
    **dict.fromkeys(("psnr", "ciede2000", "ab_error", "chroma_ratio", "effect_size", "power_of_five", "bleed"), ".2f"),
    **dict.fromkeys(("hue_error", "colorfulness", "colorfulness_difference", "colorfulness_error"), ".1f"),
    **dict.fromkeys(("fid", "clip_score", "chroma_deficit"), ".1f"),
    **dict.fromkeys(("ssim", "ssim_luma"), ".3f"),
    **dict.fromkeys(("kid", "lpips"), ".4f"),
    **dict.fromkeys(("mean", "low", "high", "median", "over_vague", "over_gray", "slope"), "+.2f"),
    **dict.fromkeys(("tint_falls", "placement_falls", "share_low", "share_high"), ".0%"),
    **dict.fromkeys(("p", "p_holm", "p_equal"), ".2g"),
    **dict.fromkeys(("vague", "detailed", "gray", "r_squared", "mean_error", "deviation_error"), ".2f"),
    **dict(true_chroma=".1f", colors=".1f", fall=".1f"),
    **dict.fromkeys(("improved", "share", "hue_share", "obeyed", "own_word", "other_word"), ".0%"),
    **dict.fromkeys(("photos_needed", "steps", "df"), ".0f"),
    **dict(learning_rate=".0e", train_epochs="g"),
}


def provenance(profile):
    """Versions, device and revision that a result rests on, by name; a precision that can't be used is a ValueError."""
    require_precision(profile.model.mixed_precision)
    packages = ("torch", "diffusers", "transformers", "datasets", "scikit-image")
    revision = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(revision, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "profile": profile.name,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "lib": version("prompted-colorization"),
        "device": "cuda" if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "commit": commit.stdout.strip() or "unknown",
    }


def save_table(table, profile, name):
    """Save a table as CSV, whole or not at all, in the reports of the profile's run; its path."""
    path = profile.folders.reports_dir / f"{name}.csv"
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


def write_report(profile, metrics, tables, rows, judged=""):
    """Write `report.md`, every number from the metrics and the tables of notebook 06 by name; `rows`: the test photos.

    `judged`: what people found, in a sentence.
    """
    summary, effects = tables["summary"], tables["effects"]
    folder, home = profile.folders.reports_dir, profile.folders.reports_home
    told = in_words(effects[effects["metric"] == METRIC])
    text = render(
        "report",
        profile=profile,
        provenance=provenance(profile),
        **facts_of_samples(metrics, rows),
        **{name: tables[name] for name in ("gain_fit", "writers")},
        thirds=list(tables["gains_thirds"].itertuples()),
        tint={(row.first, row.second): row for row in tables["tint"].itertuples()},
        dose=rows_of(tables["dose"]),
        **{name: tables.get(name) for name in ("sets", "tried")},
        families={family: told[told["family"] == family][COLUMNS_OF_EFFECTS] for family in FAMILIES},
        answer=answer(effects),
        questions=QUESTIONS,
        found=rows_by(effects, "first", "second"),
        ours={(row.first, row.second): row for row in told.itertuples()},
        before_merge=rows_by(tables["before_merge"], "first", "second"),
        binding=tables["binding"].set_index(["task", "method", "masks"]) if len(tables["binding"]) else None,
        systems=summary.query("merged")[SYSTEM_COLUMNS],
        error={(row.system, row.prompt_level): row for row in summary.query("merged").itertuples()},
        baselines="gan" in set(summary["system"]),
        baselines_resolution=get_profile("pocket").data.resolution,  # whatever the profile: they ship with the code
        merge=before_and_after(summary),
        claims=claims(summary, effects),
        margin=MARGIN,
        judged=judged,
        runs_page=os.path.relpath(home / "runs.md", folder) if (home / "runs.md").exists() else "",
    )
    write_text(text, folder / "report.md")


def facts_of_samples(metrics, rows):
    """What a report says of its photos, prompts and seeds, by name; `rows`: the test photos."""
    ours = metrics[metrics["system"] == "controlnet"]
    by_level = ours.drop_duplicates(["prompt_level", "image_id"]).groupby("prompt_level")["prompt"]
    prompts, counts = {level: list(part) for level, part in by_level}, by_level.size()
    seeds = ours.groupby("image_id")["seed"].nunique()
    first = ours[ours["image_id"] == rows["image_id"][0]].drop_duplicates("prompt_level")
    return {
        "photos": len(rows),
        "categories": ours["category"].nunique(),
        "subjects": ours["subject"].nunique(),
        "prompts": prompts,
        "few_colors": sum(len(find_places(text)) <= max(DOSES) for text in prompts["detailed"]),
        "colorless": sum(not has_color_words(text) for text in prompts["detailed"]),
        "ladder": list(first.itertuples()),
        "most_seeds": seeds.max(),
        "fewest_seeds": seeds.min(),
        "photos_with_most": (seeds == seeds.max()).sum(),
        "fewest_photos": counts.min(),
        "shared": side_by_side(metrics)["image_id"].nunique(),
    }


def write_runs(profile, table):
    """Write `runs.md` at the profile's home from rows of `runs.csv` (`compare_runs`)."""
    shown = table[["run", "base", "photos", "epochs", "rate", "prompts", "vague", "detailed"]].copy()
    for name in ("detailed - vague", "vague - gray", "detailed - gray"):
        ends = zip(*(table[f"{name}{end}"] for end in ("", "_low", "_high")), strict=True)
        shown[name] = [with_interval(*values) for values in ends]
    shown = shown.assign(chroma_ratio=table["chroma_ratio"], obeyed=table["obeyed"])
    text = render("runs", profile=profile, table=shown, gray=table["gray"].mean(), photos=table["n"].max())
    write_text(text, profile.folders.reports_home / "runs.md")


def estimate(row, form="+.2f"):
    """A difference with its interval, as text."""
    return with_interval(row.mean, row.low, row.high, form)


def with_interval(mean, low, high, form="+.2f"):
    """A number with its interval, as text; without one where there is none."""
    return f"{mean:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low == low else "")


TEMPLATES.globals["with_interval"] = with_interval


def before_and_after(summary):
    """The metrics of every prompt before and after the merge, side by side."""
    ours = summary[summary["system"] == "controlnet"].pivot(index="prompt_level", columns="merged", values=list(NAMES))
    ours.columns = [f"{metric} {'after' if merged else 'before'}" for metric, merged in ours.columns]
    return ours.loc[[level for level in LADDER if level in ours.index]].reset_index().round(3)


def answer(effects):
    """The answer to the primary question, as its interval allows to say."""
    asked = (effects["first"] == "detailed") & (effects["second"] == "vague") & (effects["metric"] == METRIC)
    return render("answer", row=next(iter(rows_of(effects[asked])), None), margin=MARGIN).strip()


def in_words(effects):
    """A table of effects with `name` (its metric), `contrast`, `verdict` and `estimate`."""
    rows = list(effects.itertuples())
    return effects.assign(
        name=[NAMES.get(row.metric, row.metric) for row in rows],
        contrast=[label(row.first, row.second) for row in rows],
        verdict=list(map(verdict, rows)),
        estimate=list(map(estimate, rows)),
    )


def rows_of(effects):
    """The rows of a table of effects `in_words`."""
    return list(in_words(effects).itertuples())


def rows_by(effects, *columns):
    """{values of the columns: `rows_of` these effects}."""
    return {values: rows_of(part) for values, part in effects.groupby(list(columns), sort=False)}


def claims(summary, effects):
    """The study's claims beside what was found here, and beside the photos left gray."""
    rows = []
    for row in rows_by(effects, "first", "second")["detailed", "vague"]:
        if row.metric not in NAMES:
            continue
        stands = {"better": "yes", "worse": "no, the reverse"}.get(row.verdict, "not shown")
        if row.metric != METRIC:
            stands = f"not tested; the interval {'leaves out' if row.low > 0 or row.high < 0 else 'has'} zero"
        rows.append((f"detailed prompts colorize better, in {row.name}", estimate(row, "+.3f"), "", "", stands))
    by_name = summary.set_index(["system", "prompt_level", "merged"])
    for text, level, metric, low, high in (
        ("vague: PSNR 15 to 20 dB", "vague", "psnr", 15, 20),
        ("vague: SSIM 0.6 to 0.8", "vague", "ssim", 0.6, 0.8),
        ("vague: CIEDE2000 over 10", "vague", "ciede2000", 10, math.inf),
        ("detailed: PSNR over 20 dB", "detailed", "psnr", 20, math.inf),
        ("detailed: SSIM over 0.8", "detailed", "ssim", 0.8, math.inf),
        ("detailed: CIEDE2000 about 8 (within 1)", "detailed", "ciede2000", 7, 9),
    ):
        before, ours = (by_name.loc[("controlnet", level, merged), metric] for merged in (False, True))
        gray = by_name.loc[("gray", "", True), metric]
        stands = ("yes, but gray meets it too" if low <= gray <= high else "yes") if low <= ours <= high else "no"
        rows.append((text, f"{ours:.2f}", f"{before:.2f}", f"{gray:.2f}", stands))
    return pd.DataFrame(rows, columns=["the study", "here", "before the merge", "left gray", "stands"])
