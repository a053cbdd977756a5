"""Training on cached latents: the diffusion loss, and one resumable loop for every model of this repo.

Every random draw of a step comes from (seed, step), so that a run resumed from a checkpoint draws what an
uninterrupted one would have drawn.
"""

import argparse
import copy
import gc
import math
import signal
import sys
import threading
import time
from functools import partial

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from skimage.metrics import structural_similarity
from torch.utils.tensorboard import SummaryWriter

from lib.color import luminance, to_float
from lib.colorize import merge
from lib.config import add_field_option, get_config
from lib.dataset import draw_prompts, load_dataset_dict, pick_across_categories, training_rows
from lib.figures import save_sheet
from lib.files import exit_with_one_line, explained, new_file, new_folder, one_line, progress, write_table
from lib.inference import sample
from lib.latents import Batches, build_cache
from lib.models import (
    add_controlnet,
    encode_prompts,
    has_bf16,
    hash_of_weights,
    load_base,
    load_controlnet,
    make_controlnet,
    memory_advice,
    pick_device,
    process_state,
    require_precision,
    speed_up,
)

LOSS_COLUMNS = ("step", "loss", "lr", "seconds")
VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)


def diffusion_loss(unet, noise_scheduler, batch, generator, config, controlnet=None, part=slice(None), timestep=None):
    """Mean squared error of the predicted noise or velocity.

    `batch` is what `LatentCache.batch` returns; without a ControlNet the conditioning images are not looked at. Draws
    are made for the whole batch, whatever `part` of it is trained on, so that they don't depend on how it is divided.
    Timesteps are drawn as T (1 - u^b), b = `config.timestep_bias`: 1 is uniform, more trains more at high noise; if
    `timestep` is given, all are that one.
    """
    device = next(unet.parameters()).device
    steps = noise_scheduler.config.num_train_timesteps
    noise = torch.randn(batch[0].shape, generator=generator)
    below_last = torch.rand(len(noise), generator=generator) ** config.timestep_bias  # in [0, 1)
    timesteps = steps - 1 - (steps * below_last).long() if timestep is None else torch.full((len(noise),), timestep)
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
    return (prediction - target).square().mean(dim=(1, 2, 3)).mean()


def run_settings(config, **data):
    """What must not change between a checkpoint and its continuation, as text by name."""
    names = ["base_model", "initial_controlnet", "train_batch_size", "learning_rate", "lr_scheduler", "lr_warmup_steps"]
    names += ["prompt_dropout", "timestep_bias", "ema_decay", "mixed_precision", "train_seed"]
    if not config.lr_scheduler.startswith("constant"):
        names.append("train_steps")
    return {name: str(value) for name, value in (config.values(*names) | data).items()}


def train_run(config):
    """Notebook 03's training of a profile: base and data set from their places, the ControlNet to the run's folder.

    Under accelerate's launchers every process calls this; they share the batch and one of them writes. A run that takes
    a finished ControlNet trains nothing: only its `run.csv` is written.
    """
    require_precision(config.mixed_precision)
    state, run_dir = process_state(), config.run_dir
    if config.controlnet:
        facts = {"run": config.run, "base": config.base_model, "start": config.controlnet}
        facts |= {"photos": "not trained here", "other": other_settings(config)}
        return write_facts(facts, run_dir) if state.is_main_process else None
    base = load_base(config)
    triples = load_dataset_dict(config)
    rows = training_rows(triples, config.train_categories)
    config = with_train_steps(config, len(rows))
    with state.main_process_first():
        cache = build_cache(rows, draw_prompts(rows, config), base, config.build_dir / "cache")
    base.vae = base.text_encoder = None  # training needs neither; the pictures of a checkpoint load them again
    watched = pick_across_categories(triples["validation"], 8)
    whole_base = partial(load_base, config, unet=base.unet)
    train_controlnet(base, cache, config, run_dir, watched, whole_base)
    if state.is_main_process:
        write_facts(run_facts(config, len(rows)), run_dir)


def with_train_steps(config, n):
    """The configuration with `train_steps`: those that are set, or those that `train_epochs` over `n` photos take."""
    if config.train_steps is not None:
        return config
    return config.replace(train_steps=math.ceil(config.train_epochs * n / config.train_batch_size))


