"""Training on cached latents: the cache, the diffusion loss, and one resumable loop for every model of this repo.

Every random draw of a step comes from (seed, step), so that a run resumed from a checkpoint draws what an
uninterrupted one would have drawn.
"""

import argparse
import copy
import csv
import hashlib
import importlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, PartialState
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel, compute_snr
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lib.colorize import merge, sample
from lib.dataset import load_dataset_dict, pick_across_categories
from lib.figures import save_sheet
from lib.models import add_controlnet, encode_prompts, load_base, load_controlnet, make_controlnet, pick_device
from lib.profiles import get_profile
from lib.report import write_text

LOSS_COLUMNS = ("step", "loss", "lr", "seconds")
CACHE_FILES = ("latents_mean", "latents_std", "conditioning", "prompt_index", "embeddings")


@dataclass
class LatentCache:
    """Memory-mapped training data: one row a training picture, one row of `embeddings` a different prompt.

    `latents_mean`, `latents_std`: (N, C, h, w) float16, scaled; `conditioning`: (N, H, W) uint8 gray;
    `prompt_index`: (N,) into `embeddings`: (prompts, tokens, width) float16, whose row 0 is the empty prompt.
    """

    latents_mean: np.ndarray
    latents_std: np.ndarray
    conditioning: np.ndarray
    prompt_index: np.ndarray
    embeddings: np.ndarray
    key: dict  # what it was made from

    def __len__(self):
        return len(self.latents_mean)

    def batch(self, rows, generator, prompt_dropout=0.0):
        """Latents sampled anew (B, C, h, w), embeddings (B, T, D), conditioning images (B, 3, H, W) in [0, 1]."""
        mean, std = (torch.from_numpy(part[rows]).float() for part in (self.latents_mean, self.latents_std))
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        prompts = torch.from_numpy(self.prompt_index[rows].astype(np.int64))
        prompts[torch.rand(len(rows), generator=generator) < prompt_dropout] = 0
        embeddings = torch.from_numpy(self.embeddings[prompts.numpy()]).float()
        gray = torch.from_numpy(self.conditioning[rows]).float().div(255)
        return latents, embeddings, gray[:, None].expand(-1, 3, -1, -1)


def build_cache(dataset, pipeline, folder, batch_size=16):
    """Encode a data set (columns `prompt`, `image`, `conditioning_image`) once with a pipeline's frozen parts.

    Written whole or not at all to `folder`, and reused by every run with the same data set and autoencoder.
    """
    key = {
        "dataset": dataset._fingerprint,
        "vae": fingerprint(pipeline.vae),
        "scaling_factor": pipeline.vae.config.scaling_factor,
        "text_encoder": fingerprint(pipeline.text_encoder),
        "max_tokens": pipeline.tokenizer.model_max_length,
    }
    stamp = folder / "key.json"
    if not (stamp.exists() and json.loads(stamp.read_text()) == key):
        partial = folder.with_name(folder.name + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_latents(dataset, pipeline, partial, batch_size)
        _write_prompts(dataset["prompt"], pipeline, partial)
        (partial / stamp.name).write_text(json.dumps(key))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    return LatentCache(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in CACHE_FILES), key)


def fingerprint(model):
    """A short text that changes with any of a model's weights."""
    digest = hashlib.blake2b(digest_size=8)
    for value in model.state_dict().values():
        digest.update(value.float().cpu().numpy())
    return digest.hexdigest()


