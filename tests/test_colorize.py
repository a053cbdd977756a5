"""Which pictures a run needs, and sampling: the same seed gives the same picture, and the photo's lightness is kept."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLControlNetPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib import ROOT, colorize, dataset, inference, models
from lib.color import luminance, to_float
from lib.config import get_config
from lib.prompts import prompts_under, write_prompts

# ---- sampling


def test_a_picture_does_not_depend_on_its_batch(pipeline, triples, config):
    gray = triples["test"]["conditioning_image"][:3]
    prompts, seeds = ["a red cup", "Colorize this image.", ""], [1, 2, 1]
    together = inference.sample(pipeline, gray, prompts, seeds, config)
    alone = inference.sample(pipeline, gray, prompts, seeds, config.replace(sample_batch_size=1))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(together, alone, strict=True))
    other = inference.sample(pipeline, gray[:1], prompts[:1], [9], config)[0]
    assert np.abs(other - together[0]).max() > 0.01


@pytest.fixture
def evaluated(pipeline):
    """How many rows the UNet evaluates in each of its calls."""
    rows = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    yield rows
    hook.remove()


def test_guidance_on_a_share_of_the_steps(pipeline, triples, config, evaluated):
    gray, prompts = triples["test"]["conditioning_image"][:2], ["a red cup", "a blue car"]
    config = config.replace(num_inference_steps=4, guidance_scale=5.0)
    by_share = {}
    for share, rows in ((1.0, [4, 4, 4, 4]), (0.5, [4, 4, 2, 2]), (0.3, [4, 4, 2, 2]), (0.0, [2, 2, 2, 2])):
        by_share[share] = inference.sample(pipeline, gray, prompts, [1, 2], config.replace(guidance_share=share))
        assert evaluated == rows
        evaluated.clear()
    plain = pipeline(prompts, pipeline.annotator(gray), generator=[torch.Generator().manual_seed(s) for s in (1, 2)], num_inference_steps=4,
                     guidance_scale=5.0, output_type="np").images  # fmt: skip
    assert np.array_equal(by_share[1.0], plain)
    unguided = inference.sample(pipeline, gray, prompts, [1, 2], config.replace(guidance_scale=1.0))
    assert np.array_equal(by_share[0.0], unguided)
    expected = sample_by_hand(pipeline, gray[0], "a red cup", 1, 4, 5.0, guided=2)
    assert np.allclose(by_share[0.5][0], expected, atol=1e-4)
    assert min(np.abs(by_share[0.5][0] - by_share[share][0]).max() for share in (0.0, 1.0)) > 0.01


@torch.no_grad()
def sample_by_hand(pipeline, gray, prompt, seed, steps, scale, guided):
    """One picture, its loop written out: two passes a step in the guided steps, then one."""
    prompted, empty = pipeline.encode_prompt(prompt, pipeline.device, 1, True)
    image = pipeline.annotator([gray])
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    side = gray.width // pipeline.vae_scale_factor
    shape = (1, pipeline.unet.config.in_channels, side, side)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scheduler.init_noise_sigma

    def predict(words, t):
        down, mid = pipeline.controlnet(latents, t, words, image, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return pipeline.unet(latents, t, words, **residuals).sample

    for number, t in enumerate(scheduler.timesteps):
        noise = predict(prompted, t)
        if number < guided:
            away = predict(empty, t)
            noise = away + scale * (noise - away)
        latents = scheduler.step(noise, t, latents).prev_sample
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return pipeline.image_processor.postprocess(decoded, output_type="np")[0]


def test_the_empty_prompt_needs_no_guidance(pipeline, triples, config, evaluated):
    gray = triples["test"]["conditioning_image"][:3]
    config = config.replace(guidance_scale=5.0)
    empty, red, again = inference.sample(pipeline, gray, ["", "a red cup", ""], [1, 2, 3], config)
    assert sorted(evaluated) == [2, 2, 2, 2]  # two steps of two empty ones, two of the other with its own guidance
    guided = pipeline([""], pipeline.annotator(gray[:1]), generator=[torch.Generator().manual_seed(1)], num_inference_steps=2,
                      guidance_scale=5.0, output_type="np").images[0]  # fmt: skip
    assert np.allclose(empty, guided, atol=1e-4)
    alone = [
        inference.sample(pipeline, gray[i:][:1], [p], [s], config)[0] for i, p, s in ((1, "a red cup", 2), (2, "", 3))
    ]
    assert np.allclose([red, again], alone, atol=1e-4)  # back in the order of the prompts


@pytest.fixture(scope="module")
def xl_pipeline(base):
    """A tiny SDXL with a ControlNet, with random weights; its tokenizers are the pocket model's."""
    torch.manual_seed(0)
    tokenizer = base.tokenizer
    text = CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                          num_attention_heads=2, projection_dim=16, max_position_embeddings=tokenizer.model_max_length,
                          eos_token_id=tokenizer.sep_token_id)  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, transformer_layers_per_block=(1, 1),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 16,
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4)  # fmt: skip
    controlnet = models.make_controlnet(unet, 2)
    for block in [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]:
        torch.nn.init.normal_(block.weight, std=0.1)
    pipeline = StableDiffusionXLControlNetPipeline(
        vae=vae.eval(), text_encoder=CLIPTextModel(text), text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer, tokenizer_2=tokenizer, unet=unet.eval(), controlnet=controlnet.eval(),
        scheduler=EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_sdxl_is_guided_for_a_share_too(xl_pipeline, triples, config):
    calls = []
    for network in (xl_pipeline.controlnet, xl_pipeline.unet):
        network.register_forward_pre_hook(lambda _, inputs, named: calls.append((inputs[0], named)), with_kwargs=True)
    config = config.replace(num_inference_steps=4, guidance_scale=5.0, guidance_share=0.5)
    gray = triples["test"]["conditioning_image"][:2]
    inference.sample(xl_pipeline, gray, ["a red cup", ""], [1, 2], config)
    # the empty prompt is not what SDXL's guidance leads away from: it is guided as well
    assert [len(latents) for latents, _ in calls] == [4, 4, 4, 4, 2, 2, 2, 2]
    for first, last in ((calls[0][1], calls[-2][1]), (calls[1][1], calls[-1][1])):
        assert torch.equal(first["encoder_hidden_states"][2:], last["encoder_hidden_states"])
        for name in ("text_embeds", "time_ids"):
            assert torch.equal(first["added_cond_kwargs"][name][2:], last["added_cond_kwargs"][name])
    assert torch.equal(calls[0][1]["controlnet_cond"][2:], calls[-2][1]["controlnet_cond"])
    assert not calls[0][1]["encoder_hidden_states"][:2].any()
    assert calls[-1][1]["encoder_hidden_states"].any()


def test_a_batch_that_does_not_fit_is_halved_and_that_is_said_once(config, capsys):
    sizes = []

    def pipeline(image, **_):
        sizes.append(len(image))
        if len(image) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return SimpleNamespace(images=np.stack(image))

    pipeline.config, pipeline.annotator = {}, list
    images = [np.full((1, 1, 3), index) for index in range(10)]
    outputs = inference.sample(pipeline, images, ["red"] * 10, range(10), config.replace(sample_batch_size=6))
    assert sizes == [6, 3, 3, 3, 1]
    assert np.array_equal(outputs, images)
    assert capsys.readouterr().out.splitlines() == ["6 pictures at once do not fit in memory: sampling 3 at once"]
    options = config.replace(sample_batch_size=6)
    inference.sample(pipeline, images[:6], ["red"] * 6, range(6), options)
    assert sizes[5:] == [3, 3]  # remembered


def test_not_one_picture_fits(config):
    def pipeline(**_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    pipeline.config, pipeline.annotator = {}, list
    with pytest.raises(ValueError, match="not even one picture fits in memory: lower resolution"):
        inference.sample(pipeline, [None], ["red"], [0], config)


def test_merge_keeps_the_lightness_of_the_photo(triples):
    gray = triples["test"]["conditioning_image"][:2]
    outputs = list(np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype(np.float32))
    for image, merged in zip(gray, colorize.merge(gray, outputs), strict=True):
        assert np.abs(luminance(merged) - luminance(to_float(image))).max() < 0.25


def test_photos_get_different_noise_and_prompts_the_same():
    assert colorize.seed_of("a", 0) != colorize.seed_of("b", 0)
    assert colorize.seed_of("a", 0) != colorize.seed_of("a", 1)
    assert colorize.seed_of("a", 1) == colorize.seed_of("a", 1)


# ---- the plan


def test_the_default_plan_has_every_photo_condition_and_seed(triples, config):
    rows = dataset.pick_across_categories(triples["test"], 8)
    prompts = write_prompts(rows, n_seeds=3)
    plans = colorize.plan_test_photos(rows, prompts, config.replace(n_seeds=3))
    said = {level: [[text] * 3 if isinstance(text, str) else text for text in prompts[level]] for level in prompts}
    expected = [
        (rows["image_id"][index], rows["category"][index], level, said[level][index][seed], seed)
        for index in range(8) for level in prompts for seed in range(3)
    ]  # fmt: skip
    assert list(plans["images"].itertuples(index=False, name=None)) == expected
    with_object = set(rows.filter(bool, input_columns="thing")["image_id"])
    assert 0 < len(with_object) < 8
    assert set(plans["binding"]["image_id"]) <= with_object


def test_fewer_photos_for_other_conditions_seeds_and_objects(triples, config):
    rows = dataset.pick_across_categories(triples["test"], 8)
    fields = {"n_seeds": 3, "n_images_other": 4, "n_images_all_seeds": 2, "n_binding": 1}
    levels = ("recolored", "vague", "detailed", "empty")
    plans = colorize.plan_test_photos(rows, write_prompts(rows), config.replace(prompt_levels=levels, **fields))
    images, ids = plans["images"], rows["image_id"]
    assert list(images["prompt_level"].unique()) == ["empty", "vague", "detailed", "recolored"]
    counts = images.groupby(["prompt_level", "image_id"]).size()
    assert list(counts["vague"][ids]) == [3, 3, 1, 1, 1, 1, 1, 1]
    assert list(counts["empty"].reindex(ids, fill_value=0)) == [3, 3, 1, 1, 0, 0, 0, 0]
    assert len(images) == 2 * (2 * 3 + 6) + 2 * (2 * 3 + 2)
    assert set(images.query("image_id == @ids[5]")["seed"]) == {0}
    assert plans["binding"]["image_id"].nunique() == 1


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (
            ("vague", "detailed", "vauge"),
            "^unknown prompt condition 'vauge' in prompt_levels: known are empty, vague",
        ),
        (("vague", "empty"), "^prompt_levels lacks detailed, which the study compares: add it$"),
    ],
)
def test_levels_that_cannot_be_planned(triples, config, levels, message):
    rows = dataset.pick_across_categories(triples["test"], 4)
    with pytest.raises(ValueError, match=message):
        colorize.plan_test_photos(rows, write_prompts(rows), config.replace(prompt_levels=levels))


