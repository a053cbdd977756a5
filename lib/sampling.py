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
    """Returns the seed of a photo's noise, which is the same for all prompts."""
    return zlib.crc32(f"{image_id}/{seed}".encode())


def sample(pipeline, gray_images, prompts, seeds, config: Config) -> list[np.ndarray]:
    """Returns the pipeline's pictures, float sRGB (H, W, 3), one for each (gray PIL image, prompt, seed)."""
    jobs, outputs = list(zip(gray_images, prompts, seeds, strict=True)), []
    options = {"unit": "picture", "leave": False, "disable": len(jobs) <= config.sample_batch_size}
    with progress(desc="colorizing", total=len(jobs), **options) as bar:
        for _, pictures in sample_batches(pipeline, jobs, lambda image: image, config):
            outputs += pictures
            bar.update(len(pictures))
    return outputs


def guided_steps(config: Config) -> int:
    """Returns how many steps are guided: the first `guidance_share` of them, rounded up; none at a scale up to 1."""
    share = config.guidance_share if config.guidance_scale > 1 else 0
    return math.ceil(round(share * config.num_inference_steps, 6))


def sample_batches(pipeline, jobs, image_of: Callable, config: Config, full: int = 0):
    """Yields (slice of the jobs, their pictures) batch by batch; a job (image, prompt, seed) shows `image_of(image)`.

    A batch that doesn't fit in memory is halved, and so are all later ones of the pipeline. If it has fewer than `full`
    jobs, its last is repeated: a picture's last digits depend on how many others it is sampled with, not on which.
    Raises a ValueError if not even one picture fits in memory.
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
            pictures = None
        if pictures is not None:
            yield slice(start, start + len(batch)), list(pictures[: len(batch)])
            start += len(batch)
        else:  # outside the except block, which keeps the failed batch alive
            clear_device_cache(garbage_collection=True)
            size = pipeline.batch_that_fits = (len(filled) + 1) // 2
            tqdm.write(f"{len(filled)} pictures at once do not fit in memory: sampling {size} at once")


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


def choose_sampling(config: Config) -> None:
    """Tries steps and guidance on validation photos, once for a ControlNet, in the main process; see `read_tried`."""
    from lib.dataset import load_dataset_dict, pick_across_categories  # slow to import, and colorizing needs none

    def make(folder):
        rows = pick_across_categories(load_dataset_dict(config.for_test_photos)["validation"], N_VALIDATION)
        gray, truths = list(rows["conditioning_image"]), [srgb_to_lab(to_float(image)) for image in rows["image"]]
        pipeline, seeds = load_pipeline(config), [seed_of(name, 0) for name in rows["image_id"]]

        def colorize(condition, **sampling):
            outputs = sample(pipeline, gray, prompts_under(condition, rows), seeds, config.replace(**sampling))
            return [srgb_to_lab(picture) for picture in map(restore_lightness, gray, outputs)]

        write_table(try_sampling(colorize, truths, trials, rows["subject"]), folder / "tried.csv")

    state, (trials, folder, key) = process_state(), _choice(config)
    if state.is_main_process and len(trials) > 1:
        cached(folder, key, make)
    state.wait_for_everyone()


def try_sampling(colorize: Callable, truths: list, trials: list[tuple[int, float]], subjects=None) -> pd.DataFrame:
    """Returns a row a trial, (steps, guidance scale): CIEDE2000 under the compared prompts, and the chroma ratio.

    `over_vague`, `over_gray`: detailed - vague and detailed - gray, with 95 % intervals over subjects; `own_best`:
    detailed - vague if each prompt has its own best trial. `truths` and what
    `colorize(condition, num_inference_steps=..., guidance_scale=...)` returns are pictures in CIELAB.
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
    """Returns the row of `try_sampling` with the lowest mean error of both prompts, for a fair comparison.

    Only rows with the chroma ratio in `CHROMA_RATIO`, or nearest to it, count; of equal ones that with fewer steps.
    """
    away = (table["chroma_ratio"] - table["chroma_ratio"].clip(*CHROMA_RATIO)).abs()
    nearest = table.assign(error=table[list(COMPARED)].mean(axis=1))[away == away.min()]
    return table.loc[nearest.sort_values(["error", "steps", "guidance"]).index[0]]


def read_tried(config: Config) -> pd.DataFrame | None:
    """Returns the table that `choose_sampling` made for a run's ControlNet; None if there is no choice."""
    trials, folder, key = _choice(config)
    if len(trials) == 1:
        return None
    if not is_current(folder, key):
        raise ValueError(f"no steps and guidance chosen in {folder.parent}: run notebook 04_colorize_photos first")
    return pd.read_csv(folder / "tried.csv")


def with_chosen_sampling(config: Config) -> Config:
    """Returns the configuration with the steps and guidance that were chosen; itself if there is no choice."""
    if (tried := read_tried(config)) is None:
        return config
    best = pick_sampling(tried)
    return config.replace(num_inference_steps=int(best["steps"]), guidance_scale=float(best["guidance"]))


def hash_of_controlnet(config: Config) -> str:
    """Returns a text that changes with the files of the run's ControlNet, if it is not on the Hub."""
    return hash_of(sorted(resolve(config.controlnet_source).glob("*.safetensors")))


def _choice(config):
    """The pairs (steps, guidance scale) to choose from, and folder and key of their table."""
    trials = list(product(config.steps_to_try, config.guidance_to_try))
    key = config.values(*DATA_FIELDS, "guidance_share", *MODEL_FIELDS)
    key |= {"version": VERSION, "grid": trials, "weights": hash_of_controlnet(config)}
    return trials, config.run_dir / "sampling", key
