"""Sampling: a picture depends on its photo, prompt and seed alone; steps and guidance are chosen by the rule, once."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lib import dataset, sampling


def test_a_picture_does_not_depend_on_its_batch(pipeline, triples, config):
    gray = triples["test"]["conditioning_image"][:3]
    prompts, seeds = ["a red cup", "Colorize this image.", ""], [1, 2, 1]
    together = sampling.sample(pipeline, gray, prompts, seeds, config)
    alone = sampling.sample(pipeline, gray, prompts, seeds, config.replace(sample_batch_size=1))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(together, alone, strict=True))
    other = sampling.sample(pipeline, gray[:1], prompts[:1], [9], config)[0]
    assert np.abs(other - together[0]).max() > 0.01


def test_photos_get_different_noise_and_prompts_the_same():
    assert sampling.seed_of("a", 0) != sampling.seed_of("b", 0)
    assert sampling.seed_of("a", 0) != sampling.seed_of("a", 1)
    assert sampling.seed_of("a", 1) == sampling.seed_of("a", 1)


def test_guidance_on_a_share_of_the_steps(pipeline, triples, config):
    gray, prompts, rows = triples["test"]["conditioning_image"][:2], ["a red cup", "a blue car"], []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    settings, by_share = config.replace(num_inference_steps=4, guidance_scale=5.0), {}
    for share, expected in ((1.0, [4, 4, 4, 4]), (0.5, [4, 4, 2, 2]), (0.3, [4, 4, 2, 2]), (0.0, [2, 2, 2, 2])):
        rows.clear()
        by_share[share] = sampling.sample(pipeline, gray, prompts, [1, 2], settings.replace(guidance_share=share))
        assert rows == expected
    hook.remove()
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    options = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np"}
    plain = pipeline(prompts, pipeline.annotator(gray, prompts), generator=generators, **options).images
    assert np.array_equal(by_share[1.0], plain)
    unguided = sampling.sample(pipeline, gray, prompts, [1, 2], settings.replace(guidance_scale=1.0))
    assert np.array_equal(by_share[0.0], unguided)
    assert min(np.abs(by_share[0.5][0] - by_share[share][0]).max() for share in (0.0, 1.0)) > 0.01


def stand_in(sizes, limit):
    """A pipeline that returns the photos, notes the sizes of its batches and has memory for `limit` pictures."""

    def pipeline(image, **_):
        sizes.append(len(image))
        if len(image) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return SimpleNamespace(images=np.stack(image))

    pipeline.annotator = lambda images, prompts: list(images)
    return pipeline


def test_a_batch_that_does_not_fit_is_halved_and_that_is_said_once(config, capsys):
    pipeline, settings = stand_in(sizes := [], 3), config.replace(sample_batch_size=6)
    images = [np.full((1, 1, 3), index) for index in range(10)]
    outputs = sampling.sample(pipeline, images, ["red"] * 10, range(10), settings)
    assert sizes == [6, 3, 3, 3, 1]
    assert np.array_equal(outputs, images)
    assert capsys.readouterr().out.splitlines() == ["6 pictures at once do not fit in memory: sampling 3 at once"]
    sampling.sample(pipeline, images[:6], ["red"] * 6, range(6), settings)
    assert sizes[5:] == [3, 3]  # remembered
    with pytest.raises(ValueError, match="not even one picture fits in memory"):
        sampling.sample(stand_in([], 0), images[:1], ["red"], [0], settings)


def test_all_batches_have_one_shape_if_told(config):
    pipeline, settings = stand_in(sizes := [], 4), config.replace(sample_batch_size=4)
    jobs = [(np.full((1, 1, 3), index), "red", index) for index in range(6)]
    batches = list(sampling.sample_batches(pipeline, jobs, lambda image: image, settings, full=4))
    assert sizes == [4, 4]
    assert [picture[0, 0, 0] for _, pictures in batches for picture in pictures] == list(range(6))


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        # steps, guidance, error under vague and detailed, chroma ratio
        ([(10, 1.0, 11.0, 10.0, 0.9), (10, 4.0, 14.0, 9.0, 0.9)], (10, 1.0)),  # for both prompts
        ([(10, 1.0, 10.0, 9.0, 0.5), (20, 2.0, 11.5, 10.5, 0.9), (10, 2.0, 11.0, 10.0, 0.8)], (10, 2.0)),  # colourful
        ([(20, 1.0, 11.0, 10.0, 0.9), (10, 4.0, 11.0, 10.0, 1.0), (10, 2.0, 11.0, 10.0, 0.8)], (10, 2.0)),  # equal
        ([(10, 1.0, 10.0, 9.0, 0.4), (10, 2.0, 12.0, 11.0, 0.7), (10, 4.0, 11.0, 10.0, 1.5)], (10, 2.0)),  # nearest
    ],
)
def test_steps_and_guidance_are_chosen_by_the_rule(rows, chosen):
    table = pd.DataFrame(rows, columns=["steps", "guidance", "vague", "detailed", "chroma_ratio"])
    assert tuple(sampling.pick_sampling(table)[["steps", "guidance"]]) == chosen


def test_each_prompt_s_own_best_setting_is_compared():
    errors = {(1, "vague"): 3.0, (1, "detailed"): 9.0, (2, "vague"): 5.0, (2, "detailed"): 4.0}
    gray = [np.full((2, 2, 3), (50.0, 1.0, 1.0)) + (0, photo, 0) for photo in range(4)]

    def colorize(condition, num_inference_steps, guidance_scale):
        return [truth + (errors[num_inference_steps, condition], 0, 0) for truth in gray]

    table = sampling.try_sampling(colorize, gray, [(1, 1.0), (2, 1.0)])
    vague, detailed = table["vague"].min(), table["detailed"].min()
    assert (table["chroma_ratio"] == 1).all()  # only lightness is wrong
    assert list(table["vague"].argsort()) == [0, 1]
    assert list(table["detailed"].argsort()) == [1, 0]
    assert list(table["own_best"]) == pytest.approx([detailed - vague] * 2, abs=0.002)


def test_sampling_is_chosen_once_for_a_controlnet_and_a_grid(pipeline, own_run, monkeypatch):
    config = own_run.replace(steps_to_try=(1, 2), guidance_to_try=(1.0, 3.0))
    dataset.build_dataset(config)
    loaded = []
    monkeypatch.setattr(sampling, "load_pipeline", lambda _: loaded.append(1) or pipeline)
    monkeypatch.setattr(sampling, "N_VALIDATION", 3)
    with pytest.raises(ValueError, match="no steps and guidance chosen in .*: run notebook 04_colorize_photos first"):
        sampling.with_chosen_sampling(config)
    sampling.choose_sampling(config)
    sampling.choose_sampling(config)
    assert len(loaded) == 1
    table = sampling.read_tried(config)
    assert [tuple(row) for row in table[["steps", "guidance"]].to_numpy()] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    best, chosen = sampling.pick_sampling(table), sampling.with_chosen_sampling(config)
    assert (chosen.num_inference_steps, chosen.guidance_scale) == (best["steps"], best["guidance"])
    (config.run_dir / "controlnet/diffusion_pytorch_model.safetensors").write_bytes(b"others")
    for other in (config, config.replace(guidance_to_try=(1.0,))):
        with pytest.raises(ValueError, match="run notebook 04_colorize_photos first"):
            sampling.with_chosen_sampling(other)
    assert sampling.with_chosen_sampling(own_run) == own_run
