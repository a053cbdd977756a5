"""The training runs of the study, and what each profile uses as their models and photos: data only."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Run:
    """One training of the study, or one that it left out; `base` and `photos` are keys of `EQUIVALENTS`.

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
    train_seed: int = 0


TABLE = {  # the study's three; then others, most of which change one thing
    "study_1": Run("SD 1.5", "flowers", 1e-5, 10, seen="output unlike the input"),
    "study_2": Run("SD 2.1-base", "flowers", 1e-4, 10, seen="converging, dull colour"),  # epochs not told: as in run 1
    "study_3": Run("SD 2.1-base", "COCO", 1e-4, 3, seen="satisfactory"),
    "sd15_high_rate": Run("SD 1.5", "flowers", 1e-4, 10),
    "sd21_low_rate": Run("SD 2.1-base", "flowers", 1e-5, 10),
    "stock_recipe": Run("SD 2.1-base", "COCO", 1e-5, 1),  # as diffusers' example trains a ControlNet
    "captions": Run("SD 2.1-base", "COCO", 1e-4, 3, "captions"),
    "captions_dropout_50": Run("SD 2.1-base", "COCO", 1e-4, 3, "captions", 0.5),
    "study_3_tcd": Run("SD 2.1-base + TCD", "COCO", controlnet="study_3"),  # in a few steps, by a distilled adapter
    "peer_sdxl_light": Run("SDXL-Lightning", "COCO", controlnet="nickpai/sdxl_light_custom_caption_output"),
}
RUNS = dict(TABLE)  # and those that train, again with other seeds
for seed in (1, 2):
    RUNS |= {f"{name}_seed_{seed}": replace(run, train_seed=seed) for name, run in TABLE.items() if not run.controlnet}
EQUIVALENTS = {  # what a profile takes for a run's base and photos, and what runs beside its own need
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
            "n_images_other": 80,
            "n_steered": 30,
            "prompt_levels": ("empty", "vague", "detailed", "wrong_color"),
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
            "prompt_levels": ("vague", "detailed"),
            "sampling_tried": "",  # those trials are of another ControlNet
            "n_images_other": 20,
            "n_steered": 20,
        },
    },
}
SCALED_BY = {
    "l4": {},
    "pocket": {"learning_rate": 4, "train_epochs": 8},
}  # small models and sets; not tuned
