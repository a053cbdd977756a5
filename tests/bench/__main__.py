"""`make bench`: what training and colorizing cost on this machine; writes `reports/benchmark.csv`.

Medians of five, in CPU seconds of all threads, which depend less on other programs than the time on the wall does:

- `train_step`: a step of notebook 03's training on cached latents, 8 photos; `encode_batch`: what the cache saves a step
- `start_to_picture`: the command `colorize` on half a megapixel, in a new process, with the peak memory of that process
- `photo_1mp`, `photo_12mp`: the same for larger photos
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from PIL import Image

from lib import ROOT
from lib.cache import write_table
from lib.color import make_conditioning_image
from lib.config import Config, get_config
from lib.dataset import crop_square, open_photo, read_manifest
from lib.models import encode_prompts, load_base, load_controlnet
from lib.report import markdown_table
from lib.training import build_cache, loss_of_controlnet, make_optimizer

SIZES = {"start_to_picture": (600, 800), "photo_1mp": (1000, 1000), "photo_12mp": (3000, 4000)}
REPEATS = 5
COMMAND = "from lib.photo.command import main; main()"


def gray_photo(height: int, width: int) -> np.ndarray:
    """Returns a synthetic gray photo (H, W), uint8: shapes and grain."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    shapes = 128 + 100 * np.sin(x * 9 / width) * np.cos(y * 7 / height)
    return (shapes + np.random.default_rng(0).normal(0, 5, shapes.shape)).clip(0, 255).astype(np.uint8)


def run_command(path: Path) -> tuple[float, float]:
    """Returns CPU seconds and peak megabytes of the command that colorizes a photo, in a new process."""
    process = subprocess.Popen([sys.executable, "-c", COMMAND, str(path), "--overwrite"], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the command failed with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def bench_photos() -> list[dict]:
    """Returns a row for each of `SIZES`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            path = Path(folder) / f"{name}.png"
            Image.fromarray(gray_photo(*size)).save(path)
            seconds, megabytes = zip(*(run_command(path) for _ in range(REPEATS)), strict=True)
            rows.append({"name": name, **spread(seconds), "peak_mb": round(statistics.median(megabytes))})
    return rows


def bench_training(config: Config, n_photos: int = 32) -> list[dict]:
    """Returns the rows of a training step and of encoding the photos of a step."""
    records = read_manifest("data_cards/pocket_photos").query("split == 'train'")[:n_photos].to_dict("records")
    prompts = [record["detailed_caption"] for record in records]
    photos = [crop_square(open_photo(record["path"]), config.resolution) for record in records]
    rows = [
        {"prompt": prompt, "image": photo, "conditioning_image": make_conditioning_image(photo)}
        for prompt, photo in zip(prompts, photos, strict=True)
    ]
    base, n = load_base(config), config.train_batch_size
    controlnet = load_controlnet(config.initial_controlnet, base.unet).train().requires_grad_(True)

    @torch.no_grad()
    def encode(step):
        pixels = base.image_processor.preprocess(photos[:n]).to(base.vae.device, base.vae.dtype)
        return base.vae.encode(pixels).latent_dist.sample(), encode_prompts(prompts[:n], base)

    with tempfile.TemporaryDirectory() as folder:
        cache = build_cache(Dataset.from_list(rows), prompts, base, Path(folder))
        loss_of_step = loss_of_controlnet(base, cache, config, controlnet.to(base.device))
        optimizer = make_optimizer(controlnet, config)

        def train(step):
            loss_of_step(controlnet, step, slice(None)).backward()
            torch.nn.utils.clip_grad_norm_(controlnet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return [{"name": "train_step", **time_of(train)}, {"name": "encode_batch", **time_of(encode)}]


def time_of(action) -> dict:
    """Returns the spread of the CPU seconds of `action(step)`, after one step that warms up."""
    stamps = []
    for step in range(REPEATS + 1):
        action(step)
        stamps.append(time.process_time())
    return spread(np.diff(stamps))


def spread(seconds) -> dict:
    """Returns median, lowest and highest of some seconds."""
    return {"cpu_seconds": statistics.median(seconds), "lowest": min(seconds), "highest": max(seconds)}


def main() -> None:
    """Measures everything, and writes and prints the table."""
    table = pd.DataFrame([*bench_training(get_config("pocket", train_batch_size=8)), *bench_photos()])
    write_table(table.round(3), ROOT / "reports/benchmark.csv")
    print(markdown_table(table.round(3)))


if __name__ == "__main__":
    main()
