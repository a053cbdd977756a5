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
from lib.color_words import has_color_words
from lib.compare_runs import FACTORS
from lib.files import write_table, write_text
from lib.profiles import get_profile
from lib.prompts import PROMPT_LEVELS
from lib.stats import (
    CONTRASTS,
    HIGHER_IS_BETTER,
    components,
    differences_by_seed,
    interval_width,
    label,
    obedience,
    side_by_side,
    with_all_seeds,
)

MAX_COLUMNS = 8  # of a table in a notebook
EFFECT_COLUMNS = ["contrast", "metric", "n", "mean", "low", "high", "p_holm", "improved"]  # of the report
SYSTEM_COLUMNS = ["system", "prompt_level", "psnr", "ssim", "ciede2000", "hue_error", "colorfulness", "chroma_ratio"]
NAMES = {"psnr": "PSNR", "ssim": "SSIM", "ciede2000": "CIEDE2000"}
FORMATS = {  # of a column's numbers
    **dict.fromkeys(("psnr", "ciede2000", "ab_error", "chroma_ratio", "effect_size", "power_of_five", "bleed"), ".2f"),
    **dict.fromkeys(("single sample", "mean of seeds", "best seed (oracle)"), ".2f"),
    **dict.fromkeys(("chroma ratio, single", "chroma ratio, mean"), ".2f"),
    **dict.fromkeys(("hue_error", "colorfulness", "colorfulness_difference", "colorfulness_error"), ".1f"),
    **dict.fromkeys(("fid", "clip_score", "chroma_deficit"), ".1f"),
    **dict.fromkeys(("ssim", "ssim_luma"), ".3f"),
    **dict.fromkeys(("kid", "lpips"), ".4f"),
    **dict.fromkeys(("mean", "low", "high"), "+.3f"),
    **dict.fromkeys(("p", "p_holm"), ".2g"),
    **dict.fromkeys(("improved", "share", "hue_share", "obeyed", "own_word", "other_word"), ".0%"),
    **dict.fromkeys(("photos_needed", "steps"), ".0f"),
    **dict(learning_rate=".0e", train_epochs="g"),
}


def provenance(profile):
    """Versions, device and revision that a result rests on, by name."""
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


def write_report(profile, metrics, tables, rows, runs=False):
    """Write `report.md`, every number from the metrics and the tables of notebook 06 by name; `rows`: the test photos.

    `runs`: whether there is a `runs.md` to point to.
    """
    summary, effects, steering = tables["summary"], tables["effects"], tables["steering"]
    folder, home = profile.folders.reports_dir, profile.folders.reports_home
    text = render(
        "report",
        profile=profile,
        provenance=provenance(profile),
        **facts_of_samples(metrics, rows),
        **{name: tables[name] for name in ("seeds", "variance")},
        effects=effects.assign(contrast=list(map(label, effects["first"], effects["second"])))[EFFECT_COLUMNS],
        **{name: tables.get(name) for name in ("goals", "sets")},
        answer=answer(effects),
        questions=CONTRASTS,
        found=rows_by(effects, "first", "second"),
        before_merge=rows_by(tables["before_merge"], "first", "second"),
        obeyed=obedience(steering) if len(steering) else {},
        binding=tables["binding"].set_index(["task", "method", "masks"]) if len(tables["binding"]) else None,
        systems=summary.query("merged")[SYSTEM_COLUMNS],
        baselines="gan" in set(summary["system"]),
        baselines_resolution=get_profile("pocket").data.resolution,  # whatever the profile: they ship with the code
        merge=before_and_after(summary),
        luck=seed_share(metrics, len(rows)),
        claims=claims(summary, effects),
        runs_page=os.path.relpath(home / "runs.md", folder) if runs else "",
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
        "prompts": prompts,
        "colorless": sum(not has_color_words(text) for text in prompts["detailed"]),
        "ladder": list(first.itertuples()),
        "most_seeds": seeds.max(),
        "fewest_seeds": seeds.min(),
        "photos_with_most": (seeds == seeds.max()).sum(),
        "photos_of_rarer": counts[counts < counts.max()].to_dict(),  # by level
        "shared": side_by_side(metrics)["image_id"].nunique(),
        "seeded": with_all_seeds(metrics)["image_id"].nunique(),
    }


def write_runs(profile, table, contrasts, effects):
    """Write `runs.md` at the profile's home, from the tables of `compare_runs`: of runs, contrasts and effects."""
    results = table[["run", "seeds", "vague", "detailed"]].round(2)
    for (first, second), part in contrasts.groupby(["first", "second"], sort=False):
        by_run = {row.run: estimate(row) for row in part.itertuples()}
        results = results.assign(**{label(first, second): table["run"].map(by_run)})
    text = render(
        "runs",
        profile=profile,
        photos=table["photos_measured"].min(),
        things=table["things_measured"].max(),
        gray=table["gray"].mean(),
        facts=table[["run", *FACTORS]].drop(columns=["batch", "seed"]),
        results=results.assign(chroma_ratio=table["chroma_ratio"], obeyed=table["obeyed"]),
        beside_gray={prompt: beside_gray(contrasts, prompt) for prompt in ("vague", "detailed")},
        changes=rows_by(effects, "changed", "first_run", "second_run"),
        effects=effects.drop(columns="metric"),
    )
    write_text(text, profile.folders.reports_home / "runs.md")


