"""Sampling a colorizing pipeline, in batches that fit in memory, and the choice of its steps and guidance."""

import math
import zlib
from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from tqdm import tqdm

from lib.annotator import GRAY_ALONE
from lib.cache import cached, hash_of, is_current, progress, write_table
from lib.color import restore_lightness, srgb_to_lab, to_float
from lib.config import Config, resolve
from lib.models import load_pipeline, process_state
from lib.prompts import COMPARED, prompts_under

VERSION = 1  # of the rule that chooses steps and guidance
DATA_FIELDS = ("source", "photos", "test_source")
MODEL_FIELDS = (
    "base_model", "base_revision", "text_encoder", "max_tokens", "controlnet", "controlnet_revision",
    "controlnet_conditioning_scale", "annotator", "mixed_precision", "resolution",
)  # fmt: skip
N_VALIDATION, CHROMA_RATIO = 24, (0.8, 1.3)  # photos that sampling is chosen on, and how colourful it must be


def seed_of(image_id: str, seed: int) -> int:
    """Returns the generator's seed of a photo: other noise for every photo, the same for all its prompts."""
    return zlib.crc32(f"{image_id}/{seed}".encode())


def sample(pipeline, gray_images, prompts, seeds, config: Config) -> list[np.ndarray]:
    """Returns the pipeline's pictures, float sRGB (H, W, 3), one for each (gray PIL image, prompt, seed)."""
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


def sample_batches(pipeline, jobs, image_of: Callable, config: Config, full: int = 0):
    """Yields (slice of the jobs, their pictures) batch by batch; a job (image, prompt, seed) shows `image_of(image)`.

    A batch that doesn't fit in memory is halved, and so are those after it, in later calls with the pipeline too.
    Batches of fewer than `full` jobs are filled up with their last job: a picture's last digits depend on how many
    others it is sampled with, but not on which.

    Raises:
        ValueError: if not even one picture fits in memory.
    """
    size, start = min(config.sample_batch_size, getattr(pipeline, "batch_that_fits", math.inf)), 0
    while start < len(jobs):
        batch = jobs[start : start + size]
        filled = batch + batch[-1:] * (min(full, size) - len(batch))
        try:
            pictures = sample_batch(pipeline, filled, image_of, config)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
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


def sample_batch(pipeline, jobs, image_of: Callable, config: Config) -> np.ndarray:
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
        options["callback_on_step_end"] = end_guidance
        options["callback_on_step_end_tensor_inputs"] = ["prompt_embeds", "image"]  # held twice under guidance
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


def grid(config: Config) -> list[tuple[int, float]]:
    """Returns the (steps, guidance scale) to try; none if there is no choice."""
    tried = list(product(config.steps_to_try, config.guidance_to_try))
    return tried if len(tried) > 1 else []


def choose_sampling(config: Config) -> None:
    """Tries the `grid` on validation photos, once for a ControlNet; writes `sampling/tried.csv` to the run's folder.

    Under accelerate's launchers the main process does it, and the others wait.
    """
    from lib.dataset import load_dataset_dict, pick_across_categories  # slow to import, and colorizing needs none

    def make(folder):
        rows = pick_across_categories(load_dataset_dict(config.for_test_photos)["validation"], N_VALIDATION)
        gray, truths = list(rows["conditioning_image"]), [srgb_to_lab(to_float(image)) for image in rows["image"]]
        pipeline, seeds = load_pipeline(config), [seed_of(name, 0) for name in rows["image_id"]]

        def colorize(condition, **sampling):
            outputs = sample(pipeline, gray, prompts_under(condition, rows), seeds, config.replace(**sampling))
            return [srgb_to_lab(picture) for picture in map(restore_lightness, gray, outputs)]

        write_table(try_sampling(colorize, truths, grid(config), rows["subject"]), folder / "tried.csv")

    state = process_state()
    if state.is_main_process and grid(config):
        cached(config.run_dir / "sampling", _key_of_choice(config), make)
    state.wait_for_everyone()


