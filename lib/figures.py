"""Figures in one style, readable in gray print; every file is written whole or not at all."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from lib.cache import new_file

# Okabe and Ito's palette, which colour-blind readers can tell apart
BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#666666"
SPLIT_COLORS = dict(train="#0072b2", validation="#e69f00", test="#56b4e9")
PROMPT_COLORS = dict(vague="#e69f00", detailed="#0072b2")


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


def save(figure, config, name):
    """Save a figure as PNG in the reports of the profile's run."""
    save_figure(figure, config.reports_dir / f"{name}.png")


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


def forest(table, xlabel: str, title: str = ""):
    """Draws effects around a line at zero, one below the other: a point each, with its 95 % interval.

    Args:
        table: columns `label`, `n` (photos, printed beside the label), `mean`, `low`, `high` (NaN: no interval). With
            `p_holm`, points with p >= 0.05 are open. With `family`, dotted lines part the families.
        xlabel: what the effects are.
        title: what the reader must know beside.
    """
    figure, axis = plt.subplots(figsize=(7.5, 0.3 * len(table) + 1.3))
    axis.axvline(0, color="black", lw=1, zorder=1)
    filled = table["p_holm"] < 0.05 if "p_holm" in table else [True] * len(table)
    for row, (effect, is_filled) in enumerate(zip(table.itertuples(), filled, strict=True)):
        draw_interval(axis, row, (effect.mean, effect.low, effect.high), filled=is_filled, capsize=3, ms=5)
    if "family" in table:
        for row in np.flatnonzero(table["family"].to_numpy()[1:] != table["family"].to_numpy()[:-1]):
            axis.axhline(row + 0.5, color="black", lw=0.8, ls=":")
    name_rows(axis, [f"{row.label.replace('_', ' ')} (n = {row.n})" for row in table.itertuples()])
    axis.set(xlabel=xlabel)
    axis.set_title(
        "\n".join(part for part in (title, "points: means over photos; bars: 95 % intervals") if part),
        loc="left",
        fontsize=9,
    )
    return figure


def legend_handles(axis):
    """What a legend shows of a chart, each label once: (handles, labels)."""
    by_label = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    return list(by_label.values()), list(by_label)


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
    title = f"{len(first)} photos, a line each; black: their mean\nblue: lower with the {names[1]} prompt"
    axis.set_title(title, loc="left", fontsize=9)
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
        axis.set(
            xlabel="sampling steps",
            title=f"detailed - {name.removeprefix('over_')} (n = {part['photos'].iloc[0]}, bars: 95 %)",
        )
        axis.set_ylabel("difference in CIEDE2000")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def draw_prompt_sheet(rows, pictures, columns):
    """For each photo a column: gray, every prompt condition, and the photo; its detailed caption below.

    `pictures`: {condition: {image_id: picture}}; `columns`: {image_id: what is written above it}.
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
    """Left: how often object and background took their own colour, or the other's. Right: the leakage of one object.

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
    left.set(xlabel="share of objects and backgrounds that took the colour", xlim=(-0.02, 1.02))
    right.set(xlabel="leakage: shift outside the object over shift inside")
    right.set_xlim(left=-0.02)
    left.legend(*legend_handles(left))
    for axis, part in ((left, two), (right, one)):
        axis.set_title(f"n = {part['photos'].max()} photos, bars: 95 % intervals", loc="left", fontsize=9)
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
            draw_interval(axis, row + shift, values, PROMPT_COLORS[level], capsize=3, label=level)
    gray = table["gray"].mean()
    axis.axvline(gray, color="black", lw=1, label=f"gray {gray:.1f}")
    name_rows(axis, table["run"] + " (n = " + table["n"].astype(str) + ")")
    axis.set(xlabel="CIEDE2000 (lower is better); points: means over photos, bars: 95 % intervals")
    axis.legend(*legend_handles(axis), loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure
