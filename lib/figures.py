"""Figures in one style, readable in gray print; every file is written under a temporary name, then renamed."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from lib.color import to_pil
from lib.files import new_file
from lib.stats import by_photo, interval

BLUE, ORANGE = "#0072b2", "#d55e00"  # Okabe and Ito's palette, told apart by colour-blind readers
SPLIT_COLORS = {"train": "#0072b2", "validation": "#e69f00", "test": "#56b4e9"}
LEVEL_COLORS = {"vague": "#e69f00", "detailed": "#0072b2"}  # the study's two; other levels are gray
WORD_COLORS = {"red": "#d5281e", "orange": "#ef8a17", "yellow": "#f4d92e", "green": "#3f9b45", "blue": "#2f6fd0",
               "purple": "#8a4fb0", "brown": "#7d5232", "white": "#ffffff"}  # fmt: skip
LABELS = {
    "psnr": "PSNR (dB, higher is better)",
    "ssim": "SSIM (higher is better)",
    "ciede2000": "CIEDE2000 (lower is better)",
}
STUDY = {  # the thresholds that the study of 2024 reported on five photos
    "vague": {"psnr": (15, 20), "ssim": (0.6, 0.8), "ciede2000": (10,)},  # between; between; over
    "detailed": {"psnr": (20,), "ssim": (0.8,), "ciede2000": (8,)},  # over; over; about
}


def save_figure(figure, path, dpi=120):
    """Save a figure as PNG, whole or not at all; makes the folder."""
    with new_file(path) as partial:
        figure.savefig(partial, dpi=dpi, bbox_inches="tight", format="png")


def save(figure, profile, name):
    """Save a figure as PNG in the reports of the profile's run."""
    save_figure(figure, profile.folders.reports_dir / f"{name}.png")


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
    text = [
        ["-" if value != value else formats.get(name, "{}").format(value) for name, value in row.items()]
        for _, row in table.iterrows()
    ]
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


def draw_study_chart(metrics, image_ids, level):
    """The study's chart: the three metrics of five photos at one prompt level, with the study's thresholds as dashed lines.

    Bars are means over seeds after the merge, whiskers reach over the seeds; the tick is the same photo left gray. Both
    levels are drawn on the same axes.
    """
    rows = metrics[metrics["merged"] & metrics["image_id"].isin(image_ids)]
    both = rows[(rows["system"] == "controlnet") & rows["prompt_level"].isin(STUDY)]
    ours = both[both["prompt_level"] == level].groupby("image_id")
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
        axis.set(title=label, ylim=(0, 1.08 * max(both[metric].max(), gray[metric].max())))
        axis.grid(axis="x", visible=False)
    figure.suptitle(f"Five photos, {level} prompt", x=0.01, ha="left", fontweight="bold")
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))  # each label once
    figure.legend(handles.values(), handles.keys(), loc="upper right", ncols=2, fontsize=9)
    figure.tight_layout()
    return figure


def draw_systems(metrics, systems):
    """Mean and 95 % interval over all photos of every system, one panel a metric; `systems`: [(label, system, level)].

    Squares take no prompt.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 0.36 * len(systems) + 1.2), sharey=True)
    for axis, (metric, label) in zip(axes, LABELS.items(), strict=True):
        for position, (_, system, level) in enumerate(systems):
            mean, low, high = interval(by_photo(metrics, metric, system, level))
            color, marker = LEVEL_COLORS.get(level, "#666666"), "o" if level else "s"
            axis.errorbar(mean, position, xerr=[[mean - low], [high - mean]], fmt=marker, color=color, capsize=4)
        axis.set(title=label)
    axes[0].set_yticks(range(len(systems)), [name for name, _, _ in systems])
    axes[0].invert_yaxis()
    figure.tight_layout()
    return figure


def draw_merge(metrics, levels):
    """Mean metrics of every prompt level before the merge (open) and after it (filled), joined by a line."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 0.36 * len(levels) + 1.2), sharey=True)
    for axis, (metric, label) in zip(axes, LABELS.items(), strict=True):
        for position, level in enumerate(levels):
            ends = [by_photo(metrics, metric, "controlnet", level, merged).mean() for merged in (False, True)]
            axis.plot(ends, [position] * 2, color=BLUE, lw=2)
            axis.plot(ends[0], position, "o", mfc="white", mec=BLUE, label="before")
            axis.plot(ends[1], position, "o", color=BLUE, label="after")
        axis.set(title=label)
    axes[0].set_yticks(range(len(levels)), [level.replace("_", " ") for level in levels])
    axes[0].invert_yaxis()
    axes[0].legend(*(part[:2] for part in axes[0].get_legend_handles_labels()))
    figure.tight_layout()
    return figure


