"""Figures, tables and the written report, in one style; every file is written under a temporary name, then renamed."""

import os
import platform
import subprocess
import textwrap
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from lib import ROOT
from lib.metrics import METRICS
from lib.statistics import HIGHER_IS_BETTER, by_photo, interval, summary

BLUE, ORANGE = "#0072b2", "#d55e00"  # Okabe and Ito's palette, told apart by colour-blind readers
SPLIT_COLORS = {"train": "#0072b2", "validation": "#e69f00", "test": "#56b4e9"}
LEVEL_COLORS = {"vague": "#e69f00", "detailed": "#0072b2"}
LABELS = {
    "psnr": "PSNR (dB, higher is better)",
    "ssim": "SSIM (higher is better)",
    "ciede2000": "CIEDE2000 (lower is better)",
}
METRIC_FORMATS = {
    "psnr": "{:.2f}",
    "ssim": "{:.3f}",
    "ciede2000": "{:.2f}",
    "colorfulness": "{:.1f}",
    "chroma_ratio": "{:.2f}",
}
EFFECT_FORMATS = {"mean": "{:+.4f}", "low": "{:+.4f}", "high": "{:+.4f}", "p": "{:.2g}", "improved": "{:.0%}"}
STUDY = {  # the thresholds that the study of 2024 reported on five photos
    "vague": {"psnr": (15, 20), "ssim": (0.6, 0.8), "ciede2000": (10,)},  # between; between; over
    "detailed": {"psnr": (20,), "ssim": (0.8,), "ciede2000": (8,)},  # over; over; about
}


def save_figure(figure, path, dpi=120):
    """Save a figure as PNG, whole or not at all; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    figure.savefig(partial, dpi=dpi, bbox_inches="tight", format="png")
    os.replace(partial, path)


def draw_sheet(rows, row_titles=(), column_titles=(), cell=1.35):
    """A figure of pictures in rows, with titles at the left and above; pictures are arrays in [0, 1] or PIL images."""
    columns = max(len(row) for row in rows)
    figure, axes = plt.subplots(len(rows), columns, figsize=(cell * columns, cell * len(rows)), squeeze=False)
    figure.subplots_adjust(wspace=0.03, hspace=0.03)
    for row, row_axes in zip(rows, axes, strict=True):
        for axis in row_axes:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for picture, axis in zip(row, row_axes, strict=False):
            axis.imshow(np.asarray(picture), vmin=0, vmax=1)
    for title, axis in zip(row_titles, axes[:, 0], strict=False):
        axis.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    for title, axis in zip(column_titles, axes[0], strict=False):
        axis.set_title(textwrap.fill(title, round(11 * cell)), fontsize=8)
    return figure


def save_sheet(rows, path, **titles):
    """Draw a sheet of pictures and save it without keeping the figure."""
    figure = draw_sheet(rows, **titles)
    save_figure(figure, path)
    plt.close(figure)


def use_style():
    """The one style of all figures."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e4e4e4",
            "legend.frameon": False,
        }
    )


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


def draw_counts(table):
    """Photos by category and split: a stacked bar a category; `table` has categories as rows, splits as columns."""
    figure, axis = plt.subplots(figsize=(7, 0.4 * len(table) + 1))
    left = np.zeros(len(table))
    for split in table:
        axis.barh(table.index, table[split], left=left, color=SPLIT_COLORS[split], label=split)
        left += table[split].to_numpy()
    axis.set(xlabel="photos")
    axis.grid(axis="y", visible=False)
    axis.invert_yaxis()
    axis.legend()
    return figure


def draw_losses(losses, window=10):
    """Training loss by step: every logged value, and its running median."""
    figure, axis = plt.subplots(figsize=(7, 2.6))
    axis.plot(losses["step"], losses["loss"], ".", color="#b0b0b0", label="logged")
    smooth = losses["loss"].rolling(window, min_periods=1, center=True).median()
    axis.plot(losses["step"], smooth, color=BLUE, label=f"median of {window}")
    axis.set(xlabel="step", ylabel="loss")
    axis.legend()
    return figure


def draw_table(table, title, formats):
    """A table as a figure: column names, one row a line, numbers in the given formats."""
    text = [[formats.get(name, "{}").format(value) for name, value in row.items()] for _, row in table.iterrows()]
    figure, axis = plt.subplots(figsize=(1.35 * len(table.columns), 0.32 * (len(table) + 2)))
    axis.axis("off")
    axis.set_title(title, loc="left", fontweight="bold")
    drawn = axis.table(text, colLabels=list(table.columns), loc="center", cellLoc="right", edges="horizontal")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    drawn.scale(1, 1.3)
    drawn.auto_set_column_width(range(len(table.columns)))
    for (row, _), cell in drawn.get_celld().items():
        cell.set_edgecolor("#d0d0d0")
        cell.get_text().set_fontweight("bold" if row == 0 else "normal")
    return figure


