"""Charts whose parts must not cover each other."""

import matplotlib.pyplot as plt
import pandas as pd

from lib import figures


def test_the_legend_covers_no_bar():
    counts = pd.DataFrame({"train": [90, 80, 70], "validation": [5, 5, 5], "test": [5, 5, 5]}, index=list("abc"))
    figure = figures.draw_counts(counts)
    figure.canvas.draw()
    (axis,) = figure.axes
    legend = axis.get_legend().get_window_extent()
    assert axis.patches
    assert not [bar for bar in axis.patches if bar.get_window_extent().overlaps(legend)]
    plt.close(figure)