def draw_effects(table):
    """Contrasts as points with their 95 % intervals around zero, one panel a metric; filled: p < 0.05 after Holm."""
    names = list(table["contrast"].unique())
    figure, axes = plt.subplots(1, 3, figsize=(11, 0.4 * len(names) + 1.3), sharey=True)
    for axis, (metric, label) in zip(axes, LABELS.items(), strict=True):
        axis.axvline(0, color="black", lw=1)
        for position, (_, row) in enumerate(
            table[table["metric"] == metric].set_index("contrast").loc[names].iterrows()
        ):
            error = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            fill = BLUE if row["p_holm"] < 0.05 else "white"
            axis.errorbar(row["mean"], position, xerr=error, fmt="o", color=BLUE, mfc=fill, capsize=4)
        axis.set(title=f"difference in {label}")
        axis.title.set_fontsize(10)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.tight_layout()
    return figure


def draw_categories(table, label):
    """The effect in every category of photos with its 95 % interval; the number of photos beside the name.

    Below three photos there is no interval: the point is open.
    """
    figure, axis = plt.subplots(figsize=(6.5, 0.4 * len(table) + 1))
    axis.axvline(0, color="black", lw=1)
    for position, row in enumerate(table.itertuples()):
        error, fill = [[row.mean - row.low], [row.high - row.mean]], BLUE if row.n >= 3 else "white"
        axis.errorbar(row.mean, position, xerr=error, fmt="o", color=BLUE, mfc=fill, capsize=4)
    axis.set_yticks(range(len(table)), [f"{row.category} ({row.n})" for row in table.itertuples()])
    axis.set(xlabel=label)
    axis.invert_yaxis()
    return figure


def draw_prompt_sheet(rows, pictures, columns):
    """For each photo a column: gray, every prompt level, and the photo; its detailed caption below.

    `pictures`: {level: {image_id: picture}}; `columns`: {image_id: what is written above it}.
    """
    index = {name: row for row, name in enumerate(rows["image_id"])}
    chosen = rows.select([index[name] for name in columns])
    sheet = {"gray": chosen["conditioning_image"]}
    sheet |= {level.replace("_", " "): [named[name] for name in columns] for level, named in pictures.items()}
    sheet["photo"] = chosen["image"]
    figure = draw_sheet(list(sheet.values()), list(sheet), list(columns.values()), cell=1.5)
    for caption, axis in zip(chosen["detailed_caption"], figure.axes[-len(columns) :], strict=True):
        axis.set_xlabel(textwrap.fill(caption, 22), fontsize=6.5)
    return figure


def draw_deviation(pictures, maps, names):
    """Below each picture the map of how far its a*, b* deviate over seeds (standard deviation, one scale for all)."""
    figure = draw_sheet([pictures, [np.zeros_like(part) for part in maps]], ["seed 0", "deviation"], names)
    top = max(float(part.max()) for part in maps)
    for part, axis in zip(maps, figure.axes[len(names) :], strict=False):
        drawn = axis.imshow(part, cmap="gray", vmin=0, vmax=top)
    figure.colorbar(drawn, ax=figure.axes, label="a*b* deviation", shrink=0.6)
    return figure


def draw_steering(table):
    """By colour word, the share of things that took the named colour, where their lightness allows it."""
    shares = table[table["allowed"]].groupby("word", sort=False)["reached"].agg(["mean", "size"])
    figure, axis = plt.subplots(figsize=(7, 2.8))
    axis.bar(range(len(shares)), shares["mean"], color=[WORD_COLORS[word] for word in shares.index], edgecolor="black")
    axis.set_xticks(range(len(shares)), [f"{word}\n{row['size']:.0f}" for word, row in shares.iterrows()])
    axis.set(xlabel="word of the prompt, and how many photos allow it", ylabel="took the colour", ylim=(0, 1.02))
    axis.grid(axis="x", visible=False)
    return figure


