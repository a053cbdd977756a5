"""A small untrained pipeline and a small data set of real photos, made once for all tests."""

import html
import re
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from lib import ROOT, dataset, models
from lib.config import get_config
from lib.photo import command


def read_made(path):
    """How a picture says that it was made, {name: text}, for a person to read."""
    with Image.open(path) as image:
        words = re.search('x-default">(.*)</rdf:li>', image.info["xmp"].decode())[1]
    return dict(field.split(": ", 1) for field in re.split("; (?=[a-z_]+: )", html.unescape(words)))


def colorize(*arguments):
    """Run the command; returns its exit status, after an error that it ends with is printed."""
    with pytest.raises(SystemExit) as stopped:
        command.main([str(argument) for argument in arguments])
    if isinstance(stopped.value.code, str):
        print(stopped.value.code, file=sys.stderr)
        return 1
    return stopped.value.code


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """The pocket profile at 32 px in a folder of its own, a few steps and one seed, no shipped weights."""
    folder = tmp_path_factory.mktemp("work")
    fields = {"resolution": 32, "initial_controlnet": "", "train_steps": 6, "train_batch_size": 4, "checkpoint_every": 3,
              "log_every": 1, "num_inference_steps": 2, "n_seeds": 2, "n_images": 3}  # fmt: skip
    return get_config("pocket", build=str(folder / "build"), reports=str(folder / "reports"), **fields)


@pytest.fixture(scope="session")
def base(config):
    """The pocket model's base with an untrained UNet, for pictures of 32 px."""
    torch.manual_seed(0)
    shape = UNet2DConditionModel.load_config(ROOT / "lib/pocket_model", subfolder="unet")
    unet = UNet2DConditionModel.from_config({**shape, "sample_size": config.resolution // 4})
    base = models.load_base(config, unet=unet)
    base.vae.enable_slicing()  # as the pipelines that share it do, so that no test changes another's latents
    return base


@pytest.fixture(scope="session")
def triples(config):
    """The pocket photos at 32 px."""
    return dataset.build_dataset(config)


@pytest.fixture(scope="session")
def pipeline(base):
    """The untrained base with an untrained ControlNet whose zero convolutions are opened a little."""
    torch.manual_seed(1)
    controlnet = models.make_controlnet(base.unet, base.vae_scale_factor, base.annotator.channels)
    for block in [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]:
        torch.nn.init.normal_(block.weight, std=0.1)
    return models.add_controlnet(base, controlnet)


@pytest.fixture
def own_run(config, pipeline, tmp_path):
    """The profile in a folder of its own, whose run has saved the pipeline's ControlNet."""
    config = config.replace(build=str(tmp_path / "build"))
    pipeline.controlnet.save_pretrained(config.run_dir / "controlnet")
    return config
