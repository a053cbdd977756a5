"""Training on cached latents: the cache, the diffusion loss, and one resumable loop for every model of this repository.

Every random draw of a step comes from (seed, step), so a resumed run draws what an uninterrupted one would have drawn.
"""

import argparse
import copy
import math
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, PartialState, utils
from datasets import Dataset
from diffusers import ControlNetModel, DDPMScheduler, DiffusionPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from skimage.metrics import structural_similarity

from lib import cache, models
from lib.annotator import ColorHint, conditioning_image
from lib.color import luminance, restore_lightness, to_float
from lib.config import Config, add_field_option, get_config, save_config
from lib.dataset import draw_prompts, load_dataset_dict, pick_across_categories, training_rows
from lib.figures import save_sheet
from lib.sampling import sample

VERSION = 2  # of the files in a latent cache
TIMESTEPS, VALIDATION_TIMESTEPS = 1000, (100, 300, 500, 700, 900)  # of every base's scheduler
SETTINGS = (  # that a resumed run must share, beside weights and data
    "train_batch_size", "learning_rate", "lr_scheduler", "lr_warmup_steps", "prompt_dropout", "timestep_bias",
    "ema_decay", "mixed_precision", "train_seed",
)  # fmt: skip


@dataclass
class LatentCache:
    """Memory-mapped training data: a row for each training picture, a row of `embeddings` for each different prompt."""

    latents_mean: np.ndarray  # (N, C, h, w) float16, scaled
    latents_std: np.ndarray  # the same
    gray: np.ndarray  # (N, H, W) uint8
    prompt_index: np.ndarray  # (N,) int64, into `embeddings`
    embeddings: np.ndarray  # (prompts, tokens, width) float16; row 0 is the empty prompt
    key: dict  # what they were made from
    maps: np.ndarray | None = None  # of the annotator: (N, K, h, w) float16
    hint: ColorHint | None = None  # the annotator's network that reads prompts

    def batch(self, rows, generator: torch.Generator, prompt_dropout: float = 0.0) -> tuple[torch.Tensor, ...]:
        """Newly sampled latents (B, C, h, w), embeddings (B, T, D), conditioning images (B, channels, H, W)."""
        mean, std = (torch.from_numpy(array[rows]).float() for array in (self.latents_mean, self.latents_std))
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        prompts = torch.from_numpy(self.prompt_index[rows])
        prompts[torch.rand(len(rows), generator=generator) < prompt_dropout] = 0
        embeddings = torch.from_numpy(self.embeddings[prompts.numpy()]).float()
        gray = torch.from_numpy(self.gray[rows]).float().div(255)[:, None]
        maps = None if self.maps is None else torch.from_numpy(self.maps[rows]).float()
        with torch.no_grad():
            return latents, embeddings, conditioning_image(gray, self.hint, maps, embeddings)


def build_cache(dataset: Dataset, prompts: list[str], pipeline: DiffusionPipeline, folder: Path) -> LatentCache:
    """Encodes photos (columns `image`, `conditioning_image`) and a prompt for each, unless the folder has them."""
    vae, (unique, prompt_index) = pipeline.vae, np.unique(["", *prompts], return_inverse=True)

    def encode_photos(rows):
        pixels = pipeline.image_processor.preprocess(rows["image"]).to(vae.device, vae.dtype)
        posterior, scale = vae.encode(pixels).latent_dist, vae.config.scaling_factor
        gray = torch.from_numpy(np.stack([np.asarray(image.convert("L")) for image in rows["conditioning_image"]]))
        arrays = {"latents_mean": (posterior.mean * scale).half(), "latents_std": (posterior.std * scale).half()}
        maps = {"maps": pipeline.annotator.maps(gray[:, None].float() / 255).half()} if pipeline.annotator.key else {}
        return {**arrays, "gray": gray, **maps}

    def encode_texts(texts):
        return {"embeddings": models.encode_prompts(texts, pipeline).half()}

    photos = {"dataset": dataset._fingerprint, "vae": models.hash_of_weights(vae), "annotator": pipeline.annotator.key}
    photos |= {"version": VERSION, "scaling_factor": vae.config.scaling_factor}
    texts = {"prompts": cache.hash_of(list(prompts)), "text_encoder": models.hash_of_weights(pipeline.text_encoder)}
    texts |= {"version": VERSION, "max_tokens": pipeline.tokenizer.model_max_length}
    latents = _encode_once(encode_photos, dataset, 16, folder / "latents", photos)
    embeddings = _encode_once(encode_texts, unique.tolist(), 64, folder / "prompts", texts)
    key, hint = photos | texts, pipeline.annotator.hint
    return LatentCache(**latents, **embeddings, prompt_index=prompt_index[1:], key=key, hint=hint)


