"""Sampling a colorizing pipeline, in batches that fit in memory, and the choice of its steps and guidance."""

import json
import math
import zlib
from itertools import product

import numpy as np
import pandas as pd
import torch
from accelerate.utils.memory import clear_device_cache
from tqdm import tqdm

from lib.annotator import GRAY_ALONE
from lib.cache import hash_of, progress, write_table, write_text
from lib.color import restore_lightness, srgb_to_lab, to_float
from lib.config import Config, resolve
from lib.models import is_out_of_memory, load_pipeline, process_state
from lib.prompts import COMPARED, prompts_under

DOUBLED = ("prompt_embeds", "image", "add_text_embeds", "add_time_ids")  # what a pipeline holds twice under guidance
DATA_FIELDS = ("source", "photos", "test_source")
BASE_FIELDS = ("base_model", "base_revision", "text_encoder", "max_tokens")
CONTROLNET_FIELDS = ("controlnet", "controlnet_revision", "controlnet_conditioning_scale")
MODEL_FIELDS = (*BASE_FIELDS, *CONTROLNET_FIELDS, "annotator", "mixed_precision", "resolution")
N_VALIDATION, CHROMA_RATIO = 24, (0.8, 1.3)  # photos that sampling is chosen on, and how colourful it must be


def seed_of(image_id: str, seed: int) -> int:
    """Returns the generator's seed of a photo: other noise for every photo, the same for all its prompts."""
    return zlib.crc32(f"{image_id}/{seed}".encode())


def sample(pipeline, gray_images, prompts, seeds, config: Config) -> list[np.ndarray]:
    """Returns the pipeline's pictures, float sRGB (H, W, 3), one for each (gray PIL image, prompt, seed).

    Every picture has its own generator, so that its batch changes no more than the last digits.

    Args:
        pipeline: of `lib.models.load_pipeline`.
        gray_images, prompts, seeds: lists of one length.
        config: steps, guidance and batch size.
    """
    jobs, outputs = list(zip(gray_images, prompts, seeds, strict=True)), []
    few = len(jobs) <= config.sample_batch_size
    with progress(desc="colorizing", total=len(jobs), unit="picture", leave=False, disable=few) as bar:
        for _, pictures in sample_batches(pipeline, jobs, lambda image: image, config):
            outputs += pictures
            bar.update(len(pictures))
    return outputs


def guided_steps(config: Config) -> int:
    """Returns how many steps are guided: the first `guidance_share` of them, rounded up; none at a scale up to 1."""
    steps = math.ceil(round(config.guidance_share * config.num_inference_steps, 6))
    return steps if config.guidance_scale > 1 else 0


def sample_batches(pipeline, jobs, image_of, config: Config, full: int = 0):
    """Yields (slice of the jobs, their pictures) batch by batch; a job (image, prompt, seed) shows `image_of(image)`.

    A batch that does not fit in memory is halved, and so are those after it, in later calls with the pipeline too.
    Batches of fewer than `full` jobs, or than the batch size, are filled up with their last job: a picture's last
    digits depend on how many others it is sampled with, but not on which.

    Raises:
        ValueError: if not even one picture fits in memory.
    """
    size, start = min(config.sample_batch_size, getattr(pipeline, "batch_that_fits", math.inf)), 0
    while start < len(jobs):
        batch = jobs[start : start + size]
        filled = batch + batch[-1:] * (min(full, size) - len(batch))
        try:
            pictures = sample_batch(pipeline, filled, image_of, config)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(filled) == 1:
                raise ValueError("not even one picture fits in memory: lower resolution, or free some") from None
            pictures, size = None, (len(filled) + 1) // 2
            pipeline.batch_that_fits = size
        if pictures is None:  # outside the except block, which keeps the failed batch alive
            clear_device_cache(garbage_collection=True)
            tqdm.write(f"{len(filled)} pictures at once do not fit in memory: sampling {size} at once")
        else:
            yield slice(start, start + len(batch)), list(pictures[: len(batch)])
            start += len(batch)


def sample_batch(pipeline, jobs, image_of, config: Config) -> np.ndarray:
    """Returns float sRGB pictures (B, H, W, 3) of jobs (image, prompt, seed), in one call of the pipeline."""
    images, prompts, seeds = zip(*jobs, strict=True)
    annotator = getattr(pipeline, "annotator", GRAY_ALONE)  # not all pipelines are made by `lib.models`
    guided, options = guided_steps(config), {}

    def end_guidance(pipeline, step, _, tensors):
        if step + 1 != guided:
            return {}
        pipeline._guidance_scale = 1.0  # has no public setter; every call of the pipeline sets it
        return {name: tensor.chunk(2)[1].clone() for name, tensor in tensors.items()}  # a view would be compiled again

    if 0 < guided < config.num_inference_steps:  # from then on, one pass a step instead of two
        doubled = [name for name in DOUBLED if name in pipeline._callback_tensor_inputs]
        options = {"callback_on_step_end": end_guidance, "callback_on_step_end_tensor_inputs": doubled}
    return pipeline(
        prompt=list(prompts),
        image=annotator([image_of(image) for image in images], prompts),
        generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale if guided else 1.0,
        controlnet_conditioning_scale=config.controlnet_conditioning_scale,
        output_type="np",
        **options,
    ).images