def run_facts(config, n):
    """What a finished run on `n` photos was, by name: a row of `run.csv`."""
    kinds = f" ({', '.join(config.train_categories)})" if config.train_categories else ""
    epochs = round(config.train_steps * config.train_batch_size / n, 2)
    hours = float(read_losses(config.run_dir, config.train_steps)[-1]["seconds"]) / 3600
    facts = {"run": config.run, "base": config.base_model}
    facts |= {"start": config.initial_controlnet or "the frozen UNet", "photos": f"{config.source}{kinds}", "n": n}
    facts |= {"epochs": epochs, "steps": config.train_steps, "batch": config.train_batch_size}
    facts |= {"rate": config.learning_rate, "prompts": config.prompt_policy, "dropout": config.prompt_dropout}
    return facts | {"seed": config.train_seed, "other": other_settings(config), "hours": round(hours, 2)}


def other_settings(config):
    """What else shapes a run's colours, if it is not as in the profile's own run: one text, "" for nothing."""
    names = ["resolution", "dataset_seed", "n_train", "lr_scheduler", "lr_warmup_steps", "timestep_bias", "ema_decay"]
    names += ["mixed_precision", "max_tokens", "num_inference_steps", "guidance_scale", "guidance_share"]
    names += ["controlnet_conditioning_scale"]
    ours, own = config.values(*names), get_config(config.profile).values(*names)
    return "; ".join(f"{name} {ours[name]}" for name in names if ours[name] != own[name])


def write_facts(facts, run_dir):
    """Write `run.csv` of a run, whole or not at all."""
    write_table(pd.DataFrame([facts]), run_dir / "run.csv")


def loss_of_controlnet(base, cache, config, controlnet):
    """What `train` minimises for a ControlNet, `loss_of_step(model, step, part)`; prepares both networks for it."""
    noise_scheduler, batches = DDPMScheduler.from_config(base.scheduler.config), Batches(cache, config)
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
        controlnet.enable_gradient_checkpointing()
    speed_up((base.unet, controlnet), config)

    def loss_of_step(model, step, part):
        return diffusion_loss(base.unet, noise_scheduler, *batches(step), config, model, part)

    return loss_of_step


def train_controlnet(base, cache, config, folder, watched, whole_base=None):
    """Train a ControlNet for a frozen base on a latent cache; saves it to `folder/controlnet` and returns it.

    It starts from `initial_controlnet`, or from the UNet where that is empty. At every checkpoint the rows of
    `watched` are colorized with fixed seeds into `folder/samples`; where `base` has no autoencoder and text encoder
    left, by what `whole_base()` returns.
    """
    initial = config.initial_controlnet
    torch.manual_seed(config.train_seed)  # for the new layers of a ControlNet that starts from the UNet
    if initial:
        controlnet = load_controlnet(initial, base.unet)
        if controlnet.config.conditioning_channels != base.annotator.channels:
            has, made = controlnet.config.conditioning_channels, base.annotator.channels
            raise ValueError(
                f"initial_controlnet {initial} takes {has} conditioning channels, the annotator makes {made}: "
                'set -p initial_controlnet "" or another annotator'
            )
    else:
        controlnet = make_controlnet(base.unet, base.vae_scale_factor, base.annotator.channels)
    initial_weights = hash_of_weights(controlnet)
    loss_of_step = loss_of_controlnet(base, cache, config, controlnet)

    def on_checkpoint(model, step):
        whole = whole_base() if whole_base else base
        pipeline = add_controlnet(whole, copy.deepcopy(model))  # a copy, since the pipeline takes the base's dtype
        ssim = save_controlnet_samples(pipeline, watched, config, folder / f"samples/{step:07d}.png")
        loss = validation_loss(pipeline, watched, config)
        del whole, pipeline
        gc.collect()  # the copy's own methods point back to it
        return {"lightness_ssim": ssim, "validation_loss": loss}

    settings = run_settings(config, **cache.key, base=hash_of_weights(base.unet), initial=initial_weights)
    precision = config.mixed_precision
    controlnet = controlnet.to(base.device)
    controlnet = train(controlnet, loss_of_step, config, precision, folder, settings, on_checkpoint)
    saved = folder / "controlnet/config.json"
    newest = max(folder.glob("checkpoints/*.pt"))
    if process_state().is_main_process and not (saved.exists() and saved.stat().st_mtime >= newest.stat().st_mtime):
        save_model(controlnet, folder / "controlnet")  # but not again: what was colorized with it stays good
    return controlnet


