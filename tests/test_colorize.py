"""Sampling: the same seed gives the same picture, alone or in a batch, and the photo's lightness is kept."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lib import ROOT, colorize, dataset
from lib.color import luminance, to_float
from lib.profiles import get_profile
from lib.prompts import prompts_at


def test_a_picture_does_not_depend_on_its_batch(pipeline, triples, profile):
    gray = triples["test"]["conditioning_image"][:3]
    prompts, seeds = ["a red cup", "Colorize this image.", ""], [1, 2, 1]
    together = colorize.sample(pipeline, gray, prompts, seeds, profile)
    alone = colorize.sample(pipeline, gray, prompts, seeds, replace(profile, sample_batch_size=1))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(together, alone, strict=True))
    other = colorize.sample(pipeline, gray[:1], prompts[:1], [9], profile)[0]
    assert np.abs(other - together[0]).max() > 0.01


def test_merge_keeps_the_lightness_of_the_photo(triples):
    gray = triples["test"]["conditioning_image"][:2]
    outputs = list(np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype(np.float32))
    for image, merged in zip(gray, colorize.merge(gray, outputs), strict=True):
        assert np.abs(luminance(merged) - luminance(to_float(image))).max() < 0.25


def test_rows_are_written_whole_with_their_table(pipeline, triples, profile):
    rows = dataset.pick_across_categories(triples["test"], 3)
    prompts = {level: prompts_at(level, rows) for level in ("vague", "detailed")}
    table = colorize.colorize_rows(pipeline, rows, prompts, range(2), profile)
    assert len(table) == 3 * 2 * 2
    again = colorize.read_images(profile)
    assert list(again.columns) == list(colorize.LISTING_COLUMNS)
    assert (again["prompt"] == table["prompt"]).all()
    assert set(again[again["prompt_level"] == "detailed"]["prompt"]) == set(rows["detailed_caption"])
    assert colorize.read_image(profile, again["after"][0]).shape == (32, 32, 3)
    assert {path.suffix for path in (profile.run_dir / "images").iterdir()} == {".png", ".csv", ".json"}
    with pytest.raises(ValueError, match="made with n_seeds 2, not 5: run notebook 04_colorize_photos again"):
        colorize.read_images(replace(profile, n_seeds=5))
    (profile.run_dir / again["before"][0]).write_bytes(b"")
    with pytest.raises(ValueError, match="missing or damaged: remove what is left of it and run notebook 04"):
        colorize.read_image(profile, again["before"][0])
    with pytest.raises(ValueError, match="no colorized photos in .*steering: run notebook 04"):
        colorize.read_images(profile, "steering")


def test_pictures_stay_until_the_controlnet_the_prompts_or_the_settings_change(pipeline, triples, profile):
    profile = replace(profile, run="kept")
    rows = dataset.pick_across_categories(triples["test"], 2)
    prompts = {"vague": prompts_at("vague", rows)}
    profile.controlnet_dir.mkdir(parents=True)
    weights = profile.controlnet_dir / "diffusion_pytorch_model.safetensors"
    weights.touch()

    def times(prompts=prompts, profile=profile):
        table = colorize.colorize_rows(pipeline, rows, prompts, [0], profile)
        return [(profile.run_dir / name).stat().st_mtime_ns for name in table["after"]]

    first = times()
    assert times() == first
    (profile.run_dir / "images" / f"{rows['image_id'][1]}.vague.0.before.png").unlink()
    second = times()
    assert second[0] == first[0]
    assert second[1] > first[1]  # the missing one, and no other
    third = times({"vague": ["a red one", "a blue one"]})
    assert min(third) > max(second)
    assert min(times(profile=replace(profile, guidance_scale=2.0))) > max(third)
    fourth = times()
    weights.touch()
    assert min(times()) > max(fourth)


def test_two_processes_share_the_pictures(tmp_path):
    fields = {"resolution": 32, "n_images": 3, "n_seeds": 1}
    one, two = (get_profile("pocket", build=str(tmp_path / name), **fields) for name in ("one", "two"))
    dataset.build_dataset(one)
    shutil.copytree(ROOT / "lib/pocket_model/controlnet", one.controlnet_dir)
    shutil.copytree(one.build, two.build)
    colorize.colorize_test_photos(one)
    script = tmp_path / "run.py"
    script.write_text(
        "from lib.colorize import colorize_test_photos\nfrom lib.profiles import get_profile\n"
        f"colorize_test_photos(get_profile('pocket', build={two.build!r}, **{fields}))\n"
    )
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision",
              "no", "--dynamo_backend", "no", str(script)]  # fmt: skip
    subprocess.run([sys.executable, "-m", *launch], check=True, cwd=ROOT, capture_output=True)
    for name in ("images", "steering"):
        table = colorize.read_images(two, name)
        assert table.equals(colorize.read_images(one, name))
        for file in table["after"]:
            assert np.allclose(*(colorize.read_image(profile, file) for profile in (one, two)), atol=2 / 255)


def test_notebook_04_must_have_run(profile):
    with pytest.raises(ValueError, match="run notebook 04_colorize_photos first"):
        colorize.read_images(replace(profile, run="never"))


def test_photos_get_different_noise_and_prompts_the_same():
    assert colorize.seed_of("a", 0) != colorize.seed_of("b", 0)
    assert colorize.seed_of("a", 0) != colorize.seed_of("a", 1)
    assert colorize.seed_of("a", 1) == colorize.seed_of("a", 1)
