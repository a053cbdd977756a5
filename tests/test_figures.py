"""The one chart of effects says what it shows."""

import matplotlib.pyplot as plt
import pandas as pd

from lib import figures


def test_a_forest_says_how_many_photos_and_what_its_bars_are():
    effects = pd.DataFrame({"label": ["detailed - gray", "x"], "n": [71, 5], "mean": [-1.0, 0.2], "low": [-2.0, -1.0],
                            "high": [-0.5, 1.0], "p_holm": [0.01, 0.6], "family": ["a", "b"]})  # fmt: skip
    figure = figures.forest(effects.to_dict("records"), "CIEDE2000", "filled: p < 0.05")
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["detailed - gray (n = 71)", "x (n = 5)"]
    assert "bars: 95 % intervals" in axis.get_title(loc="left")
    assert [line.get_markerfacecolor() == "white" for line in axis.lines if line.get_marker() == "o"] == [False, True]
    plt.close(figure)