def save_controlnet_samples(pipeline, rows, config, path) -> float:
    """Colorize data-set rows with their own prompts and seed 0; a sheet of gray, output, merged and true pictures.

    Returns the mean SSIM of the outputs' L* with the photos', before it is restored: whether shapes are kept.
    """
    gray = list(rows["conditioning_image"])
    outputs = sample(pipeline, gray, rows["prompt"], [0] * len(gray), config)
    sheet = {"gray": gray, "output": outputs, "merged": merge(gray, outputs), "photo": list(rows["image"])}
    save_sheet(list(sheet.values()), path, row_titles=list(sheet))
    pairs = [(luminance(output), luminance(to_float(image))) for output, image in zip(outputs, gray, strict=True)]
    return float(np.mean([structural_similarity(*pair, data_range=100) for pair in pairs]))


@torch.no_grad()
def validation_loss(pipeline, rows, config) -> float:
    """The diffusion loss of data-set rows at fixed timesteps and noise, so that checkpoints can be compared."""
    vae, unet = pipeline.vae, pipeline.unet
    pixels = pipeline.image_processor.preprocess(list(rows["image"])).to(vae.device, vae.dtype)
    latents = vae.encode(pixels).latent_dist.mean.float() * vae.config.scaling_factor
    shown = pipeline.annotator(list(rows["conditioning_image"]))
    batch = (latents.cpu(), encode_prompts(list(rows["prompt"]), pipeline).float().cpu(), shown)
    scheduler, losses = DDPMScheduler.from_config(pipeline.scheduler.config), []
    with torch.autocast(unet.device.type, torch.bfloat16, enabled=unet.dtype == torch.bfloat16):
        for timestep in VALIDATION_TIMESTEPS:
            generator = torch.Generator().manual_seed(0)
            options = {"controlnet": pipeline.controlnet, "timestep": timestep}
            losses.append(diffusion_loss(unet, scheduler, batch, generator, config, **options).item())
    return float(np.mean(losses))


def save_model(model, folder):
    """Save a diffusers model as safetensors, whole or not at all; replaces what was there.

    Where it was once loaded from is not kept: that is a path of this machine.
    """
    model.register_to_config(_name_or_path="")
    with new_folder(folder) as partial:
        model.save_pretrained(partial)


def train(model, loss_of_step, config, mixed_precision, folder, settings, on_checkpoint=None):
    """Minimise `loss_of_step(model, step, part)` with AdamW for `config.train_steps` steps, resuming from `folder`.

    `part` is the slice of the step's batch for this process (accelerate's) and this share of
    `config.gradient_accumulation_steps`: however it is divided, the gradient is the batch's. Writes `losses.csv`
    (every `log_every` steps), TensorBoard's files and `checkpoints` to `folder`; at each checkpoint calls
    `on_checkpoint(model, step)`, with the averaged weights in place where EMA is on, and adds the numbers that it
    returns to `checkpoints.csv`. A checkpoint with other `settings` is refused. SIGTERM, which a spot VM gets before it
    is stopped, takes effect after a checkpoint. Returns the model with its final (averaged) weights.
    A loss that is not finite, or a batch that does not fit in memory, is a ValueError and reaches no checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(config, mixed_precision)
    model.train().requires_grad_(True)
    wrapped, state = prepare_training(model, config, accelerator)
    first, last = load_checkpoint(folder, state, settings), config.train_steps
    if first > last:
        raise ValueError(f"{folder} is at step {first}, past train_steps {last}: raise it or change `run`")
    journal, words = Journal(folder, first, accelerator.is_main_process), {"desc": "training", "unit": "step"}
    with HeldSigterm() as sigterm, progress(range(first, last), initial=first, total=last, **words) as bar:
        for step in bar:
            shares = config.gradient_accumulation_steps
            loss = make_step(wrapped, loss_of_step, step, accelerator, state, shares, mixed_precision)
            journal.unread.append(loss)  # on its device: reading it would make the host wait
            done = step + 1
            checkpoint_due = done == last or done % config.checkpoint_every == 0
            log_due = checkpoint_due or done % config.log_every == 0
            stop = (log_due or accelerator.num_processes == 1) and any_process(sigterm.came, accelerator)
            if log_due or stop:
                journal.log(done, state["schedule"].get_last_lr()[0], accelerator)
                bar.set_postfix(journal.signs_of_life(config.train_batch_size), refresh=False)
            if checkpoint_due or stop:
                if accelerator.is_main_process:
                    keep_checkpoint(folder, done, state, settings, config)
                    if on_checkpoint and not stop:
                        journal.show(done, with_averaged_weights(state, on_checkpoint, done) or {})
                accelerator.wait_for_everyone()
            if stop:
                break
    journal.close()
    if state["ema"]:
        state["ema"].copy_to(model.parameters())
    return model.eval().requires_grad_(False)


def prepare_training(model, config, accelerator):
    """The model as accelerate runs it, and all that a checkpoint holds: model, optimizer, schedule, and EMA or None."""
    optimizer = make_optimizer(model, config)
    steps = {"num_warmup_steps": config.lr_warmup_steps, "num_training_steps": config.train_steps}
    schedule = get_scheduler(config.lr_scheduler, optimizer, **steps)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    ema = EMAModel(model.parameters(), decay=config.ema_decay) if config.ema_decay else None
    return wrapped, {"model": model, "optimizer": optimizer, "schedule": schedule, "ema": ema}


def make_accelerator(config, mixed_precision):
    """Accelerate's hold on the processes; a batch that they can't share evenly is a ValueError.

    bfloat16 needs no scaling of gradients: `torch.autocast` around the loss is enough. Accelerate's own mixed precision
    would patch the model's forward, and a copy of a patched model can't colorize on a bfloat16 base.
    """
    check_precision(mixed_precision)
    process_state()
    accelerator = Accelerator(mixed_precision="no", cpu=pick_device().type == "cpu")
    shares, processes = config.gradient_accumulation_steps, accelerator.num_processes
    if config.train_batch_size % (shares * processes):
        raise ValueError(
            f"train_batch_size {config.train_batch_size} can't be divided by {processes} processes times "
            f"gradient_accumulation_steps {shares}: change one"
        )
    return accelerator


def make_step(model, loss_of_step, step, accelerator, state, shares, mixed_precision):
    """One optimizer step on this process's part of the batch, share by share; returns the mean loss, detached."""
    parts, loss = shares * accelerator.num_processes, 0.0
    with memory_advice("raise gradient_accumulation_steps, set gradient_checkpointing, or lower train_batch_size"):
        for share in range(shares):
            part = slice(accelerator.process_index * shares + share, None, parts)
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