def estimate(row, form="+.2f"):
    """A difference with its interval, as text."""
    return f"{row.mean:{form}} [{row.low:{form}}, {row.high:{form}}]"


def beside_gray(contrasts, prompt):
    """How many runs are clearly `better` or `worse` than the photos left gray under a prompt, of how many `runs`."""
    part = contrasts[(contrasts["first"] == prompt) & (contrasts["second"] == "gray")]
    return {"better": (part["high"] < 0).sum(), "worse": (part["low"] > 0).sum(), "runs": len(part)}


def seed_share(metrics, photos):
    """The seed's `share` (0 to 1) of the variance of detailed - vague in CIEDE2000, and what all `seeds` would give.

    `width`: how wide the interval would be with all seeds for all photos, in shares of the present one; None where all
    have them. {} where no two photos have two seeds.
    """
    differences = differences_by_seed(metrics, "detailed", "vague")
    with_all, seeds = differences.shape
    if min(with_all, seeds) < 2 or not differences.any():
        return {}
    between, within = components(differences)
    widths = [interval_width(between, within, photos, seeds, n) for n in (photos, with_all)]
    width = widths[0] / widths[1] if with_all < photos else None
    return {"share": within / (between + within), "seeds": seeds, "width": width}


def before_and_after(summary):
    """The metrics of every prompt before and after the merge, side by side."""
    ours = summary[summary["system"] == "controlnet"].pivot(index="prompt_level", columns="merged", values=list(NAMES))
    ours.columns = [f"{metric} {'after' if merged else 'before'}" for metric, merged in ours.columns]
    return ours.loc[[level for level in PROMPT_LEVELS if level in ours.index]].reset_index().round(3)


def answer(effects):
    """The answer to the study's question, and to whether colour was worth adding, as the intervals allow to say."""
    main = effects[(effects["first"] == "detailed") & (effects["second"] == "vague")].set_index("metric")
    facts = dict(photos=main["n"].min(), improved=main.loc["ciede2000", "improved"], enough=main["low"].notna().all())
    return render("answer", found=rows_by(effects, "first", "second"), **facts).strip()


def rows_by(effects, *columns):
    """{values of the columns: rows of these effects}, each with `name` (its metric), `label`, `verdict`, `estimate`."""
    rows = list(effects.itertuples())
    labels = [label(row.first, row.second) for row in rows]
    verdicts, estimates = [word_for(row) for row in rows], [estimate(row) for row in rows]
    told = effects.assign(name=effects["metric"].map(NAMES), label=labels, verdict=verdicts, estimate=estimates)
    return {values: list(part.itertuples()) for values, part in told.groupby(list(columns), sort=False)}


def word_for(row):
    """What an effect's interval and corrected p allow to say: better, worse, or not told apart."""
    if not (row.p_holm < 0.05 and (row.low > 0 or row.high < 0)):
        return "not told apart"
    return "better" if (row.low > 0) == HIGHER_IS_BETTER[row.metric] else "worse"


def claims(summary, effects):
    """The study's claims beside what was found here, and beside the photos left gray."""
    rows = []
    for row in rows_by(effects, "first", "second")["detailed", "vague"]:
        stands = {"better": "yes", "worse": "no, the reverse"}.get(row.verdict, "not shown")
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
        stands = ("yes, but so does gray" if low <= gray <= high else "yes") if low <= ours <= high else "no"
        rows.append((text, f"{ours:.2f}", f"{before:.2f}", f"{gray:.2f}", stands))
    return pd.DataFrame(rows, columns=["the study", "here", "before the merge", "left gray", "stands"])


def goals(summary, effects, steering):
    """What a model must reach for the question to have an answer: a table `goal`, `wanted`, `reached`, `found`."""
    merged = summary[summary["merged"]].set_index(["system", "prompt_level"])
    floor, chroma = merged["ciede2000"]["autoencoder", ""], merged["chroma_ratio"]["controlnet", "detailed"]
    obeyed, rows = obedience(steering)["reached"], []
    found = {(row.first, row.second, row.metric): row for row in effects.itertuples()}
    rows.append(("autoencoder, CIEDE2000", "at most 3.0", floor <= 3, f"{floor:.2f}"))
    for contrast, metric, wanted, holds in (
        (("detailed", "vague"), "ciede2000", "at most -1.5, clear of zero", lambda e: e.mean <= -1.5 and e.high < 0),
        (("detailed", "vague"), "psnr", "above zero, clear of it", lambda e: e.low > 0),
        (("detailed", "gray"), "ciede2000", "below zero, clear of it", lambda e: e.high < 0),
        (("wrong_color", "vague"), "ciede2000", "above zero, clear of it", lambda e: e.low > 0),
    ):
        effect = found[*contrast, metric]
        rows.append((f"{label(*contrast)}, {metric}", wanted, holds(effect), estimate(effect)))
    rows.append(("chroma ratio, detailed", "0.7 to 1.3", 0.7 <= chroma <= 1.3, f"{chroma:.2f}"))
    rows.append(("things that took the named colour", "at least 70 %", obeyed >= 0.7, f"{obeyed:.2f}"))
    table = pd.DataFrame(rows, columns=["goal", "wanted", "reached", "found"])
    return table.assign(reached=table["reached"].map({True: "yes", False: "no"}))
