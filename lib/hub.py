"""The Hugging Face Hub: data sets and trained ControlNets, each with its card, under names that begin as `hub_repo_id`.

The token is where the Hub's own tools keep it (`hf auth login`, or HF_TOKEN); nothing here reads, prints or stores it.
"""

import pandas as pd
from datasets import DatasetDict
from huggingface_hub import DatasetCard, HfApi, get_token

from lib.dataset import draw_prompts
from lib.files import one_line, write_text
from lib.profiles import get_profile
from lib.report import markdown_table

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
captions. {captions} {subjects} Centre crop, Lanczos. {notes}
"""
CAPTIONS = {  # by source: what the caption columns hold
    "folder": "`detailed_caption` was written by people who saw the colours, `gray_caption` by people who saw only the gray photo.",
    "coco": "`detailed_caption` is one of COCO's captions, which people wrote: the one with most colour words; "
    "`object_caption` is the same without them, and `gray_caption` is empty.",
    "flowers": "All captions name the kind of flower only, and `gray_caption` is empty.",
}
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
pipeline = StableDiffusionControlNetPipeline.from_pretrained("{base_model}"{revision}, controlnet=controlnet)
picture = pipeline("a red cup on a white table", image=gray_photo).images[0]
```

{base_note}Then join the picture's a*, b* to the photo's own L* in CIELAB.

## Scores

On {n} test photos at most, after the merge; some prompts may have been tried on fewer.

{scores}

## Limits

Colours are guesses that follow the prompt; not for evidence, and not for people whose look matters.
"""
LOCAL_BASE = """`{}` is a folder of prompted-colorization, whose text encoder comes from a package: `lib.models.load_base` loads both.

"""


def check(profile):
    """Refuse to start without a token where something is to be published: ValueError."""
    if profile.hub_repo_id and profile.hub_repo_id.count("/") != 1:
        raise ValueError(f"hub_repo_id {profile.hub_repo_id!r} is no Hub id: it looks like name/repository")
    if profile.hub_repo_id and not get_token():
        raise ValueError(
            "hub_repo_id is set, but there is no Hub token: run `hf auth login`, or leave hub_repo_id empty"
        )


def plan(profile):
    """Where something will be published, and whether for all to see, in a line; "" for nothing."""
    if not profile.hub_repo_id:
        return ""
    visibility = _visibility(profile.hub_private)
    return (
        f"publishes as {profile.hub_repo_id}-...: new repositories will be {visibility}, others keep their visibility"
    )


def _visibility(private):
    return {True: "private", False: "public", None: "the Hub does not say whether private or public"}[private]


def push_dataset(triples, profile, notes=""):
    """Push a DatasetDict and its card, with a sentence of notes, to the Hub; nothing where `profile.hub_repo_id` is empty."""
    if not profile.hub_repo_id:
        return "not published: hub_repo_id is empty"
    splits = "\n".join(f"| {name} | {len(rows)} |" for name, rows in triples.items())
    train = triples["train"]
    shared = len(set(train["subject"])) < len(train)
    card = DATASET_CARD.format(
        resolution=profile.resolution, profile=profile.name, splits=splits, source=profile.source,
        policy=profile.prompt_policy, captions=CAPTIONS[profile.source], notes=notes,
        subjects="A photo's subject is in one split only." if shared else "A photo is in one split only.",
    )  # fmt: skip
    train = train.remove_columns("prompt").add_column("prompt", draw_prompts(train, profile))
    policy = profile.prompt_policy  # where it isn't the profile's own, it is another data set
    repo = f"{profile.hub_repo_id}-{profile.source}" + f"-{policy}" * (
        policy != get_profile(profile.name).prompt_policy
    )
    triples = DatasetDict({**triples, "train": train})
    return _published(repo, "dataset", profile, lambda: _push_dataset(triples, repo, card, profile.hub_private))


def _push_dataset(triples, repo, card, private):
    triples.push_to_hub(repo, private=private)
    pushed = DatasetCard.load(repo)  # its metadata lists the splits' files
    own = DatasetCard(card)
    pushed.data.license, pushed.data.tags, pushed.data.task_categories = (
        own.data.license, own.data.tags, own.data.task_categories,
    )  # fmt: skip
    pushed.text = own.text
    pushed.push_to_hub(repo, repo_type="dataset")


def push_controlnet(profile, summary, n):
    """Push the run's ControlNet and a model card with its scores; without `profile.hub_repo_id`, only the card is written.

    A ControlNet that was not trained here (`profile.controlnet`) gets no card and is not published.
    """
    if profile.controlnet:
        return f"not published: {profile.controlnet} was not trained by this run"
    scores = summary.query("merged")[["system", "prompt_level", "psnr", "ssim", "ciede2000", "chroma_ratio"]]
    repo, run = f"{profile.hub_repo_id}-{profile.run}", pd.read_csv(profile.run_dir / "run.csv")
    card = MODEL_CARD.format(
        licence=next((name for part, name in LICENCES.items() if part in profile.base_model), "apache-2.0"),
        repo=repo if profile.hub_repo_id else "ID", profile=profile.name, base_model=profile.base_model,
        revision=f', revision="{profile.base_revision}"' if profile.base_revision else "",
        base_note=LOCAL_BASE.format(profile.base_model) if profile.text_encoder else "",
        resolution=profile.resolution, run=markdown_table(run), n=n, scores=markdown_table(scores),
    )  # fmt: skip
    write_text(card, profile.controlnet_dir / "README.md")
    if not profile.hub_repo_id:
        return "not published: hub_repo_id is empty"
    folder, private = profile.controlnet_dir, profile.hub_private
    return _published(repo, "model", profile, lambda: _push_folder(folder, repo, private))


def _push_folder(folder, repo, private):
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder)


def _published(repo, kind, profile, push):
    """Run a push and say where it went and whether it is private; trouble is said too, and does not undo the work that came before."""
    place = f"datasets/{repo}" if kind == "dataset" else repo
    try:
        push()
    except Exception as error:  # of several clients
        reason = one_line(error, 300)
        return f"NOT published: {place} ({reason}): run this notebook again with --only"
    private = _is_private(repo, kind)
    kept = private is not None and private != profile.hub_private
    return f"published: {place} ({_visibility(private)}{', as it was before' if kept else ''})"


def _is_private(repo, kind):
    """Whether a repository is private; None where the Hub does not say."""
    try:
        return HfApi().repo_info(repo, repo_type=kind).private
    except Exception:  # of several clients: what was pushed is pushed
        return None
