"""The Hugging Face Hub: data sets and trained ControlNets, each with its card, under names that begin as `hub_repo_id`.

The token is where the Hub's own tools keep it (`hf auth login`, or HF_TOKEN); nothing here reads, prints or stores it.
"""

import pandas as pd
from datasets import DatasetDict
from huggingface_hub import DatasetCard, HfApi, get_token

from lib.dataset import draw_prompts
from lib.profiles import get_profile
from lib.report import markdown_table, write_text

DATASET_CARD = """---
license: other
task_categories: [image-to-image, text-to-image]
tags: [colorization, controlnet]
---

# Triples for prompted colorization

Prompt, photo and grayscale photo at {resolution} px, made by notebook 01 of prompted-colorization with its `{profile}`
profile. The grayscale photo (`conditioning_image`) has the L* of the photo (`image`).

| split | rows |
|---|---|
{splits}

Photos: {source}; each keeps its own licence. Training prompts: policy `{policy}`; validation and test prompts are detailed
captions. A photo's subject is in one split only. Centre crop, Lanczos. {notes}
"""
LICENCES = {"stable-diffusion-2": "openrail++", "stable-diffusion-v1": "creativeml-openrail-m"}  # of the base it copies
MODEL_CARD = """---
license: {licence}
base_model: {base_model}
pipeline_tag: image-to-image
library_name: diffusers
tags: [controlnet, colorization]
---

# A ControlNet that colorizes

Trained by notebook 03 of prompted-colorization (profile `{profile}`) for the frozen base `{base_model}` at {resolution} px:

{run}

```python
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

controlnet = ControlNetModel.from_pretrained("{repo}")
pipeline = StableDiffusionControlNetPipeline.from_pretrained("{base_model}", controlnet=controlnet)
picture = pipeline("a red cup on a white table", image=gray_photo).images[0]
```

Then join the picture's a*, b* to the photo's own L* in CIELAB.

## Scores

On {n} test photos, after the merge.

{scores}

## Limits

Colours are guesses that follow the prompt; not for evidence, and not for people whose look matters.
"""


def check(profile):
    """Refuse to start without a token where something is to be published: ValueError."""
    if profile.hub_repo_id and profile.hub_repo_id.count("/") != 1:
        raise ValueError(f"hub_repo_id {profile.hub_repo_id!r} is no Hub id: it looks like name/repository")
    if profile.hub_repo_id and not get_token():
        raise ValueError(
            "hub_repo_id is set, but there is no Hub token: run `hf auth login`, or leave hub_repo_id empty"
        )


def push_dataset(triples, profile, notes=""):
    """Push a DatasetDict and its card, with a sentence of notes, to the Hub; nothing where `profile.hub_repo_id` is empty."""
    if not profile.hub_repo_id:
        return "not published: hub_repo_id is empty"
    splits = "\n".join(f"| {name} | {len(rows)} |" for name, rows in triples.items())
    card = DATASET_CARD.format(
        resolution=profile.resolution, profile=profile.name, splits=splits, source=profile.source,
        policy=profile.prompt_policy, notes=notes,
    )  # fmt: skip
    train = triples["train"]
    train = train.remove_columns("prompt").add_column("prompt", draw_prompts(train, profile))
    policy = profile.prompt_policy  # where it isn't the profile's own, it is another data set
    repo = f"{profile.hub_repo_id}-{profile.source}" + f"-{policy}" * (
        policy != get_profile(profile.name).prompt_policy
    )
    return _published(f"datasets/{repo}", lambda: _push_dataset(DatasetDict({**triples, "train": train}), repo, card))


def _push_dataset(triples, repo, card):
    triples.push_to_hub(repo)
    pushed = DatasetCard.load(repo)  # its metadata lists the splits' files
    own = DatasetCard(card)
    pushed.data.license, pushed.data.tags, pushed.data.task_categories = (
        own.data.license, own.data.tags, own.data.task_categories,
    )  # fmt: skip
    pushed.text = own.text
    pushed.push_to_hub(repo, repo_type="dataset")


def push_controlnet(profile, summary, n):
    """Push the run's ControlNet and a model card with its scores; without `profile.hub_repo_id`, only the card is written."""
    scores = summary.query("merged")[["system", "prompt_level", "psnr", "ssim", "ciede2000", "chroma_ratio"]]
    repo, run = f"{profile.hub_repo_id}-{profile.run}", pd.read_csv(profile.run_dir / "run.csv")
    card = MODEL_CARD.format(
        licence=next((name for part, name in LICENCES.items() if part in profile.base_model), "apache-2.0"),
        repo=repo if profile.hub_repo_id else "ID", profile=profile.name, base_model=profile.base_model,
        resolution=profile.resolution, run=markdown_table(run), n=n, scores=markdown_table(scores),
    )  # fmt: skip
    write_text(card, profile.controlnet_dir / "README.md")
    if not profile.hub_repo_id:
        return "not published: hub_repo_id is empty"
    return _published(repo, lambda: _push_folder(profile.controlnet_dir, repo))


def _push_folder(folder, repo):
    api = HfApi()
    api.create_repo(repo, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder)


def _published(place, push):
    """Run a push and say where it went; trouble is said too, and does not undo the work that came before."""
    try:
        push()
    except Exception as error:  # of several clients
        reason = " ".join(str(error).split())[:300]
        return f"NOT published: {place} ({reason}): run this notebook again with --only"
    return f"published: {place}"