class HeldSigterm:
    """Holds SIGTERM back while a `with` block runs: `came` tells of it, and it takes effect when the block ends."""

    def __enter__(self):
        self.came = False
        self.held = threading.current_thread() is threading.main_thread()  # signals reach no other
        if self.held:
            self.usual = signal.signal(signal.SIGTERM, self.note)
        return self

    def note(self, *_):
        self.came = True

    def __exit__(self, *_):
        if self.held:
            signal.signal(signal.SIGTERM, self.usual)
        if self.came:
            print("stopped by SIGTERM: the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
            signal.raise_signal(signal.SIGTERM)


def any_process(flag, accelerator):
    """Whether a flag is up in any process; all of them must ask."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


class Journal:
    """The losses of a run: `losses.csv` in its folder, and TensorBoard's files beside it with the watched pictures."""

    def __init__(self, folder, first, is_main):
        self.folder, self.rows, self.unread = folder, read_losses(folder, first), []
        self.first, self.begun = first, time.time()
        self.board = SummaryWriter(folder / "tensorboard", purge_step=first + 1) if is_main else None
        self.started = time.time() - (float(self.rows[-1]["seconds"]) if self.rows else 0.0)

    def log(self, step, rate, accelerator):
        """Read the losses since the last time, refuse those that are not finite, and write the last one."""
        values = accelerator.reduce(torch.stack(self.unread), "mean").tolist()
        check_finite(values, step, self.folder)
        self.unread, seconds = [], round(time.time() - self.started, 1)
        self.rows.append({"step": step, "loss": values[-1], "lr": rate, "seconds": seconds})
        if self.board:
            self.board.add_scalar("loss", values[-1], step)
            self.board.add_scalar("learning rate", rate, step)
            write_table(pd.DataFrame(self.rows, columns=LOSS_COLUMNS), self.folder / "losses.csv")

    def signs_of_life(self, batch_size) -> dict[str, str]:
        """What a person who waits wants to see: the last loss, the speed since the start, and the GPU's peak memory."""
        samples = (self.rows[-1]["step"] - self.first) * batch_size
        signs = {"loss": f"{self.rows[-1]['loss']:.4f}", "samples/s": f"{samples / (time.time() - self.begun):.1f}"}
        if torch.cuda.is_available():
            signs["GB"] = f"{torch.cuda.max_memory_reserved() / 1e9:.1f}"
        return signs

    def show(self, step, measured):
        """Keep the numbers of a checkpoint in `checkpoints.csv` and TensorBoard, and show its sheet there, if any."""
        if measured:
            path = self.folder / "checkpoints.csv"
            rows = pd.read_csv(path).query("step < @step").to_dict("records") if path.exists() else []
            write_table(pd.DataFrame([*rows, {"step": step, **measured}]), path)
        for name, value in measured.items():
            self.board.add_scalar(name, value, step)
        sheet = self.folder / f"samples/{step:07d}.png"
        if sheet.exists():
            self.board.add_image("samples", np.asarray(Image.open(sheet)), step, dataformats="HWC")

    def close(self):
        """Close TensorBoard's file."""
        if self.board:
            self.board.close()


def make_optimizer(model, config):
    """AdamW with weight decay 0.01: torch's fused one."""
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=1e-2, fused=True)


