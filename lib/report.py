"""Tables and the written report, every number from the files that the notebooks wrote."""

import math
import os
import platform
import subprocess
from importlib.metadata import version

import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from lib import ROOT
from lib.compare_runs import DIFFERENCES, FACTORS
from lib.files import write_table, write_text
from lib.profiles import get_profile
from lib.prompts import COLOR_PATTERN, PROMPT_LEVELS
from lib.stats import (
    HIGHER_IS_BETTER,
    components,
    differences_by_seed,
    interval_width,
    obedience,
    side_by_side,
    with_all_seeds,
)

NAMES = {"psnr": "PSNR", "ssim": "SSIM", "ciede2000": "CIEDE2000"}
FORMATS = {
    **dict.fromkeys(("psnr", "ciede2000", "ab_error", "chroma_ratio", "effect_size", "power_of_five"), "{:.2f}"),
    **dict.fromkeys(("ssim", "ssim_luma"), "{:.3f}"),
    **dict.fromkeys(("hue_error", "colorfulness", "colorfulness_difference", "colorfulness_error"), "{:.1f}"),
    **dict.fromkeys(("mean", "low", "high"), "{:+.3f}"),
    **dict.fromkeys(("p", "p_holm"), "{:.2g}"),
    **dict.fromkeys(("improved", "share", "hue_share", "obeyed"), "{:.0%}"),
    **dict.fromkeys(("single sample", "mean of seeds", "best seed (oracle)"), "{:.2f}"),
    **dict.fromkeys(("chroma ratio, single", "chroma ratio, mean"), "{:.2f}"),
    **dict.fromkeys(("fid", "clip_score"), "{:.1f}"),
    **dict.fromkeys(("kid", "lpips"), "{:.4f}"),
    **dict.fromkeys(("photos_needed", "steps"), "{:.0f}"),
}


def provenance(profile):
    """Versions, device and revision that a result rests on, by name."""
    packages = ("torch", "diffusers", "transformers", "datasets", "scikit-image", "lib")
    versions = {name: version("prompted-colorization" if name == "lib" else name) for name in packages}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "profile": profile.name,
        "python": platform.python_version(),
        **versions,
        "device": "cuda" if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "commit": commit.stdout.strip() or "unknown",
    }


def save_table(table, profile, name):
    """Save a table as CSV, whole or not at all, in the reports of the profile's run."""
    write_table(table, profile.folders.reports_dir / f"{name}.csv")


def markdown_table(table):
    """A table in Markdown; numbers as `FORMATS` says for their column, a missing one as a dash."""
    lines = ["| " + " | ".join(name.replace("_", " ") for name in table) + " |", "|" + "---|" * len(table.columns)]
    for _, row in table.iterrows():
        cells = ("-" if value != value else FORMATS.get(name, "{}").format(value) for name, value in row.items())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