# ---- pictures


def plan_of(rows, prompts, n_seeds=1):
    """A plan of images alone."""
    photos = rows.select_columns(["image_id", "category"]).to_pandas()
    return {"images": colorize.plan_pictures(photos, prompts, n_seeds)}


def times_of(table, config):
    return [(config.run_dir / name).stat().st_mtime_ns for name in table["after"]]


def bytes_of(table, config):
    return [(config.run_dir / name).read_bytes() for column in ("before", "after") for name in table[column]]


def pictures_in(config):
    """The names of all pictures of a run, as tables have them."""
    run_dir = config.run_dir
    return {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("pictures/*/*")}


def test_rows_are_written_whole_with_their_table(pipeline, triples, own_run):
    config, rows = own_run, dataset.pick_across_categories(triples["test"], 3)
    prompts = {level: prompts_under(level, rows) for level in ("vague", "detailed")}
    table = colorize.colorize_rows(pipeline, rows, plan_of(rows, prompts, 2), config)["images"]
    assert len(table) == 3 * 2 * 2
    again = colorize.read_images(config)
    assert list(again.columns) == list(colorize.LISTING_COLUMNS)
    assert again.equals(table)
    assert set(again[again["prompt_level"] == "detailed"]["prompt"]) == set(rows["detailed_caption"])
    assert colorize.read_image(config.run_dir, again["after"][0]).shape == (32, 32, 3)
    assert {path.name for path in (config.run_dir / "images").iterdir()} == {
        "images.csv",
        "config.json",
        "controlnet.txt",
    }
    named = {*table["before"], *table["after"]}
    assert pictures_in(config) == named
    assert len(named) == 2 * len(table)
    said = "made with n_seeds 2, not 5: run notebook 04_colorize_photos again, or set n_seeds to 2 here, too"
    with pytest.raises(ValueError, match=said):
        colorize.read_images(config.replace(n_seeds=5))
    with pytest.raises(
        ValueError, match=r"made with prompt_levels None, not .*: run notebook 04_colorize_photos again"
    ):
        colorize.read_images(config.replace(prompt_levels=("vague", "detailed")))
    (config.run_dir / again["before"][0]).write_bytes(b"")
    with pytest.raises(ValueError, match="missing or damaged: remove what is left of it and run notebook 04"):
        colorize.read_image(config.run_dir, again["before"][0])
    with pytest.raises(ValueError, match="no colorized photos in .*binding: run notebook 04"):
        colorize.read_images(config, "binding")
    weights = config.controlnet_dir / "diffusion_pytorch_model.safetensors"
    weights.touch()
    colorize.read_images(config)  # the same weights, written again
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="made with another ControlNet than .*: run notebook 04_colorize_photos again"):
        colorize.read_images(config)


