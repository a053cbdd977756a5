"""Sampling a colorizing pipeline: batches that fit in memory, a generator a picture, guidance where it counts."""

import math

import torch
from accelerate.utils.memory import clear_device_cache
from tqdm import tqdm

from lib.annotator import GRAY_ALONE
from lib.cache import progress
from lib.config import Config
from lib.models import is_out_of_memory

DOUBLED = ("prompt_embeds", "image", "add_text_embeds", "add_time_ids")  # what a pipeline holds twice under guidance


def sample(pipeline, conditioning_images, prompts, seeds, config: Config):
    """Colour pictures before the merge: float sRGB arrays (H, W, 3), one for each (image, prompt, seed).

    The three lists are of one length. Every picture has its own generator, so that its batch changes no more than the
    last digits.
    """
    guidance = [guidance_of(prompt, pipeline, config) for prompt in prompts]
    few, outputs = len(prompts) <= config.sample_batch_size, {}
    with progress(desc="colorizing", total=len(prompts), unit="picture", leave=False, disable=few) as bar:
        for scale in dict.fromkeys(guidance):
            chosen = [index for index, own in enumerate(guidance) if own == scale]
            jobs = [(index, prompts[index], seeds[index]) for index in chosen]
            image_of, guided = conditioning_images.__getitem__, config.replace(guidance_scale=scale)
            for part, pictures in sample_batches(pipeline, jobs, image_of, guided):
                outputs.update(zip(chosen[part], pictures, strict=True))
                bar.update(len(pictures))
    return [outputs[index] for index in range(len(prompts))]


def guidance_of(prompt, pipeline, config):
    """The guidance scale for a prompt: 1, which is none, for the empty one where guidance changes nothing.

    The empty prompt is what guidance leads away from, save where a pipeline (SDXL's) takes zeros instead.
    """
    unconditional = prompt == "" and not pipeline.config.get("force_zeros_for_empty_prompt")
    return 1.0 if unconditional or not guided_steps(config) else config.guidance_scale


def guided_steps(config):
    """How many steps are guided: the first `guidance_share` of them, rounded up; none at a scale of 1 or less."""
    steps = math.ceil(round(config.guidance_share * config.num_inference_steps, 6))
    return steps if config.guidance_scale > 1 else 0


def sample_batches(pipeline, jobs, image_of, config, full=0):
    """Yield (slice of the jobs, their pictures) batch by batch; a job (image, prompt, seed) shows `image_of(image)`.

    A batch that does not fit in memory is halved, and so are those after it, in later calls with the pipeline too.
    Batches of fewer than `full` jobs, or than the batch size, are filled up with their last job: a picture's last
    digits depend on how many others it is sampled with, but not on which.
    """
    size, start = min(config.sample_batch_size, getattr(pipeline, "batch_that_fits", math.inf)), 0
    while start < len(jobs):
        part = jobs[start : start + size]
        filled = part + part[-1:] * (min(full, size) - len(part))
        try:
            pictures = sample_batch(pipeline, filled, image_of, config)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(filled) == 1:
                raise ValueError("not even one picture fits in memory: lower resolution, or free some") from None
            pictures, size = None, (len(filled) + 1) // 2
            pipeline.batch_that_fits = size
        if pictures is None:  # only here is what the failed batch held let go
            clear_device_cache(garbage_collection=True)
            tqdm.write(f"{len(filled)} pictures at once do not fit in memory: sampling {size} at once")
        else:
            yield slice(start, start + len(part)), list(pictures[: len(part)])
            start += len(part)


def sample_batch(pipeline, jobs, image_of, config):
    """Float sRGB pictures (B, H, W, 3) of jobs (image, prompt, seed), in one call of the pipeline."""
    images, prompts, seeds = zip(*jobs, strict=True)
    annotator = getattr(pipeline, "annotator", GRAY_ALONE)  # not all pipelines are made by `lib.models`
    guided, options = guided_steps(config), {}
    if 0 < guided < config.num_inference_steps:
        doubled = [name for name in DOUBLED if name in pipeline._callback_tensor_inputs]
        options = {"callback_on_step_end": end_guidance_after(guided), "callback_on_step_end_tensor_inputs": doubled}
    return pipeline(
        prompt=list(prompts),
        image=annotator([image_of(image) for image in images]),
        generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale if guided else 1.0,
        controlnet_conditioning_scale=config.controlnet_conditioning_scale,
        output_type="np",
        **options,
    ).images


def end_guidance_after(steps):
    """A callback that ends a pipeline's guidance after so many steps: from then on it takes one pass a step."""

    def on_step_end(pipeline, step, _, tensors):
        if step + 1 != steps:
            return {}
        pipeline._guidance_scale = 1.0  # has no public setter; every call of the pipeline sets it anew
        return {name: tensor.chunk(2)[1].clone() for name, tensor in tensors.items()}  # a view would be compiled anew

    return on_step_end
