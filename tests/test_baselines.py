"""The systems beside the model: what their pictures hold, and pictures of other colorizers."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lib import baselines, metrics
from lib.color import luminance, srgb_to_lab, to_float
from lib.colorize import colorize_test_photos
from lib.dataset import build_dataset, pick_across_categories


def test_the_pictures_of_all_systems_and_of_peers(pipeline, own_run, monkeypatch, tmp_path):
    monkeypatch.setattr("lib.colorize.load_pipeline", lambda _: pipeline)
    monkeypatch.setattr(baselines, "MEAN_OF", 5)
    config = own_run.replace(num_inference_steps=1, n_seeds=1, prompt_conditions=("vague", "detailed"))
    triples = build_dataset(config)
    rows = pick_across_categories(triples["test"], config.n_images)
    name = rows[0]["image_id"]
    for picture in (f"ddcolor/{name}.png", "ddcolor/other.png", f"by_hand/{name}.png"):
        (tmp_path / "peers" / picture).parent.mkdir(parents=True, exist_ok=True)
        rows[0]["image"].resize((9, 6)).save(tmp_path / "peers" / picture)
    colorize_test_photos(config)
    pictures = baselines.write_pictures(config, rows, str(tmp_path / "peers"))
    systems = {*metrics.REFERENCES, *baselines.SYSTEMS, "mean_color_transfer", "regions"}
    assert set(pictures["system"]) == systems | {"ddcolor", "by_hand"}
    assert len(pictures) == len(rows) * (len(systems) + 1) + 4  # the autoencoder's and the peers' own lightness, too
    of_photo = pictures[pictures["restored"] & (pictures["image_id"] == name)].set_index("system")
    labs = {system: srgb_to_lab(to_float(Image.open(file))) for system, file in of_photo["file"].items()}
    truth = srgb_to_lab(to_float(rows[0]["image"]))
    gray = luminance(to_float(rows[0]["conditioning_image"]))
    assert all(np.abs(lab[..., 0] - gray).max() < 1.5 for lab in labs.values())
    assert metrics.chroma(labs["gray"]) < 0.1
    assert labs["true_mean_color"][..., 1:].std(axis=(0, 1)).max() < 3  # pixels out of gamut are paler
    measured = metrics.measure_pictures(rows, pictures, workers=1)
    table = measured[~measured["system"].isin(["ddcolor", "by_hand"])].groupby("system")["ciede2000"].mean()
    assert table["half_chroma"] < table["true_mean_color"] < table["gray"]
    assert metrics.chroma(labs["half_chroma"]) == pytest.approx(metrics.chroma(truth) / 2, rel=0.1)
    peers = measured.set_index(["system", "restored"])
    assert peers.loc[("ddcolor", True), "ssim_luma"] > 0.99 > peers.loc[("ddcolor", False), "ssim_luma"]
    assert peers.loc[("ddcolor", True), "ciede2000"] < peers.loc[("ddcolor", False), "ciede2000"]
    pd.testing.assert_series_equal(peers.loc["ddcolor", "psnr"], peers.loc["by_hand", "psnr"])


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
