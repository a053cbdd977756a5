"""Figures in one style, readable in gray print; every file is written whole or not at all."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from lib.files import new_file
from lib.stats import METRIC, by_photo, interval, label, subjects_of

# Okabe and Ito's palette, which colour-blind readers can tell apart
BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#666666"
SPLIT_COLORS = dict(train="#0072b2", validation="#e69f00", test="#56b4e9")
LEVEL_COLORS = dict(vague="#e69f00", detailed="#0072b2")  # the study's two; other levels are gray
SPLIT_LABELS = {  # of a difference between two prompts
    "ciede2000": "CIEDE2000",
    "mean_error": "a*b* error of the mean colour (tint)",
    "deviation_error": "a*b* error of the deviations (placement)",
}
LABELS = {
    "psnr": "PSNR (dB, higher is better)",
    "ssim": "SSIM (higher is better)",
    "ciede2000": "CIEDE2000 (lower is better)",
}
STUDY = {  # the thresholds that the study of 2024 reported on five photos
    "vague": {"psnr": (15, 20), "ssim": (0.6, 0.8), "ciede2000": (10,)},  # between; between; over
    "detailed": {"psnr": (20,), "ssim": (0.8,), "ciede2000": (8,)},  # over; over; about
}


def use_style():
    """The one style of all figures."""
    axes = {"titlesize": 11, "spines.top": False, "spines.right": False, "grid": True, "axisbelow": True}
    plt.rc("axes", **axes)
    plt.rc("figure", dpi=100)
    plt.rc("font", size=10)
    plt.rc("grid", color="#e4e4e4")
    plt.rc("legend", frameon=False)


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


def name_rows(axis, names, **options):
    """Give a chart a row for each name, from the top down."""
    axis.set_yticks(range(len(names)), names, **options)
    axis.set_ylim(len(names) - 0.5, -0.5)


def draw_interval(axis, row, values, color=BLUE, filled=True, **options):
    """A point on a chart's row with its interval.

    `values`: (mean, low, high), NaN where there is no interval; `options`: of `Axes.errorbar`, e.g. fmt="s": squares.
    """
    mean, low, high = values
    options = {"fmt": "o", "capsize": 4, "mfc": color if filled else "white", **options}
    axis.errorbar(mean, row, xerr=[[mean - low], [high - mean]], color=color, **options)


def draw_effects_on(axis, effects, filled, color=BLUE, shift=0, **options):
    """Effects one below the other around a line at zero.

    `effects`: a table with `mean`, `low`, `high`; `filled`: a bool for each; `options`: of `draw_interval`.
    """
    axis.axvline(0, color="black", lw=1, zorder=1)
    for row, (effect, is_filled) in enumerate(zip(effects.itertuples(), filled, strict=True)):
        draw_interval(axis, row + shift, (effect.mean, effect.low, effect.high), color, is_filled, **options)


def legend_handles(axis):
    """What a legend shows of a chart, each label once: (handles, labels)."""
    by_label = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    return list(by_label.values()), list(by_label)


def three_panels(names, height, labels=LABELS):
    """A figure with a panel for each of three metrics over shared rows, and {metric: axis}; `height`: of a row."""
    figure, axes = plt.subplots(1, 3, figsize=(11, height * len(names) + 1.2), sharey=True)
    name_rows(axes[0], names)
    for axis, title in zip(axes, labels.values(), strict=True):
        axis.set_title(title, fontsize=10)
    return figure, dict(zip(labels, axes, strict=True))


def draw_counts(table):
    """Photos by category and split: a stacked bar a category; `table` has categories as rows, splits as columns."""
    size = (7, 0.4 * len(table) + 1)
    axis = table.plot.barh(stacked=True, width=0.8, color=SPLIT_COLORS, xlabel="photos", ylabel="", figsize=size)
    axis.grid(axis="y", visible=False)
    axis.invert_yaxis()
    axis.legend(title="split", loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars, whatever their lengths
    return axis.figure


def draw_losses(losses, window=10):
    """Training loss by step: every logged value, and its running median."""
    figure, axis = plt.subplots(figsize=(7, 2.6))
    axis.plot(losses["step"], losses["loss"], ".", color="#b0b0b0", label="logged")
    smooth = losses["loss"].rolling(window, min_periods=1, center=True).median()
    axis.plot(losses["step"], smooth, color=BLUE, label=f"median of {window}")
    axis.set(xlabel="step", ylabel="loss")
    axis.legend()
    return figure


def draw_pairs(first, second, names, title):
    """One line a photo from its value under one prompt to its value under the other, the mean in black."""
    figure, axis = plt.subplots(figsize=(4, 4.4))
    for before, after in zip(first, second, strict=True):
        axis.plot([0, 1], [before, after], color=BLUE if after < before else ORANGE, alpha=0.35, lw=1)
    axis.plot([0, 1], [first.mean(), second.mean()], color="black", lw=3, marker="o")
    axis.set_xticks([0, 1], names)
    axis.set(ylabel=title, xlim=(-0.2, 1.2))
    axis.set_title(f"blue: lower with the {names[1]} prompt", loc="left", fontsize=9)
    return figure


def draw_study_chart(metrics, image_ids, level):
    """The study's chart: three metrics of five photos at one prompt level; dashed lines are the study's thresholds.

    Bars are means over seeds after the merge, whiskers reach over the seeds; the tick is the same photo left gray. Both
    levels are drawn on the same axes.
    """
    rows = metrics[metrics["merged"] & metrics["image_id"].isin(image_ids)]
    both = rows[(rows["system"] == "controlnet") & rows["prompt_level"].isin(STUDY)]
    ours = both[both["prompt_level"] == level].groupby("image_id")
    gray, places = rows[rows["system"] == "gray"].set_index("image_id"), range(len(image_ids))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    for axis, (metric, title) in zip(axes, LABELS.items(), strict=True):
        mean, low, high = (getattr(ours[metric], how)().reindex(image_ids) for how in ("mean", "min", "max"))
        axis.bar(places, mean, yerr=[mean - low, high - mean], color=LEVEL_COLORS[level], capsize=3)
        axis.plot(places, gray[metric].reindex(image_ids), "_", color="black", ms=22, mew=2, label="left gray")
        for threshold in STUDY[level][metric]:
            axis.axhline(threshold, color="#cc79a7", ls="--", lw=1.5, label="reported by the study")
        names = [f"{name}\n({gray['category'][name]})" for name in image_ids]
        axis.set_xticks(places, names, rotation=40, ha="right", fontsize=8)
        axis.set(title=title, ylim=(0, 1.08 * max(both[metric].max(), gray[metric].max())))
        axis.grid(axis="x", visible=False)
    figure.suptitle(f"Five photos, {level} prompt", x=0.01, ha="left", fontweight="bold")
    figure.legend(*legend_handles(axes[0]), loc="upper right", ncols=2, fontsize=9)
    figure.tight_layout()
    return figure


def draw_systems(metrics, systems, levels):
    """Mean and 95 % interval over all photos of every system and prompt level, one panel a metric.

    Squares take no prompt.
    """
    figure, panels = three_panels([name.replace("_", " ") for name in (*systems, *levels)], height=0.36)
    subjects = subjects_of(metrics)
    for metric, axis in panels.items():
        for row, name in enumerate((*systems, *levels)):
            color, marker = LEVEL_COLORS.get(name, GRAY), "s" if name in systems else "o"
            values = by_photo(metrics, metric, name)
            draw_interval(axis, row, interval(values, subjects[values.index]), color, fmt=marker)
    figure.tight_layout()
    return figure


def draw_merge(metrics, levels):
    """Mean metrics of every prompt level before the merge (open) and after it (filled), joined by a line."""
    figure, panels = three_panels([level.replace("_", " ") for level in levels], height=0.36)
    for metric, axis in panels.items():
        for row, level in enumerate(levels):
            before, after = (by_photo(metrics, metric, level, merged).mean() for merged in (False, True))
            axis.plot([before, after], [row] * 2, color=BLUE, lw=2)
            axis.plot(before, row, "o", mfc="white", mec=BLUE, label="before")
            axis.plot(after, row, "o", color=BLUE, label="after")
    panels["psnr"].legend(*legend_handles(panels["psnr"]))
    figure.tight_layout()
    return figure


def draw_effects(effects):
    """Contrasts as points with their 95 % intervals around zero: CIEDE2000, and the two parts of the a*b* error.

    Blue, filled: p < 0.05 after Holm's correction; gray: not tested. Dotted lines part the families.
    """
    contrasts = effects[["first", "second"]].drop_duplicates().itertuples(index=False)
    figure, panels = three_panels([label(*contrast) for contrast in contrasts], 0.3, SPLIT_LABELS)
    for metric, axis in panels.items():
        part = effects[effects["metric"] == metric]
        tested = metric == METRIC
        filled = part["p_holm"] < 0.05 if tested else [True] * len(part)
        draw_effects_on(axis, part, filled, BLUE if tested else GRAY, capsize=3, ms=5)
        for row in np.flatnonzero(part["family"].to_numpy()[1:] != part["family"].to_numpy()[:-1]):
            axis.axhline(row + 0.5, color="black", lw=0.8, ls=":")
    figure.suptitle("first - second: below zero, the first is better", x=0.01, ha="left", fontsize=10)
    figure.tight_layout()
    return figure


def draw_words(dose, parts):
    """What makes a detailed prompt work, as differences from the vague prompt with 95 % intervals.

    Left: more and more of its colour words (`dose`: of `gains.dose_table`); right: other texts (`parts`: effects).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.32 * len(parts) + 1.4))
    bounds = [dose["mean"] - dose["low"], dose["high"] - dose["mean"]]
    left.errorbar(range(len(dose)), dose["mean"], yerr=bounds, fmt="o-", color=BLUE, capsize=4)
    left.axhline(0, color="black", lw=1)
    left.set_xticks(range(len(dose)), dose["kept"])
    left.set(xlabel="colours kept in the detailed caption", ylabel="CIEDE2000, difference from vague")
    draw_effects_on(right, parts, [True] * len(parts))
    name_rows(right, parts["first"].str.replace("_", " "))
    right.set(xlabel="CIEDE2000, difference from vague")
    figure.suptitle("below zero: better than the vague prompt", x=0.01, ha="left", fontsize=10)
    figure.tight_layout()
    return figure