def test_the_pictures_are_those_of_sample_and_merge(pipeline, triples, own_run):
    rows = dataset.pick_across_categories(triples["test"], 3)
    prompts, config = prompts_under("detailed", rows), own_run.replace(guidance_scale=3.0, workers=2)
    table = colorize.colorize_rows(pipeline, rows, plan_of(rows, {"detailed": prompts}), config)["images"]
    gray, noise = rows["conditioning_image"], [colorize.seed_of(name, 0) for name in rows["image_id"]]
    before = inference.sample(pipeline, gray, prompts, noise, config)
    for column, pictures in (("before", before), ("after", colorize.merge(gray, before))):
        for name, picture in zip(table[column], pictures, strict=True):
            assert np.abs(colorize.read_image(config.run_dir, name) - picture).max() <= 0.5 / 255 + 1e-6


def test_pictures_stay_until_what_made_them_changes(pipeline, triples, own_run):
    config, rows = own_run, dataset.pick_across_categories(triples["test"], 2)
    prompts = {"empty": ["", ""], "vague": prompts_under("vague", rows)}

    def table_of(prompts=prompts, config=config, rows=rows, n_seeds=1):
        return colorize.colorize_rows(pipeline, rows, plan_of(rows, prompts, n_seeds), config)["images"]

    first = table_of()
    made, pictures = times_of(first, config), bytes_of(first, config)
    assert times_of(table_of(), config) == made
    (config.run_dir / first["before"][3]).unlink()
    again = times_of(table_of(), config)
    assert again[:3] == made[:3]
    assert again[3] > made[3]  # the missing one, and no other
    assert bytes_of(first, config) == pictures  # to the last bit, though it was sampled alone
    more = table_of({**prompts, "red": ["a red one", "a red one"]}, n_seeds=2)
    assert set(first["after"]) < set(more["after"])
    assert times_of(first, config) == again
    fewer = table_of({"vague": prompts["vague"]}, rows=rows.select([1]))
    assert times_of(fewer, config) == again[3:]
    assert pictures_in(config) == {*more["before"], *more["after"]}  # of other photos and prompts, too
    assert times_of(first, config) == again
    guided = table_of(config=config.replace(guidance_scale=2.0))
    assert list(guided["after"] == first["after"]) == [True, False, True, False]  # no guidance for the empty prompt
    for change in ({"num_inference_steps": 3}, {"controlnet_conditioning_scale": 0.5}, {"base_revision": "other"}):
        other = table_of(config=config.replace(**change))
        assert not set(other["after"]) & set(first["after"])
        assert pictures_in(config) == {*other["before"], *other["after"]}  # the others would pile up
    weight = pipeline.controlnet.controlnet_mid_block.weight.data
    weight[0] += 1
    changed = table_of()
    weight[0] -= 1
    assert not set(changed["after"]) & set(first["after"])


def test_equal_pictures_are_sampled_once(pipeline, triples, own_run, evaluated):
    rows = dataset.pick_across_categories(triples["test"], 2)
    prompts = {"detailed": ["a cup", "a red cup"], "recolored": ["a cup", "a blue cup"]}
    plans = plan_of(rows, prompts)
    plans["binding"] = colorize.plan_pictures(plans["images"].iloc[[1]], {"blue": ["a blue cup"]})
    plans["binding"]["image_id"] = rows["image_id"][1]
    tables = colorize.colorize_rows(pipeline, rows, plans, own_run.replace(num_inference_steps=1))
    assert sum(evaluated) == 3
    cup, also_cup, red, blue = tables["images"]["after"]
    assert (cup == also_cup, red == blue) == (True, False)
    assert list(tables["binding"]["after"]) == [blue]
    assert colorize.read_images(own_run.replace(num_inference_steps=1), "binding")["after"][0] == blue


def test_a_stopped_run_makes_the_same_pictures(pipeline, triples, own_run, monkeypatch):
    config, rows = own_run.replace(sample_batch_size=4), dataset.pick_across_categories(triples["test"], 3)
    plans = plan_of(rows, {level: prompts_under(level, rows) for level in ("vague", "detailed")})
    whole = colorize.colorize_rows(pipeline, rows, plans, config)["images"]
    expected = bytes_of(whole, config)
    stopped, written, write = config.replace(run="stopped"), [], colorize.write_pictures

    def stop_later(*arguments):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(arguments)
        write(*arguments)

    monkeypatch.setattr(colorize, "write_pictures", stop_later)
    with pytest.raises(KeyboardInterrupt):
        colorize.colorize_rows(pipeline, rows, plans, stopped)
    assert not (stopped.run_dir / "images").exists()
    assert len(pictures_in(stopped)) == 6
    left = (stopped.run_dir / whole["after"][0]).with_name(".left.part")
    left.touch()
    written.clear()
    monkeypatch.setattr(colorize, "write_pictures", lambda *arguments: (written.append(arguments), write(*arguments)))
    table = colorize.colorize_rows(pipeline, rows, plans, stopped)["images"]
    assert len(written) == 3
    assert bytes_of(table, stopped) == expected
    assert not left.exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_goes_wrong_while_writing_is_said(pipeline, triples, own_run, workers, monkeypatch):
    def fill_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", fill_disk)
    rows = dataset.pick_across_categories(triples["test"], 2)
    plans = plan_of(rows, {"vague": prompts_under("vague", rows)})
    with pytest.raises(ValueError, match=r"^can't write .*pictures/.*before.png: No space left on device"):
        colorize.colorize_rows(pipeline, rows, plans, own_run.replace(workers=workers))
    assert not (own_run.run_dir / "images").exists()


