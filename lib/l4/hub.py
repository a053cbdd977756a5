"""Publishes data sets and ControlNets on the Hugging Face Hub, under names that begin with `hub_repo_id`.

The token is where the Hub's own tools keep it (`hf auth login`, or HF_TOKEN); nothing here reads, prints or stores it.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from datasets import DatasetDict
from huggingface_hub import DatasetCard, HfApi, ModelCard, ModelCardData, create_repo, get_token, upload_folder

from lib import ROOT
from lib.cache import one_line
from lib.config import Config, describe_run, get_config
from lib.dataset import draw_prompts
from lib.report import markdown_table

LICENCES = {"stable-diffusion-2": "openrail++", "stable-diffusion-v1": "creativeml-openrail-m"}  # of bases, by name
CARDS = {"folder": "pocket_photos", "coco": "coco", "flowers": "flowers"}  # folders in data_cards, by source
SCORES = ["system", "prompt_condition", "psnr", "ssim", "ciede2000", "chroma_ratio"]
NOT_ASKED = "not published: hub_repo_id is empty"


def describe_plan(config: Config) -> str:
    """Where something will be published and who will see it, "" if nothing will be; ValueError if it can't be."""
    if not config.hub_repo_id:
        return ""
    if not get_token():
        raise ValueError("hub_repo_id is set, but there is no Hub token: run `hf auth login`, or leave it empty")
    return f"publishes as {config.hub_repo_id}-..., {'private' if config.hub_private else 'public'} if it is new there"


def push_dataset(triples: DatasetDict, config: Config, notes: str = "") -> str:
    """Publishes a data set with the run's training prompts and its card; returns what happened, in a line."""
    if not config.hub_repo_id:
        return NOT_ASKED
    train, policy = triples["train"], config.prompt_policy
    train = train.remove_columns("prompt").add_column("prompt", draw_prompts(train, config))
    repo = f"{config.hub_repo_id}-{config.source}"
    repo += "" if policy == get_config(config.profile).prompt_policy else f"-{policy}"  # not over the profile's own

    def push():
        DatasetDict({**triples, "train": train}).push_to_hub(repo, private=config.hub_private)
        card = DatasetCard.load(repo)  # which lists the splits and their files
        own = DatasetCard.load(ROOT / "data_cards" / CARDS[config.source] / "README.md")
        for name in ("license", "tags", "task_categories"):
            setattr(card.data, name, getattr(own.data, name))
        made = f"The photos' central squares at {config.resolution} px; training prompts: policy `{policy}`. {notes}"
        card.text = f"{own.text}\n## The triples\n\n{made}\n"
        card.push_to_hub(repo)

    return publish(repo, "dataset", push)


def model_card(config: Config, repo: str, summary: pd.DataFrame, n: int) -> ModelCard:
    """The card of a run's ControlNet, with its scores (`stats.summary`) on at most n photos."""
    tags = {"library_name": "diffusers", "pipeline_tag": "image-to-image", "tags": ["controlnet", "colorization"]}
    licence = next((name for base, name in LICENCES.items() if base in config.base_model), "apache-2.0")
    values = {"repo": repo, "photos": n, "resolution": config.resolution, "revision": config.base_revision or "main"}
    values["run"] = markdown_table(pd.DataFrame([describe_run(config)]))
    values["scores"] = markdown_table(summary.query("restored")[SCORES])
    data = ModelCardData(license=licence, base_model=config.base_model, **tags)
    return ModelCard.from_template(data, str(Path(__file__).with_name("model_card.md")), **values)


def push_controlnet(config: Config, summary: pd.DataFrame, n: int) -> str:
    """Writes a card for the ControlNet that the run trained and publishes both; returns what happened, in a line."""
    if config.controlnet:
        return f"not published: {config.controlnet} was not trained by this run"
    repo = f"{config.hub_repo_id}-{config.run}" if config.hub_repo_id else "ID"
    model_card(config, repo, summary, n).save(config.run_dir / "controlnet/README.md")
    if not config.hub_repo_id:
        return NOT_ASKED

    def push():
        create_repo(repo, private=config.hub_private, exist_ok=True)
        upload_folder(repo_id=repo, folder_path=config.run_dir / "controlnet")

    return publish(repo, "model", push)


def publish(repo: str, kind: str, push: Callable[[], None]) -> str:
    """Calls `push` and returns where that published and who can see it, or the error, which stops nothing."""
    place = f"datasets/{repo}" if kind == "dataset" else repo
    try:
        push()
        private = HfApi().repo_info(repo, repo_type=kind).private
    except Exception as error:  # of several clients
        return f"NOT published: {place} ({one_line(error, 300)}): run this notebook again with --only"
    return f"published: {place} ({'private' if private else 'public'})"
