"""Hub repositories of the runs that train nothing, in small: a distilled adapter, and SDXL-Lightning with its ControlNet."""

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.rehearsal.repositories import AUTOENCODER, UNET, without_tags, write_clip_tokenizer

SDXL_WIDTHS = {"text_encoder": 32, "text_encoder_2": 64}  # whose token vectors stand side by side
POOLED, TIME_WIDTH, TIMES = 32, 8, 6  # of the second encoder; of each of the sizes that SDXL is told
SD21_UNET = {"attention_head_dim": [2, 4, 8, 8], "use_linear_projection": True, "cross_attention_dim": 64}
SDXL_UNET = {
    "block_out_channels": [32, 64, 64], "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], "attention_head_dim": [2, 4, 8],
    "transformer_layers_per_block": [1, 1, 2], "use_linear_projection": True, "sample_size": 16,
    "cross_attention_dim": sum(SDXL_WIDTHS.values()), "addition_embed_type": "text_time",
    "addition_time_embed_dim": TIME_WIDTH, "projection_class_embeddings_input_dim": POOLED + TIMES * TIME_WIDTH,
}  # fmt: skip


def write_adapter(folder):
    """A LoRA of the stand-in for SD 2.1-base, saved as diffusers does; its weights are random, so that it changes pictures."""
    unet = UNet2DConditionModel(**without_tags({**UNET, **SD21_UNET}))
    unet.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights)


def make_sdxl_unet():
    """A UNet with SDXL's text and size conditions."""
    return UNet2DConditionModel(**without_tags({**UNET, **SDXL_UNET}))


def write_sdxl(folder):
    """SDXL with its two text encoders."""
    size = write_clip_tokenizer(folder / "words")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words")
    config = {"vocab_size": size, "num_hidden_layers": 2, "num_attention_heads": 4, "projection_dim": POOLED}
    config |= {"bos_token_id": size - 2, "eos_token_id": size - 1}
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    encoders = {
        name: kind(CLIPTextConfig(**config, hidden_size=SDXL_WIDTHS[name], intermediate_size=2 * SDXL_WIDTHS[name]))
        for name, kind in kinds.items()
    }
    vae = AutoencoderKL(**without_tags(AUTOENCODER), scaling_factor=0.13025)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = EulerDiscreteScheduler(**schedule, steps_offset=1, timestep_spacing="leading")
    parts = {"vae": vae, "unet": make_sdxl_unet(), "scheduler": scheduler, **encoders}
    StableDiffusionXLPipeline(tokenizer=tokenizer, tokenizer_2=tokenizer, **parts).save_pretrained(folder)


def write_lightning(folder):
    """The file with the weights of a distilled SDXL UNet, by diffusers' names."""
    folder.mkdir(parents=True)
    save_file(make_sdxl_unet().state_dict(), folder / "sdxl_lightning_8step_unet.safetensors")


def write_peer(folder):
    """A ControlNet for SDXL in the subfolder where its authors put it; its last layers are not zero, so that it acts."""
    controlnet = ControlNetModel.from_unet(make_sdxl_unet(), conditioning_embedding_out_channels=(16, 32, 96, 256))
    for block in [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]:
        torch.nn.init.normal_(block.weight, std=0.1)
    controlnet.save_pretrained(folder / "checkpoint-30000/controlnet")


PEERS = {
    "h1t/TCD-SD21-base-LoRA": write_adapter,
    "stabilityai/stable-diffusion-xl-base-1.0": write_sdxl,
    "ByteDance/SDXL-Lightning": write_lightning,
    "nickpai/sdxl_light_custom_caption_output": write_peer,
}