TEMPLATES = Environment(
    loader=PackageLoader("lib"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
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
    text = render(
        "report",
        **settings_of_report(profile),
        **facts_of_samples(metrics, rows),
        **{name: tables[name] for name in ("effects", "seeds", "variance")},
        **{name: tables.get(name) for name in ("goals", "sets")},
        answer=answer(effects),
        found=rows_by_contrast(effects),
        before_merge=rows_by_contrast(tables["before_merge"]),
        obeyed=obedience(steering) if len(steering) else {},
        systems=summary.query("merged").drop(columns="merged"),
        baselines="gan" in set(summary["system"]),
        merge=before_and_after(summary),
        luck=seed_share(metrics, len(rows)),
        claims=claims(summary, effects),
        runs_page=os.path.relpath(profile.folders.reports_home / "runs.md", profile.folders.reports_dir)
        if runs
        else "",
    )
    write_text(text, profile.folders.reports_dir / "report.md")


def settings_of_report(profile):
    """What a report says of the settings that its pictures were made with, by name."""
    return {
        "profile": profile.name,
        "source": profile.data.of_test_photos.source,
        "captioner": profile.data.captioner,
        "resolution": profile.data.resolution,
        "steps": profile.sampling.num_inference_steps,
        "guidance": profile.sampling.guidance_scale,
        "guidance_share": profile.sampling.guidance_share,
        "baselines_resolution": get_profile("pocket").data.resolution,  # whatever the profile: they ship with the code
        "provenance": provenance(profile),
    }


def facts_of_samples(metrics, rows):
    """What a report says of its photos, prompts and seeds, by name; `rows`: the test photos."""
    ours = metrics[metrics["system"] == "controlnet"]
    by_level = ours.drop_duplicates(["prompt_level", "image_id"]).groupby("prompt_level")
    prompts = {level: list(part["prompt"]) for level, part in by_level}
    first = ours[ours["image_id"] == rows["image_id"][0]].drop_duplicates("prompt_level")
    return {
        "photos": len(rows),
        "categories": ours["category"].nunique(),
        "prompts": prompts,
        "colorless": sum(not COLOR_PATTERN.search(text) for text in prompts["detailed"]),
        "ladder": list(first.itertuples()),
        "samples": count_samples(ours),
        "shared": side_by_side(metrics)["image_id"].nunique(),
        "seeded": with_all_seeds(metrics)["image_id"].nunique(),
    }


def count_samples(ours):
    """The most and the fewest seeds of a photo, how many photos have the most, and {level that lacks photos: its photos}."""
    seeds, photos = ours.groupby("image_id")["seed"].nunique(), ours.groupby("prompt_level")["image_id"].nunique()
    return {
        "most": seeds.max(),
        "fewest": seeds.min(),
        "photos_with_most": (seeds == seeds.max()).sum(),
        "photos_of_rarer": photos[photos < photos.max()].to_dict(),
    }


def write_runs(profile, table, effects):
    """Write `runs.md` at the profile's home, from `compare_runs.table_of_runs` and `effects_of_factors`."""
    results = table[["run", "seeds", "vague", "detailed"]].round(2)
    for name in DIFFERENCES:
        ends = table[[name, f"{name}, low", f"{name}, high"]].itertuples(index=False)
        results[name] = [estimate(*row) for row in ends]
    text = render(
        "runs",
        profile=profile.name,
        stand_ins=profile.study.stand_ins,
        photos=table["photos measured"].min(),
        things=table["things measured"].max(),
        gray=(table["vague"] - table["vague - gray"]).mean(),
        facts=table[["run", *FACTORS]].drop(columns=["batch", "seed"]),
        results=results.assign(chroma_ratio=table["chroma_ratio"], obeyed=table["obeyed"]),
        beside_gray={prompt: beside_gray(table, prompt) for prompt in ("vague", "detailed")},
        changes=rows_by_change(effects),
        effects=effects.drop(columns="metric"),
    )
    write_text(text, profile.folders.reports_home / "runs.md")


def rows_by_change(effects):
    """{(what changed, which runs): the rows of its effects, each with its `verdict` and its `estimate`}."""
    told = effects.assign(
        verdict=[word_for(row) for row in effects.itertuples()],
        estimate=[estimate(row.mean, row.low, row.high) for row in effects.itertuples()],
    )
    return {change: list(part.itertuples()) for change, part in told.groupby(["changed", "runs"], sort=False)}


def estimate(mean, low, high):
    """A difference with its interval, as text."""
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def beside_gray(table, prompt):
    """How many runs are clearly `better` or `worse` than the photos left gray under a prompt, and how many there are."""
    better, worse = (table[f"{prompt} - gray, high"] < 0).sum(), (table[f"{prompt} - gray, low"] > 0).sum()
    return {"better": better, "worse": worse, "runs": len(table)}


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
    ours = ours.loc[[level for level in PROMPT_LEVELS if level in ours.index]].reset_index()
    names = {False: "before", True: "after"}
    ours.columns = [" ".join([metric, names[merged]]) if metric in NAMES else metric for metric, merged in ours.columns]
    return ours.round(3)


def answer(effects):
    """What answers the study's question: how many `photos`, whether that is `enough` for intervals, the share that `improved`."""
    main = effects[effects["contrast"] == "detailed - vague"].set_index("metric")
    return {
        "photos": main["n"].min(),
        "improved": main.loc["ciede2000", "improved"],
        "enough": main["low"].notna().all(),
    }


def rows_by_contrast(effects):
    """{contrast: the rows of its effects}, each with the metric's `name` and its `verdict`."""
    told = effects.assign(name=effects["metric"].map(NAMES), verdict=[word_for(row) for row in effects.itertuples()])
    return {contrast: list(part.itertuples()) for contrast, part in told.groupby("contrast", sort=False)}


def word_for(row):
    """What an effect's interval and corrected p allow to say: better, worse, or not told apart."""
    if not (row.p_holm < 0.05 and (row.low > 0 or row.high < 0)):
        return "not told apart"
    return "better" if (row.low > 0) == HIGHER_IS_BETTER[row.metric] else "worse"


def claims(summary, effects):
    """The study's claims beside what was found here, and beside the photos left gray."""
    by_row = summary.set_index(["system", "prompt_level", "merged"])
    gray = by_row.loc[("gray", "", True)]
    rows = [
        {"the study": f"detailed prompts colorize better, in {NAMES[row.metric]}",
         "here": f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]", "before the merge": "", "left gray": "",
         "stands": {"better": "yes", "worse": "no, the reverse"}.get(word_for(row), "not shown")}
        for row in effects[effects["contrast"] == "detailed - vague"].itertuples()
    ]  # fmt: skip
    ranges = {
        "vague: PSNR 15 to 20 dB": ("vague", "psnr", 15, 20),
        "vague: SSIM 0.6 to 0.8": ("vague", "ssim", 0.6, 0.8),
        "vague: CIEDE2000 over 10": ("vague", "ciede2000", 10, math.inf),
        "detailed: PSNR over 20 dB": ("detailed", "psnr", 20, math.inf),
        "detailed: SSIM over 0.8": ("detailed", "ssim", 0.8, math.inf),
        "detailed: CIEDE2000 about 8 (within 1)": ("detailed", "ciede2000", 7, 9),
    }
    for text, (level, metric, low, high) in ranges.items():
        before, ours = (by_row.loc[("controlnet", level, merged), metric] for merged in (False, True))
        holds, gray_too = low <= ours <= high, low <= gray[metric] <= high
        rows.append({"the study": text, "here": f"{ours:.2f}", "before the merge": f"{before:.2f}",
                     "left gray": f"{gray[metric]:.2f}",
                     "stands": ("yes, but so does gray" if gray_too else "yes") if holds else "no"})  # fmt: skip
    return pd.DataFrame(rows)
