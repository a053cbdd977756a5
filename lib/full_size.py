"""`make check-full-size`: one training and one sampling step of the true Stable Diffusion shapes, with random weights.

For a change of code or machine before hours are spent: on a CPU it takes minutes and some 16 GB, on a GPU it also tells speed.
"""

import sys
import time

import pandas as pd
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)

from lib.models import add_controlnet, make_controlnet, pick_device
from lib.profiles import get_profile
from lib.report import markdown_table
from lib.training import diffusion_loss, make_optimizer

SHAPES = {  # the published configurations, where the two differ
    "SD 2.1-base": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "SD 1.5": {"cross_attention_dim": 768, "attention_head_dim": 8},
}
PUBLISHED = {"SD 2.1-base": (865.9, 364.2), "SD 1.5": (859.5, 361.3)}  # M parameters of UNet and ControlNet
TFLOP_OF_STEP = 2.27  # SD 2.1-base at 512 px, a sample: UNet and ControlNet forward 1.08, backward 1.18
PEAK_TFLOPS = {"L4": 121.0, "A100": 312.0, "H100": 989.0, "H200": 989.0}  # dense bfloat16, by their makers


def make_pipeline(name, device, dtype):
    """The colorizing pipeline of a shape without its text encoder: prompts come as embeddings."""
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=64, block_out_channels=(320, 640, 1280, 1280), **SHAPES[name]).to(dtype)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        ).to(dtype)
        controlnet = make_controlnet(unet, 8).float()
    for part in (unet, vae):
        part.eval().requires_grad_(False)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    parts = {"unet": unet, "vae": vae, "scheduler": scheduler, "text_encoder": None, "tokenizer": None}
    parts |= {"safety_checker": None, "feature_extractor": None}
    pipeline = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check_shape(name, batch_size):
    """A row for one shape: parameters beside the published ones, and seconds of a training and of a sampling step."""
    device = pick_device()
    gpu = device.type == "cuda"
    profile = get_profile("l4", gradient_checkpointing=not gpu)
    pipeline = make_pipeline(name, device, torch.bfloat16 if gpu else torch.float32)
    unet, controlnet = pipeline.unet, pipeline.controlnet
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (unet, controlnet)]
    if tuple(round(count, 1) for count in counts) != PUBLISHED[name]:
        raise ValueError(f"{name}: UNet and ControlNet have {counts} M parameters, published are {PUBLISHED[name]}")
    width = SHAPES[name]["cross_attention_dim"]
    embeddings, gray = torch.randn(batch_size, 77, width), torch.rand(batch_size, 3, 512, 512)
    if profile.gradient_checkpointing:
        for part in (unet, controlnet):
            part.enable_gradient_checkpointing()
    optimizer, scheduler = make_optimizer(controlnet, profile), DDPMScheduler.from_config(pipeline.scheduler.config)
    for _ in range(5 if gpu else 1):  # the first steps of a GPU warm it up
        started = time.time()
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
            batch = (torch.randn(batch_size, 4, 64, 64), embeddings, gray)
            loss = diffusion_loss(unet, scheduler, batch, torch.Generator().manual_seed(0), profile, controlnet)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = float(loss.detach())  # waits for the GPU
        seconds = time.time() - started
    if not torch.isfinite(torch.tensor(value)):
        raise ValueError(f"{name}: the loss of the training step is {value}")
    row = {"shape": name, "UNet (M)": counts[0], "ControlNet (M)": counts[1], "loss": value, "step (s)": seconds}
    if gpu:
        rate, card = batch_size / seconds, torch.cuda.get_device_name()
        peak = next((tflops for part, tflops in PEAK_TFLOPS.items() if part in card), float("nan"))
        row |= {"samples/s": rate, "peak memory (GB)": torch.cuda.max_memory_allocated() / 1e9,
                "share of peak rate": rate * TFLOP_OF_STEP / peak}  # fmt: skip
    del optimizer, loss
    started = time.time()
    sampler = add_controlnet(pipeline, controlnet)
    words = {"prompt_embeds": embeddings[:1], "negative_prompt_embeds": embeddings[:1]}
    words = {key: value.to(device, unet.dtype) for key, value in words.items()}
    picture = sampler(**words, image=gray[:1], num_inference_steps=1, output_type="pt").images
    if picture.shape != (1, 3, 512, 512):
        raise ValueError(f"{name}: a sample has the shape {tuple(picture.shape)}")
    return {**row, "sample (s)": time.time() - started}


def main():
    """The command behind `make check-full-size`."""
    try:
        rows = [check_shape(name, batch_size=8 if torch.cuda.is_available() else 1) for name in SHAPES]
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(markdown_table(pd.DataFrame(rows).round(3)))


if __name__ == "__main__":
    main()
