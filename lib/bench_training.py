"""The training rows of `make bench`: our step on cached latents against the usual one, which encodes every time."""

import copy
import multiprocessing
import re
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from datasets import Dataset
from diffusers import AutoencoderKL, DDPMScheduler
from torch.nn import functional as F
from tqdm import tqdm

from lib.batches import build_cache, step_generator
from lib.color import make_conditioning_image
from lib.dataset import open_photo, read_manifest
from lib.models import encode_prompts, make_controlnet
from lib.pocket import make_base, make_unet
from lib.profiles import get_profile
from lib.training import SparingEmbedding, diffusion_loss, make_optimizer

PHOTOS, BATCH, PAIRS, EPOCHS = 32, 8, 5, 3


def prepare():
    """Profile, base with an autoencoder of 15 M parameters, ControlNet, and photos: as both ways begin."""
    torch.manual_seed(0)
    profile = get_profile("pocket", train_batch_size=BATCH, timestep_bias=1.0)
    vae = AutoencoderKL(
        block_out_channels=(96, 160, 256),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        latent_channels=4,
    )
    base = make_base(vae, make_unet(profile.resolution), profile)
    for part in (base.vae, base.unet, base.text_encoder):
        part.eval().requires_grad_(False)
    records = read_manifest("data_cards/pocket_photos").query("split == 'train'")[:PHOTOS].to_dict("records")
    photos = [open_photo(record["path"], profile.resolution) for record in records]
    rows = {"prompt": [record["detailed_caption"] for record in records], "image": photos,
            "conditioning_image": [make_conditioning_image(photo) for photo in photos]}  # fmt: skip
    return profile, base, make_controlnet(base.unet, base.vae_scale_factor).train(), Dataset.from_dict(rows)


def usual_batch(base, rows, generator):
    """Latents, embeddings and conditioning images of data-set rows, decoded and encoded anew."""
    with torch.no_grad():
        pixels = base.image_processor.preprocess(rows["image"])
        latents = base.vae.encode(pixels).latent_dist.sample(generator) * base.vae.config.scaling_factor
        embeddings = encode_prompts(rows["prompt"], base)
    gray = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in rows["conditioning_image"]]) / 255
    return latents, embeddings, torch.from_numpy(gray).permute(0, 3, 1, 2)


def usual_loss(base, controlnet, scheduler, batch, generator):
    """The loss as written out plainly: uniform timesteps, mean squared error of the velocity."""
    latents, embeddings, conditioning = batch
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = 999 - (1000 * torch.rand(len(latents), generator=generator)).long()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    down, mid = controlnet(noisy, timesteps, embeddings, conditioning, return_dict=False)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    velocity = base.unet(noisy, timesteps, embeddings, **residuals).sample
    return F.mse_loss(velocity, scheduler.get_velocity(latents, noise, timesteps))


def make_steps(folder):
    """{"ours", "usual"}: functions that make one training step, by its number; and the seconds that our cache took."""
    profile, base, controlnet, dataset = prepare()
    started = time.process_time()
    cache = build_cache(dataset, dataset["prompt"], base, folder)
    seconds = time.process_time() - started
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    plain = copy.deepcopy(controlnet)
    controlnet.controlnet_cond_embedding.__class__ = SparingEmbedding

    def step_of(loss_of_rows, optimizer):
        def step(number):
            rows = np.arange(BATCH) + BATCH * (number % (PHOTOS // BATCH))
            loss = loss_of_rows(rows, step_generator(0, number))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return float(loss.detach())

        return step

    def ours(rows, generator):
        return diffusion_loss(base.unet, scheduler, cache.batch(rows, generator), generator, profile, controlnet)

    def usual(rows, generator):
        return usual_loss(base, plain, scheduler, usual_batch(base, dataset[rows], generator), generator)

    batch = cache.batch(np.arange(BATCH), step_generator(0, 0))
    with torch.no_grad():
        difference = abs(
            float(diffusion_loss(base.unet, scheduler, batch, step_generator(1, 0), profile, controlnet))
            - float(usual_loss(base, plain, scheduler, batch, step_generator(1, 0)))
        )
    steps = {"ours": step_of(ours, make_optimizer(controlnet, profile)),
             "usual": step_of(usual, torch.optim.AdamW(plain.parameters(), lr=1e-5))}  # fmt: skip
    return steps, base, seconds, difference


def peak_bytes():
    """The peak memory of this process; Linux's own count of it, since ru_maxrss there takes in the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def peak_megabytes(way, folder):
    """The peak memory of a fresh process that makes three steps, above what it held after the imports.

    Ours finds the cache made, and lets the autoencoder and the text encoder go, as `lib.training.train_run` does.
    """
    imported = psutil.Process().memory_info().rss
    steps, base, _, _ = make_steps(folder)
    step = steps[way]
    del steps  # and with it the network and optimizer of the other way
    if way == "ours":
        base.vae = base.text_encoder = None
    for number in range(3):
        step(number)
    return (peak_bytes() - imported) / 1e6


def bench_training_memory(folder):
    """Peak memory of three training steps above the imports: ours on the cache against the usual way, medians."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        pairs = [
            [pool.apply(peak_megabytes, [way, folder]) for way in ("ours", "usual")]
            for _ in tqdm(range(PAIRS), desc="train_memory")
        ]
    ours, usual = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"name": "train_memory", "ours": ours, "reference": usual, "ratio": ours / usual, "unit": "MB"}


def bench_training():
    """Rows of the benchmark: a step, three epochs with the cache's cost, peak memory, and the difference of the losses."""
    with tempfile.TemporaryDirectory() as folder:
        steps, _, cache_seconds, difference = make_steps(Path(folder))
        times = {way: [] for way in steps}
        for number in tqdm(range(-1, PAIRS), desc="train_step"):  # the first warms up
            for way, step in steps.items():
                started = time.process_time()
                step(number + 1)
                times[way].append(time.process_time() - started)
        memory = bench_training_memory(Path(folder))
    ours, usual = (statistics.median(seconds[1:]) / BATCH for seconds in times.values())
    rows = {
        "train_step": (ours, usual, "CPU s a sample"),
        "train_three_epochs": (EPOCHS * ours + cache_seconds / PHOTOS, EPOCHS * usual, "CPU s a photo"),
    }
    return [
        *(
            {"name": name, "ours": a, "reference": b, "ratio": a / b, "unit": unit}
            for name, (a, b, unit) in rows.items()
        ),
        memory,
        {"name": "loss_equal", "ours": difference, "reference": 0.0, "ratio": float("nan"), "unit": "difference"},
    ]
