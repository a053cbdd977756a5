"""`make check-gpu`: whether this machine can run the l4 profile, in seconds, before hours are spent."""

import argparse
import shutil
import subprocess
import sys

import huggingface_hub
import torch
from kagglehub.config import get_kaggle_credentials

from lib import hub
from lib.profiles import add_field_option, profiles_to_run, resolve
from lib.sources import COCO, PHOTO_BYTES

GPU_GB = 20  # what training at 512 px needs, with room
FLOWERS = 4_242  # photos
FILE_BYTES = 200_000  # of one 512 px row as JPEG files; the data set holds it twice
CACHE_BYTES = 2 * 2 * 4 * 64 * 64 + 512 * 512  # latents (mean and deviation, half precision) and gray picture
PROMPT_BYTES = 2 * 77 * 1024  # a caption's token vectors in half precision
PICTURE_BYTES = 450_000  # of a colorized 512 px PNG
LEVELS, WORDS = 8, 8  # prompts a test photo, and words a thing of it
CHECKPOINT_GB = 4.4  # a ControlNet of 364 M parameters and AdamW's two moments
BASE_GB, NETWORKS_GB = 5.2, 3.0  # a base model; BLIP, CLIP and the networks of the set metrics


def disk_needed(profiles):
    """Gigabytes that runs take on disk, by name; photos and downloads count once a source, latents once a source and base."""
    needed = dict.fromkeys(("downloads", "photos and data sets", "caches", "models", "runs"), 0.0)
    of_sources = {p.source: p for p in [*(p.of_test_photos or p for p in profiles), *profiles]}
    photos = {name: p.n_train + p.n_validation + 5000 if name == "coco" else FLOWERS for name, p in of_sources.items()}
    downloads = {"coco": sum(size for _, size, _ in COCO.values()) / 1e9, "flowers": 0.25}
    for source in of_sources:
        needed["downloads"] += downloads.get(source, 0)
        needed["photos and data sets"] += photos[source] * (PHOTO_BYTES + 2 * FILE_BYTES) / 1e9
    needed["caches"] += sum(photos[s] for s, _ in {(p.source, p.base_model) for p in profiles}) * CACHE_BYTES / 1e9
    captioned = {(p.source, p.base_model) for p in profiles if p.prompt_policy != "generic"}
    needed["caches"] += sum(photos[source] for source, _ in captioned) * PROMPT_BYTES / 1e9
    needed["models"] += BASE_GB * len({p.base_model for p in profiles}) + NETWORKS_GB
    pictures = sum((p.n_images or 5000) * (LEVELS * p.n_seeds + WORDS) * 2 for p in profiles)  # before and after
    needed["runs"] += pictures * PICTURE_BYTES / 1e9 + len(profiles) * 1.35 * CHECKPOINT_GB
    needed["runs"] += max(p.keep_checkpoints for p in profiles) * CHECKPOINT_GB  # while one trains
    return needed


def check_gpu(profiles):
    """Name, memory and driver of the GPU."""
    if not torch.cuda.is_available():
        raise ValueError("no CUDA GPU that torch can use: install the driver, and a torch with CUDA")
    facts = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    if facts.total_memory < GPU_GB * 1e9:
        raise ValueError(
            f"{facts.name} has {facts.total_memory / 1e9:.0f} GB, {GPU_GB} are needed: lower train_batch_size"
        )
    if not torch.cuda.is_bf16_supported():
        raise ValueError(f"{facts.name} has no bfloat16: pass -p mixed_precision no, and expect half the speed")
    return f"{facts.name}, {facts.total_memory / 1e9:.0f} GB, driver {driver}, CUDA {torch.version.cuda}"


def check_disk(profiles):
    """Free space where `build` is."""
    place = resolve(profiles[0].build)
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free / 1e9, disk_needed(profiles)
    there = sum(path.stat().st_size for path in resolve(profiles[0].build).rglob("*") if path.is_file()) / 1e9
    parts = ", ".join(f"{name} {size:.0f}" for name, size in needed.items())
    said = f"{free:.0f} GB free at {place}, {sum(needed.values()):.0f} needed ({parts}), of which {there:.0f} are there"
    if free + there < sum(needed.values()):
        raise ValueError(f"{said}: add disk, or pass -p build FOLDER")
    return said


def check_token(profiles):
    """Whether what is to be published can be."""
    hub.check(profiles[0])
    name = profiles[0].hub_repo_id
    return f"will publish under {name}-..." if name else "not needed: hub_repo_id is empty"


def check_flowers(profiles):
    """Where the flowers will come from."""
    folder = profiles[0].flowers_folder
    if all(profile.source != "flowers" for profile in profiles):
        return "not needed"
    if folder and not resolve(folder).is_dir():
        raise ValueError(f"flowers_folder {folder} is no folder: mend it, or leave it empty to ask Kaggle")
    return folder or f"from Kaggle, {'with' if get_kaggle_credentials() else 'without'} credentials of yours"


def check_bases(profiles):
    """Whether the base models can be reached."""
    return "; ".join({profile.base_model: check_base(profile) for profile in profiles}.values())


def check_base(profile):
    """Whether a base model can be reached."""
    if resolve(profile.base_model).is_dir():
        return f"{profile.base_model}: here"
    try:
        facts = huggingface_hub.model_info(profile.base_model, revision=profile.base_revision or None, timeout=20)
    except Exception as error:
        mirrors = ", ".join(profile.base_mirrors)
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{profile.base_model} can't be reached ({reason}): try -p run {profile.run} -p base_revision '' -p base_model with {mirrors}"
        ) from None
    return f"{profile.base_model} at revision {facts.sha}"


CHECKS = {"GPU": check_gpu, "disk": check_disk, "Hub token": check_token, "flowers": check_flowers,
          "base models": check_bases}  # fmt: skip


def main(arguments=None):
    """The command: one line a check; exits with 1 where one fails."""
    parser = argparse.ArgumentParser(prog="python -m lib.check", description=__doc__)
    parser.add_argument("--profile", default="l4")
    add_field_option(parser, "a profile field, e.g. -p runs all")
    options = parser.parse_args(arguments)
    failed = False
    try:
        profiles = profiles_to_run(options.profile, **dict(options.overrides))
    except ValueError as error:
        sys.exit(f"error: {error}")
    for name, check in CHECKS.items():
        try:
            print(f"ok      {name}: {check(profiles)}", flush=True)
        except ValueError as error:
            failed = True
            print(f"FAILED  {name}: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
