"""Captions and set metrics: with small random networks in place of the large ones."""

import numpy as np
import pandas as pd
import pytest
import torch

from lib.color import to_float, to_pil
from lib.l4 import captioner, set_metrics
from tests.rehearsal import repositories


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Folders with a random BLIP and a random CLIP, whose weights come as .bin alone."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    repositories.write_blip(folder / "blip")
    repositories.write_clip(folder / "clip")
    return {"captioner": str(folder / "blip"), "clip": str(folder / "clip")}


def test_captioner_adds_two_conditions_and_keeps_its_captions(networks, config, triples, monkeypatch):
    config = config.replace(captioner=networks["captioner"])
    with pytest.raises(ValueError, match="no .*auto_captions: run notebook 01_build_dataset first"):
        captioner.read_auto_captions(config)
    captioner.write_captions(config)
    read = captioner.read_auto_captions(config)
    assert set(read) == {"gray_caption", "auto_caption"}
    assert all(len(texts) == 3 and all(isinstance(text, str) for text in texts) for texts in read.values())
    monkeypatch.setattr(captioner, "caption", None)  # kept captions need no network
    assert list(captioner.write_captions(config)["auto_caption"]) == read["auto_caption"]
    with pytest.raises(TypeError):
        captioner.write_captions(config.replace(n_images=4))
    assert captioner.write_captions(config.replace(captioner="")) is None


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("a black and white photo of a dog on a sofa", "a dog on a sofa"),
        ("there is a black and white image of the harbour", "the harbour"),
        ("a grayscale photo of a street", "a street"),
        ("a boat on a lake in a black and white photo", "a boat on a lake"),
        ("a woman dressed in black and white", "a woman dressed in black and white"),
        ("a black and white photo", "a black and white photo"),  # nothing would be left
        ("a wall with a black and white photo of a dog", "a wall with a black and white photo of a dog"),
    ],
)
def test_gray_style(raw, text):
    assert captioner.without_gray_style(raw) == text


def test_clip_score_is_the_cosine_if_positive_and_depends_on_words_and_picture(networks, config):
    model, processor = set_metrics.load_clip(config.replace(clip=networks["clip"]))
    pictures = [to_pil(picture) for picture in np.random.default_rng(0).uniform(0, 1, (2, 40, 40, 3))]
    scores = []
    for sign in (1, -1):
        model.text_projection.weight.data *= sign
        for order in (1, -1):
            scores.append(set_metrics.clip_score(pictures[::order], ["a red cup", "word " * 200], model, processor))
    first, swapped, negative, _ = scores
    assert first.shape == (2,)
    assert bool(((first == 0) != (negative == 0)).all())  # of a cosine and its negative, one counts as 0
    assert not torch.allclose(first + negative, swapped + scores[3])


class Means(torch.nn.Module):
    """Stands for Inception: means of a picture's quarters, red and green."""

    def forward(self, pixels):
        return torch.nn.functional.adaptive_avg_pool2d(pixels[:, :2], 2).flatten(1).double()


class Distance(torch.nn.Module):
    """Stands for LPIPS: the mean absolute difference."""

    def __init__(self, *_, **__):
        super().__init__()

    def update(self, first, second):
        self.value = (first - second).abs().mean()

    def compute(self):
        return self.value


@pytest.fixture
def small(monkeypatch):
    """The metrics with `Means` for Inception and `Distance` for LPIPS, and FID from four pictures on."""
    original = set_metrics.make_metrics
    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", Distance)
    monkeypatch.setattr(set_metrics, "make_metrics", lambda n: original(n, Means()))
    monkeypatch.setattr(set_metrics, "MIN_FOR_FID", 4)


def test_sets_are_measured_condition_by_condition(networks, small, config, triples, monkeypatch):
    rows = triples["test"].select(range(5))
    keys = [
        (name, condition, seed) for name in rows["image_id"] for condition in ("vague", "detailed") for seed in (0, 1)
    ]
    keys += [(name, "empty", 0) for name in rows["image_id"][:4]]
    images = pd.DataFrame(keys, columns=["image_id", "prompt_condition", "seed"]).assign(prompt="a photo")
    images["after"] = images["image_id"] + " " + images["prompt_condition"]
    true = {name: to_float(image) for name, image in zip(rows["image_id"], rows["image"], strict=True)}
    read = lambda file: true[file.split()[0]] * (1 if file.endswith("detailed") else 0.5)  # noqa: E731
    config = config.replace(clip=networks["clip"])
    table = set_metrics.measure_sets(rows, images, read, config).set_index("prompt_condition")
    assert list(table.index) == ["vague", "detailed", "empty"]
    assert list(table["n"]) == [4, 4, 4]  # the photos that all conditions have, since FID falls with their number
    assert table.loc["empty", "fid"] == table.loc["vague", "fid"]
    assert table.loc["detailed", "lpips"] == pytest.approx(0, abs=1e-6)
    assert table.loc["detailed", "fid"] < 1e-3 < table.loc["vague", "fid"]
    assert table.loc["vague", "lpips"] > 0.1
    monkeypatch.setattr(set_metrics, "MIN_FOR_FID", 5)
    assert set_metrics.measure_sets(rows, images, read, config)["fid"].isna().all()


def test_missing_packages_are_named_before_work_starts(config, monkeypatch):
    monkeypatch.setattr(set_metrics, "NEEDED", ("no_such_package",))
    set_metrics.require_packages(config)
    with pytest.raises(ValueError, match="set_metrics needs no_such_package: pip install -r requirements-l4.txt"):
        set_metrics.require_packages(config.replace(set_metrics=True))
