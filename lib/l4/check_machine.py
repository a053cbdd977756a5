"""`make check-gpu`: can this machine run the l4 profile, and how long will it take? `make forecast`: only the time."""

import argparse
import gc
import math
import shutil
import sys
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from PIL import Image

from lib.cache import exit_with_one_line, explained
from lib.config import Config, add_field_option, configs_to_run, resolve
from lib.dataset import FEATURES
from lib.l4 import coco
from lib.l4.captioner import load_captioner
from lib.l4.set_metrics import MIN_FOR_FID, load_clip, make_metrics
from lib.l4.sources import find_flowers
from lib.models import load_base
from lib.prompts import CONDITIONS
from lib.regions import load_segmenter
from lib.report import markdown_table
from lib.training import build_cache, train_controlnet, with_train_steps

STEPS = 60  # of training, to time the second half: by then an L4 at 72 W has slowed down
# TFLOP at 512 px: a photo encoded, a photo in a training step, a sampling step (guided: twice), a picture decoded.
# By torch.utils.flop_counter on diffusers' SD 2.1-base and its ControlNet, November 2026; SD 1.5 takes 0.1 % less.
ENCODE, TRAIN, STEP, DECODE = 1.117, 2.267, 1.088, 2.515
RATES = (15, 25, 33)  # TFLOP/s that an L4 may sustain in bfloat16: eager, compiled, at best; assumed
PREPARE, MEASURE = 0.09, 0.19  # seconds of a core: a photo to a triple, a picture's metrics; an x86 server of 2026
COMPILE, SAVE, MEAN_COLOR = 600, 45, 100  # seconds, assumed: a run's compiling, a checkpoint, the photos' mean colour
PHOTO, CAPTION, PICTURE = 1.0, 0.16, 0.75  # MB: a photo, its triple and latents; a caption's token vectors; two PNGs
CONTROLNET, CHECKPOINT, BASE, NETWORKS = 1.5, 4.4, 5.2, 2.6  # GB
DOWNLOADS = {"coco": 20.4, "flowers": 0.25}  # GB, at about 30 MB/s
FLOWERS, TRIED = 4_242, 24  # photos; validation photos on which steps and guidance are chosen
BOUND, REFERENCES = 25, 8  # pictures of an object with colours asked for; pictures of a photo that no prompt touched


def check_gpu(configs: list[Config]) -> str:
    """Name and memory of the GPU, as torch sees it."""
    with explained("torch can't use a CUDA GPU", "take the image that notebooks/L4.md names, whose driver fits"):
        torch.cuda.init()
    gpu = torch.cuda.get_device_properties(0)
    return f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"


def check_disk(configs: list[Config]) -> str:
    """The free space where `build` is; ValueError if what the study needs, less what is there, doesn't fit."""
    build = resolve(configs[0].build)
    build.mkdir(parents=True, exist_ok=True)
    present = sum(path.stat().st_size for path in build.rglob("*") if path.is_file())
    free, needed = shutil.disk_usage(build).free / 1e9, forecast(configs)["GB"].sum() - present / 1e9
    space = f"{free:.0f} GB free at {build}, {needed:.0f} GB needed"
    if free < needed:
        raise ValueError(f"{space}: free some, or pass -p build FOLDER")
    return space


def check_downloads(configs: list[Config]) -> str:
    """Downloads flowers and networks (captioner, segmenter, metrics), and loads the networks."""
    config = configs[0]
    loads = {config.segmenter: partial(load_segmenter, config.segmenter, config.segmenter_revision)}
    if any(each.source == "flowers" for each in configs):
        loads["flowers"] = partial(find_flowers, config)
    if config.captioner:
        loads[config.captioner] = partial(load_captioner, config)
    if config.set_metrics:
        loads |= {config.clip: partial(load_clip, config), "Inception, AlexNet": partial(make_metrics, MIN_FOR_FID)}
    for name, load in loads.items():
        with explained(f"{name} can't be loaded", "try again, or go without: -p captioner '' -p set_metrics false"):
            load()
    return ", ".join(loads)


def check_training(configs: list[Config]) -> str:
    """Trains on every base for about a minute; ValueError if a batch doesn't fit in memory."""
    if not torch.cuda.is_available():
        return "not timed: there is no CUDA GPU"
    speeds = []
    for config in {config.base_model: config for config in reversed(configs) if not config.controlnet}.values():
        rate, peak = time_training(config)
        speeds.append(f"{config.base_model}: {rate:.1f} samples/s, peak {peak:.1f} GB at {config.train_batch_size}")
    return "; ".join(speeds)