def draw_runs(table, metrics, references):
    """CIEDE2000 of every run under the vague and the detailed prompt, with 95 % intervals, beside rows without a model.

    `table`: `runs.table_of_runs`; `metrics`: {run: metrics}; `references`: systems, the last run's drawn as lines. The
    mean colour of each run's own training photos is a tick.
    """
    figure, axis = plt.subplots(figsize=(8.5, 0.45 * len(table) + 1.6))
    for position, run in enumerate(table["run"]):
        for shift, level in ((-0.13, "vague"), (0.13, "detailed")):
            mean, low, high = interval(by_photo(metrics[run], "ciede2000", "controlnet", level))
            axis.errorbar(mean, position + shift, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3,
                          color=LEVEL_COLORS[level], label=level if position == 0 else None)  # fmt: skip
        flat = by_photo(metrics[run], "ciede2000", "mean_color").mean()
        axis.plot(flat, position, "|", color="black", ms=16, mew=2, label="mean color" if position == 0 else None)
    any_run = metrics[table["run"].iloc[-1]]
    for system, style in zip(references, ("-", "--", "-.", ":"), strict=False):
        mean = by_photo(any_run, "ciede2000", system).mean()
        axis.axvline(mean, color="black", ls=style, lw=1, label=f"{system.replace('_', ' ')} {mean:.1f}")
    axis.set_yticks(range(len(table)), table["run"])
    axis.set(xlabel=LABELS["ciede2000"], ylim=(len(table) - 0.5, -0.5))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def draw_run_effects(table, effects):
    """Left: what detail adds in every run. Right: what changed between two runs did, under each prompt; CIEDE2000.

    Filled: p < 0.05 after Holm's correction over the right panel; 95 % intervals.
    """
    names = [f"{row.changed}\n{row.runs}" for row in effects.drop_duplicates("runs").itertuples()]
    figure, axes = plt.subplots(1, 2, figsize=(13, 0.55 * max(len(table), len(names)) + 1.3))
    for position, (_, row) in enumerate(table.iterrows()):
        mean, low, high = (row[f"detailed - vague{end}"] for end in ("", ", low", ", high"))
        axes[0].errorbar(mean, position, xerr=[[mean - low], [high - mean]], fmt="o", color=BLUE, capsize=3)
    colors = {**LEVEL_COLORS, "detailed - vague": "#666666"}
    for number, (prompt, part) in enumerate(effects.groupby("prompt", sort=False)):
        axes[1].plot([], [], "o", color=colors[prompt], label=prompt)
        for position, row in enumerate(part.itertuples()):
            error, color = [[row.mean - row.low], [row.high - row.mean]], colors[prompt]
            axes[1].errorbar(row.mean, position + 0.2 * (number - 1), xerr=error, fmt="o", color=color, capsize=2, ms=5,
                             mfc=color if row.p_holm < 0.05 else "white")  # fmt: skip
    for axis, labels, title in ((axes[0], table["run"], "what detail adds: detailed - vague"),
                                (axes[1], names, "what the change did: second run - first")):  # fmt: skip
        axis.axvline(0, color="black", lw=1)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.set(xlabel="difference in CIEDE2000 (lower is better)")
        axis.set_title(title, fontsize=10)
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return figure


def save_strip(pictures, path, size=128):
    """Save pictures (float arrays or PIL) side by side as one small JPEG, for sheets over several runs."""
    squares = [to_pil(picture) if isinstance(picture, np.ndarray) else picture for picture in pictures]
    strip = np.concatenate([np.asarray(square.resize((size, size), Image.LANCZOS)) for square in squares], axis=1)
    with new_file(path) as partial:
        Image.fromarray(strip).save(partial, format="jpeg", quality=95, subsampling=0)


def read_strip(path):
    """The pictures of a strip, as a list of uint8 arrays (H, H, 3)."""
    strip = np.asarray(Image.open(path))
    return np.split(strip, strip.shape[1] // strip.shape[0], axis=1)
