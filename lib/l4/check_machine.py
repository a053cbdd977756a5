"""`make check-gpu`: whether this machine can run the l4 profile, before hours are spent; then the forecast.

What the chosen runs ask for late (captioner, networks of the set metrics, flowers) is fetched, and so are the base
models if there is a GPU to train them on for a minute; COCO's archives are asked for without being fetched.
"""

import argparse
import gc
import math
import os
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import huggingface_hub
import numpy as np
import requests
import torch

from lib import ROOT
from lib.cache import exit_with_one_line, explained, one_line
from lib.config import configs_to_run, resolve
from lib.l4 import coco, downloads, flowers, forecast, hub
from lib.l4.captioner import load_captioner
from lib.l4.set_metrics import load_clip, make_lpips, require_packages, set_distances
from lib.models import encode_prompts, load_base, make_controlnet
from lib.segmenter import load_segmenter
from lib.training import LatentCache, loss_of_controlnet, make_accelerator, make_step, prepare_training

GPU_GB = 20  # what training at 512 px needs, with room
DRIVERS = {"13": "580.65.06", "12": "525.60.13"}  # the oldest for each CUDA, by NVIDIA's release notes
BASE_PARTS = ("unet", "vae", "text_encoder")  # folders of a base with weights, in safetensors or .bin
WITHOUT = "-p captioner '' -p set_metrics false"
BASE_FILES = ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json")


def check_packages(configs):
    """Whether the packages that the runs need are there, in the pinned versions."""
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.M))
    pinned |= dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements-l4.txt").read_text(), re.M))
    names = ["torch"]
    names += ["torchvision", "torch-fidelity"] * any(config.set_metrics for config in configs)
    wrong = [f"{name} {pinned[name]} ({found})" for name in names if (found := installed(name)) != pinned[name]]
    if wrong:
        raise ValueError(f"needed are {', '.join(wrong)}: .venv/bin/pip install -r requirements-l4.txt")
    return ", ".join(f"{name} {pinned[name]}" for name in names)


def installed(name):
    """The version of an installed package without its build, or "not installed"."""
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return "not installed"


def check_gpu(configs):
    """Name, memory and driver of the GPU."""
    driver, needed = read_driver(), DRIVERS.get((torch.version.cuda or "").split(".")[0])
    said = f"driver {driver or 'not found'}, torch's CUDA {torch.version.cuda or 'none'}"
    if not torch.version.cuda:
        raise ValueError(f"this torch is a build without CUDA ({said}): remove .venv and run make check-gpu again")
    if needed and (not driver or numbers(driver) < numbers(needed)):
        raise ValueError(f"{said}, which needs driver {needed} or newer: choose the image that notebooks/L4.md names")
    if not torch.cuda.is_available():
        raise ValueError(f"no CUDA GPU that torch can use ({said}): start a machine that has one")
    facts = torch.cuda.get_device_properties(0)
    if facts.total_memory < GPU_GB * 1e9:
        raise ValueError(
            f"{facts.name} has {facts.total_memory / 1e9:.0f} GB, {GPU_GB} are needed: lower train_batch_size"
        )
    if not torch.cuda.is_bf16_supported():
        raise ValueError(f"{facts.name} has no bfloat16: pass -p mixed_precision no, and expect half the speed")
    return f"{facts.name}, {facts.total_memory / 1e9:.0f} GB, {said} (needs {needed or 'an unknown driver'})"