def choose_sampling(config: Config) -> None:
    """Tries `steps_to_try` x `guidance_to_try` on validation photos and keeps the best, once for a ControlNet and grid.

    Writes `sampling.csv`, a row a trial, and `sampling.json`, the choice, to the run's folder; nothing if there is
    nothing to try. Under accelerate's launchers the main process does it, and the others wait.
    """
    from lib.dataset import load_dataset_dict, pick_across_categories  # slow to import, and colorizing needs none

    state = process_state()
    if state.is_main_process and grid(config) and not _read_choice(config):
        validation = load_dataset_dict(config.for_test_photos)["validation"]
        table = try_sampling(load_pipeline(config), pick_across_categories(validation, N_VALIDATION), config)
        best = pick_sampling(table)
        fields = {"num_inference_steps": int(best["steps"]), "guidance_scale": float(best["guidance"])}
        write_table(table, config.run_dir / "sampling.csv")
        choice = json.dumps({"made_from": _made_from(config), "fields": fields})
        write_text(choice, config.run_dir / "sampling.json")
    state.wait_for_everyone()


def try_sampling(pipeline, rows, config: Config) -> pd.DataFrame:
    """Returns a row for each number of steps and guidance scale: CIEDE2000 of data-set rows with seed 0.

    `vague`, `detailed`: means by prompt; `over_vague`, `over_gray`: detailed less vague, and less the photos left gray,
    with 95 % intervals (`_low`, `_high`); `chroma_ratio`: mean chroma under the detailed prompt over the photos' own.
    """
    from lib.metrics import chroma, ciede2000  # slow to import, as above
    from lib.stats import interval, named_ends

    truths, table = [srgb_to_lab(to_float(image)) for image in rows["image"]], []
    errors = {"gray": np.array(ciede2000([truth * [1, 0, 0] for truth in truths], truths))}
    gray, seeds = list(rows["conditioning_image"]), [seed_of(name, 0) for name in rows["image_id"]]
    for steps, scale in grid(config):
        tried = config.replace(num_inference_steps=steps, guidance_scale=scale)
        for condition in COMPARED:  # the detailed one last
            outputs = sample(pipeline, gray, prompts_under(condition, rows), seeds, tried)
            labs = [srgb_to_lab(picture) for picture in map(restore_lightness, gray, outputs)]
            errors[condition] = np.array(ciede2000(labs, truths))
        row = {"steps": steps, "guidance": scale, "photos": len(rows)}
        row |= {condition: errors[condition].mean() for condition in COMPARED}
        for other in ("vague", "gray"):
            row |= named_ends(f"over_{other}", interval(errors["detailed"] - errors[other], rows["subject"]))
        ratio = np.mean([chroma(lab) for lab in labs]) / np.mean([chroma(truth) for truth in truths])
        table.append(row | {"chroma_ratio": ratio})
    return pd.DataFrame(table).round(3)


def pick_sampling(table: pd.DataFrame) -> pd.Series:
    """Returns the row of `try_sampling` with the lowest mean error of both prompts and a ratio in `CHROMA_RATIO`.

    Choosing for the detailed prompt alone would favour the one that the study expects to win. If no chroma ratio is in
    the range, the nearest count; of equal rows the one with fewer steps, then less guidance.
    """
    low, high = CHROMA_RATIO
    away = np.maximum(low - table["chroma_ratio"], table["chroma_ratio"] - high).clip(lower=0)
    nearest = table.assign(error=table[list(COMPARED)].mean(axis=1))[away == away.min()]
    return table.loc[nearest.sort_values(["error", "steps", "guidance"]).index[0]]


def with_chosen_sampling(config: Config) -> Config:
    """Returns the configuration with the steps and guidance that `choose_sampling` chose; itself if there is no choice.

    Raises:
        ValueError: if none were chosen for this ControlNet and grid.
    """
    choice = _read_choice(config) if grid(config) else {}
    if choice is None:
        where = config.run_dir
        raise ValueError(f"no steps and guidance chosen in {where}: run notebook 04_colorize_photos first")
    return config.replace(**choice)


def read_tried(config: Config) -> pd.DataFrame | None:
    """Returns the table of `try_sampling` that has the run's steps and guidance; None if there is none."""
    if grid(config):
        path = config.run_dir / "sampling.csv"
        return pd.read_csv(path) if path.is_file() else None
    if not config.sampling_tried:
        return None
    tried = pd.read_csv(resolve(config.sampling_tried))
    used = (tried["steps"] == config.num_inference_steps) & (tried["guidance"] == config.guidance_scale)
    return tried if used.any() else None


def hash_of_controlnet(config: Config) -> str:
    """Returns a text that changes with the files of the run's ControlNet; the same text for all that are on the Hub."""
    return hash_of(sorted(resolve(config.controlnet_source).glob("*.safetensors")))


def grid(config: Config) -> list[tuple[int, float]]:
    """Returns the (steps, guidance scale) to try; none if there is no choice."""
    tried = list(product(config.steps_to_try, config.guidance_to_try))
    return tried if len(tried) > 1 else []


def _made_from(config):
    fields = config.values(*DATA_FIELDS, "guidance_share", *MODEL_FIELDS)
    return hash_of([fields, grid(config), hash_of_controlnet(config)])


def _read_choice(config):
    path = config.run_dir / "sampling.json"
    choice = json.loads(path.read_text()) if path.exists() else {}
    return choice["fields"] if choice.get("made_from") == _made_from(config) else None
