"""The systems that take no prompt: their colours, losses and a short training."""

import numpy as np
import pytest
import torch

from lib import baselines


def test_bins_cover_what_srgb_holds():
    bins = baselines.bins()
    assert 200 < len(bins) < 330  # Zhang, Isola, Efros count 313, with bins whose centre lies outside
    assert (bins.abs() <= 110).all()
    assert [0, 0] in bins.tolist()
    assert [100, 100] not in bins.tolist()


def test_annealed_mean_lies_between_mode_and_mean():
    scores = torch.full((1, len(baselines.bins()), 1, 1), -20.0)
    first, second = (int((baselines.bins() - torch.tensor(c)).norm(dim=1).argmin()) for c in ([0.0, 0.0], [50.0, 0.0]))
    scores[0, first], scores[0, second] = np.log(0.7), np.log(0.3)
    a = float(baselines.annealed_mean(scores)[0, 0, 0, 0])
    assert 0 < a < 0.3 * 50
    odds = (0.3 / 0.7) ** (1 / baselines.TEMPERATURE)
    assert a == pytest.approx(50 * odds / (1 + odds), abs=1e-3)
