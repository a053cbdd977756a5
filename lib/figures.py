"""Charts and sheets of pictures in one style, readable in gray print; files are written atomically."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.cache import new_file

# Okabe and Ito's palette, which colour-blind readers can tell apart
BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#666666"


def use_style():
    """Sets the style of all figures."""
    plt.rc("axes", titlesize=11, grid=True, axisbelow=True, **{"spines.top": False, "spines.right": False})
    plt.rc("figure", dpi=100)
    plt.rc("font", size=10)
    plt.rc("grid", color="#e4e4e4")
    plt.rc("legend", frameon=False)


def save_figure(figure, path, dpi=120):
    """Saves a figure as PNG; makes the folder."""
    with new_file(path) as partial:
        figure.savefig(partial, dpi=dpi, bbox_inches="tight", format="png")


def save(figure, config, name: str):
    """Saves a figure as PNG in the reports of the profile's run."""
    save_figure(figure, config.reports_dir / f"{name}.png")


def draw_sheet(rows, row_titles=(), column_titles=(), cell=1.5):
    """Draws rows of pictures, arrays in [0, 1] or PIL images, `cell` inches wide, with titles at the left and above."""
    columns, (height, width) = max(len(row) for row in rows), np.shape(rows[0][0])[:2]
    size = (cell * columns, cell * len(rows) * height / width)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
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
    """Draws a sheet of pictures and saves it without showing it."""
    figure = draw_sheet(rows, **titles)
    save_figure(figure, path)
    plt.close(figure)


def name_rows(axis, names, **options):
    """Gives a chart a row for each name, from the top down."""
    axis.set_yticks(range(len(names)), names, **options)
    axis.set_ylim(len(names) - 0.5, -0.5)


def draw_interval(axis, row, ends, color=BLUE, filled=True, **options):
    """Draws a point on a chart's row with its interval, `ends`: (mean, low, high); `options`: of `Axes.errorbar`."""
    mean, low, high = ends
    options = {"fmt": "o", "capsize": 3, "mfc": color if filled else "white", **options}
    axis.errorbar(mean, row, xerr=[[mean - low], [high - mean]], color=color, **options)


def forest(table, xlabel: str, title: str = ""):
    """Draws effects or means around a line at zero, one below the other: a point each, with its 95 % interval.

    `table`: rows with `label`, `n` (photos), `mean`, `low`, `high`; points with `p_holm` >= 0.05 are open, and dotted
    lines separate each `family`, if there are these columns.
    """
    table = pd.DataFrame(table)
    figure, axis = plt.subplots(figsize=(7.5, 0.3 * len(table) + 1.3))
    axis.axvline(0, color="black", lw=1, zorder=1)
    filled = table["p_holm"] < 0.05 if "p_holm" in table else [True] * len(table)
    for row, (effect, is_filled) in enumerate(zip(table.itertuples(), filled, strict=True)):
        draw_interval(axis, row, (effect.mean, effect.low, effect.high), filled=is_filled, ms=5)
    if "family" in table:
        for row in np.flatnonzero(table["family"].to_numpy()[1:] != table["family"].to_numpy()[:-1]):
            axis.axhline(row + 0.5, color="black", lw=0.8, ls=":")
    name_rows(axis, [f"{row.label.replace('_', ' ')} (n = {row.n})" for row in table.itertuples()])
    axis.set(xlabel=xlabel)
    explained = "points: means over photos; bars: 95 % intervals; n: photos"
    axis.set_title(f"{title}\n{explained}" if title else explained, loc="left", fontsize=9)
    return figure


def draw_losses(losses, window=10, axis=None):
    """Draws the training loss by step, on an axis if given: every logged value, and its running median."""
    axis = axis or plt.subplots(figsize=(7, 2.6))[1]
    axis.plot(losses["step"], losses["loss"], ".", color="#b0b0b0", label="logged")
    smooth = losses["loss"].rolling(window, min_periods=1, center=True).median()
    axis.plot(losses["step"], smooth, color=BLUE, label=f"median of {window}")
    axis.set(xlabel="step", ylabel="loss")
    axis.legend()
    return axis.figure
