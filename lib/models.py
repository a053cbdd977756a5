"""Loading and checking the frozen base model and its ControlNet, all in diffusers' own classes and layout."""

import json
import math
import os
from datetime import timedelta
from functools import partial
from importlib.resources import files
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import PartialState
from diffusers import ControlNetModel, DiffusionPipeline, UNet2DConditionModel, UniPCMultistepScheduler
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from lib.annotator import GRAY_ALONE, load_annotator
from lib.cache import explained, hash_of, one_line
from lib.config import Config, resolve

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # read at the first allocation on a GPU
torch.backends.cudnn.benchmark = True  # shapes stay the same for hours
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

TEXT_LAYERS = "text_layers.safetensors"  # in the folder of a base
SHAPE = ("in_channels", "block_out_channels", "cross_attention_dim", "layers_per_block", "down_block_types")


def pick_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def process_state() -> PartialState:
    """Accelerate's view of the processes that share the work; the first call in a process gives it its device."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))  # others wait for the latents


def has_bf16() -> bool:
    """Whether the hardware computes in bfloat16: a GPU, or a CPU that does more than emulate it."""
    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()


def require_precision(mixed_precision: str) -> None:
    """Raises a ValueError for bf16 without a CUDA GPU, before hours are spent on a CPU."""
    if mixed_precision == "bf16" and not torch.cuda.is_available():
        raise ValueError("mixed_precision bf16 needs a CUDA GPU: run make check-gpu, or pass -p mixed_precision no")


def load_text_encoder(package: str, max_tokens: int, base_folder: Path | None = None) -> dict:
    """Tokenizer and text encoder, a BERT whose token vectors take the place of CLIP's, from an installed package.

    A base may bring fewer layers of its own, since the last ones spread a sentence's meaning over all of its tokens.
    """
    folder = str(files(package) / "model")
    text_encoder = AutoModel.from_pretrained(folder)
    if base_folder and (layers := base_folder / TEXT_LAYERS).is_file():
        weights = load_file(layers)
        count = len({name.split(".")[1] for name in weights})  # names start with "layer.N."
        text_encoder.encoder.layer = text_encoder.encoder.layer[:count]
        text_encoder.encoder.load_state_dict(weights)
        text_encoder.config.num_hidden_layers = count
    text_encoder.config.use_attention_mask = True  # read by the pipeline: do not attend to padding
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=max_tokens)
    return {"tokenizer": tokenizer, "text_encoder": text_encoder}


def load_base(config: Config, **loaded) -> DiffusionPipeline:
    """The frozen text-to-image pipeline of a configuration, of the class that its `model_index.json` names.

    Parts that are `loaded` already, by name, are taken as they are. Raises a ValueError if the base can't be loaded.
    """
    local, options = resolve(config.base_model), {"revision": config.base_revision}
    options["dtype"] = torch.bfloat16 if config.mixed_precision == "bf16" and has_bf16() else torch.float32
    options |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if config.text_encoder:
        loaded |= load_text_encoder(config.text_encoder, config.max_tokens, local)
    try:
        source = local if local.is_dir() else config.base_model
        pipeline = DiffusionPipeline.from_pretrained(source, **options, **loaded)
    except (OSError, ValueError) as error:
        remedy = "check base_model and base_revision"
        raise ValueError(f"base model {config.base_model!r} can't be loaded ({_root_cause(error)}): {remedy}") from None
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        part.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    pipeline = pipeline.to(pick_device())
    pipeline.annotator = load_annotator(config.annotator, config.segmenter, partial(encode_prompts, pipeline=pipeline))
    return pipeline


def _root_cause(error):
    """What went wrong first, in one line: clients wrap a Hub's answer in errors that only point to one another."""
    while not isinstance(error, HfHubHTTPError) and (cause := error.__cause__ or error.__context__):
        error = cause
    return f"{type(error).__name__}: {one_line(error)}"


@torch.no_grad()
def encode_prompts(prompts: list[str], pipeline: DiffusionPipeline) -> torch.Tensor:
    """Token vectors (B, tokens, width) of prompts, padded and cut as the pipeline does it."""
    embeddings, _ = pipeline.encode_prompt(prompts, pipeline.text_encoder.device, 1, False)
    return embeddings


def make_controlnet(
    unet: UNet2DConditionModel, vae_scale_factor: int, conditioning_channels: int = 3, widths=(16, 32, 96, 256)
) -> ControlNetModel:
    """A ControlNet that starts as a copy of the UNet's encoder; its conditioning image is the size of the photo.

    `widths` are the channels of the convolutions that shrink this image, by as much as the autoencoder shrinks a photo.
    """
    used = tuple(widths[: int(math.log2(vae_scale_factor)) + 1])
    options = {"conditioning_embedding_out_channels": used, "conditioning_channels": conditioning_channels}
    return ControlNetModel.from_unet(unet, **options)


def load_controlnet(
    source: str | Path, unet: UNet2DConditionModel, revision: str | None = None, channels: int | None = None
) -> ControlNetModel:
    """A trained ControlNet from a folder or Hub id; a ValueError if it is for another UNet or has other `channels`."""
    folder = resolve(source)
    if not folder.is_dir() and str(source).count("/") != 1:
        raise ValueError(f"no ControlNet in {source}: train one with notebook 03, or add 03 to --only")
    options = {"revision": revision, "use_safetensors": True, "dtype": torch.float32}
    with explained(f"ControlNet {source} can't be loaded", "train it again with notebook 03"):
        controlnet = ControlNetModel.from_pretrained(str(folder if folder.is_dir() else source), **options)
    wanted = {name: unet.config[name] for name in SHAPE} | ({"conditioning_channels": channels} if channels else {})
    for name, value in wanted.items():
        if json.dumps(controlnet.config[name]) != json.dumps(value):  # tuples and lists are alike
            raise ValueError(f"ControlNet {source} is for another base or annotator: {name} is not {value}")
    return controlnet


def add_controlnet(base: DiffusionPipeline, controlnet: ControlNetModel) -> DiffusionPipeline:
    """The colorizing pipeline: diffusers' ControlNet pipeline for the base's class, with the UniPC sampler.

    Its `annotator` is the base's, or shows a ControlNet of three channels the gray photo alone. Raises a ValueError if
    the ControlNet takes other conditioning images.
    """
    channels = controlnet.config.conditioning_channels
    annotator = GRAY_ALONE if channels == GRAY_ALONE.channels else base.annotator
    if channels != annotator.channels:
        raise ValueError(f"the ControlNet takes {channels} channels, not {annotator.channels}: set -p annotator")
    parts = {"controlnet": controlnet.to(base.device, base.unet.dtype).eval(), "dtype": base.unet.dtype}
    parts["scheduler"] = UniPCMultistepScheduler.from_config(base.scheduler.config)
    class_name = type(base).__name__.replace("Pipeline", "ControlNetPipeline")
    pipeline = getattr(diffusers, class_name).from_pipe(base, **parts)  # without a dtype, all becomes float32
    pipeline.set_progress_bar_config(disable=True)
    pipeline.annotator = annotator
    pipeline.vae.enable_slicing()  # a tensor of 32 decoded pictures has 2^31 elements, where GPU kernels have failed
    return pipeline


def load_pipeline(config: Config) -> DiffusionPipeline:
    """The colorizing pipeline of a profile's run, in the memory layout and compiled as it says."""
    base = load_base(config)
    pipeline = add_controlnet(base, load_controlnet(config.controlnet_source, base.unet, config.controlnet_revision))
    speed_up((pipeline.unet, pipeline.controlnet), config, pipeline.vae)
    return pipeline


def speed_up(networks, config: Config, *not_compiled) -> None:
    """Compiles networks, and puts all in channels_last layout, if `torch_compile` is set and a compiler works."""
    if not config.torch_compile:
        return
    try:
        torch.compile(torch.nn.SiLU())(torch.ones(2, device=pick_device()))
    except Exception as error:  # of torch, Triton or the C++ compiler
        print(f"torch.compile does not work here ({_root_cause(error)}): going on without it")
        return
    torch._dynamo.config.suppress_errors = True  # what can't be compiled runs as it is, with a warning
    for network in networks:
        network.compile()
    for network in (*networks, *not_compiled):  # slower without compiled norms
        network.to(memory_format=torch.channels_last)


def hash_of_weights(model: torch.nn.Module) -> str:
    """A short text that changes with any of a model's weights."""
    return hash_of(value.float().cpu().contiguous().numpy() for value in model.state_dict().values())


@torch.no_grad()
def autoencoder_round_trip(base: DiffusionPipeline, images: list, batch_size: int = 16) -> list:
    """PIL pictures through encoder (posterior mean) and decoder: float sRGB arrays (H, W, 3) in [0, 1]."""
    vae, outputs = base.vae, []
    for start in range(0, len(images), batch_size):
        pixels = base.image_processor.preprocess(images[start : start + batch_size]).to(vae.device, vae.dtype)
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        outputs.extend(base.image_processor.postprocess(decoded, output_type="np"))
    return outputs
