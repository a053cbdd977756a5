"""Which pictures a run needs; they are made once, atomically, and shared between processes."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lib import ROOT, colorize, dataset
from lib.color import gray_from_luminance, restore_lightness, to_pil
from lib.config import get_config
from lib.prompts import TARGETS, prompts_under, write_prompts
from lib.sampling import sample, seed_of

# ---- the plan


def test_fewer_photos_for_other_conditions_seeds_and_objects(triples, config):
    rows = dataset.pick_across_categories(triples["test"], 8)
    fields = {"n_seeds": 3, "n_images_other": 4, "n_images_all_seeds": 2, "n_binding": 1}
    names = ("recolored", "vague", "detailed", "empty")
    plans = colorize.plan_test_photos(rows, write_prompts(rows), config.replace(prompt_conditions=names, **fields))
    images, ids = plans["images"], rows["image_id"]
    assert list(images["prompt_condition"].unique()) == ["empty", "vague", "detailed", "recolored"]
    counts = images.groupby(["prompt_condition", "image_id"]).size()
    assert list(counts["vague"][ids]) == [3, 3, 1, 1, 1, 1, 1, 1]
    assert list(counts["empty"].reindex(ids, fill_value=0)) == [1, 1, 1, 1, 0, 0, 0, 0]
    assert set(images.query("image_id == @ids[5]")["seed"]) == {0}
    assert plans["binding"]["image_id"].nunique() == 1
    assert set(plans["phrases"]["image_id"]) <= set(ids[:4])
    assert set(plans["phrases"]["seed"]) == {0}
    with pytest.raises(ValueError, match="^prompt_conditions vague, vauge: it must have vague and detailed, and may"):
        colorize.plan_test_photos(rows, write_prompts(rows), config.replace(prompt_conditions=("vague", "vauge")))


LEFT = np.tile(np.arange(32) < 16, (32, 1))


def in_color(word):
    """The a*b* of a colour word everywhere; "": gray."""
    hue, chroma, _ = TARGETS[word] if word else (0, 0, 0)
    return np.full((32, 32, 2), (chroma * np.cos(np.deg2rad(hue)), chroma * np.sin(np.deg2rad(hue))), np.float32)


@pytest.fixture
def row():
    """A photo whose left half is the object."""
    gray = to_pil(gray_from_luminance(np.full((32, 32), 55.0)))
    texts = dict(image_id="photo", category="animals", object="alpaca", background="trees")
    return texts | {"image": gray, "conditioning_image": gray, "mask": Image.fromarray(255 * LEFT.astype(np.uint8))}


def test_the_cases_and_prompts_of_a_photo(row):
    cases = colorize.cases_of(row)
    one, two = [case for case in cases if not case[1]], [case for case in cases if case[1]]
    assert {word for word, _ in one} == {"red", "orange", "yellow", "green", "blue", "purple"}  # L* 55
    assert len(two) == 2 * colorize.PAIRS
    assert {case[::-1] for case in two} == set(two)
    assert not any(set(case) == {"brown", "orange"} for case in two)
    assert colorize.prompts_of(row, "red", "blue") == {
        "vague": "Colorize this image.", "object": "an alpaca", "colored_object": "a red alpaca",
        "object_region": "red alpaca, red background", "background_region": "blue trees, blue background",
        "both": "a red alpaca, blue trees",
    }  # fmt: skip
    assert colorize.prompts_of(row, "orange", "")["colored_object"] == "an orange alpaca"
    assert colorize.cases_of(row | {"background": ""}) == one
    for mask in (None, Image.new("L", (32, 32), 255)):
        assert colorize.cases_of(row | {"mask": mask}) == []


def test_a_tint_of_the_whole_picture_is_no_binding_and_regions_are():
    red, blue, gray = (in_color(word) for word in ("red", "blue", ""))
    regions = np.where(LEFT[..., None], red, blue)
    names = ("own_object", "other_object", "own_background", "other_background")
    expected = {"tint": (1, 0, 0, 1), "regions": (1, 0, 1, 0), "swapped": (0, 1, 0, 1), "gray": (0, 0, 0, 0)}
    pictures = {"tint": red, "regions": regions, "swapped": regions[:, ::-1], "gray": gray}
    judged = {name: colorize.judge(picture, gray, LEFT, "red", "blue") for name, picture in pictures.items()}
    assert {name: tuple(result[part] for part in names) for name, result in judged.items()} == expected
    assert judged["regions"]["chroma_deficit"] == pytest.approx(0, abs=1e-4)
    assert judged["gray"]["chroma_deficit"] == pytest.approx((TARGETS["red"][1] + TARGETS["blue"][1]) / 2)
    alone = colorize.judge(np.where(LEFT[..., None], red, gray), gray, LEFT, "red", "")
    assert (alone["shift_inside"], alone["shift_outside"]) == pytest.approx((TARGETS["red"][1], 0))
    assert "own_background" not in alone


# ---- pictures


def plan_of(rows, prompts, n_seeds=1):
    """A plan of images alone."""
    photos = rows.select_columns(["image_id", "category"]).to_pandas()
    return {"images": colorize.plan_pictures(photos, prompts, n_seeds)}


def read_all(table, config):
    """All pictures of a listing, before and after lightness is restored."""
    names = [name for column in ("before", "after") for name in table[column]]
    return np.array([colorize.read_image(config.run_dir, name) for name in names])


def pictures_in(config):
    """The names of all pictures of a run, as listings have them."""
    run_dir = config.run_dir
    return {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("pictures/*/*")}


def test_the_pictures_are_those_of_sample_with_their_listing(pipeline, triples, own_run):
    config, rows = own_run.replace(guidance_scale=3.0, workers=2), dataset.pick_across_categories(triples["test"], 3)
    prompts = {name: prompts_under(name, rows) for name in ("vague", "detailed")}
    table = colorize.colorize_rows(pipeline, rows, plan_of(rows, prompts, 2), config)["images"]
    assert colorize.read_images(config).equals(table)
    assert pictures_in(config) == {*table["before"], *table["after"]}
    assert len(pictures_in(config)) == 2 * len(table) == 2 * 3 * 2 * 2
    gray = [rows["conditioning_image"][list(rows["image_id"]).index(name)] for name in table["image_id"]]
    seeds = [seed_of(name, seed) for name, seed in zip(table["image_id"], table["seed"], strict=True)]
    outputs = sample(pipeline, gray, table["prompt"], seeds, config)
    expected = np.array([*outputs, *map(restore_lightness, gray, outputs)])
    assert np.abs(read_all(table, config) - expected).max() <= 0.5 / 255 + 1e-6


def test_pictures_of_other_settings_or_weights_are_refused(pipeline, triples, own_run):
    config, rows = own_run, dataset.pick_across_categories(triples["test"], 2)
    plans = plan_of(rows, {"vague": prompts_under("vague", rows)})
    table = colorize.colorize_rows(pipeline, rows, plans, config)["images"]
    with pytest.raises(ValueError, match="made with n_seeds 2, not 5: run notebook 04_colorize_photos again"):
        colorize.read_images(config.replace(n_seeds=5))
    (config.run_dir / table["before"][0]).write_bytes(b"")
    with pytest.raises(ValueError, match="is missing or damaged .*: remove it and run notebook 04 again"):
        colorize.read_image(config.run_dir, table["before"][0])
    weights = config.run_dir / "controlnet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="made with weights .*: run notebook 04_colorize_photos again"):
        colorize.read_images(config)


def test_pictures_stay_until_what_made_them_changes(pipeline, triples, own_run):
    config, rows = own_run, dataset.pick_across_categories(triples["test"], 2)
    prompts = {"empty": ["", ""], "vague": prompts_under("vague", rows)}

    def times_of(table, config):
        return [(config.run_dir / name).stat().st_mtime_ns for name in table["after"]]

    def table_of(prompts=prompts, config=config, rows=rows, n_seeds=1):
        return colorize.colorize_rows(pipeline, rows, plan_of(rows, prompts, n_seeds), config)["images"]

    first = table_of()
    made, pictures = times_of(first, config), read_all(first, config)
    assert times_of(table_of(), config) == made
    (config.run_dir / first["before"][3]).unlink()
    again = times_of(table_of(), config)
    assert again[:3] == made[:3]
    assert again[3] > made[3]  # the missing one, and no other
    assert np.array_equal(read_all(first, config), pictures)  # though it was sampled alone
    more = table_of({**prompts, "red": ["a red one", "a red one"]}, n_seeds=2)
    assert set(first["after"]) < set(more["after"])
    table_of({"vague": prompts["vague"]}, rows=rows.select([1]))
    assert pictures_in(config) == {*more["before"], *more["after"]}  # of other photos and prompts, too
    assert times_of(first, config) == again
    for change in ({"num_inference_steps": 3}, {"base_revision": "other"}):
        other = table_of(config=config.replace(**change))
        assert not set(other["after"]) & set(first["after"])
        assert pictures_in(config) == {*other["before"], *other["after"]}  # the others would pile up
    weight = pipeline.controlnet.controlnet_mid_block.weight.data
    weight[0] += 1
    changed = table_of()
    weight[0] -= 1
    assert not set(changed["after"]) & set(first["after"])


def test_equal_pictures_are_sampled_once(pipeline, triples, own_run):
    rows, config = dataset.pick_across_categories(triples["test"], 2), own_run.replace(num_inference_steps=1)
    counts = []
    plans = plan_of(rows, {"detailed": ["a cup", "a red cup"], "recolored": ["a cup", "a blue cup"]})
    plans["binding"] = colorize.plan_pictures(plans["images"].iloc[[1]], {"blue": ["a blue cup"]})
    plans["binding"]["image_id"] = rows["image_id"][1]
    hook = pipeline.unet.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    tables = colorize.colorize_rows(pipeline, rows, plans, config)
    hook.remove()
    assert sum(counts) == 3
    cup, also_cup, red, blue = tables["images"]["after"]
    assert (cup == also_cup, red == blue) == (True, False)
    assert list(colorize.read_images(config, "binding")["after"]) == list(tables["binding"]["after"]) == [blue]


def test_a_stopped_run_goes_on(pipeline, triples, own_run, monkeypatch):
    config, rows = own_run.replace(sample_batch_size=4), dataset.pick_across_categories(triples["test"], 3)
    plans = plan_of(rows, {name: prompts_under(name, rows) for name in ("vague", "detailed")})
    whole = colorize.colorize_rows(pipeline, rows, plans, config)["images"]
    stopped, written, write = config.replace(run="stopped"), [], colorize.write_pictures

    def write_three(*arguments):
        written.append(arguments)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(colorize, "write_pictures", write_three)
    with pytest.raises(OSError, match="No space left on device"):  # in a thread
        colorize.colorize_rows(pipeline, rows, plans, stopped)
    assert not (stopped.run_dir / "images").exists()
    assert len(pictures_in(stopped)) == 6
    partial = (stopped.run_dir / whole["after"][0]).with_name(".left.part")
    partial.touch()
    table = colorize.colorize_rows(pipeline, rows, plans, stopped)["images"]
    assert len(written) == 4 + 3
    assert np.array_equal(read_all(table, stopped), read_all(whole, config))
    assert not partial.exists()


LAUNCHED = """
from pathlib import Path
from lib import colorize
from lib.models import process_state
from lib.config import get_config