def read_driver():
    """The version of NVIDIA's driver, or "" where there is none."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.split()[0] if re.match(r"\d+\.\d+", answer) else ""


def numbers(text):
    """A version as numbers that can be compared."""
    return [int(part) for part in text.split(".")]


def check_disk(configs):
    """Free space where `build` is."""
    place = resolve(configs[0].build)
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free / 1e9, forecast.disk_needed(configs)
    there = sum(path.stat().st_size for path in resolve(configs[0].build).rglob("*") if path.is_file()) / 1e9
    parts = ", ".join(f"{name} {size:.0f}" for name, size in needed.items())
    said = f"{free:.0f} GB free at {place}, {sum(needed.values()):.0f} needed ({parts}), of which {there:.0f} are there"
    if free + there < sum(needed.values()):
        raise ValueError(f"{said}: add disk, or pass -p build FOLDER")
    return said


def check_bucket(configs):
    """Write a file to the bucket of the results, and remove it."""
    bucket = os.environ.get("BUCKET", "")
    if not bucket:
        return "not checked: BUCKET is not set"
    for words in (["cp", "-", f"{bucket}/probe.txt"], ["rm", f"{bucket}/probe.txt"]):
        command = {"args": ["gcloud", "storage", *words], "capture_output": True, "text": True, "timeout": 120}
        with explained(f"{bucket} can't be reached", "install gcloud", (OSError, subprocess.TimeoutExpired)):
            answer = subprocess.run(**command, input="probe", check=False)
        if answer.returncode:
            remedy = "give the VM's service account the role Storage Object User, as notebooks/L4.md does"
            raise ValueError(f"{bucket} can't be written ({one_line(answer.stderr)}): {remedy}")
    return f"{bucket} can be written"


def check_token(configs):
    """Whether what is to be published can be."""
    hub.require_token(configs[0])
    return hub.describe_plan(configs[0]) or "not needed: hub_repo_id is empty"


def check_coco(configs):
    """Whether COCO's archives, or a Hub copy, are where they were."""
    config, said = configs[0], []
    if all("coco" not in (p.source, p.test_source) for p in configs):
        return "not needed"
    if config.coco_hub_id:
        said.append(f"{len(coco.list_parquet(config.coco_hub_id))} parquet files in {config.coco_hub_id}")
    for name, (path, size, _) in coco.COCO.items():
        wanted = not config.coco_hub_id or name.startswith("annotations")
        if wanted and downloads.bytes_of(resolve(config.downloads) / name) != size:
            check_offered_size(f"{config.coco_url}/{path}", size)
            said.append(f"{name} at {config.coco_url}")
    return ", ".join(said) or "archives are here"


def check_offered_size(url, size):
    """Refuse a file that a server doesn't offer in the size that is known: ValueError."""
    copy = "-p coco_hub_id detection-datasets/coco"
    with explained(f"{url} can't be reached", f"try again, or {copy}", requests.RequestException):
        answer = requests.head(url, allow_redirects=True, timeout=20)
        answer.raise_for_status()
    offered = int(answer.headers.get("Content-Length", 0))
    if offered != size:
        raise ValueError(f"{url} offers {offered} bytes, published are {size}: try {copy}")


def check_flowers(configs):
    """Fetch the flowers from Kaggle, or say in which folder they are."""
    folder = configs[0].flowers_folder
    if all(config.source != "flowers" for config in configs):
        return "not needed"
    if folder and not resolve(folder).is_dir():
        raise ValueError(f"flowers_folder {folder} is no folder: correct it, or leave it empty to ask Kaggle")
    return folder or f"in {flowers.download_flowers()}"


def check_models(configs):
    """Whether base models and other people's ControlNets can be reached at their revisions."""
    said = {p.base_model: check_base(p) for p in configs}
    asked = [(p.controlnet, p.controlnet_revision) for p in configs]
    for name, revision in asked:
        if name.count("/") == 1 and not resolve(name).is_dir():
            said[name] = f"{name} at revision {model_facts(name, revision).sha}"
    return "; ".join(said.values())


def check_base(config):
    """Whether a base model is there with all its files."""
    name = config.base_model
    if resolve(name).is_dir():
        return f"{name}: here"
    try:
        facts = model_facts(name, config.base_revision)
        missing = missing_files([file.rfilename for file in facts.siblings])
        if missing:
            raise ValueError(f"{name} at revision {facts.sha} lacks {', '.join(missing)}")
    except ValueError as error:
        mirrors = ", ".join(config.base_mirrors) or "another base"
        raise ValueError(f"{error}: try -p run {config.run} -p base_revision '' -p base_model with {mirrors}") from None
    return f"{name} at revision {facts.sha}"


def model_facts(name, revision):
    """What the Hub says of a model at a revision (None: the newest); a ValueError where it can't be reached."""
    try:
        return huggingface_hub.model_info(name, revision=revision, timeout=20)
    except Exception as error:  # of several clients
        raise ValueError(f"{name} can't be reached ({one_line(error)})") from None


def missing_files(files):
    """What a base in diffusers' layout lacks among its files."""
    missing = [name for name in BASE_FILES if name not in files]
    for part in BASE_PARTS:
        weights = [name for name in files if re.fullmatch(rf"{part}/\w+\.(safetensors|bin)", name)]  # no variant
        missing += [] if f"{part}/config.json" in files and weights else [f"{part}/"]
    return missing


def check_networks(configs):
    """Fetch the networks that write captions, find things and measure sets."""
    return "; ".join(dict.fromkeys(fetch_networks(config) for config in configs))