@cache
def time_training(config: Config) -> tuple[float, float]:
    """Trains and colorizes random photos as notebook 03 does: samples a second, and peak GB of GPU memory."""
    gc.collect()
    torch.cuda.empty_cache()  # of the base before this one
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    base, n, side = load_base(config), config.train_batch_size, config.resolution
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))
    rows = Dataset.from_list([{"prompt": "a photo", "image": photo, "conditioning_image": photo}] * n, FEATURES)
    with TemporaryDirectory() as name:
        folder, short = Path(name), config.replace(train_steps=STEPS, checkpoint_every=STEPS, log_every=STEPS // 2)
        latents = build_cache(rows, rows["prompt"], base, folder)
        base.vae = base.text_encoder = None
        train_controlnet(base, latents, short, folder, rows)
        half, end = pd.read_csv(folder / "losses.csv")["seconds"]
    return n * STEPS / 2 / (end - half), torch.cuda.max_memory_reserved() / 1e9


def sampling(config: Config, pictures: int, steps: int, guidance: float) -> float:
    """The TFLOP of pictures; the first `guidance_share` of the steps are guided unless guidance is 1."""
    guided = math.ceil(steps * config.guidance_share) if guidance != 1 else 0
    return pictures * ((steps + guided) * STEP + DECODE)


def count_pictures(config: Config) -> tuple[int, int]:
    """How many pictures a run samples: under the prompt conditions, and of objects and regions."""
    n = min(config.n_images or coco.TEST_PHOTOS, coco.TEST_PHOTOS)
    other, seeds = min(config.n_images_other or n, n), min(config.n_images_all_seeds or n, n)
    more, conditions = config.n_seeds - 1, len(config.prompt_conditions or CONDITIONS)
    pictures = 2 * (n + more * seeds) + (conditions - 2) * (other + more * min(seeds, other))
    return pictures, BOUND * min(config.n_binding or n, n) + 2 * other


def forecast(configs: list[Config]) -> pd.DataFrame:
    """The parts of a study by name, with the most steps that are tried: `TFLOP`, `seconds` of other work, `GB`."""
    parts = {"networks, two checkpoints": (0, 0, NETWORKS + 2 * CHECKPOINT)}
    for config in configs:
        cores = max(config.workers / 2, 1)  # two vCPUs share a core
        for own in (config.for_test_photos, config):
            n = own.n_train + own.n_validation + coco.TEST_PHOTOS if own.source == "coco" else FLOWERS
            gb = DOWNLOADS.get(own.source, 0)
            parts[f"photos of {own.source}"] = (n * ENCODE, gb / 0.03 + n * PREPARE / cores, gb + n * PHOTO / 1e3)
        parts[f"base {config.base_model}"] = (0, 0, BASE)
        if not config.controlnet:
            n = config.n_train if config.source == "coco" else FLOWERS * 9 // 10
            steps = with_train_steps(config, n).train_steps
            captions = n * CAPTION / 1e3 if config.prompt_policy != "generic" else 0
            seconds = COMPILE + math.ceil(steps / config.checkpoint_every) * SAVE
            tflop = steps * config.train_batch_size * TRAIN
            parts[f"{config.run}: training"] = (tflop, seconds, CONTROLNET + CHECKPOINT + captions)
        asked, bound = count_pictures(config)
        trials = [(steps, scale) for steps in config.steps_to_try for scale in config.guidance_to_try]
        tflop = sum(sampling(config, 2 * TRIED, *trial) for trial in trials)
        tflop += sampling(config, asked + bound, max(config.steps_to_try), max(config.guidance_to_try))
        measured = 2 * asked + REFERENCES * min(config.n_images or coco.TEST_PHOTOS, coco.TEST_PHOTOS)
        seconds = MEAN_COLOR + measured * MEASURE / cores
        parts[f"{config.run}: {asked + bound:,} pictures, measured"] = (tflop, seconds, (asked + bound) * PICTURE / 1e3)
    return pd.DataFrame.from_dict(parts, "index", columns=["TFLOP", "seconds", "GB"])


def report(configs: list[Config], price: float, rates: tuple[float, ...] = RATES) -> str:
    """The forecast in Markdown: hours at rates in TFLOP/s, dollars at the middle one, GB, and the total."""
    table, scale = forecast(configs), (configs[0].resolution / 512) ** 2
    table.loc["total"] = table.sum()
    hours = {rate: (table["TFLOP"] * scale / rate + table["seconds"]) / 3600 for rate in rates}
    shown = pd.DataFrame({f"hours at {rate:.0f} TFLOP/s": values for rate, values in hours.items()})
    shown = shown.assign(dollars=hours[rates[len(rates) // 2]] * price, GB=table["GB"])
    return markdown_table(shown.round(1).rename_axis("part").reset_index())


CHECKS = {"GPU": check_gpu, "disk": check_disk, "downloads": check_downloads, "training": check_training}


def main(arguments: list[str] | None = None) -> None:
    """The command: one line a check, then the forecast at the measured rate; exits with 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m lib.l4.check_machine", description=__doc__)
    parser.add_argument("--price", type=float, default=0.85, help="dollars an hour of the machine (default: 0.85)")
    parser.add_argument("--forecast", action="store_true", help="print the forecast alone, at assumed rates")
    add_field_option(parser, "a field, e.g. -p runs all")
    options, failed, rates = parser.parse_args(arguments), [], RATES
    with exit_with_one_line():
        configs = configs_to_run("l4", **dict(options.overrides))
    for name, check in {} if options.forecast else CHECKS.items():
        try:
            print(f"ok      {name}: {check(configs)}", flush=True)
        except ValueError as error:
            failed.append(name)
            print(f"FAILED  {name}: {error}", flush=True)
    if not options.forecast and torch.cuda.is_available() and not failed:
        rates = (time_training(configs[0])[0] * TRAIN * (configs[0].resolution / 512) ** 2,)
    print(f"{report(configs, options.price, rates)}\n\n{options.price:.2f} dollars an hour")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