def draw_study_chart(metrics, image_ids, level):
    """The study's chart: the three metrics of five photos at one prompt level, with the study's thresholds as dashed lines.

    Bars are means over seeds after the merge, whiskers reach over the seeds; the tick is the same photo left gray.
    """
    rows = metrics[metrics["merged"] & metrics["image_id"].isin(image_ids)]
    ours = rows[(rows["system"] == "controlnet") & (rows["prompt_level"] == level)].groupby("image_id")
    gray = rows[rows["system"] == "gray"].set_index("image_id")
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    for axis, (metric, label) in zip(axes, LABELS.items(), strict=True):
        mean, low, high = (getattr(ours[metric], how)().reindex(image_ids) for how in ("mean", "min", "max"))
        axis.bar(range(len(image_ids)), mean, yerr=[mean - low, high - mean], color=LEVEL_COLORS[level], capsize=3)
        axis.plot(
            range(len(image_ids)), gray[metric].reindex(image_ids), "_", color="black", ms=22, mew=2, label="left gray"
        )
        for threshold in STUDY[level][metric]:
            axis.axhline(threshold, color="#cc79a7", ls="--", lw=1.5, label="reported by the study")
        names = [f"{name}\n({gray['category'][name]})" for name in image_ids]
        axis.set_xticks(range(len(image_ids)), names, rotation=40, ha="right", fontsize=8)
        axis.set(title=label)
        axis.grid(axis="x", visible=False)
    figure.suptitle(f"Five photos, {level} prompt", x=0.01, ha="left", fontweight="bold")
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))  # each label once
    figure.legend(handles.values(), handles.keys(), loc="upper right", ncols=2, fontsize=9)
    figure.tight_layout()
    return figure


def draw_systems(metrics, systems):
    """Mean and 95 % interval over all photos of every system, one panel a metric; `systems`: [(label, system, level)]."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 0.42 * len(systems) + 1.2), sharey=True)
    for axis, (metric, label) in zip(axes, LABELS.items(), strict=True):
        for position, (_, system, level) in enumerate(systems):
            mean, low, high = interval(by_photo(metrics, metric, system, level))
            color = LEVEL_COLORS.get(level, "#777777")
            axis.errorbar(mean, position, xerr=[[mean - low], [high - mean]], fmt="o", color=color, capsize=4)
        axis.set(title=label)
    axes[0].set_yticks(range(len(systems)), [name for name, _, _ in systems])
    axes[0].invert_yaxis()
    figure.tight_layout()
    return figure


def draw_pairs(first, second, names, label):
    """One line a photo from its value under one prompt to its value under the other, the mean in black."""
    figure, axis = plt.subplots(figsize=(4, 4.4))
    for before, after in zip(first, second, strict=True):
        axis.plot([0, 1], [before, after], color=BLUE if after < before else ORANGE, alpha=0.35, lw=1)
    axis.plot([0, 1], [first.mean(), second.mean()], color="black", lw=3, marker="o")
    axis.set_xticks([0, 1], names)
    axis.set(ylabel=label, xlim=(-0.2, 1.2))
    axis.set_title("blue: lower with the second prompt", loc="left", fontsize=9)
    return figure


def draw_effects(table):
    """Contrasts as points with their 95 % intervals around zero, one panel a metric."""
    names = list(table["contrast"].unique())
    figure, axes = plt.subplots(1, 3, figsize=(11, 0.5 * len(names) + 1.3), sharey=True)
    for axis, (metric, label) in zip(axes, LABELS.items(), strict=True):
        rows = table[table["metric"] == metric].set_index("contrast").loc[names]
        error = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
        axis.axvline(0, color="black", lw=1)
        axis.errorbar(rows["mean"], range(len(names)), xerr=error, fmt="o", color=BLUE, capsize=4)
        axis.set(title=f"difference in {label}")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.tight_layout()
    return figure


def markdown_table(table, formats):
    """A table in Markdown with numbers in the given formats."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    for _, row in table.iterrows():
        lines.append("| " + " | ".join(formats.get(name, "{}").format(value) for name, value in row.items()) + " |")
    return "\n".join(lines)


def write_text(text, path):
    """Write a text file, whole or not at all; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text)
    os.replace(partial, path)


def draw_prompt_sheet(profile, rows, images, image_ids):
    """For each photo a column: gray, vague, detailed (seed 0, merged) and the photo; its caption below."""
    first = images[images["seed"] == 0].set_index(["image_id", "prompt_level"])["after"]
    index = {name: row for row, name in enumerate(rows["image_id"])}
    chosen = rows.select([index[name] for name in image_ids])
    sheet = {"gray": chosen["conditioning_image"]}
    for level in ("vague", "detailed"):
        sheet[level] = [Image.open(profile.images_dir / first[name, level]) for name in image_ids]
    sheet["photo"] = chosen["image"]
    figure = draw_sheet(list(sheet.values()), list(sheet), image_ids, cell=1.8)
    for caption, axis in zip(chosen["detailed_caption"], figure.axes[-len(image_ids) :], strict=True):
        axis.set_xlabel(textwrap.fill(caption, 25), fontsize=7)
    return figure


FIGURES = ("study_vague.png", "study_detailed.png", "systems.png", "effects.png", "pairs.png", "sheet.png")
REPORT = """# Vague against detailed prompts: {profile}

