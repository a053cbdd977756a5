"""What the networks of the l4 profile cost: TFLOP counted on tensors without data, or seconds timed on a GPU.

Networks have the published shapes and random weights, so nothing is downloaded.
"""

import functools
import math
import time

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from lib.models import compile_networks, make_controlnet
from lib.training import diffusion_loss, make_optimizer

VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
)
UNET = dict(block_out_channels=(320, 640, 1280, 1280))
SHAPES = {  # the published configurations of a run's base: UNet and autoencoder
    "SD 2.1-base": (
        UNET | dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
        VAE,
    ),
    "SD 1.5": (UNET | dict(cross_attention_dim=768, attention_head_dim=8), VAE),
}
WORKS = ("encode", "train", "plain", "guided", "decode")  # a photo, a photo, a sampling step of each kind, a picture
ENCODED = 16  # photos at once, as latents are made


def make_networks(shape, device, dtype):
    """A base's UNet and autoencoder in `dtype` and their ControlNet in single precision, with random weights."""
    of_unet, of_vae = SHAPES[shape]
    with torch.device(device):
        unet = UNet2DConditionModel(**of_unet).to(dtype)
        vae = AutoencoderKL(**of_vae).to(dtype)
        controlnet = make_controlnet(unet, 2 ** (len(of_vae["block_out_channels"]) - 1))
    for part in (unet, vae):
        part.eval().requires_grad_(False)
    return unet, vae, controlnet


def works_of(networks, profile):
    """{work: (function of a batch size that does it once, batch size)}, as training and sampling do it."""
    unet, vae, controlnet = networks
    side, sampled = profile.data.resolution, profile.sampling.sample_batch_size
    small = side // 2 ** (len(vae.config.block_out_channels) - 1)
    step = sampling_step(unet, controlnet, small, side)

    @torch.no_grad()
    def code(function, *shape):
        function(torch.zeros(shape, device=vae.device, dtype=vae.dtype))

    return {
        "encode": (lambda n: code(vae.encode, n, 3, side, side), ENCODED),
        "train": (training_step(unet, controlnet, small, profile), profile.training.train_batch_size),
        "plain": (step, sampled),
        "guided": (lambda n: step(2 * n), sampled),  # with the prompt and without, in one batch
        "decode": (lambda n: code(vae.decode, n, 4, small, small), sampled),
    }


def training_step(unet, controlnet, small, profile):
    """A function of a batch size that trains a step on latents of `small` px; refuses a loss that is not finite."""
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    meta, side, width = unet.device.type == "meta", profile.data.resolution, unet.config.cross_attention_dim
    optimizer = None if meta else make_optimizer(controlnet, profile.training)
    mixed = {"device_type": "cpu" if meta else unet.device.type, "dtype": torch.bfloat16}
    if profile.training.gradient_checkpointing:
        for part in (unet, controlnet):
            part.enable_gradient_checkpointing()

    @functools.cache  # in training a thread makes the batches
    def make_batch(n):
        return torch.randn(n, 4, small, small), torch.randn(n, 77, width), torch.rand(n, 3, side, side)

    def train(n):
        with torch.autocast(**mixed, enabled=unet.dtype == torch.bfloat16):
            generator = torch.Generator().manual_seed(0)
            loss = diffusion_loss(unet, scheduler, make_batch(n), generator, profile.training, controlnet)
        loss.backward()
        if meta:
            return
        optimizer.step()
        optimizer.zero_grad()
        if not math.isfinite(loss.item()):
            raise ValueError(
                f"the loss of a training step with random weights is {loss.item()}: this machine computes wrongly"
            )

    return train


def sampling_step(unet, controlnet, small, side):
    """A function of a batch size: what ControlNet and UNet do in a sampling step for that many latents."""
    width, options = unet.config.cross_attention_dim, {"device": unet.device, "dtype": unet.dtype}

    @torch.no_grad()
    def step(n):
        latents, words = torch.zeros(n, 4, small, small, **options), torch.zeros(n, 77, width, **options)
        gray, time_of_step = torch.zeros(n, 3, side, side, **options), torch.ones((), device=unet.device)
        down, mid = controlnet(latents, time_of_step, words, gray, return_dict=False)
        unet(latents, time_of_step, words, down_block_additional_residuals=down, mid_block_additional_residual=mid)

    return step


def count_works(shape, profile):
    """{work: TFLOP a sample} of a base's shape, counted on tensors without data."""
    counted = {}
    for name, (work, _) in works_of(make_networks(shape, torch.device("meta"), torch.float32), profile).items():
        with FlopCounterMode(display=False) as counter:
            work(1)
        counted[name] = counter.get_total_flops() / 1e12
    return counted


def time_works(shape, profile, device):
    """{work: seconds a sample} of a base's shape on a device, in the profile's precision, batches and layout."""
    dtype = torch.bfloat16 if profile.model.mixed_precision == "bf16" else torch.float32
    unet, vae, controlnet = networks = make_networks(shape, device, dtype)
    for part in networks if profile.model.channels_last else ():
        part.to(memory_format=torch.channels_last)
    if profile.model.torch_compile:
        compile_networks((unet, controlnet))
    works = works_of(networks, profile)
    seconds = {"train": time_work(*works.pop("train"), device)}
    controlnet.requires_grad_(False).eval().to(dtype)  # as it samples
    return seconds | {name: time_work(*work, device) for name, work in works.items()}


def time_work(work, n, device, warm_up=2, repeats=3):
    """Seconds a sample of a batch, halved where it does not fit in memory."""
    try:
        for turn in range(warm_up + repeats):
            if turn == warm_up:
                wait(device)
                started = time.perf_counter()
            work(n)
        wait(device)
        return (time.perf_counter() - started) / repeats / n
    except torch.OutOfMemoryError:
        if n == 1:
            raise ValueError("one sample does not fit in the GPU's memory: a larger GPU is needed") from None
    torch.cuda.empty_cache()
    return time_work(work, n // 2, device, warm_up, repeats)


def wait(device):
    """Wait for what a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