def draw_gains(gains):
    """What a detailed prompt gains on each photo, by the photo's true chroma with straight fits, and how often."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, width_ratios=(3, 3, 2))
    for axis, name in zip(axes, ("over_vague", "over_gray"), strict=False):
        axis.scatter(gains["true_chroma"], gains[name], c=gains["hues"], cmap="viridis", s=22)
        ends = np.array([gains["true_chroma"].min(), gains["true_chroma"].max()])
        axis.plot(ends, np.polyval(np.polyfit(gains["true_chroma"], gains[name], 1), ends), color=ORANGE, lw=2)
        axis.axhline(0, color="black", lw=1)
        axis.set(xlabel="true mean chroma", title=f"gain {name.replace('_', ' ')}")
    figure.colorbar(axes[1].collections[0], ax=axes[1], label="hues in the photo")
    axes[0].set(ylabel="CIEDE2000 (above zero: detailed is better)")
    axes[2].hist(gains["over_vague"], bins=20, orientation="horizontal", color=BLUE, alpha=0.6)
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    for value, style in ((gains["over_vague"].mean(), "-"), (gains["over_vague"].median(), "--")):
        axes[2].axhline(value, color="black", ls=style, label=f"{'mean' if style == '-' else 'median'} {value:.2f}")
    axes[2].set(xlabel="photos", title="gain over vague")
    axes[2].legend(fontsize=8)
    figure.tight_layout()
    return figure


def draw_sampling(tried):
    """Detailed less vague, and less gray, by the number of steps and the guidance, on validation photos (95 %)."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2))
    for axis, name in zip(axes, ("over_vague", "over_gray"), strict=True):
        for number, (scale, part) in enumerate(tried.groupby("guidance")):
            places = np.arange(len(part)) + 0.08 * number
            bounds = [part[name] - part[f"{name}_low"], part[f"{name}_high"] - part[name]]
            color = (BLUE, ORANGE, GRAY, "black")[number % 4]
            axis.errorbar(
                places, part[name], yerr=bounds, fmt="o-", capsize=3, color=color, label=f"guidance {scale:g}"
            )
            axis.set_xticks(range(len(part)), part["steps"])
        axis.axhline(0, color="black", lw=1)
        axis.set(xlabel="sampling steps", title=f"detailed - {name.removeprefix('over_')}")
        axis.set_ylabel("difference in CIEDE2000")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def draw_categories(table, title):
    """The effect in every category of photos with its 95 % interval; the number of photos beside the name.

    Below three photos there is no interval: the point is open.
    """
    figure, axis = plt.subplots(figsize=(6.5, 0.4 * len(table) + 1))
    draw_effects_on(axis, table, table["n"] >= 3)
    name_rows(axis, table["category"] + " (" + table["n"].astype(str) + ")")
    axis.set(xlabel=title)
    return figure


