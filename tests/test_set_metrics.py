"""Captions and set metrics: with small random networks where the large ones can't be had."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from transformers import BlipConfig, BlipForConditionalGeneration, CLIPConfig, CLIPModel

from lib import dataset, models
from lib.color import to_float
from lib.config import get_config
from lib.l4 import captioner as captions
from lib.l4 import check_machine, set_metrics, vision
from lib.prompts import write_prompts

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizer(config):
    return models.load_text_encoder(config.text_encoder, config.max_tokens)["tokenizer"]


@pytest.fixture(scope="module")
def captioner(tokenizer, tmp_path_factory):
    """A folder with a random BLIP and MiniLM's tokenizer."""
    torch.manual_seed(0)
    ends = {"bos_token_id": 101, "sep_token_id": 102, "pad_token_id": 0, "eos_token_id": 102}
    text = {**SMALL, "vocab_size": len(tokenizer), "encoder_hidden_size": 16, **ends}
    config = BlipConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8})
    folder = tmp_path_factory.mktemp("blip")
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_captioner_adds_two_rungs_and_keeps_its_captions(captioner, config, triples, monkeypatch):
    config = config.replace(captioner=str(captioner))
    rows = dataset.pick_across_categories(triples["test"], 3)
    with pytest.raises(ValueError, match="auto_captions.csv lacks captions by .*: run notebook 01_build_dataset again"):
        dataset.read_auto_captions(config, rows["image_id"])
    captions.write_captions(config)
    prompts = write_prompts(rows) | dataset.read_auto_captions(config, rows["image_id"])
    assert list(prompts)[:3] == list(write_prompts(rows))[:3]
    assert len(prompts["gray_caption"]) == len(prompts["auto_caption"]) == 3
    assert all(isinstance(text, str) for text in prompts["auto_caption"])
    file = config.for_test_photos.dataset_dir / dataset.AUTO_CAPTIONS
    kept = pd.read_csv(file, dtype=str, keep_default_na=False)
    kept.drop(columns="gray_caption_raw").to_csv(file, index=False)
    with pytest.raises(ValueError, match="auto_captions.csv lacks captions by"):  # of before raw texts were kept
        dataset.read_auto_captions(config, rows["image_id"])
    kept.to_csv(file, index=False)
    monkeypatch.setattr(captions, "caption", None)  # kept captions need no network
    assert list(captions.write_captions(config)["auto_caption"]) == prompts["auto_caption"]
    with pytest.raises(TypeError):
        captions.write_captions(config.replace(n_images=4))
    assert dataset.read_auto_captions(config.replace(captioner=""), rows["image_id"]) == {}
    assert captions.write_captions(config.replace(captioner="")) is None


def test_captions_lose_that_the_photo_is_black_and_white_and_the_raw_text_stays(config, triples, monkeypatch):
    said = {"conditioning_image": "a black and white photo of a dog", "image": "a dog"}
    config = config.replace(captioner="a captioner", captioner_revision="says this")
    rows = dataset.pick_across_categories(triples["test"], 3)
    gray = list(rows["conditioning_image"])
    monkeypatch.setattr(captions, "load_captioner", lambda _: (torch.nn.Identity(), None))
    monkeypatch.setattr(
        captions, "caption", lambda images, *_: [said["conditioning_image" if images[0] == gray[0] else "image"]] * 3
    )
    table = captions.write_captions(config)
    assert list(table["gray_caption"]) == list(table["auto_caption"]) == ["a dog"] * 3
    assert list(table["gray_caption_raw"]) == ["a black and white photo of a dog"] * 3
    assert dataset.read_auto_captions(config, rows["image_id"])["gray_caption"] == ["a dog"] * 3
    assert captions.describe(table).endswith("black and white: 3 of gray_caption, 0 of auto_caption.")
    assert captions.describe(None) == "no captioner in this profile"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("a black and white photo of a dog on a sofa", "a dog on a sofa"),
        ("A black and white photograph of two men", "two men"),
        ("there is a black and white image of the harbour", "the harbour"),
        ("black & white picture of a train", "a train"),
        ("an old black and white photo of a church.", "a church."),
        ("a grayscale photo of a street", "a street"),
        ("a man riding a horse in black and white", "a man riding a horse"),
        ("a tower, in black and white.", "a tower."),
        ("a boat on a lake in a black and white photo", "a boat on a lake"),
        ("a woman dressed in black and white", "a woman dressed in black and white"),
        ("a black and white photo", "a black and white photo"),  # nothing would be left
        ("a black and white cat", "a black and white cat"),
        ("a wall with a black and white photo of a dog", "a wall with a black and white photo of a dog"),
    ],
)
def test_gray_style(raw, text):
    assert captions.without_gray_style(raw) == text


@pytest.fixture(scope="module")
def clip(tokenizer, tmp_path_factory):
    """A folder with a random CLIP and MiniLM's tokenizer."""
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": len(tokenizer), "eos_token_id": 102, "max_position_embeddings": 77}
    config = CLIPConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8}, projection_dim=8)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_score_is_the_cosine_and_depends_on_words_and_picture(clip, tokenizer):
    model = CLIPModel.from_pretrained(clip).eval()
    pictures = np.random.default_rng(0).uniform(0, 1, (3, 40, 40, 3))
    scores = set_metrics.clip_score(pictures, ["a red cup", "a green hill", ""], model, tokenizer)
    assert scores.shape == (3,)
    assert bool(((scores >= 0) & (scores <= 100)).all())
    assert len(set_metrics.clip_score(pictures[:1], ["word " * 200], model, tokenizer)) == 1
    swapped = set_metrics.clip_score(pictures[[1, 0, 2]], ["a red cup", "a green hill", ""], model, tokenizer)
    assert not torch.allclose(scores[:2], swapped[:2])


class Means(torch.nn.Module):
    """Eight numbers a picture that an independent formula can take up: means of its quarters, red and green."""

    def forward(self, pixels):
        return torch.nn.functional.adaptive_avg_pool2d(pixels[:, :2], 2).flatten(1).double()


def test_set_distances_are_zero_for_the_same_set_and_follow_the_formula():
    rng = np.random.default_rng(0)
    first, second = (vision.to_tensor(rng.uniform(low, 1, (60, 16, 16, 3))) for low in (0, 0.3))
    same = set_metrics.set_distances(60, Means())
    other = set_metrics.set_distances(60, Means())
    for distances, fake in ((same, first), (other, second)):
        for distance in distances.values():
            distance.update(first, real=True)
            distance.update(fake, real=False)
    assert float(same["fid"].compute()) == pytest.approx(0, abs=1e-4)
    a, b = (Means()(pixels).numpy() for pixels in (first, second))
    cross = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * cross)
    assert float(other["fid"].compute()) == pytest.approx(wanted, rel=1e-3)
    assert float(other["kid"].compute()[0]) > 10 * abs(float(same["kid"].compute()[0]))


class Distance(torch.nn.Module):
    """Stands for LPIPS: the mean absolute difference."""

    def update(self, first, second):
        self.value = (first - second).abs().mean()

    def compute(self):
        return self.value


def test_sets_are_measured_level_by_level(clip, config, triples, monkeypatch):
    original = set_metrics.set_distances
    monkeypatch.setattr(set_metrics, "set_distances", lambda n: original(n, Means()))
    monkeypatch.setattr(set_metrics, "make_lpips", Distance)
    rows = triples["test"].select(range(5))
    images = pd.DataFrame([
        {"image_id": name, "prompt_level": level, "prompt": "a photo", "seed": seed, "after": f"{name} {level}"}
        for name in rows["image_id"] for level in ("vague", "detailed") for seed in (0, 1)
    ])  # fmt: skip
    first = images["image_id"].isin(rows["image_id"][:4])
    images = pd.concat([images, images[first & (images["prompt_level"] == "vague")].assign(prompt_level="empty")])
    true = {name: to_float(image) for name, image in zip(rows["image_id"], rows["image"], strict=True)}
    read = lambda file: true[file.split()[0]] * (0.5 if file.endswith("vague") else 1)  # noqa: E731
    study = config.replace(clip=str(clip))
    assert set_metrics.measure_sets(rows, images, read, study)["fid"].isna().all()  # of 4 pictures
    monkeypatch.setattr(set_metrics, "MIN_FOR_FID", 4)
    table = set_metrics.measure_sets(rows, images, read, study).set_index("prompt_level")
    assert list(table.index) == ["vague", "detailed", "empty"]
    assert list(table["n"]) == [4, 4, 4]  # the photos that all levels have, since FID falls with their number
    assert table.loc["empty", "fid"] == table.loc["vague", "fid"]
    assert table.loc["detailed", "lpips"] == pytest.approx(0, abs=1e-6)
    assert table.loc["detailed", "fid"] < 1e-3 < table.loc["vague", "fid"]
    assert table.loc["vague", "lpips"] > 0.1


def test_missing_packages_are_named_before_work_starts(config, monkeypatch):
    monkeypatch.setattr(set_metrics, "NEEDED", ("no_such_package",))
    set_metrics.require_packages(config)
    with pytest.raises(ValueError, match="set_metrics needs no_such_package: pip install -r requirements-l4.txt"):
        set_metrics.require_packages(config.replace(set_metrics=True))


def test_weights_that_come_as_bin_alone_load(captioner, tmp_path, config):
    model, tokenizer = captions.load_captioner(config.replace(captioner=str(captioner)))
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    again, _ = captions.load_captioner(config.replace(captioner=str(tmp_path)))
    assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert vision.os.environ["DISABLE_SAFETENSORS_CONVERSION"] == "1"


def test_networks_are_asked_for_at_their_revisions(config, monkeypatch):
    asked = []

    def note(source, revision=None):
        asked.append((source, revision))
        raise OSError("no route\nto host")

    for kind in (vision.AutoTokenizer, set_metrics.CLIPModel, captions.BlipForConditionalGeneration):
        monkeypatch.setattr(kind, "from_pretrained", note)
    l4 = get_config("l4")
    for load in (captions.load_captioner, set_metrics.load_clip):
        with pytest.raises(OSError, match="no route"):
            load(l4)
    assert asked == [(l4.captioner, l4.captioner_revision), (l4.clip, l4.clip_revision)]
    assert all(len(revision) == 40 for _, revision in asked)
    with pytest.raises(ValueError, match=r"blip-image-captioning-base can't be had \(no route to host\): try again"):
        check_machine.fetch_networks(l4.replace(set_metrics=False))


def test_fetch_loads_all_that_a_profile_will_ask_for(captioner, clip, config, monkeypatch):
    assert check_machine.fetch_networks(config) == "not needed"
    monkeypatch.setattr(set_metrics, "NEEDED", ())
    loaded = []
    monkeypatch.setattr(check_machine, "set_distances", loaded.append)
    monkeypatch.setattr(check_machine, "make_lpips", lambda: loaded.append("lpips"))
    said = check_machine.fetch_networks(config.replace(captioner=str(captioner), clip=str(clip), set_metrics=True))
    assert said == f"{captioner}, {clip}, Inception, AlexNet"
    assert loaded == [2, "lpips"]


@pytest.mark.network
def test_the_real_networks(config, triples):
    """Inception, AlexNet, CLIP and BLIP from their servers: run with `-m network` on the l4 machine."""
    assert all(importlib.util.find_spec(name) for name in set_metrics.NEEDED)
    rows = triples["test"].select(range(4))
    l4 = get_config("l4")
    names = ("captioner", "captioner_revision", "clip", "clip_revision", "set_metrics")
    large = config.replace(**l4.values(*names))
    assert len(captions.write_captions(large.replace(n_images=4))) == 4
    images = pd.DataFrame({"image_id": rows["image_id"], "prompt_level": "vague", "prompt": "a photo", "seed": 0,
                           "after": rows["image_id"]})  # fmt: skip
    same = dict(zip(rows["image_id"], rows["image"], strict=True))
    table = set_metrics.measure_sets(rows, images, lambda name: to_float(same[name]), large)
    assert table.loc[0, "lpips"] == pytest.approx(0, abs=1e-3)
    assert isinstance(same[rows["image_id"][0]], Image.Image)
