"""Loading: stock diffusers reads what we ship, and what does not fit is refused with a reason."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from safetensors import safe_open

from lib import dataset, models
from lib.annotator import load_annotator
from lib.config import get_config, resolve

SHIPPED = resolve("lib/pocket_model")
POCKET = get_config("pocket")


def test_stock_diffusers_colorizes_with_the_shipped_folder():
    text = models.load_text_encoder(POCKET.text_encoder, POCKET.max_tokens, SHIPPED)
    controlnet = ControlNetModel.from_pretrained(SHIPPED / "controlnet")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        SHIPPED, controlnet=controlnet, safety_checker=None, **text
    )
    photo = dataset.open_photo(resolve(POCKET.photos) / "photos/world-animals-scarlet-macaw.jpg")
    photo = dataset.crop_square(photo, 128)
    gray = photo.convert("L").convert("RGB")
    generator = torch.Generator().manual_seed(0)
    encode = partial(models.encode_prompts, pipeline=pipeline)
    shown = load_annotator(POCKET.annotator, POCKET.segmenter, encode)([gray], ["a red parrot"])
    output = pipeline("a red parrot", shown, num_inference_steps=4, generator=generator, output_type="np").images[0]
    assert output.shape == (128, 128, 3)
    assert output.std() > 0.05
    shapes = np.stack([output.mean(-1).ravel(), np.asarray(gray)[..., 0].ravel()])
    assert np.corrcoef(shapes)[0, 1] > 0.7  # it paints the photo that it was shown


def test_shipped_model_is_small_half_precision_and_safe():
    files = [path for path in SHIPPED.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert sum(path.stat().st_size for path in files) < 60e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".png", ".jpg", ".csv", ".py"}
    for path in SHIPPED.rglob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118


def test_unreachable_base_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = get_config("l4", base_model=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="can.t be loaded .*: check base_model and base_revision"):
        models.load_base(config)


def test_a_controlnet_that_does_not_fit_is_refused(base, pipeline, tmp_path):
    with pytest.raises(ValueError, match="no ControlNet in build/nowhere/at/all: train one with notebook 03"):
        models.load_controlnet("build/nowhere/at/all", base.unet)
    pipeline.controlnet.save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match="is for another base or annotator: conditioning_channels"):
        models.load_controlnet(tmp_path / "own", base.unet, channels=5)
    other = ControlNetModel(
        block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=8,
        cross_attention_dim=16, conditioning_embedding_out_channels=(16, 32), attention_head_dim=4,
    )  # fmt: skip
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="is for another base or annotator: block_out_channels"):
        models.load_controlnet(tmp_path / "other", base.unet)


def test_round_trip_keeps_order_and_size(base, triples):
    images = triples["test"]["image"][:5]
    together = models.autoencoder_round_trip(base, images, batch_size=2)
    alone = models.autoencoder_round_trip(base, [images[4]])
    assert len(together) == 5
    assert torch.allclose(torch.tensor(together[4]), torch.tensor(alone[0]), atol=1e-5)


def test_without_a_compiler_networks_stay_as_they_are(monkeypatch, capsys):
    def broken(_):
        raise RuntimeError("Failed to find a working\nC++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    network = torch.nn.Conv2d(4, 4, 3)
    models.speed_up([network], get_config("l4"))
    assert not network.weight.is_contiguous(memory_format=torch.channels_last)
    assert network._compiled_call_impl is None
    assert "does not work here (RuntimeError: Failed to find a working C++ compiler)" in capsys.readouterr().out
    monkeypatch.setattr(torch, "compile", lambda network: network)
    models.speed_up([network], get_config("l4"))
    assert network._compiled_call_impl is not None
    assert network.weight.is_contiguous(memory_format=torch.channels_last)


def test_memory_layout_comes_from_the_profile_and_the_prediction_type_from_the_base(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: network)
    fields = {"controlnet": POCKET.initial_controlnet, "torch_compile": True}
    pipeline = models.load_pipeline(get_config("pocket", **fields))
    assert type(pipeline) is StableDiffusionControlNetPipeline
    assert pipeline.vae.use_slicing
    assert type(pipeline.scheduler) is UniPCMultistepScheduler
    assert pipeline.scheduler.config.prediction_type == "v_prediction"  # as the base's
    kernels = [part.weight for part in pipeline.unet.modules() if isinstance(part, torch.nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
