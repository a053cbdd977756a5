"""The goals' table, on pictures whose answers are known."""

import numpy as np
import pytest

from lib import binding
from lib.color import lab_to_srgb, luminance, srgb_to_lab, to_float
from lib.color_words import HUES
from lib.dataset import build_dataset
from lib.models import load_base, load_controlnet
from lib.pocket_model import goals
from lib.profiles import Sampling, get_profile


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return build_dataset(get_profile("pocket", build=str(tmp_path_factory.mktemp("goals"))))["validation"].select([0])


def paint(mask, inside, outside):
    """CIELAB a*, b* of a picture with one colour word inside a mask and another, or none, outside."""
    ab = np.zeros((*mask.shape, 2))
    for where, word in ((mask, inside), (~mask, outside)):
        if word:
            angle = np.deg2rad(HUES[word])
            ab[where] = 25 * np.cos(angle), 25 * np.sin(angle)
    return ab


@pytest.mark.parametrize(
    ("tints", "own", "other", "bleed"), [(False, 1.0, 0.0, 0.0), (True, 0.5, 0.5, 1.0)], ids=["binds", "tints"]
)
def test_a_painter_that_binds_and_one_that_tints(rows, monkeypatch, tints, own, other, bleed):
    """Binding scores own and no other; tinting all in the first word scores both alike, and bleeds fully."""
    row = rows[0]
    mask = goals.mask_of(row)
    cases = [("red", ""), ("green", ""), ("red", "blue"), ("blue", "red")]
    monkeypatch.setattr(goals, "cases_of", lambda row: cases)

    def sample_and_merge(pipeline, images, prompts, seeds, sampling):
        pictures = []
        for prompt in prompts:
            words = [word for word in prompt.replace(",", "").split() if word in HUES]
            inside, outside = [*words, "", ""][:2]
            ab = paint(mask, inside, inside if tints else outside)
            plane = luminance(to_float(row["conditioning_image"])) * 0 + 55  # where every colour is in the gamut
            pictures.append(lab_to_srgb(np.dstack([plane, ab])))
        return pictures

    monkeypatch.setattr(goals, "sample_and_merge", sample_and_merge)
    monkeypatch.setattr(binding, "cases_of", goals.cases_of)
    found = goals.measure_words(None, [row], Sampling())
    assert found["own"] == pytest.approx(own)
    assert found["reached"] == 1
    assert found["other"] == pytest.approx(other)
    assert found["bleed"] == pytest.approx(bleed, abs=0.01)


def test_a_flat_tint_has_the_photos_lightness_and_mean_color(rows):
    truth = srgb_to_lab(to_float(rows[0]["image"]))
    flat = goals.flat_tint(truth)
    assert np.array_equal(flat[..., 0], truth[..., 0])
    assert np.allclose(flat[..., 1:].mean(axis=(0, 1)), truth[..., 1:].mean(axis=(0, 1)), atol=1e-3)
    assert flat[..., 1:].std(axis=(0, 1)).max() < 1e-3


@pytest.mark.parametrize("inside_only", [True, False])
def test_the_chroma_of_borders_looks_at_the_border_alone(rows, monkeypatch, inside_only):
    ab = np.full((128, 128, 2), 20.0)
    if inside_only:
        ab[: goals.BORDER], ab[-goals.BORDER :], ab[:, : goals.BORDER], ab[:, -goals.BORDER :] = 0, 0, 0, 0
    picture = lab_to_srgb(np.dstack([np.full((128, 128), 55.0), ab]))
    monkeypatch.setattr(goals, "sample_and_merge", lambda pipeline, images, *_: [picture for _ in images])
    expected = 0 if inside_only else np.hypot(20, 20)
    assert goals.chroma_of_borders(None, rows, Sampling()) == pytest.approx(expected, abs=0.3)


def test_the_shipped_model_is_measured_and_the_table_names_every_goal(rows):
    profile = get_profile("pocket")
    base = load_base(profile.model)
    controlnets = {"now": load_controlnet(profile.training.initial_controlnet, base.unet)}
    measured = goals.measure_models(base, controlnets, rows, rows, profile.sampling)
    found = measured.iloc[0]
    assert {"model", "steps", "guidance", *goals.GOALS} <= set(measured.columns)
    assert found["known_gain"] == found["new_gain"]  # of the same photo
    assert all(0 <= found[name] <= 1 for name in ("own", "other", "attention"))
    assert 0.2 < found["chroma_ratio"] < 3
    assert 0.3 < found["new_gain"] < 2
    table = goals.goals_table(measured)
    assert list(table.columns) == ["measure", "wanted", "now, 1 step"]
    assert [float(text) for text in table["now, 1 step"]] == pytest.approx(
        [found[name] for name in goals.GOALS], abs=0.01
    )
