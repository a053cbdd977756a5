"""Sampling a colorizing pipeline: batches that fit in memory, a generator a picture, guidance where it counts."""

import math
from dataclasses import replace

import torch
from accelerate.utils.memory import clear_device_cache
from tqdm import tqdm

from lib.annotator import GRAY_ALONE
from lib.files import progress
from lib.models import is_out_of_memory
from lib.profiles import Sampling

DOUBLED = ("prompt_embeds", "image", "add_text_embeds", "add_time_ids")  # what a pipeline holds twice under guidance


def sample(pipeline, conditioning_images, prompts, seeds, **sampling):
    """Colour pictures before the merge: float sRGB arrays (H, W, 3), one for each (image, prompt, seed).

    The three lists are of one length. Keywords are the fields of `profiles.Sampling`, e.g. `num_inference_steps=10,
    guidance_scale=2.0`. Every picture has its own generator, so that its batch changes no more than the last digits.
    """
    sampling = Sampling(**sampling)
    guidance = [guidance_of(prompt, pipeline, sampling) for prompt in prompts]
    few, outputs = len(prompts) <= sampling.sample_batch_size, {}
    with progress(desc="colorizing", total=len(prompts), unit="picture", leave=False, disable=few) as bar:
        for scale in dict.fromkeys(guidance):
            chosen = [index for index, own in enumerate(guidance) if own == scale]
            jobs = [(index, prompts[index], seeds[index]) for index in chosen]
            image_of, guided = conditioning_images.__getitem__, replace(sampling, guidance_scale=scale)
            for part, pictures in sample_batches(pipeline, jobs, image_of, guided):
                outputs.update(zip(chosen[part], pictures, strict=True))
                bar.update(len(pictures))
    return [outputs[index] for index in range(len(prompts))]


def guidance_of(prompt, pipeline, sampling):
    """The guidance scale for a prompt: 1, which is none, for the empty one where guidance changes nothing.

    The empty prompt is what guidance leads away from, save where a pipeline (SDXL's) takes zeros instead.
    """
    unconditional = prompt == "" and not pipeline.config.get("force_zeros_for_empty_prompt")
    return 1.0 if unconditional or not guided_steps(sampling) else sampling.guidance_scale


def guided_steps(sampling):
    """How many steps are guided: the first `guidance_share` of them, rounded up; none at a scale of 1 or less."""
    steps = math.ceil(round(sampling.guidance_share * sampling.num_inference_steps, 6))
    return steps if sampling.guidance_scale > 1 else 0


def sample_batches(pipeline, jobs, image_of, sampling, full=0):
    """Yield (slice of the jobs, their pictures) batch by batch; a job (image, prompt, seed) shows `image_of(image)`.

    A batch that does not fit in memory is halved, and so are those after it, in later calls with the pipeline too.
    Batches of fewer than `full` jobs, or than the batch size, are filled up with their last job: a picture's last
    digits depend on how many others it is sampled with, but not on which.
    """
    size, start = min(sampling.sample_batch_size, getattr(pipeline, "batch_that_fits", math.inf)), 0
    while start < len(jobs):
        part = jobs[start : start + size]
        filled = part + part[-1:] * (min(full, size) - len(part))
        try:
            pictures = sample_batch(pipeline, filled, image_of, sampling)
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


def sample_batch(pipeline, jobs, image_of, sampling):
    """Float sRGB pictures (B, H, W, 3) of jobs (image, prompt, seed), in one call of the pipeline."""
    images, prompts, seeds = zip(*jobs, strict=True)
    annotator = getattr(pipeline, "annotator", GRAY_ALONE)  # not all pipelines are made by `lib.models`
    guided, options = guided_steps(sampling), {}
    if 0 < guided < sampling.num_inference_steps:
        doubled = [name for name in DOUBLED if name in pipeline._callback_tensor_inputs]
        options = {"callback_on_step_end": end_guidance_after(guided), "callback_on_step_end_tensor_inputs": doubled}
    return pipeline(
        prompt=list(prompts),
        image=annotator([image_of(image) for image in images], prompts),
        generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale if guided else 1.0,
        controlnet_conditioning_scale=sampling.controlnet_conditioning_scale,
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
