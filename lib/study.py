"""The training runs of the study, and what each profile uses as their models and photos: data only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One training of the study, or one on captions; `base` and `photos` are keys of `EQUIVALENTS`."""

    base: str
    photos: str
    learning_rate: float
    train_epochs: float
    prompt_policy: str = "generic"
    prompt_dropout: float = 0.0
    seen: str = ""  # what the study saw


RUNS = {
    "study_1": Run("SD 1.5", "flowers", 1e-5, 10, seen="output unlike the input"),
    "study_2": Run("SD 2.1-base", "flowers", 1e-4, 10, seen="converging, dull colour"),  # epochs not told: as in run 1
    "study_3": Run("SD 2.1-base", "COCO", 1e-4, 3, seen="satisfactory"),
    "captions": Run("SD 2.1-base", "COCO", 1e-4, 3, "captions"),  # study_3 with other training prompts
}
EQUIVALENTS = {  # what a profile takes for a run's base and photos, and what runs beside its own need
    "l4": {
        "SD 1.5": {
            "base_model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "base_revision": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            "base_mirrors": ("sd-legacy/stable-diffusion-v1-5",),
        },
        "SD 2.1-base": {},
        "flowers": {"source": "flowers", "test_source": "coco"},
        "COCO": {},
        "other runs": {
            "n_seeds": 1,
            "n_images_other": 80,
            "n_binding": 30,
            "prompt_conditions": ("empty", "vague", "detailed", "recolored"),
        },
    },
    "pocket": {
        "SD 1.5": {"base_model": "lib/pocket_model/narrow"},
        "SD 2.1-base": {},
        "flowers": {"train_categories": ("animals",)},
        "COCO": {},
        "other runs": {
            "annotator": "",  # as in 2024: the ControlNet is shown the gray photo alone
            "initial_controlnet": "",
            "n_seeds": 1,
            "checkpoint_every": 100,
            "log_every": 10,
            "prompt_conditions": ("vague", "detailed"),
            "sampling_tried": "",  # those trials are of another ControlNet
            "n_images_other": 20,
            "n_binding": 20,
        },
    },
}
SCALED_BY = {
    "l4": {},
    "pocket": {"learning_rate": 4, "train_epochs": 8},
}  # small models and sets; not tuned