def draw_prompt_sheet(rows, pictures, columns):
    """For each photo a column: gray, every prompt level, and the photo; its detailed caption below.

    `pictures`: {level: {image_id: picture}}; `columns`: {image_id: what is written above it}.
    """
    index = {name: row for row, name in enumerate(rows["image_id"])}
    chosen = rows.select([index[name] for name in columns])
    sheet = {"gray": chosen["conditioning_image"]}
    for level, by_name in pictures.items():
        sheet[level.replace("_", " ")] = [by_name[name] for name in columns]
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


def draw_binding(summary):
    """Left: how often thing and ground took their own word's colour, and the other's. Right: the bleed of one thing.

    `summary`: of `stats.binding`; with 95 % intervals over photos.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3), width_ratios=(3, 2))
    two, one = summary[summary["task"] == "two"], summary[(summary["task"] == "one") & summary["bleed"].notna()]
    for axis, part, measures in ((left, two, ("own_word", "other_word")), (right, one, ("bleed",))):
        for row, values in enumerate(part.to_dict("records")):
            for measure, color in zip(measures, (BLUE, ORANGE), strict=False):
                bounds = [values[f"{measure}{end}"] for end in ("", "_low", "_high")]
                draw_interval(axis, row, bounds, color, label=measure.replace("_", " "))
        name_rows(axis, [f"{row.method}, {row.masks} masks" if row.masks else row.method for row in part.itertuples()])
    left.set(xlabel="share of things and grounds that took the colour", xlim=(-0.02, 1.02))
    right.set(xlabel="bleed: shift outside the thing over shift inside")
    right.set_xlim(left=-0.02)
    left.legend(*legend_handles(left))
    figure.tight_layout()
    return figure


def draw_runs(table):
    """CIEDE2000 of every run under the vague and the detailed prompt, with 95 % intervals; a line: photos left gray.

    `table`: rows of `runs.csv` (`compare_runs`).
    """
    figure, axis = plt.subplots(figsize=(8.5, 0.45 * len(table) + 1.6))
    for row, run in enumerate(table.to_dict("records")):
        for shift, level in ((-0.13, "vague"), (0.13, "detailed")):
            values = [run[name] for name in (level, f"{level}_low", f"{level}_high")]
            draw_interval(axis, row + shift, values, LEVEL_COLORS[level], capsize=3, label=level)
    gray = table["gray"].mean()
    axis.axvline(gray, color="black", lw=1, label=f"gray {gray:.1f}")
    name_rows(axis, table["run"])
    axis.set(xlabel=LABELS["ciede2000"])
    axis.legend(*legend_handles(axis), loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure
