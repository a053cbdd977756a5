"""Training on cached latents: the cache, the diffusion loss, and one resumable loop for every model of this repository.

Every random draw of a step comes from (seed, step), so that a run resumed from a checkpoint draws what an
uninterrupted one would have drawn.
"""

import argparse
import copy
import gc
import math
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    broadcast_object_list,
    gather_object,
)
from datasets import Dataset
from diffusers import ControlNetModel, DDPMScheduler, DiffusionPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from skimage.metrics import structural_similarity

from lib import models
from lib.annotator import ColorHint, conditioning_image
from lib.cache import (
    cached,
    exit_with_one_line,
    explained,
    hash_of,
    new_file,
    new_folder,
    one_line,
    progress,
    write_table,
    write_text,
)
from lib.color import luminance, restore_lightness, to_float
from lib.config import Config, add_field_option, get_config, save_config
from lib.dataset import draw_prompts, load_dataset_dict, pick_across_categories, training_rows
from lib.figures import save_sheet
from lib.sampling import sample

VERSION = 1  # of the files in a latent cache
LOSS_COLUMNS = ("step", "loss", "lr", "seconds")
TIMESTEPS, VALIDATION_TIMESTEPS = 1000, (100, 300, 500, 700, 900)  # of every base's scheduler
SETTINGS = (  # that a resumed run must share
    "base_model", "initial_controlnet", "train_batch_size", "learning_rate", "lr_scheduler", "lr_warmup_steps",
    "prompt_dropout", "timestep_bias", "ema_decay", "mixed_precision", "train_seed",
)  # fmt: skip
OTHERS = (  # that shape a run's colours, too
    "resolution", "dataset_seed", "n_train", "lr_scheduler", "lr_warmup_steps", "timestep_bias", "ema_decay",
    "mixed_precision", "max_tokens", "num_inference_steps", "guidance_scale", "guidance_share",
    "controlnet_conditioning_scale",
)  # fmt: skip


@dataclass
class LatentCache:
    """Memory-mapped training data: a row for each training picture, a row of `embeddings` for each different prompt.

    `latents_mean`, `latents_std`: (N, C, h, w) float16, scaled; `gray`: (N, H, W) uint8; `maps`: those of the
    annotator, (N, K, h, w) float16, or None; `hint`: the annotator's network that reads prompts, or None;
    `prompt_index`: (N,) into `embeddings`: (prompts, tokens, width) float16, whose row 0 is the empty prompt; `key`:
    what they were made from.
    """

    latents_mean: np.ndarray
    latents_std: np.ndarray
    gray: np.ndarray
    prompt_index: np.ndarray
    embeddings: np.ndarray
    key: dict
    maps: np.ndarray | None = None
    hint: ColorHint | None = None

    def __len__(self):
        return len(self.latents_mean)

    def batch(self, rows, generator: torch.Generator, prompt_dropout: float = 0.0) -> tuple[torch.Tensor, ...]:
        """Newly sampled latents (B, C, h, w), embeddings (B, T, D), conditioning images (B, channels, H, W)."""
        mean, std = (torch.from_numpy(array[rows]).float() for array in (self.latents_mean, self.latents_std))
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        prompts = torch.from_numpy(self.prompt_index[rows].astype(np.int64))
        prompts[torch.rand(len(rows), generator=generator) < prompt_dropout] = 0
        embeddings = torch.from_numpy(self.embeddings[prompts.numpy()]).float()
        gray = torch.from_numpy(self.gray[rows]).float().div(255)[:, None]
        maps = None if self.maps is None else torch.from_numpy(self.maps[rows]).float()
        with torch.no_grad():
            return latents, embeddings, conditioning_image(gray, self.hint, maps, embeddings)