def fetch_networks(config):
    """Load every network that a profile will ask for, so that all come before the work starts; says which they are.

    What can't be had is a ValueError that names it.
    """
    require_packages(config)
    wanted = {}
    if config.captioner:
        wanted[config.captioner, config.captioner_revision] = lambda: load_captioner(config)
    if not resolve(config.segmenter).is_dir():
        named = config.segmenter, config.segmenter_revision
        wanted[named] = partial(load_segmenter, *named)
    if config.set_metrics:
        wanted[config.clip, config.clip_revision] = lambda: load_clip(config)
        wanted |= {("Inception", ""): lambda: set_distances(2), ("AlexNet", ""): make_lpips}
    said = []
    for (source, revision), load in wanted.items():
        with explained(f"{source} can't be had", f"try again, or leave it out with {WITHOUT}"):
            load()
        said.append(f"{source} at revision {revision}" if revision else source)
    return ", ".join(said) or "not needed"


def check_training(configs):
    """Train on every base for a minute: samples a second and peak memory; a batch that doesn't fit is a ValueError."""
    if not torch.cuda.is_available():
        return "not timed: there is no CUDA GPU"
    measured = []
    for config in {p.base_model: p for p in configs if not p.controlnet}.values():
        seconds, peak = time_training(config)
        batch, steps = config.train_batch_size, "after 30 s of warm-up"
        name = config.base_model
        measured.append(f"{name}: {1 / seconds:.1f} samples/s {steps}, peak memory {peak:.1f} GB at batch {batch}")
    return "; ".join(measured)


def time_training(config, warm_up: float = 30, timed: float = 20) -> tuple[float, float]:
    """Seconds a sample and peak GB of a profile's training steps on random latents, after `warm_up` seconds of them.

    These are the steps of `lib.training`: compiled, in the profile's precision, batch and optimizer. A batch that
    doesn't fit in memory and a loss that is not finite are ValueErrors.
    """
    if torch.cuda.is_available():  # what the base before this one took
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    base, side = load_base(config), config.resolution
    n, small = config.train_batch_size, side // base.vae_scale_factor
    latents = np.random.default_rng(0).standard_normal((n, base.vae.config.latent_channels, small, small), np.float32)
    words, rows = encode_prompts([""], base).float().cpu().numpy(), np.zeros(n, np.int32)
    cache = LatentCache(latents, np.zeros_like(latents), np.zeros((n, side, side), np.uint8), rows, words, {})
    base.vae = base.text_encoder = None
    controlnet = make_controlnet(base.unet, base.vae_scale_factor).to(base.device).train()
    loss_of_step, precision = loss_of_controlnet(base, cache, config, controlnet), config.mixed_precision
    accelerator = make_accelerator(config)
    wrapped, state = prepare_training(controlnet, config, accelerator)

    def seconds_a_step(least):
        started, steps, loss = time.perf_counter(), 0, 0.0
        while not steps or time.perf_counter() - started < least:
            loss = make_step(wrapped, loss_of_step, steps, accelerator, state, config, precision).item()
            steps += 1
        if not math.isfinite(loss):
            raise ValueError(f"the loss of a training step is {loss}: this machine computes wrongly")
        return (time.perf_counter() - started) / steps

    seconds_a_step(0)  # compiles
    seconds_a_step(warm_up)  # at 72 W an L4 slows down within a minute
    seconds = seconds_a_step(timed) / n
    peak = torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else 0.0
    return seconds, peak


CHECKS = {"packages": check_packages, "GPU": check_gpu, "disk": check_disk, "bucket": check_bucket}
CHECKS |= {"Hub token": check_token}
CHECKS |= {"COCO": check_coco, "flowers": check_flowers, "models": check_models, "networks": check_networks}
CHECKS |= {"training": check_training}


def main(arguments=None):
    """The command: one line a check, then the forecast; exits with 1 where one fails."""
    parser = argparse.ArgumentParser(prog="python -m lib.l4.check_machine", description=__doc__)
    forecast.add_options(parser)
    options, failed = parser.parse_args(arguments), False
    with exit_with_one_line():
        configs = configs_to_run(options.profile, **dict(options.overrides))
    for name, check in CHECKS.items():
        try:
            print(f"ok      {name}: {check(configs)}", flush=True)
        except ValueError as error:
            failed = True
            print(f"FAILED  {name}: {error}", flush=True)
    with exit_with_one_line():
        print(f"\n{forecast.report(options.profile, dict(options.overrides), options.price, options.save)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