LAUNCHED = """
from pathlib import Path
from lib import colorize
from lib.models import process_state
from lib.config import get_config

made, write = [], colorize.write_pictures
colorize.write_pictures = lambda *arguments: (made.append(arguments), write(*arguments))
profile = get_config("pocket", **{fields})
colorize.colorize_test_photos(profile)
state = process_state()
Path(profile.build, f"share.{{state.process_index}}").write_text(f"{{len(made)}} of {{state.num_processes}}")
"""


def test_two_processes_share_the_pictures(tmp_path):
    fields = {"resolution": 32, "n_images": 3, "n_seeds": 1}
    one, two = (get_config("pocket", build=str(tmp_path / name), **fields) for name in ("one", "two"))
    dataset.build_dataset(one)
    shutil.copytree(ROOT / "lib/pocket_model/controlnet", one.controlnet_dir)
    shutil.copytree(one.build, two.build)
    colorize.colorize_test_photos(one)
    script = tmp_path / "run.py"
    script.write_text(LAUNCHED.format(fields={"build": two.build, **fields}))
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    subprocess.run([sys.executable, "-m", *launch], check=True, cwd=ROOT, capture_output=True)
    shares = [(tmp_path / f"two/share.{index}").read_text().split(" of ") for index in range(2)]
    assert [share[1] for share in shares] == ["2", "2"]
    halves = sorted(int(share[0]) for share in shares)
    assert halves[1] - halves[0] <= 1
    for name in ("images", "binding"):
        table = colorize.read_images(two, name)
        assert table.equals(colorize.read_images(one, name))
        for file in table["after"]:
            assert np.allclose(*(colorize.read_image(config.run_dir, file) for config in (one, two)), atol=2 / 255)
    assert sum(halves) == len(pictures_in(two)) / 2


def test_notebook_04_must_have_run(config):
    with pytest.raises(ValueError, match="run notebook 04_colorize_photos first"):
        colorize.read_images(config.replace(run="never"))


# ---- steps and guidance, chosen on validation photos