made, write = [], colorize.write_pictures
colorize.write_pictures = lambda *arguments: (made.append(arguments), write(*arguments))
config = get_config("pocket", **{fields})
colorize.colorize_test_photos(config)
Path(config.build, f"share.{{process_state().process_index}}").write_text(str(len(made)))
"""


def test_two_processes_share_the_pictures(tmp_path):
    fields = {"resolution": 32, "n_images": 3, "n_seeds": 1}
    one, two = (get_config("pocket", build=str(tmp_path / name), **fields) for name in ("one", "two"))
    dataset.build_dataset(one)
    shutil.copytree(ROOT / "lib/pocket_model/controlnet", one.run_dir / "controlnet")
    shutil.copytree(one.build, two.build)
    colorize.colorize_test_photos(one, {"short": lambda record: record["detailed_caption"].split(",")[0]})
    prompts = colorize.read_images(one).pivot(index="image_id", columns="prompt_condition", values="prompt")
    assert (prompts["short"] == prompts["detailed"].str.split(",").str[0]).all()
    colorize.colorize_test_photos(one)
    script = tmp_path / "run.py"
    script.write_text(LAUNCHED.format(fields={"build": two.build, **fields}))
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    subprocess.run([sys.executable, "-m", *launch], check=True, cwd=ROOT, capture_output=True)
    halves = [int((tmp_path / f"two/share.{index}").read_text()) for index in range(2)]
    assert abs(halves[1] - halves[0]) <= 1
    for name in ("images", "binding"):
        table = colorize.read_images(two, name)
        assert table.equals(colorize.read_images(one, name))
        assert np.allclose(read_all(table, one), read_all(table, two), atol=2 / 255)
    assert sum(halves) == len(pictures_in(two)) / 2
