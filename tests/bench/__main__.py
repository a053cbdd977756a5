"""`make bench`: what training and colorizing cost on this machine; writes `reports/benchmark.csv`.

Medians of five, in CPU seconds of all threads, which depend less on other programs than the time on the wall does:

- `train_step`: a step of notebook 03's training on cached latents, 8 photos
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
from diffusers import DDPMScheduler
from PIL import Image

from lib import ROOT
from lib.cache import write_table
from lib.config import Config, get_config
from lib.models import load_base, load_controlnet
from lib.report import markdown_table
from lib.training import batch_rows, build_cache, diffusion_loss, draw_noise, step_generator

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


def time_training(config: Config, n_photos: int = 32) -> np.ndarray:
    """Returns the CPU seconds of some training steps."""
    photo = Image.fromarray(gray_photo(config.resolution, config.resolution))
    rows = [{"image": photo.convert("RGB"), "conditioning_image": photo}] * n_photos
    base = load_base(config)
    controlnet = load_controlnet(config.initial_controlnet, base.unet).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(controlnet.to(base.device).parameters(), fused=True)
    scheduler, stamps = DDPMScheduler.from_config(base.scheduler.config), []
    with tempfile.TemporaryDirectory() as folder:
        latents = build_cache(Dataset.from_list(rows), ["a gray photo"] * n_photos, base, Path(folder))
        for step in range(REPEATS + 1):  # the first warms up
            generator = step_generator(config.train_seed, step)
            batch = latents.batch(batch_rows(n_photos, config.train_batch_size, step, config.train_seed), generator)
            batch = (*batch, *draw_noise(batch[0], generator, config.timestep_bias))
            diffusion_loss(base.unet, scheduler, batch, controlnet).backward()
            torch.nn.utils.clip_grad_norm_(controlnet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            stamps.append(time.process_time())
    return np.diff(stamps)


def spread(seconds) -> dict:
    """Returns median, lowest and highest of some seconds."""
    return {"cpu_seconds": statistics.median(seconds), "lowest": min(seconds), "highest": max(seconds)}


def main() -> None:
    """Measures everything, and writes and prints the table."""
    rows = [{"name": "train_step", **spread(time_training(get_config("pocket", train_batch_size=8)))}]
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            Image.fromarray(gray_photo(*size)).save(path := Path(folder) / f"{name}.png")
            seconds, megabytes = zip(*(run_command(path) for _ in range(REPEATS)), strict=True)
            rows.append({"name": name, **spread(seconds), "peak_mb": round(statistics.median(megabytes))})
    table = pd.DataFrame(rows)
    write_table(table.round(3), ROOT / "reports/benchmark.csv")
    print(markdown_table(table.round(3)))


if __name__ == "__main__":
    main()