def build_cache(dataset: Dataset, prompts: list[str], pipeline: DiffusionPipeline, folder: Path) -> LatentCache:
    """Encodes the pictures of a data set (columns `image`, `conditioning_image`) and a prompt for each, once.

    Latents and prompts have folders of their own, so that runs with the same photos and autoencoder share the latents.
    """
    prompts, arrays, keys = list(prompts), {}, {}
    keys["latents"] = {
        "version": VERSION,
        "dataset": dataset._fingerprint,
        "vae": models.hash_of_weights(pipeline.vae),
        "scaling_factor": pipeline.vae.config.scaling_factor,
        "annotator": pipeline.annotator.key,
    }
    keys["prompts"] = {
        "version": VERSION,
        "prompts": hash_of(prompts),
        "text_encoder": models.hash_of_weights(pipeline.text_encoder),
        "max_tokens": pipeline.tokenizer.model_max_length,
    }
    writers = {"latents": (_write_latents, dataset), "prompts": (_write_prompts, prompts)}
    for name, (write, values) in writers.items():
        place = folder / f"{name}-{hash_of([keys[name]])}"
        cached(place, keys[name], lambda new, write=write, values=values: write(values, pipeline, new))
        arrays |= {path.stem: np.load(path, mmap_mode="r") for path in place.glob("*.npy")}
    return LatentCache(**arrays, key=keys["latents"] | keys["prompts"], hint=pipeline.annotator.hint)


@torch.no_grad()
def _write_latents(dataset, pipeline, folder, batch_size=16):
    vae, files = pipeline.vae, {}
    for start in progress(range(0, len(dataset), batch_size), desc="latents"):
        rows = dataset[start : start + batch_size]
        pixels = pipeline.image_processor.preprocess(rows["image"]).to(vae.device, vae.dtype)
        posterior = vae.encode(pixels).latent_dist
        gray = torch.from_numpy(np.stack([np.asarray(i.convert("L")) for i in rows["conditioning_image"]]))
        arrays = {name: getattr(posterior, name) * vae.config.scaling_factor for name in ("mean", "std")}
        arrays = {f"latents_{name}": array.half() for name, array in arrays.items()} | {"gray": gray}
        if pipeline.annotator.key:
            arrays["maps"] = pipeline.annotator.maps(gray[:, None].float() / 255).half()
        for name, array in arrays.items():
            values = array.cpu().numpy()
            if name not in files:
                files[name] = _allocate(folder / f"{name}.npy", (len(dataset), *values.shape[1:]), values.dtype)
            files[name][start : start + len(values)] = values


def _write_prompts(prompts, pipeline, folder, batch_size=64):
    unique, embeddings = ["", *sorted(set(prompts) - {""})], None
    position = {prompt: index for index, prompt in enumerate(unique)}
    np.save(folder / "prompt_index.npy", np.array([position[prompt] for prompt in prompts], np.int32))
    for start in progress(range(0, len(unique), batch_size), desc="prompts"):
        values = models.encode_prompts(unique[start : start + batch_size], pipeline).half().cpu().numpy()
        if embeddings is None:
            embeddings = _allocate(folder / "embeddings.npy", (len(unique), *values.shape[1:]), values.dtype)
        embeddings[start : start + len(values)] = values


def _allocate(path, shape, dtype):
    """A memory-mapped array that has its space on the disk: without it, a full disk crashes the process hours later."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    problem = f"{path.parent}: no room for {path.name} of {array.nbytes / 1e9:.1f} GB"
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file, explained(problem, "free some, or pass -p build FOLDER", OSError):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def batch_rows(n: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """The rows of one step: every epoch is a new permutation of all n rows, fixed by the seed."""
    epochs = range(step * batch_size // n, ((step + 1) * batch_size - 1) // n + 1)
    rows = np.concatenate([np.random.default_rng((seed, epoch)).permutation(n) for epoch in epochs])
    offset = step * batch_size % n
    return np.sort(rows[offset : offset + batch_size])


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator that depends on the seed and the step alone."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class Batches:
    """A step's batch by its number, made in a thread while the step before it is trained; pinned for a GPU."""

    def __init__(self, cache: LatentCache, config: Config):
        self.cache, self.config = cache, config
        on_gpu = torch.cuda.is_available()
        device = {"initializer": torch.cuda.set_device, "initargs": [torch.cuda.current_device()]} if on_gpu else {}
        self.thread, self.ahead = ThreadPoolExecutor(1, **device), {}  # a thread would begin on the first GPU

    def __call__(self, step: int) -> list[torch.Tensor]:
        """A step's `LatentCache.batch`, noise and timesteps; the same if it is asked for again."""
        for number in (step, step + 1):
            if number not in self.ahead:
                self.ahead[number] = self.thread.submit(self._make, number)
        self.ahead = {number: batch for number, batch in self.ahead.items() if number >= step}
        return self.ahead[step].result()

    def _make(self, step):
        config, generator = self.config, step_generator(self.config.train_seed, step)
        rows = batch_rows(len(self.cache), config.train_batch_size, step, config.train_seed)
        batch = self.cache.batch(rows, generator, config.prompt_dropout)
        batch = [*batch, *draw_noise(batch[0], generator, config.timestep_bias)]
        return [tensor.contiguous().pin_memory() if torch.cuda.is_available() else tensor for tensor in batch]


def draw_noise(latents: torch.Tensor, generator: torch.Generator, timestep_bias: float) -> tuple[torch.Tensor, ...]:
    """Noise of the latents' shape, and timesteps T (1 - u^b): with b = 1 uniform, with more at high noise."""
    noise = torch.randn(latents.shape, generator=generator)
    below_last = torch.rand(len(latents), generator=generator) ** timestep_bias  # in [0, 1)
    return noise, TIMESTEPS - 1 - (TIMESTEPS * below_last).long()


def diffusion_loss(unet, noise_scheduler, batch, controlnet=None, part=slice(None)) -> torch.Tensor:
    """Mean squared error of the predicted noise or velocity.

    `batch` is what `LatentCache.batch` and `draw_noise` return; without a ControlNet its conditioning images are
    ignored. It is drawn as a whole, whatever `part` of it is trained on, so that it depends on no division.
    """
    device = next(unet.parameters()).device
    latents, embeddings, conditioning, noise, timesteps = (
        tensor[part].to(device, non_blocking=True) for tensor in batch
    )
    noisy = noise_scheduler.add_noise(latents, noise, timesteps)
    residuals = {}
    if controlnet is not None:
        down, mid = controlnet(noisy, timesteps, embeddings, conditioning, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    prediction = unet(noisy, timesteps, embeddings, **residuals, return_dict=False)[0].float()
    velocity = noise_scheduler.config.prediction_type == "v_prediction"
    target = noise_scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    return (prediction - target).square().mean(dim=(1, 2, 3)).mean()


def train_run(config: Config) -> None:
    """Notebook 03's training: takes base and data set from their places, saves the ControlNet to the run's folder.

    Under accelerate's launchers every process calls this; they share the batch and one of them writes. A run that uses
    a finished ControlNet trains nothing. `config.json` and `run.csv` are written last.
    """
    models.require_precision(config.mixed_precision)
    state, n = models.process_state(), 0
    require_shared(config.run_dir, state)
    if not config.controlnet:
        base, triples = models.load_base(config), load_dataset_dict(config)
        rows = training_rows(triples, config.train_categories)
        config, n = with_train_steps(config, len(rows)), len(rows)
        with state.main_process_first():
            cache = build_cache(rows, draw_prompts(rows, config), base, config.build_dir / "cache")
        base.vae = base.text_encoder = None  # training needs neither; checkpoints load them again
        train_controlnet(base, cache, config, config.run_dir, pick_across_categories(triples["validation"], 8))
    if state.is_main_process:
        write_table(pd.DataFrame([describe_run(config, n)]), config.run_dir / "run.csv")
        save_config(config, config.run_dir)


def with_train_steps(config: Config, n: int) -> Config:
    """The configuration with `train_steps`: those that are set, or those that `train_epochs` over n photos take."""
    if config.train_steps is not None:
        return config
    return config.replace(train_steps=math.ceil(config.train_epochs * n / config.train_batch_size))


def describe_run(config: Config, n: int) -> dict:
    """A finished run on n photos by name: a row of `run.csv`."""
    run = {"run": config.run, "base": config.base_model, "start": config.controlnet, "photos": "not trained here"}
    if not config.controlnet:
        categories = f" ({', '.join(config.train_categories)})" if config.train_categories else ""
        epochs = round(config.train_steps * config.train_batch_size / n, 2)
        run |= {"start": config.initial_controlnet or "the frozen UNet", "photos": config.source + categories, "n": n}
        run |= {"epochs": epochs, "steps": config.train_steps, "batch": config.train_batch_size}
        run |= {"rate": config.learning_rate, "prompts": config.prompt_policy, "dropout": config.prompt_dropout}
        run |= {"seed": config.train_seed}
        run["hours"] = round(float(read_losses(config.run_dir, config.train_steps)[-1]["seconds"]) / 3600, 2)
    return run | {"other": other_settings(config)}


def other_settings(config: Config) -> str:
    """What else shapes a run's colours, if it differs from the profile's own run; "" for nothing."""
    values, own = config.values(*OTHERS), get_config(config.profile).values(*OTHERS)
    return "; ".join(f"{name} {value}" for name, value in values.items() if value != own[name])


def loss_of_controlnet(base: DiffusionPipeline, cache: LatentCache, config: Config, controlnet) -> Callable:
    """What `train` minimises for a ControlNet, `loss_of_step(model, step, part)`; prepares both networks for it."""
    noise_scheduler, batches = DDPMScheduler.from_config(base.scheduler.config), Batches(cache, config)
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
        controlnet.enable_gradient_checkpointing()
    models.speed_up((base.unet, controlnet), config)

    def loss_of_step(model, step, part):
        return diffusion_loss(base.unet, noise_scheduler, batches(step), model, part)

    return loss_of_step


def train_controlnet(
    base: DiffusionPipeline, cache: LatentCache, config: Config, folder: Path, watched: Dataset
) -> ControlNetModel:
    """Trains a ControlNet for a frozen base on a latent cache; saves it to `folder/controlnet` and returns it.

    It starts from `initial_controlnet`, or from the UNet. At every checkpoint the rows of `watched` are colorized with
    fixed seeds into `folder/samples`; if `base` has no autoencoder left, by a base that is loaded for it.
    """
    initial, channels = config.initial_controlnet, base.annotator.channels
    torch.manual_seed(config.train_seed)  # for the new layers of a ControlNet that starts from the UNet
    if initial:
        controlnet = models.load_controlnet(initial, base.unet)
        if controlnet.config.conditioning_channels != channels:
            raise ValueError(
                f"initial_controlnet {initial} takes {controlnet.config.conditioning_channels} conditioning channels, "
                f"the annotator makes {channels}: set -p initial_controlnet none or another annotator"
            )
    else:
        controlnet = models.make_controlnet(base.unet, base.vae_scale_factor, channels)
    initial_weights = models.hash_of_weights(controlnet)
    loss_of_step = loss_of_controlnet(base, cache, config, controlnet)

    def on_checkpoint(model, step):
        whole = base if base.vae else models.load_base(config, unet=base.unet)
        pipeline = models.add_controlnet(whole, copy.deepcopy(model))  # since the pipeline takes the base's dtype
        ssim = save_samples(pipeline, watched, config, folder / f"samples/{step:07d}.png")
        loss = validation_loss(pipeline, watched, config)
        del whole, pipeline
        gc.collect()  # the copy's own methods point back to it
        return {"lightness_ssim": ssim, "validation_loss": loss}

    names = SETTINGS if config.lr_scheduler.startswith("constant") else (*SETTINGS, "train_steps")
    settings = config.values(*names) | cache.key
    settings |= {"base": models.hash_of_weights(base.unet), "initial": initial_weights}
    settings = {name: str(value) for name, value in settings.items()}
    controlnet = controlnet.to(base.device)
    controlnet = train(controlnet, loss_of_step, config, config.mixed_precision, folder, settings, on_checkpoint)
    saved, newest = folder / "controlnet/config.json", max(folder.glob("checkpoints/*.pt"))
    is_saved = saved.exists() and saved.stat().st_mtime >= newest.stat().st_mtime
    if models.process_state().is_main_process and not is_saved:  # what was colorized with it stays good
        save_model(controlnet, folder / "controlnet")
    return controlnet


def save_samples(pipeline: DiffusionPipeline, rows: Dataset, config: Config, path: Path) -> float:
    """Colorizes data-set rows with their prompts and seed 0: a sheet of gray, output, restored and true pictures.

    Returns:
        The mean SSIM of the outputs' L* with the photos', before it is restored: whether shapes are kept.
    """
    gray = list(rows["conditioning_image"])
    outputs = sample(pipeline, gray, rows["prompt"], [0] * len(gray), config)
    restored = list(map(restore_lightness, gray, outputs))
    sheet = {"gray": gray, "output": outputs, "lightness restored": restored, "photo": list(rows["image"])}
    save_sheet(list(sheet.values()), path, row_titles=list(sheet))
    pairs = [(luminance(output), luminance(to_float(image))) for output, image in zip(outputs, gray, strict=True)]
    return float(np.mean([structural_similarity(*pair, data_range=100) for pair in pairs]))


@torch.no_grad()
def validation_loss(pipeline: DiffusionPipeline, rows: Dataset, config: Config) -> float:
    """The diffusion loss of data-set rows at fixed timesteps and noise, so that checkpoints can be compared."""
    vae, unet = pipeline.vae, pipeline.unet
    pixels = pipeline.image_processor.preprocess(list(rows["image"])).to(vae.device, vae.dtype)
    latents = vae.encode(pixels).latent_dist.mean.float() * vae.config.scaling_factor
    shown = pipeline.annotator(list(rows["conditioning_image"]), list(rows["prompt"]))
    batch = (latents.cpu(), models.encode_prompts(list(rows["prompt"]), pipeline).float().cpu(), shown)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    scheduler, losses = DDPMScheduler.from_config(pipeline.scheduler.config), []
    with torch.autocast(unet.device.type, torch.bfloat16, enabled=unet.dtype == torch.bfloat16):
        for timestep in VALIDATION_TIMESTEPS:
            drawn = (*batch, noise, torch.full((len(noise),), timestep))
            losses.append(diffusion_loss(unet, scheduler, drawn, pipeline.controlnet))
    return float(torch.stack(losses).mean())


def save_model(model, folder: Path) -> None:
    """Saves a diffusers model as safetensors, atomically, without the path that it was once loaded from."""
    model.register_to_config(_name_or_path="")
    with new_folder(folder) as partial:
        model.save_pretrained(partial)


def train(
    model,
    loss_of_step: Callable,
    config: Config,
    mixed_precision: str,
    folder: Path,
    settings: dict[str, str],
    on_checkpoint: Callable | None = None,
):
    """Minimises `loss_of_step(model, step, part)` with AdamW for `train_steps` steps, resuming from `folder`.

    SIGTERM, which a spot VM gets before it is stopped, takes effect after a checkpoint.

    Args:
        model: any torch module.
        loss_of_step: `part` is the slice of the step's batch for this process (accelerate's) and this one of the
            `gradient_accumulation_steps`: however the batch is divided, its gradient is the same.
        config: the training fields.
        mixed_precision: "bf16" for autocast.
        folder: gets `losses.csv` every `log_every` steps, and `checkpoints`.
        settings: what a checkpoint must have been made with to be resumed.
        on_checkpoint: is called with (model, step) at each checkpoint, with the averaged weights if EMA is on; the
            numbers that it returns go to `checkpoints.csv`.

    Returns:
        The model with its final (averaged) weights.

    Raises:
        ValueError: if the loss is not finite, or a batch does not fit in memory; neither reaches a checkpoint.
    """
    accelerator = make_accelerator(config)
    model.train().requires_grad_(True)
    wrapped, state = prepare_training(model, config, accelerator)
    first, last = load_checkpoint(folder, state, settings), config.train_steps
    if first > last:
        raise ValueError(f"{folder} is at step {first}, past train_steps {last}: raise it or change `run`")
    losses, rows, begun = [], read_losses(folder, first), time.time()
    earlier = float(rows[-1]["seconds"]) if rows else 0.0
    options, is_main = {"initial": first, "total": last, "desc": "training"}, accelerator.is_main_process
    with held_sigterm() as sigterm, progress(range(first, last), **options, unit="step") as bar:
        if is_main:
            write_table(pd.DataFrame(rows, columns=LOSS_COLUMNS), folder / "losses.csv")
        for step in bar:
            losses.append(make_step(wrapped, loss_of_step, step, accelerator, state, config, mixed_precision))
            done = step + 1
            checkpoint_due = done == last or done % config.checkpoint_every == 0
            log_due = checkpoint_due or done % config.log_every == 0
            stop = sigterm.is_set()
            if accelerator.num_processes > 1:  # all of them must ask
                stop = log_due and bool(accelerator.reduce(torch.tensor(float(stop), device=accelerator.device)) > 0)
            if log_due or stop:
                values = accelerator.reduce(torch.stack(losses), "mean").tolist()  # read now: the host waits for it
                losses, seconds = [], time.time() - begun
                check_finite(values, done, folder)
                rate = state["schedule"].get_last_lr()[0]
                rows.append({"step": done, "loss": values[-1], "lr": rate, "seconds": round(earlier + seconds, 1)})
                speed = f"{(done - first) * config.train_batch_size / seconds:.1f}"
                memory = {"GB": f"{torch.cuda.max_memory_reserved() / 1e9:.1f}"} if torch.cuda.is_available() else {}
                bar.set_postfix({"loss": f"{values[-1]:.4f}", "samples/s": speed, **memory}, refresh=False)
                if is_main:
                    write_table(pd.DataFrame(rows, columns=LOSS_COLUMNS), folder / "losses.csv")
            if is_main and (checkpoint_due or stop):
                save_checkpoint(folder, done, state, settings, config)
                if on_checkpoint and not stop:
                    add_measures(folder, done, with_averaged_weights(state, on_checkpoint, done))
            if checkpoint_due or stop:
                accelerator.wait_for_everyone()
            if stop:
                break
    if state["ema"]:
        state["ema"].copy_to(model.parameters())
    return model.eval().requires_grad_(False)


def make_accelerator(config: Config) -> Accelerator:
    """Accelerate's hold on the processes; raises a ValueError if they can't share a batch evenly.

    bfloat16 needs no scaling of gradients: `torch.autocast` around the loss is enough. Accelerate's own mixed precision
    would patch the model's forward, and a copy of a patched model can't colorize on a bfloat16 base. Processes exchange
    gradients in bfloat16 if GPUs compute in it.
    """
    models.process_state()
    hook = DDPCommunicationHookType.BF16 if config.mixed_precision == "bf16" and torch.cuda.is_available() else "no"
    exchange = DistributedDataParallelKwargs(comm_hook=DDPCommunicationHookType(hook))
    on_cpu = models.pick_device().type == "cpu"
    accelerator = Accelerator(mixed_precision="no", cpu=on_cpu, kwargs_handlers=[exchange])
    shares, processes = config.gradient_accumulation_steps, accelerator.num_processes
    if config.train_batch_size % (shares * processes):
        raise ValueError(
            f"train_batch_size {config.train_batch_size} can't be divided by {processes} processes times "
            f"gradient_accumulation_steps {shares}: change one"
        )
    return accelerator


def require_shared(folder: Path, state: PartialState) -> None:
    """Raises a ValueError in every process unless all see the same folder: they resume from its checkpoints."""
    (token,) = broadcast_object_list([secrets.token_hex(8)])
    path = folder / "shared.txt"
    if state.is_main_process:
        write_text(token, path)
    state.wait_for_everyone()
    seen = gather_object([path.exists() and path.read_text() == token])
    if not all(seen):
        raise ValueError(f"{folder} is not one folder for all processes: let `build` be in one that all machines share")


def prepare_training(model, config: Config, accelerator: Accelerator) -> tuple:
    """The model as accelerate runs it, and all that a checkpoint holds: model, optimizer, schedule, and EMA or None."""
    optimizer = make_optimizer(model, config)
    steps = {"num_warmup_steps": config.lr_warmup_steps, "num_training_steps": config.train_steps}
    schedule = get_scheduler(config.lr_scheduler, optimizer, **steps)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    ema = EMAModel(model.parameters(), decay=config.ema_decay) if config.ema_decay else None
    return wrapped, {"model": model, "optimizer": optimizer, "schedule": schedule, "ema": ema}


def make_optimizer(model, config: Config) -> torch.optim.Optimizer:
    """AdamW with weight decay 0.01: torch's fused one."""
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=1e-2, fused=True)


def make_step(model, loss_of_step, step, accelerator, state, config: Config, mixed_precision: str) -> torch.Tensor:
    """One optimizer step on this process's part of the batch, share by share; returns the mean loss, detached."""
    shares, loss = config.gradient_accumulation_steps, 0.0
    advice = "raise gradient_accumulation_steps, set gradient_checkpointing, or lower train_batch_size"
    with models.memory_advice(advice):
        for share in range(shares):
            part = slice(accelerator.process_index * shares + share, None, shares * accelerator.num_processes)
            with nullcontext() if share == shares - 1 else accelerator.no_sync(model):  # processes exchange once a step
                with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=mixed_precision == "bf16"):
                    loss_of_part = loss_of_step(model, step, part) / shares
                accelerator.backward(loss_of_part)
            loss += loss_of_part.detach()
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        state["optimizer"].step()
        state["optimizer"].zero_grad()
    state["schedule"].step()
    if state["ema"]:
        state["ema"].step(state["model"].parameters())
    return loss


@contextmanager
def held_sigterm() -> Iterator[threading.Event]:
    """Holds SIGTERM back while the block runs: the event is set when it comes, and it takes effect at the end."""
    came, is_main = threading.Event(), threading.current_thread() is threading.main_thread()  # signals reach no other
    usual = signal.signal(signal.SIGTERM, lambda *_: came.set()) if is_main else None
    try:
        yield came
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, usual)
        if came.is_set():
            print("stopped by SIGTERM: the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
            signal.raise_signal(signal.SIGTERM)


def with_averaged_weights(state: dict, action: Callable, step: int):
    """Returns `action(model, step)` with the averaged weights in the model, then puts the current ones back."""
    model, ema = state["model"], state["ema"]
    if ema:
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
    model.eval()
    with torch.no_grad():
        returned = action(model, step)
    model.train()
    if ema:
        ema.restore(model.parameters())
    return returned


def add_measures(folder: Path, step: int, measures: dict | None) -> None:
    """Adds the numbers of a checkpoint to `checkpoints.csv`; those of later steps are dropped."""
    path = folder / "checkpoints.csv"
    if measures:
        rows = pd.read_csv(path).query("step < @step").to_dict("records") if path.exists() else []
        write_table(pd.DataFrame([*rows, {"step": step, **measures}]), path)


def check_finite(values: list[float], done: int, folder: Path) -> None:
    """Raises a ValueError if one of the losses of the steps up to `done` is not finite."""
    for step, value in enumerate(values, done - len(values) + 1):
        if not math.isfinite(value):
            good = max(folder.glob("checkpoints/*.pt"), default="none yet")
            raise ValueError(f"loss is {value} at step {step}: lower learning_rate; last good checkpoint: {good}")


def save_checkpoint(folder: Path, step: int, state: dict, settings: dict, config: Config) -> None:
    """Writes step, settings and state dicts to `checkpoints/<step>.pt`, atomically and synced, and removes older ones.

    `keep_checkpoints` stay, as far as they fit in `checkpoints_gb`; after the last step only the newest.
    """
    for left in folder.glob("checkpoints/*.part"):  # of a process that was killed
        left.unlink()
    saved = {name: value.state_dict() for name, value in state.items() if value is not None}
    with new_file(folder / f"checkpoints/{step:07d}.pt", sync=True) as partial, partial.open("wb") as file:
        torch.save({"step": step, "settings": settings, **saved}, file)
    keep, space = 1 if step == config.train_steps else config.keep_checkpoints, config.checkpoints_gb * 1e9
    for number, path in enumerate(sorted(folder.glob("checkpoints/*.pt"), reverse=True)):
        space -= path.stat().st_size
        if number and (number >= keep or space < 0):
            path.unlink()


def load_checkpoint(folder: Path, state: dict, settings: dict) -> int:
    """Loads the newest readable checkpoint into the state and returns its step; 0 without any.

    A damaged one is reported and the one before it taken.

    Raises:
        ValueError: if it is of another model or has other settings, or all are damaged; says what to remove.
    """
    damaged = []
    for path in sorted(folder.glob("checkpoints/*.pt"), reverse=True):
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # of pickle, zip or torch
            print(f"{path} is damaged ({one_line(error)}): taking the one before", file=sys.stderr)
            damaged.append(path.name)
            continue
        with explained(f"{path} does not fit this run", "remove it, or name another run with `run`"):
            for key, value in settings.items():
                if saved["settings"].get(key) != value:
                    raise ValueError(f"{key} was {saved['settings'].get(key)}, is {value}")
            for name, value in state.items():
                if value is not None:
                    value.load_state_dict(saved[name])
        return saved["step"]
    if damaged:
        names = ", ".join(damaged)
        raise ValueError(f"{folder}/checkpoints holds only damaged files ({names}): remove them to start again")
    return 0


def read_losses(folder: Path, last_step: int) -> list[dict[str, str]]:
    """The rows of `losses.csv` up to a step, as text."""
    path = folder / "losses.csv"
    rows = pd.read_csv(path, dtype=str).to_dict("records") if path.exists() else []
    return [row for row in rows if int(row["step"]) <= last_step]


def main() -> None:
    """Notebook 03's training without the notebook: `accelerate launch -m lib.training`, on any number of processes."""
    parser = argparse.ArgumentParser(prog="python -m lib.training", description="Train the ControlNet of a profile.")
    parser.add_argument("--profile", default="pocket", help="a profile's name (default: pocket)")
    add_field_option(parser, "a field of the configuration, e.g. -p train_steps 500")
    options = parser.parse_args()
    with exit_with_one_line():
        train_run(get_config(options.profile, **dict(options.overrides)))


if __name__ == "__main__":
    main()