def _encode_once(encode, rows, batch_size, place, key):
    """Memory-mapped arrays of what `encode(batch of rows)` returns, {name: tensor}, made if no folder has them yet."""

    @torch.no_grad()
    def write(folder):
        for start in cache.progress(range(0, len(rows), batch_size), desc=place.name):
            for name, tensor in encode(rows[start : start + batch_size]).items():
                values = tensor.cpu().numpy()
                header = {"descr": values.dtype.str, "fortran_order": False, "shape": (len(rows), *values.shape[1:])}
                with (folder / f"{name}.npy").open("ab") as file:
                    if start == 0:
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(values.tobytes())

    folder = cache.cached(place.with_name(f"{place.name}-{cache.hash_of([key])}"), key, write)
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def batch_rows(n: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """The rows of one step: every epoch is a new permutation of all n rows, fixed by the seed."""
    epochs = range(step * batch_size // n, ((step + 1) * batch_size - 1) // n + 1)
    rows = np.concatenate([np.random.default_rng((seed, epoch)).permutation(n) for epoch in epochs])
    return np.sort(rows[step * batch_size % n :][:batch_size])


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator that depends on the seed and the step alone."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def make_batches(latents: LatentCache, config: Config) -> Callable[[int], list[torch.Tensor]]:
    """A function of a step that returns its `LatentCache.batch`, noise and timesteps; in pinned memory for a GPU."""

    @lru_cache(1)  # for the shares of a step
    def batch_of(step):
        generator = step_generator(config.train_seed, step)
        rows = batch_rows(len(latents.gray), config.train_batch_size, step, config.train_seed)
        batch = latents.batch(rows, generator, config.prompt_dropout)
        batch = [*batch, *draw_noise(batch[0], generator, config.timestep_bias)]
        return [tensor.contiguous().pin_memory() if torch.cuda.is_available() else tensor for tensor in batch]

    return batch_of


def draw_noise(latents: torch.Tensor, generator: torch.Generator, timestep_bias: float) -> tuple[torch.Tensor, ...]:
    """Noise of the latents' shape, and timesteps T (1 - u^b): with b = 1 uniform, with more at high noise."""
    noise = torch.randn(latents.shape, generator=generator)
    below_last = torch.rand(len(latents), generator=generator) ** timestep_bias  # in [0, 1)
    return noise, TIMESTEPS - 1 - (TIMESTEPS * below_last).long()


def diffusion_loss(unet, noise_scheduler: DDPMScheduler, batch, controlnet=None) -> torch.Tensor:
    """Mean squared error of the predicted noise or velocity on a batch of `make_batches`, on the UNet's device."""
    latents, embeddings, conditioning, noise, timesteps = batch
    noisy, residuals = noise_scheduler.add_noise(latents, noise, timesteps), {}
    if controlnet is not None:
        down, mid = controlnet(noisy, timesteps, embeddings, conditioning, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    prediction = unet(noisy, timesteps, embeddings, **residuals, return_dict=False)[0].float()
    velocity = noise_scheduler.config.prediction_type == "v_prediction"
    target = noise_scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    return (prediction - target).square().mean(dim=(1, 2, 3)).mean()


def train_run(config: Config, loss: Callable = diffusion_loss) -> None:
    """Trains a run's ControlNet, unless it uses a finished one, and writes `config.json`, the resolved configuration.

    Under accelerate's launchers every process calls this; they share each batch, and the main process writes.
    """
    models.require_precision(config.mixed_precision)
    state = models.process_state()
    require_shared(config.run_dir, state)
    if not config.controlnet:
        base, triples = models.load_base(config), load_dataset_dict(config)
        rows = training_rows(triples, config.train_categories)
        config = with_train_steps(config, len(rows))
        with state.main_process_first():
            latents = build_cache(rows, draw_prompts(rows, config), base, config.build_dir / "cache")
        base.vae = base.text_encoder = None  # training needs neither; checkpoints load them again
        train_controlnet(base, latents, config, config.run_dir, pick_across_categories(triples["validation"], 8), loss)
    if state.is_main_process:
        save_config(config, config.run_dir)


def with_train_steps(config: Config, n: int) -> Config:
    """The configuration with the steps and epochs of a training on n photos: `train_steps`, if set, decides."""
    size, steps = config.train_batch_size, config.train_steps
    steps = math.ceil(config.train_epochs * n / size) if steps is None else steps
    return config.replace(train_steps=steps, train_epochs=round(steps * size / n, 2))


def require_shared(folder: Path, state: PartialState) -> None:
    """Raises a ValueError in every process unless all see the same folder: they resume from its checkpoints."""
    (token,) = utils.broadcast_object_list([secrets.token_hex(8)])
    path = folder / "shared.txt"
    if state.is_main_process:
        cache.write_text(token, path)
    state.wait_for_everyone()
    if not all(utils.gather_object([path.exists() and path.read_text() == token])):
        raise ValueError(f"{folder} is not one folder for all processes: let `build` be in one that all machines share")


def train_controlnet(
    base: DiffusionPipeline, latents: LatentCache, config: Config, folder: Path, watched: Dataset, loss=diffusion_loss
) -> ControlNetModel:
    """Trains a ControlNet for a frozen base on a latent cache; saves it to `folder/controlnet` and returns it.

    `loss` takes the arguments of `diffusion_loss`. At every checkpoint the rows of `watched` are colorized into
    `folder/samples`, with the autoencoder of a newly loaded base if this one has none left.
    """
    torch.manual_seed(config.train_seed)  # for the new layers of a ControlNet that starts from the UNet
    if config.initial_controlnet:
        controlnet = models.load_controlnet(config.initial_controlnet, base.unet, channels=base.annotator.channels)
    else:
        controlnet = models.make_controlnet(base.unet, base.vae_scale_factor, base.annotator.channels)
    weights = {"base": models.hash_of_weights(base.unet), "initial": models.hash_of_weights(controlnet)}
    settings = {name: str(value) for name, value in (weights | config.values(*SETTINGS) | latents.key).items()}
    if not config.lr_scheduler.startswith("constant"):
        settings["train_steps"] = str(config.train_steps)
    noise_scheduler, batch_of = DDPMScheduler.from_config(base.scheduler.config), make_batches(latents, config)
    models.speed_up((base.unet, controlnet), config)

    def loss_of_step(model, step, part):
        batch = [tensor[part].to(base.device, non_blocking=True) for tensor in batch_of(step)]
        return loss(base.unet, noise_scheduler, batch, model)

    def on_checkpoint(model, step):
        pipeline = models.add_controlnet(base if base.vae else models.load_base(config, unet=base.unet), model)
        return measure_checkpoint(pipeline, watched, config, folder / f"samples/{step:07d}.png")

    controlnet = controlnet.to(base.device)
    controlnet = train(controlnet, loss_of_step, config, config.mixed_precision, folder, settings, on_checkpoint)
    if models.process_state().is_main_process:
        save_model(controlnet, folder / "controlnet")
    return controlnet


@torch.no_grad()
def measure_checkpoint(pipeline: DiffusionPipeline, rows: Dataset, config: Config, path: Path) -> dict[str, float]:
    """Draws a sheet of data-set rows, colorized with seed 0, and measures them.

    Returns `lightness_ssim`, the mean SSIM of outputs and photos in L* before it is restored (are shapes kept?), and
    `validation_loss`, the diffusion loss at fixed timesteps and noise.
    """
    gray, prompts, images = (list(rows[name]) for name in ("conditioning_image", "prompt", "image"))
    outputs = sample(pipeline, gray, prompts, [0] * len(gray), config)
    sheet = {"gray": gray, "output": outputs, "restored": list(map(restore_lightness, gray, outputs)), "photo": images}
    save_sheet([pictures[:6] for pictures in sheet.values()], path, row_titles=list(sheet))
    pairs = [(luminance(output), luminance(to_float(image))) for output, image in zip(outputs, gray, strict=True)]
    ssim = float(np.mean([structural_similarity(*pair, data_range=100) for pair in pairs]))

    vae, unet = pipeline.vae, pipeline.unet
    pixels = pipeline.image_processor.preprocess(images).to(vae.device, vae.dtype)
    latents = vae.encode(pixels).latent_dist.mean.float() * vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    batch = latents, models.encode_prompts(prompts, pipeline).float(), pipeline.annotator(gray, prompts), noise
    batch = [tensor.to(unet.device) for tensor in batch]
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    with torch.autocast(unet.device.type, torch.bfloat16, enabled=unet.dtype == torch.bfloat16):
        times = (torch.full((len(gray),), timestep, device=unet.device) for timestep in VALIDATION_TIMESTEPS)
        losses = [diffusion_loss(unet, scheduler, (*batch, timesteps), pipeline.controlnet) for timesteps in times]
    return {"lightness_ssim": ssim, "validation_loss": float(torch.stack(losses).mean())}


def save_model(model, folder: Path) -> None:
    """Saves a diffusers model as safetensors, atomically, without the path that it was once loaded from."""
    model.register_to_config(_name_or_path="")
    with cache.new_folder(folder) as partial:
        model.save_pretrained(partial)


def train(model, loss_of_step, config: Config, mixed_precision: str, folder: Path, settings: dict, on_checkpoint=None):
    """Minimises `loss_of_step(model, step, part)` with AdamW for `train_steps` steps, resuming from `folder`.

    Every `log_every` steps, losses go to `losses.csv` and, if it is installed, to TensorBoard. SIGTERM, which a spot VM
    gets before it is stopped, takes effect after a checkpoint. Raises a ValueError, and writes no checkpoint, if the
    loss is not finite or a batch does not fit in memory.

    Args:
        model: any torch module; returned with its final (averaged) weights.
        loss_of_step: `part` is a slice of the step's batch, whose gradient doesn't depend on how it is divided among
            processes and `gradient_accumulation_steps`.
        settings: what a checkpoint must have been made with to be resumed.
        on_checkpoint: takes a copy of the model with its (averaged) weights and the step, and returns {name: number}
            for `losses.csv` or None.
    """
    accelerator, wrapped, state = prepare_training(model.train().requires_grad_(True), config, folder)
    first, last, path = load_checkpoint(folder, state, settings), config.train_steps, folder / "losses.csv"
    if first > last:
        raise ValueError(f"{folder} is at step {first}, past train_steps {last}: raise it or change `run`")
    if 0 < first == last and accelerator.is_main_process:
        print(f"{folder} has all {last} steps, so nothing is trained: another name for `run` trains again")
    table = pd.read_csv(path, float_precision="round_trip") if path.exists() else pd.DataFrame({"step": []})
    losses, rows = [], table[table["step"] <= first].to_dict("records")
    begun = time.time() - (rows[-1]["seconds"] if rows else 0)
    bar = cache.progress(range(first, last), initial=first, total=last, desc="training", unit="step")
    with held_sigterm() as sigterm, bar:
        for step in bar:
            remedy = "raise gradient_accumulation_steps or lower train_batch_size"
            with cache.explained("this batch does not fit in memory", remedy, torch.OutOfMemoryError):
                losses.append(make_step(wrapped, loss_of_step, step, accelerator, state, config, mixed_precision))
            done, stop = step + 1, sigterm.is_set()
            checkpoint_due = done == last or done % config.checkpoint_every == 0
            log_due = checkpoint_due or done % config.log_every == 0
            if accelerator.num_processes > 1:  # all of them must stop at one step
                stop = log_due and bool(accelerator.reduce(torch.tensor(float(stop), device=accelerator.device)) > 0)
            if not (log_due or stop):
                continue
            values = accelerator.reduce(torch.stack(losses), "mean").tolist()  # read now: the host waits for it
            if not np.isfinite(values).all():
                raise ValueError(f"loss is not finite at step {done}: lower learning_rate; checkpoints are older")
            losses, rate, seconds = [], state["schedule"].get_last_lr()[0], round(time.time() - begun, 1)
            rows.append({"step": done, "loss": values[-1], "lr": rate, "seconds": seconds})
            bar.set_postfix({"loss": values[-1]}, refresh=False)
            if accelerator.is_main_process:
                cache.write_table(pd.DataFrame(rows), path)
                if checkpoint_due or stop:
                    save_checkpoint(folder, done, state, settings, config)
                if checkpoint_due and not stop and on_checkpoint:
                    snapshot = copy.deepcopy(model).eval()
                    if "ema" in state:
                        state["ema"].copy_to(snapshot.parameters())
                    with torch.no_grad():
                        rows[-1] |= on_checkpoint(snapshot, done) or {}
                    del snapshot  # from the GPU
                    cache.write_table(pd.DataFrame(rows), path)
                accelerator.log(rows[-1], step=done)
            if checkpoint_due or stop:
                accelerator.wait_for_everyone()
            if stop:
                break
    if "ema" in state:
        state["ema"].copy_to(model.parameters())
    return model.eval().requires_grad_(False)


def prepare_training(model, config: Config, folder: Path) -> tuple:
    """The accelerator, the model as it runs it, and what a checkpoint holds: model, optimizer, schedule, EMA if on."""
    models.process_state()
    hook = "bf16" if config.mixed_precision == "bf16" and torch.cuda.is_available() else "no"  # what processes exchange
    exchange = utils.DistributedDataParallelKwargs(comm_hook=utils.DDPCommunicationHookType(hook))
    options = {"cpu": not torch.cuda.is_available(), "kwargs_handlers": [exchange], "project_dir": folder}
    options["log_with"] = "tensorboard" if utils.is_tensorboard_available() else None
    accelerator = Accelerator(mixed_precision="no", **options)  # it would patch the model, which could not be copied
    accelerator.init_trackers("tensorboard")
    shares = accelerator.num_processes * config.gradient_accumulation_steps
    if config.train_batch_size % shares:
        raise ValueError(f"train_batch_size must be a multiple of {shares}, processes x gradient_accumulation_steps")
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=1e-2, fused=True)
    schedule = get_scheduler(config.lr_scheduler, optimizer, None, config.lr_warmup_steps, config.train_steps)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    ema = {"ema": EMAModel(model.parameters(), decay=config.ema_decay)} if config.ema_decay else {}
    return accelerator, wrapped, {"model": model, "optimizer": optimizer, "schedule": schedule, **ema}


def make_step(model, loss_of_step, step, accelerator, state, config: Config, mixed_precision: str) -> torch.Tensor:
    """One optimizer step on this process's part of the batch, share by share; returns the mean loss, detached."""
    shares, loss = config.gradient_accumulation_steps, 0.0
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
    if "ema" in state:
        state["ema"].step(state["model"].parameters())
    return loss


@contextmanager
def held_sigterm() -> Iterator[threading.Event]:
    """Holds SIGTERM back while the block runs: the event is set when it comes, and it takes effect at the end."""
    came = threading.Event()
    usual = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, usual)
        if came.is_set():
            print("stopped by SIGTERM: the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
            signal.raise_signal(signal.SIGTERM)


def save_checkpoint(folder: Path, step: int, state: dict, settings: dict, config: Config) -> None:
    """Writes `checkpoints/<step>.pt` atomically; of older ones the newest stays until the last step."""
    for left in folder.glob("checkpoints/*.part"):  # of a process that was killed
        left.unlink()
    states = {name: value.state_dict() for name, value in state.items()}
    with cache.new_file(folder / f"checkpoints/{step:07d}.pt") as partial:
        torch.save({"step": step, "settings": settings, **states}, partial)
    for path in sorted(folder.glob("checkpoints/*.pt"))[: -1 if step == config.train_steps else -2]:
        path.unlink()


def load_checkpoint(folder: Path, state: dict, settings: dict) -> int:
    """Loads the newest undamaged checkpoint into the state and returns its step, or 0; refuses other settings."""
    for path in sorted(folder.glob("checkpoints/*.pt"), reverse=True):
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # of pickle, zip or torch
            print(f"{path} is damaged ({cache.one_line(error)}): taking the one before", file=sys.stderr)
            continue
        for key, value in settings.items():
            if (other := saved["settings"].get(key)) != value:
                raise ValueError(f"{path} does not fit this run ({key} was {other}, is {value}): remove it or set run")
        for name, value in state.items():
            value.load_state_dict(saved[name])
        return saved["step"]
    if any(folder.glob("checkpoints/*.pt")):
        raise ValueError(f"{folder}/checkpoints holds only damaged files: remove them to start again")
    return 0


def main() -> None:
    """Notebook 03's training without the notebook: `accelerate launch -m lib.training`, on any number of processes."""
    parser = argparse.ArgumentParser(prog="python -m lib.training", description="Train the ControlNet of a profile.")
    parser.add_argument("--profile", default="pocket", help="a profile's name (default: pocket)")
    add_field_option(parser, "a field of the configuration, e.g. -p train_steps 500")
    options = parser.parse_args()
    with cache.exit_with_one_line():
        train_run(get_config(options.profile, **dict(options.overrides)))


if __name__ == "__main__":
    main()