def try_sampling(colorize: Callable, truths: list, trials: list[tuple[int, float]], subjects=None) -> pd.DataFrame:
    """Returns a row a trial, (steps, guidance scale): CIEDE2000 under the compared prompts, and the chroma ratio.

    `over_vague`, `over_gray`: detailed less vague, and less the photos left gray, with 95 % intervals over subjects.
    `own_best`: detailed less vague if each has the trial that is best for it, in every row.
    `colorize(condition, num_inference_steps=..., guidance_scale=...)` returns pictures, in CIELAB as the `truths` are.
    """
    from lib.metrics import chroma, ciede2000  # slow to import, and colorizing needs none
    from lib.stats import interval, named_ends

    table, errors, best = [], {"gray": np.array(ciede2000([truth * (1, 0, 0) for truth in truths], truths))}, {}
    for steps, scale in progress(trials, desc="steps and guidance"):
        for condition in COMPARED:  # the detailed one last
            labs = colorize(condition, num_inference_steps=steps, guidance_scale=scale)
            errors[condition] = np.array(ciede2000(labs, truths))
            best[condition] = min(best.get(condition, errors[condition]), errors[condition], key=np.mean)
        row = {"steps": steps, "guidance": scale, "photos": len(truths)}
        row |= {condition: errors[condition].mean() for condition in COMPARED}
        for other in ("vague", "gray"):
            row |= named_ends(f"over_{other}", interval(errors["detailed"] - errors[other], subjects))
        ratio = np.mean([chroma(lab) for lab in labs]) / np.mean([chroma(truth) for truth in truths])
        table.append(row | {"chroma_ratio": ratio})
    own_best = named_ends("own_best", interval(best["detailed"] - best["vague"], subjects))
    return pd.DataFrame(table).assign(**own_best).round(3)


def pick_sampling(table: pd.DataFrame) -> pd.Series:
    """Returns the row of `try_sampling` with the lowest mean error of both prompts and a ratio in `CHROMA_RATIO`.

    Choosing for the detailed prompt alone would favour the one that the study expects to win. If no chroma ratio is in
    the range, the nearest count; of equal rows the one with fewer steps, then less guidance.
    """
    low, high = CHROMA_RATIO
    away = np.maximum(low - table["chroma_ratio"], table["chroma_ratio"] - high).clip(lower=0)
    nearest = table.assign(error=table[list(COMPARED)].mean(axis=1))[away == away.min()]
    return table.loc[nearest.sort_values(["error", "steps", "guidance"]).index[0]]


def read_tried(config: Config) -> pd.DataFrame | None:
    """Returns the table that `choose_sampling` wrote; None if there is no choice.

    Raises:
        ValueError: if there is a choice, and it was not made for this ControlNet and grid.
    """
    if not grid(config):
        return None
    if not is_current(folder := config.run_dir / "sampling", _key_of_choice(config)):
        raise ValueError(f"no steps and guidance chosen in {folder.parent}: run notebook 04_colorize_photos first")
    return pd.read_csv(folder / "tried.csv")


def with_chosen_sampling(config: Config) -> Config:
    """Returns the configuration with the steps and guidance that were chosen; itself if there is no choice."""
    if (tried := read_tried(config)) is None:
        return config
    best = pick_sampling(tried)
    return config.replace(num_inference_steps=int(best["steps"]), guidance_scale=float(best["guidance"]))


def hash_of_controlnet(config: Config) -> str:
    """Returns a text that changes with the files of the run's ControlNet; the same text for all that are on the Hub."""
    return hash_of(sorted(resolve(config.controlnet_source).glob("*.safetensors")))


def _key_of_choice(config):
    fields = config.values(*DATA_FIELDS, "guidance_share", *MODEL_FIELDS)
    return fields | {"version": VERSION, "grid": grid(config), "weights": hash_of_controlnet(config)}
