"""`make check-gpu`: whether this machine can run the l4 profile, before hours are spent, and how long that will take.

What the runs need late is downloaded (captioner, networks of the set metrics, flowers, and with a GPU the base models);
COCO's archives are only asked for. `make forecast` prints the forecast alone.
"""

import argparse
import gc
import math
import sys
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import requests
import torch
from datasets import Dataset
from PIL import Image

from lib.cache import exit_with_one_line, explained
from lib.config import Config, add_field_option, configs_to_run, resolve
from lib.dataset import FEATURES
from lib.l4 import coco
from lib.l4.captioner import load_captioner
from lib.l4.downloads import require_disk
from lib.l4.set_metrics import MIN_FOR_FID, load_clip, make_metrics, require_packages
from lib.l4.sources import find_flowers
from lib.models import load_base
from lib.prompts import CONDITIONS
from lib.regions import load_segmenter
from lib.report import markdown_table
from lib.training import build_cache, read_losses, train_controlnet, with_train_steps

GPU_GB = 20  # what training at 512 px needs, with room
STEPS = 60  # of training, to time the second half: by then an L4 at 72 W has slowed down

# TFLOP at 512 px: a photo encoded, a photo in a training step, a sampling step (guided: twice), a picture decoded.
# By torch.utils.flop_counter on diffusers' SD 2.1-base and its ControlNet, November 2026; SD 1.5 takes 0.1 % less.
ENCODE, TRAIN, STEP, DECODE = 1.117, 2.267, 1.088, 2.515
RATES = (15, 25, 33)  # TFLOP/s that an L4 may sustain in bfloat16: eager, compiled, at best; assumed
PREPARE, MEASURE = 0.09, 0.19  # seconds of a processor: a photo to a triple, a picture's metrics; an x86 server of 2026
PHOTO, CAPTION, PICTURE = 1.0, 0.16, 0.75  # MB: a photo, its triple and latents; a caption's token vectors; two PNGs
CONTROLNET, CHECKPOINT, BASE, NETWORKS = 1.5, 4.4, 5.2, 2.6  # GB
DOWNLOADS = {"coco": 20.4, "flowers": 0.25}  # GB, at about 30 MB/s
FLOWERS, TRIED = 4_242, 24  # photos; validation photos on which steps and guidance are chosen
BOUND, REFERENCES = 25, 8  # pictures of an object with colours asked for; pictures of a photo that no prompt touched


def check_gpu(configs: list[Config]) -> str:
    """Name and memory of the GPU, as torch sees it."""
    remedy = "take the image that notebooks/L4.md names, whose driver fits; if torch has no CUDA, remove .venv"
    with explained("torch can't use a CUDA GPU", remedy, (RuntimeError, AssertionError)):
        torch.cuda.init()
    gpu = torch.cuda.get_device_properties(0)
    said = f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
    if gpu.total_memory < GPU_GB * 1e9:
        raise ValueError(f"{said}; {GPU_GB} GB are needed: lower train_batch_size")
    if not torch.cuda.is_bf16_supported():
        raise ValueError(f"{said}, without bfloat16: pass -p mixed_precision no, and expect half the speed")
    return said


def check_disk(configs: list[Config]) -> str:
    """Room for everything where `build` is, less what is there."""
    build = resolve(configs[0].build)
    present = sum(path.stat().st_size for path in build.rglob("*") if path.is_file())
    return require_disk(build, forecast(configs)["GB"].sum() * 1e9 - present)


def check_coco(configs: list[Config]) -> str:
    """Whether COCO's files, unless they are here, are offered in their published sizes."""
    missing = {
        name: size for name, (_, size, _) in coco.FILES.items() if not (resolve(configs[0].downloads) / name).exists()
    }
    for name, size in missing.items():
        url = coco.url_of(name, configs[0])
        with explained(f"{url} can't be used", f"try again, or put the file into {configs[0].downloads}"):
            answer = requests.head(url, allow_redirects=True, timeout=20)
            answer.raise_for_status()
            if size and int(answer.headers["Content-Length"]) != size:
                raise ValueError(f"{answer.headers['Content-Length']} bytes offered, {size} published")
    return ", ".join(f"{name} offered" for name in missing) or "files are here"


def check_flowers(configs: list[Config]) -> str:
    """Downloads the flowers from Kaggle, or says in which folder they are."""
    needed = [config for config in configs if config.source == "flowers"]
    return f"in {find_flowers(needed[0])}" if needed else "not needed"


def check_networks(configs: list[Config]) -> str:
    """Downloads and loads the networks that write captions, find objects and measure sets."""
    loads = {}
    for config in configs:
        require_packages(config)
        if config.captioner:
            loads[config.captioner] = partial(load_captioner, config)
        if not resolve(config.segmenter).is_dir():
            loads[config.segmenter] = partial(load_segmenter, config.segmenter, config.segmenter_revision)
        if config.set_metrics:
            loads |= {config.clip: partial(load_clip, config), "Inception, AlexNet": partial(make_metrics, MIN_FOR_FID)}
    for name, load in loads.items():
        with explained(f"{name} can't be loaded", "try again, or go without: -p captioner '' -p set_metrics false"):
            load()
    return ", ".join(loads) or "not needed"


def check_training(configs: list[Config]) -> str:
    """Trains on every base for about a minute; ValueError if a batch doesn't fit in memory."""
    if not torch.cuda.is_available():
        return "not timed: there is no CUDA GPU"
    said = []
    for config in {config.base_model: config for config in reversed(configs) if not config.controlnet}.values():
        rate, peak = time_training(config)
        said.append(f"{config.base_model}: {rate:.1f} samples/s, peak {peak:.1f} GB at batch {config.train_batch_size}")
    return "; ".join(said)