@torch.no_grad()
def _write_latents(dataset, pipeline, folder, batch_size):
    vae, maps = pipeline.vae, {}
    for start in tqdm(range(0, len(dataset), batch_size), desc="latents"):
        part = dataset[start : start + batch_size]
        pixels = pipeline.image_processor.preprocess(part["image"]).to(vae.device, vae.dtype)
        posterior = vae.encode(pixels).latent_dist
        arrays = {
            "latents_mean": (posterior.mean * vae.config.scaling_factor).half(),
            "latents_std": (posterior.std * vae.config.scaling_factor).half(),
            "conditioning": torch.from_numpy(
                np.stack([np.asarray(i.convert("L")) for i in part["conditioning_image"]])
            ),
        }
        for name, array in arrays.items():
            if name not in maps:
                shape, dtype = (len(dataset), *array.shape[1:]), array.cpu().numpy().dtype
                maps[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
            maps[name][start : start + len(array)] = array.cpu().numpy()


def _write_prompts(prompts, pipeline, folder, batch_size=64):
    unique = ["", *sorted(set(prompts) - {""})]
    position = {prompt: index for index, prompt in enumerate(unique)}
    np.save(folder / "prompt_index.npy", np.array([position[prompt] for prompt in prompts], np.int32))
    starts = tqdm(range(0, len(unique), batch_size), desc="prompts")
    parts = [encode_prompts(unique[start : start + batch_size], pipeline).half().cpu() for start in starts]
    np.save(folder / "embeddings.npy", torch.cat(parts).numpy())


def batch_rows(n, batch_size, step, seed):
    """The rows of one step: every epoch is a new permutation of all rows, fixed by the seed."""
    epoch_rows = [
        np.random.default_rng((seed, epoch)).permutation(n)
        for epoch in range(step * batch_size // n, ((step + 1) * batch_size - 1) // n + 1)
    ]
    offset = step * batch_size % n
    return np.sort(np.concatenate(epoch_rows)[offset : offset + batch_size])


def step_generator(seed, step):
    """A CPU generator that depends on the seed and the step alone."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def diffusion_loss(unet, noise_scheduler, batch, generator, profile, controlnet=None, part=slice(None)):
    """Mean squared error of the predicted noise or velocity, with min-SNR weights (Hang et al. 2023) if asked.

    `batch` is what `LatentCache.batch` returns; without a ControlNet the conditioning images are not looked at. Draws
    are made for the whole batch, whatever `part` of it is trained on, so that they don't depend on how it is divided.
    Timesteps are drawn as T (1 - u^b), b = `profile.timestep_bias`: 1 is uniform, more trains more at high noise.
    """
    device = next(unet.parameters()).device
    steps = noise_scheduler.config.num_train_timesteps
    noise = torch.randn(batch[0].shape, generator=generator)
    below_last = torch.rand(len(noise), generator=generator) ** profile.timestep_bias  # in [0, 1)
    timesteps = steps - 1 - (steps * below_last).long()
    latents, embeddings, conditioning, noise, timesteps = (
        tensor[part].to(device, non_blocking=True) for tensor in (*batch, noise, timesteps)
    )
    noisy = noise_scheduler.add_noise(latents, noise, timesteps)
    residuals = {}
    if controlnet is not None:
        down, mid = controlnet(noisy, timesteps, embeddings, conditioning, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    prediction = unet(noisy, timesteps, embeddings, **residuals, return_dict=False)[0].float()
    velocity = noise_scheduler.config.prediction_type == "v_prediction"
    target = noise_scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    loss = (prediction - target).square().mean(dim=(1, 2, 3))
    if profile.snr_gamma:
        snr = compute_snr(noise_scheduler, timesteps)
        loss = loss * snr.clamp(max=profile.snr_gamma) / (snr + 1 if velocity else snr)
    return loss.mean()


def run_settings(profile, **data):
    """What must not change between a checkpoint and its continuation, as text by name."""
    names = ("base_model", "initial_controlnet", "train_batch_size", "learning_rate", "lr_scheduler", "lr_warmup_steps",
             "prompt_dropout", "timestep_bias", "snr_gamma", "ema_decay", "mixed_precision", "train_seed",
             *(["train_steps"] if not profile.lr_scheduler.startswith("constant") else []))  # fmt: skip
    return {name: str(value) for name, value in [*((name, getattr(profile, name)) for name in names), *data.items()]}


def train_run(profile):
    """Notebook 03's training of a profile: base and data set from their places, the ControlNet to `profile.run_dir`.

    Under accelerate's launchers every process calls this; they share the batch and one of them writes.
    """
    base = load_base(profile)
    triples = load_dataset_dict(profile)
    with PartialState().main_process_first():
        cache = build_cache(triples["train"], base, profile.build_dir / "cache")
    train_controlnet(base, cache, profile, profile.run_dir, pick_across_categories(triples["validation"], 8))


def train_controlnet(base, cache, profile, folder, validation):
    """Train a ControlNet for a frozen base on a latent cache; saves it to `folder/controlnet` and returns it.

    It starts from `profile.initial_controlnet`, or from the UNet where that is empty. At every checkpoint the rows of
    `validation` are colorized with fixed seeds into `folder/samples`.
    """
    initial = profile.initial_controlnet
    torch.manual_seed(profile.train_seed)  # for the new layers of a ControlNet that starts from the UNet
    controlnet = load_controlnet(initial, base.unet) if initial else make_controlnet(base.unet, base.vae)
    initial_weights = fingerprint(controlnet)
    noise_scheduler = DDPMScheduler.from_config(base.scheduler.config)
    for part in (base.unet, controlnet):
        if profile.gradient_checkpointing:
            part.enable_gradient_checkpointing()
        if profile.torch_compile:
            part.compile()

    def loss_of_step(model, step, part):
        generator = step_generator(profile.train_seed, step)
        rows = batch_rows(len(cache), profile.train_batch_size, step, profile.train_seed)
        batch = cache.batch(rows, generator, profile.prompt_dropout)
        return diffusion_loss(base.unet, noise_scheduler, batch, generator, profile, model, part)

    def on_checkpoint(model, step):
        pipeline = add_controlnet(base, copy.deepcopy(model))  # a copy, since the pipeline takes the base's dtype
        save_controlnet_samples(pipeline, validation, profile, folder / f"samples/{step:07d}.png")

    settings = run_settings(profile, **cache.key, base=fingerprint(base.unet), initial=initial_weights)
    controlnet = train(controlnet.to(base.device), loss_of_step, profile, folder, settings, on_checkpoint)
    if PartialState().is_main_process:
        save_model(controlnet, folder / "controlnet")
    return controlnet


def save_controlnet_samples(pipeline, rows, profile, path):
    """Colorize data-set rows with their own prompts and seed 0; a sheet of gray, output, merged and true pictures."""
    gray = list(rows["conditioning_image"])
    outputs = sample(pipeline, gray, rows["prompt"], [0] * len(gray), profile)
    sheet = {"gray": gray, "output": outputs, "merged": merge(gray, outputs), "photo": list(rows["image"])}
    save_sheet(list(sheet.values()), path, row_titles=list(sheet))


def save_model(model, folder):
    """Save a diffusers model as safetensors under a temporary name, then rename; replaces what was there.

    Where it was once loaded from is not kept: that is a path of this machine.
    """
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    model.register_to_config(_name_or_path="")
    model.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def train(model, loss_of_step, profile, folder, settings, on_checkpoint=None):
    """Minimise `loss_of_step(model, step, part)` with AdamW for `profile.train_steps` steps, resuming from `folder`.

    `part` is the slice of the step's batch that falls to this process (accelerate's) and this share of
    `profile.gradient_accumulation_steps`; the loss is its mean. However it is divided, the gradient is the batch's.

    Writes `folder/losses.csv`, the same and the pictures of `folder/samples` for TensorBoard, and, every
    `profile.checkpoint_every` steps, `folder/checkpoint.pt` (whole or not at all), then calls `on_checkpoint(model, step)` with the averaged weights in place where EMA is on. `settings` are kept in
    the checkpoint, and one with others is refused. Returns the model with its final weights (the averaged ones where
    EMA is on). A loss that is not finite stops with a ValueError before it reaches a checkpoint.
    """
    check_precision(profile.mixed_precision)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=profile.mixed_precision, cpu=pick_device().type == "cpu")
    model.train().requires_grad_(True)
    optimizer = make_optimizer(model, profile)
    schedule = get_scheduler(
        profile.lr_scheduler,
        optimizer,
        num_warmup_steps=profile.lr_warmup_steps,
        num_training_steps=profile.train_steps,
    )
    bare, shares = model, profile.gradient_accumulation_steps
    parts = shares * accelerator.num_processes
    if profile.train_batch_size % parts:
        raise ValueError(f"train_batch_size {profile.train_batch_size} can't be divided by {accelerator.num_processes} "
                         f"processes times gradient_accumulation_steps {shares}: change one")  # fmt: skip
    model, optimizer = accelerator.prepare(model, optimizer)
    ema = EMAModel(bare.parameters(), decay=profile.ema_decay) if profile.ema_decay else None
    state = {"model": bare, "optimizer": optimizer, "schedule": schedule, "ema": ema}
    first = load_checkpoint(folder, state, settings)
    if first > profile.train_steps:
        raise ValueError(
            f"{folder} is at step {first}, past train_steps {profile.train_steps}: raise it or change `run`"
        )
    losses = read_losses(folder, first)
    board = SummaryWriter(folder / "tensorboard", purge_step=first + 1) if accelerator.is_main_process else None
    started = time.time() - (float(losses[-1]["seconds"]) if losses else 0.0)
    for step in (bar := tqdm(range(first, profile.train_steps), initial=first, total=profile.train_steps)):
        loss = 0.0
        for share in range(shares):
            part = slice(accelerator.process_index * shares + share, None, parts)
            with accelerator.autocast():
                loss_of_part = loss_of_step(model, step, part) / shares
            accelerator.backward(loss_of_part)
            loss += loss_of_part.detach()
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if ema:
            ema.step(bare.parameters())
        done = step + 1
        last = done == profile.train_steps
        checkpoint_due = last or done % profile.checkpoint_every == 0
        if checkpoint_due or done % profile.log_every == 0:
            value, seconds = float(accelerator.reduce(loss, "mean")), time.time() - started
            if not np.isfinite(value):
                raise ValueError(f"loss is {value} at step {done}: lower learning_rate; last good checkpoint: {folder}")
            losses.append({"step": done, "loss": value, "lr": schedule.get_last_lr()[0], "seconds": round(seconds, 1)})
            bar.set_postfix(loss=f"{value:.4f}")
            if board:
                board.add_scalar("loss", value, done)
                board.add_scalar("learning rate", losses[-1]["lr"], done)
        if checkpoint_due and board:
            write_text(pd.DataFrame(losses, columns=LOSS_COLUMNS).to_csv(index=False), folder / "losses.csv")
            save_checkpoint(folder, done, state, settings)
            if on_checkpoint:
                with_averaged_weights(bare, ema, lambda done=done: on_checkpoint(bare, done))
                sheet = folder / f"samples/{done:07d}.png"
                if sheet.exists():
                    board.add_image("samples", np.asarray(Image.open(sheet)), done, dataformats="HWC")
        if checkpoint_due:
            accelerator.wait_for_everyone()
    if board:
        board.close()
    if ema:
        ema.copy_to(bare.parameters())
    return accelerator.unwrap_model(model).eval().requires_grad_(False)


def make_optimizer(model, profile):
    """AdamW with weight decay 0.01: torch's fused one, or that of bitsandbytes with 8-bit states (a GPU's)."""
    settings = {"params": model.parameters(), "lr": profile.learning_rate, "weight_decay": 1e-2}
    if profile.optimizer == "adamw":
        return torch.optim.AdamW(**settings, fused=True)
    try:
        return importlib.import_module("bitsandbytes").optim.AdamW8bit(**settings)
    except ImportError:
        raise ValueError("optimizer adamw8bit needs bitsandbytes: pip install bitsandbytes, or set adamw") from None


def check_precision(mixed_precision):
    """Refuse bf16 on a CPU that only emulates it: ValueError with the reason."""
    native = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    if mixed_precision == "bf16" and not native:
        raise ValueError("mixed_precision bf16: this CPU emulates it, 5 to 20 times slower; set mixed_precision to no")


def with_averaged_weights(model, ema, action):
    """Run an action with the averaged weights in the model, then put the current ones back."""
    if ema:
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
    model.eval()
    with torch.no_grad():
        action()
    model.train()
    if ema:
        ema.restore(model.parameters())


def save_checkpoint(folder, step, state, settings):
    """Write step, settings and state dicts to `folder/checkpoint.pt` under a temporary name, then rename."""
    parts = {name: part.state_dict() for name, part in state.items() if part is not None}
    partial = folder / "checkpoint.pt.part"
    torch.save({"step": step, "settings": settings, **parts}, partial)
    os.replace(partial, folder / "checkpoint.pt")


def load_checkpoint(folder, state, settings):
    """Load `folder/checkpoint.pt` into the state and return its step; 0 without one.

    A damaged checkpoint, or one of another model or run, is a ValueError that says what to remove.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        old = saved["settings"]
        changed = [f"{key} was {old.get(key)}, is {value}" for key, value in settings.items() if old.get(key) != value]
        if changed:
            raise ValueError(changed[0])
        for name, part in state.items():
            if part is not None:
                part.load_state_dict(saved[name])
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} does not fit this run ({reason}): remove it, or name another run with `run`"
        ) from None
    return saved["step"]


def read_losses(folder, last_step):
    """The rows of `folder/losses.csv` up to a step."""
    path = folder / "losses.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) <= last_step]


def main():
    """Notebook 03's training without the notebook: `accelerate launch -m lib.training`, on any number of processes."""
    parser = argparse.ArgumentParser(prog="python -m lib.training", description="Train the ControlNet of a profile.")
    parser.add_argument("--profile", default="pocket", help="a profile's name (default: pocket)")
    parser.add_argument("-p", dest="overrides", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"),
                        help="a profile field, e.g. -p train_steps 500")  # fmt: skip
    options = parser.parse_args()
    try:
        train_run(get_profile(options.profile, **dict(options.overrides)))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