def check_precision(mixed_precision):
    """Refuse bf16 on a CPU that only emulates it: ValueError with the reason."""
    if mixed_precision == "bf16" and not has_bf16():
        raise ValueError("mixed_precision bf16: this CPU emulates it, 5 to 20 times slower; set mixed_precision to no")


def with_averaged_weights(state, action, step):
    """Return `action(model, step)` with the averaged weights in the model, then put the current ones back."""
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


def check_finite(values, done, folder):
    """Refuse a loss that is not finite among those of the steps up to `done`: ValueError with its step."""
    for step, value in enumerate(values, done - len(values) + 1):
        if not math.isfinite(value):
            good = max(folder.glob("checkpoints/*.pt"), default="none yet")
            raise ValueError(f"loss is {value} at step {step}: lower learning_rate; last good checkpoint: {good}")


def keep_checkpoint(folder, step, state, settings, config):
    """Save a checkpoint and remove older ones; after the last step it alone is kept."""
    for left in folder.glob("checkpoints/*.part"):  # of a process that was killed
        left.unlink()
    save_checkpoint(folder, step, state, settings)
    keep = 1 if step == config.train_steps else config.keep_checkpoints
    rotate_checkpoints(folder, keep, config.checkpoints_gb)


def save_checkpoint(folder, step, state, settings):
    """Write step, settings and state dicts to `folder/checkpoints/<step>.pt`: whole and on the disk, or not at all."""
    parts = {name: part.state_dict() for name, part in state.items() if part is not None}
    with new_file(folder / f"checkpoints/{step:07d}.pt", sync=True) as partial, partial.open("wb") as file:
        torch.save({"step": step, "settings": settings, **parts}, file)


def rotate_checkpoints(folder, keep, gigabytes):
    """Remove the oldest checkpoints beyond `keep`, and those that don't fit in the space; the newest stays."""
    space = gigabytes * 1e9
    for number, path in enumerate(sorted(folder.glob("checkpoints/*.pt"), reverse=True)):
        space -= path.stat().st_size
        if number and (number >= keep or space < 0):
            path.unlink()


def load_checkpoint(folder, state, settings):
    """Load the newest of `folder/checkpoints` that can be read into the state and return its step; 0 without any.

    A damaged one is named and the one before it taken. One of another model or run, or a folder that has only damaged
    ones, is a ValueError that says what to remove.
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
            restore(state, saved, settings)
        return saved["step"]
    if damaged:
        names = ", ".join(damaged)
        raise ValueError(f"{folder}/checkpoints holds only damaged files ({names}): remove them to begin anew")
    return 0


def restore(state, saved, settings):
    """Load a checkpoint into the state; one with other settings is a ValueError."""
    for key, value in settings.items():
        if saved["settings"].get(key) != value:
            raise ValueError(f"{key} was {saved['settings'].get(key)}, is {value}")
    for name, part in state.items():
        if part is not None:
            part.load_state_dict(saved[name])


def read_losses(folder, last_step):
    """The rows of `folder/losses.csv` up to a step."""
    path = folder / "losses.csv"
    rows = pd.read_csv(path, dtype=str).to_dict("records") if path.exists() else []
    return [row for row in rows if int(row["step"]) <= last_step]


def main():
    """Notebook 03's training without the notebook: `accelerate launch -m lib.training`, on any number of processes."""
    parser = argparse.ArgumentParser(prog="python -m lib.training", description="Train the ControlNet of a profile.")
    parser.add_argument("--profile", default="pocket", help="a profile's name (default: pocket)")
    add_field_option(parser, "a profile field, e.g. -p train_steps 500")
    options = parser.parse_args()
    with exit_with_one_line():
        train_run(get_config(options.profile, **dict(options.overrides)))


if __name__ == "__main__":
    main()