@cache
def time_training(config: Config) -> tuple[float, float]:
    """Trains and colorizes random photos as notebook 03 does: samples a second, and peak GB of GPU memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of the base before this one
        torch.cuda.reset_peak_memory_stats()
    base, n, side = load_base(config), config.train_batch_size, config.resolution
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))
    columns = {"prompt": ["a photo"] * n, "image": [photo] * n, "conditioning_image": [photo] * n}
    rows = Dataset.from_dict(columns, FEATURES)
    with TemporaryDirectory() as name:
        folder, short = Path(name), config.replace(train_steps=STEPS, checkpoint_every=STEPS, log_every=STEPS // 2)
        latents = build_cache(rows, rows["prompt"], base, folder)
        base.vae = base.text_encoder = None
        train_controlnet(base, latents, short, folder, rows)
        half, end = (float(row["seconds"]) for row in read_losses(folder, STEPS))
    peak = torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else 0.0
    return n * STEPS / 2 / (end - half), peak


def sampling(config: Config, pictures: int, steps: int, guidance: float) -> float:
    """The TFLOP of pictures; the first `guidance_share` of the steps are guided unless guidance is 1."""
    guided = math.ceil(steps * config.guidance_share) if guidance != 1 else 0
    return pictures * ((steps + guided) * STEP + DECODE)


def count_pictures(config: Config) -> tuple[int, int]:
    """How many pictures a run samples: under the prompt conditions, and of objects and regions."""
    n = min(config.n_images or coco.TEST_PHOTOS, coco.TEST_PHOTOS)
    other, seeds = min(config.n_images_other or n, n), min(config.n_images_all_seeds or n, n)
    more, conditions = config.n_seeds - 1, len(config.prompt_conditions or CONDITIONS)
    asked = 2 * (n + more * seeds) + (conditions - 2) * (other + more * min(seeds, other))
    return asked, BOUND * min(config.n_binding or n, n) + 2 * other


def forecast(configs: list[Config]) -> pd.DataFrame:
    """The parts of a study, each once, with the most steps that are tried: `TFLOP`, `seconds` of other work, `GB`."""
    parts = {}

    def add(part, gb, tflop=0.0, seconds=0.0):
        parts.setdefault(part, {"part": part, "TFLOP": tflop, "seconds": seconds, "GB": gb})

    add("networks, two checkpoints", NETWORKS + 2 * CHECKPOINT)
    for config in configs:
        workers, most = max(config.workers, 1), (max(config.steps_to_try), max(config.guidance_to_try))
        for own in (config.for_test_photos, config):
            n = config.n_train + config.n_validation + coco.TEST_PHOTOS if own.source == "coco" else FLOWERS
            gb = DOWNLOADS.get(own.source, 0)
            add(f"photos of {own.source}", gb + n * PHOTO / 1e3, n * ENCODE, gb / 0.03 + n * PREPARE / workers)
        add(f"base {config.base_model}", BASE)
        if not config.controlnet:
            n = config.n_train if config.source == "coco" else FLOWERS * 9 // 10
            samples = with_train_steps(config, n).train_steps * config.train_batch_size
            captions = n * CAPTION / 1e3 if config.prompt_policy != "generic" else 0
            add(f"{config.run}: training", CONTROLNET + CHECKPOINT + captions, samples * TRAIN)
        asked, bound = count_pictures(config)
        trials = [(steps, scale) for steps in config.steps_to_try for scale in config.guidance_to_try]
        tflop = sum(sampling(config, 2 * TRIED, *trial) for trial in trials)
        tflop += sampling(config, asked + bound, *most)
        measured = 2 * asked + REFERENCES * min(config.n_images or coco.TEST_PHOTOS, coco.TEST_PHOTOS)
        gb = (asked + bound) * PICTURE / 1e3
        add(f"{config.run}: {asked + bound:,} pictures, measured", gb, tflop, measured * MEASURE / workers)
    return pd.DataFrame(parts.values())


def report(configs: list[Config], price: float, rates: tuple[float, ...] = RATES) -> str:
    """The forecast in Markdown: hours at rates in TFLOP/s, dollars at the middle one, GB, and the total."""
    table, scale = forecast(configs), (configs[0].resolution / 512) ** 2
    shown = table[["part"]].copy()
    for rate in rates:
        shown[f"hours at {rate:.0f} TFLOP/s"] = (table["TFLOP"] * scale / rate + table["seconds"]) / 3600
    shown["dollars"] = shown[f"hours at {rates[len(rates) // 2]:.0f} TFLOP/s"] * price
    shown["GB"] = table["GB"]
    total = {"part": "total", **shown.drop(columns="part").sum()}
    return markdown_table(pd.concat([shown, pd.DataFrame([total])], ignore_index=True).round(1))


CHECKS = {"GPU": check_gpu, "disk": check_disk, "COCO": check_coco, "flowers": check_flowers}
CHECKS |= {"networks": check_networks, "training": check_training}


def main(arguments: list[str] | None = None) -> None:
    """The command: one line a check, then the forecast at the measured rate; exits with 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m lib.l4.check_machine", description=__doc__)
    parser.add_argument("--profile", default="l4")
    parser.add_argument("--price", type=float, default=0.85, help="dollars an hour of the machine (default: 0.85)")
    parser.add_argument("--forecast", action="store_true", help="print the forecast alone, at assumed rates")
    add_field_option(parser, "a field, e.g. -p runs all")
    options, failed, rates = parser.parse_args(arguments), [], RATES
    with exit_with_one_line():
        configs = configs_to_run(options.profile, **dict(options.overrides))
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
