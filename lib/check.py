"""`make check-gpu`: whether this machine can run the l4 profile, in seconds, before hours are spent."""

import argparse
import shutil
import subprocess
import sys

import huggingface_hub
import torch

from lib import hub
from lib.profiles import get_profile, resolve
from lib.sources import COCO, PHOTO_BYTES

GPU_GB = 20  # what training at 512 px needs, with room
FILE_BYTES = 200_000  # of one 512 px row as JPEG files; the data set holds it twice
CACHE_BYTES = 2 * 2 * 4 * 64 * 64 + 512 * 512  # latents (mean and deviation, half precision) and gray picture
MODELS_GB = 25  # the base, checkpoints and what they are renamed from


def disk_needed(profile):
    """Bytes that a run of a profile takes on disk: downloads, photos, data set, cache, models."""
    photos = profile.n_train + profile.n_validation + 5000
    downloads = sum(size for _, size, _ in COCO.values()) if profile.source == "coco" else 0
    return downloads + photos * (PHOTO_BYTES + 2 * FILE_BYTES + CACHE_BYTES) + MODELS_GB * 1e9


def check_gpu(profile):
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


def check_disk(profile):
    """Free space where `build` is."""
    place = resolve(profile.build)
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, disk_needed(profile)
    if free < needed:
        raise ValueError(
            f"{free / 1e9:.0f} GB free at {place}, {needed / 1e9:.0f} are needed: add disk, or pass -p build FOLDER"
        )
    return f"{free / 1e9:.0f} GB free, {needed / 1e9:.0f} needed"


def check_token(profile):
    """Whether what is to be published can be."""
    hub.check(profile)
    return f"will publish to {profile.hub_repo_id}" if profile.hub_repo_id else "not needed: hub_repo_id is empty"


def check_base(profile):
    """Whether the base model can be reached."""
    if resolve(profile.base_model).is_dir():
        return f"{profile.base_model}: here"
    try:
        facts = huggingface_hub.model_info(profile.base_model, revision=profile.base_revision or None, timeout=20)
    except Exception as error:
        mirrors = ", ".join(profile.base_mirrors)
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f'{profile.base_model} can\'t be reached ({reason}): try -p base_revision "" -p base_model with {mirrors}'
        ) from None
    return f"{profile.base_model} at revision {facts.sha}"


CHECKS = {"GPU": check_gpu, "disk": check_disk, "Hub token": check_token, "base model": check_base}


def main(arguments=None):
    """The command: one line a check; exits with 1 where one fails."""
    parser = argparse.ArgumentParser(prog="python -m lib.check", description=__doc__)
    parser.add_argument("--profile", default="l4")
    parser.add_argument("-p", dest="overrides", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"))
    options = parser.parse_args(arguments)
    failed = False
    try:
        profile = get_profile(options.profile, **dict(options.overrides))
    except ValueError as error:
        sys.exit(f"error: {error}")
    for name, check in CHECKS.items():
        try:
            print(f"ok      {name}: {check(profile)}", flush=True)
        except ValueError as error:
            failed = True
            print(f"FAILED  {name}: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
