"""Plans of photos and seeds: what their intervals would be, by closed form and by simulation."""

import numpy as np
import pytest

from lib import colorize
from lib.luck import components, interval_width
from tests.bench import precision


def differences(between, within, photos=4000, seeds=2):
    """Differences by photo and seed with these standard deviations around -2."""
    rng = np.random.default_rng(0)
    return -2 + rng.normal(0, between, (photos, 1)) + rng.normal(0, within, (photos, seeds))


@pytest.mark.parametrize("plan", [(120, 1, 0), (120, 3, 120), (150, 3, 30)])
def test_the_interval_has_that_width_and_covers(plan):
    seen = differences(2, 2, photos=300)
    simulated = precision.simulate(plan, seen, studies=120)
    assert simulated["simulated width"] == pytest.approx(interval_width(*components(seen), *plan), rel=0.04)
    assert 0.89 <= simulated["coverage"] <= 0.99


def test_seeds_count_only_as_far_as_they_matter():
    quiet, loud = differences(3, 0.1), differences(1, 3)
    assert precision.photos_needed(quiet) == precision.OLD_PLAN[0] + 1
    needed = precision.photos_needed(loud)
    widths = [interval_width(*components(loud), n, 3, 60) for n in (needed - 1, needed)]
    assert widths[0] > interval_width(*components(loud), *precision.OLD_PLAN) >= widths[1]
    assert needed > 1000
    found = precision.range_of_photos_needed(loud[:40], resamples=40)
    assert found["needed_low"] < needed < found["needed_high"] < 1600  # with noise alone it would be three times 500


def test_the_table_says_what_a_plan_costs():
    table = precision.table_of_plans("1 step", differences(3, 1, photos=100), studies=3)
    rows = table.set_index(["photos", "seeds"])
    assert rows.loc[(500, 3), "pictures"] == 3000
    assert rows.loc[(500, 3), "of the old"] == 1
    assert rows.loc[(650, 3), "pictures"] == 2 * (650 + 2 * 60)
    assert rows.loc[(650, 1), "pictures"] == 1300


def test_differences_are_detailed_less_vague_under_the_same_noise(pipeline, triples, profile, monkeypatch):
    rows = triples["test"].select(range(3))
    found = precision.sample_differences(pipeline, rows, profile.sampling)
    assert found.shape == (3, precision.SEEDS)
    assert np.abs(found).max() > 0
    monkeypatch.setattr(colorize, "prompts_at", lambda level, rows: ["the same"] * len(rows))
    assert (precision.sample_differences(pipeline, rows, profile.sampling) == 0).all()