A student study of 2024 reported, after five photos, that vague prompts colorize badly and detailed ones well. Do
detailed prompts colorize better than vague ones? {n} test photos of {categories} kinds, none of whose subjects
was in training, were colorized from their lightness alone under the prompt "{vague_prompt}" and under a
detailed caption that names their colours, with the same noise, {seeds} seeds each; then the photo's own L* was joined to the
output's a*b*. Every number below is computed from `metrics.csv`.

## Answer

{answer}

Difference of the two prompts by photo, averaged over seeds, with 95 % bootstrap intervals (BCa, over photos), the
p of Wilcoxon's signed-rank test, and the share of photos that improved. The p weighs ranks and the interval the mean: a
few large losses can part them.

{effects}

![Differences by metric](effects.png)

*Paired differences with 95 % intervals. PSNR and SSIM gain to the right, CIEDE2000 to the left.*

![One line a photo](pairs.png)

*CIEDE2000 of every test photo under the vague and the detailed prompt; black: the mean.*

## Beside no model at all

{systems}

![Systems](systems.png)

*Mean over photos and its 95 % interval, after the merge with the photo's L\\*. Gray, mean colour and true mean colour
need no model; the autoencoder is the best that this base can reach.*

`mean_color` has one flat colour, the mean of the training photos; `true_mean_color` that of the very photo, an oracle;
`merged`: joined to the photo's L*. The merge makes SSIM and PSNR high whatever the colour is: compare every row to
*gray* (nothing added) and to the autoencoder (the best in reach). The chroma ratio here is a mean of ratios by photo (1:
as much colour as in the photo), which nearly gray photos pull up; read colourfulness beside it.

## The study's two charts

![Vague prompt](study_vague.png)
![Detailed prompt](study_detailed.png)

*Five photos of different types; dashed: what the study reported (vague: PSNR 15 to 20 dB, SSIM 0.6 to 0.8, CIEDE2000
over 10; detailed: over 20 dB, over 0.8, about 8); whiskers: lowest and highest seed; black: the photo left gray. With five photos the smallest p that
a two-sided sign test can give is 0.0625.*

On these five, the detailed prompt was better than the vague one in CIEDE2000 {five_better} times of {five_n}.

## Pictures

![Best, middle and worst](sheet.png)

*The two photos that gained most from the detailed prompt, two in the middle, the two that lost most (CIEDE2000,
mean over seeds; shown is seed 0).*

## Limits

The detailed captions were written by people who saw the colour photos. The photos are {resolution} px squares. One
true photo is the measure, though other colours could be as plausible.

## Made with

{provenance}
"""


def write_report(profile, metrics, effects, five):
    """Write `report.md`, every number from the tables of metrics and effects."""
    main = effects.set_index(["contrast", "metric"]).loc["detailed - vague"]
    ours = metrics[metrics["system"] == "controlnet"]
    levels = [by_photo(metrics, "ciede2000", "controlnet", level).loc[five] for level in ("vague", "detailed")]
    columns = {"system": "system", "prompt_level": "prompt", "merged": "merged", **{name: name for name in METRICS}}
    text = REPORT.format(
        profile=profile.name,
        n=ours["image_id"].nunique(),
        categories=ours["category"].nunique(),
        vague_prompt=ours.loc[ours["prompt_level"] == "vague", "prompt"].iloc[0],
        seeds=ours["seed"].nunique(),
        answer=verdict(main, effects),
        effects=markdown_table(effects, EFFECT_FORMATS),
        systems=markdown_table(summary(metrics, METRICS)[list(columns)].rename(columns=columns), METRIC_FORMATS),
        five_better=int((levels[1] < levels[0]).sum()),
        five_n=len(five),
        resolution=profile.resolution,
        provenance=", ".join(f"{name} {value}" for name, value in provenance(profile).items()),
    )
    write_text(text, profile.reports_dir / "report.md")


def verdict(main, effects):
    """The answer in words that the intervals allow, metric by metric, and beside the photo left gray."""
    if main["low"].isna().any():
        return f"**Too few photos to tell**: {main['n'].min():.0f}, or no difference between them."
    gray = effects.set_index(["contrast", "metric"]).loc["detailed - gray"]
    return (
        f"Detailed against vague, in {main['n'].min():.0f} photos: {effect_in_words(main)}. "
        f"{main.loc['ciede2000', 'improved']:.0%} of the photos improved in CIEDE2000.\n\n"
        f"Detailed against the same photo left gray: {effect_in_words(gray)}."
    )


def effect_in_words(effect):
    """Each metric's effect as **better**, **worse** or **not told apart**, with its interval."""
    parts = []
    for metric, row in effect.iterrows():
        signs = {row["low"] > 0, row["high"] > 0}
        better = signs == {HIGHER_IS_BETTER[metric]}
        word = "not told apart" if len(signs) == 2 else "better" if better else "worse"
        name = LABELS[metric].split(" (")[0]
        parts.append(
            f"**{word}** in {name} ({row['mean']:+.4f}, 95 % interval {row['low']:+.4f} to {row['high']:+.4f})"
        )
    return "; ".join(parts)
