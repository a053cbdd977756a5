"""The Hugging Face Hub: data sets and trained ControlNets, each with its card, under names that begin as `hub_repo_id`.

The token is where the Hub's own tools keep it (`hf auth login`, or HF_TOKEN); nothing here reads, prints or stores it.
"""

import pandas as pd
from datasets import DatasetDict
from huggingface_hub import DatasetCard, HfApi, get_token

from lib.cache import one_line, write_text
from lib.config import get_config
from lib.dataset import draw_prompts
from lib.report import render

LICENCES = {"stable-diffusion-2": "openrail++", "stable-diffusion-v1": "creativeml-openrail-m"}  # of the base it copies


def require_token(config):
    """Refuse to start without a token where something is to be published: ValueError."""
    if config.hub_repo_id and config.hub_repo_id.count("/") != 1:
        raise ValueError(f"hub_repo_id {config.hub_repo_id!r} is no Hub id: it looks like name/repository")
    if config.hub_repo_id and not get_token():
        raise ValueError(
            "hub_repo_id is set, but there is no Hub token: run `hf auth login`, or leave hub_repo_id empty"
        )


def describe_plan(config):
    """Where something will be published, and whether for all to see, in a line; "" for nothing."""
    if not config.hub_repo_id:
        return ""
    visibility = _visibility(config.hub_private)
    return f"publishes as {config.hub_repo_id}-...: new repositories will be {visibility}, others keep their visibility"


def _visibility(private):
    return {True: "private", False: "public", None: "the Hub does not say whether private or public"}[private]


def dataset_card(triples, config, notes=""):
    """The card of a DatasetDict on the Hub, with a sentence of notes."""
    train = triples["train"]
    return render(
        "dataset_card",
        profile=config.profile,
        source=config.source,
        resolution=config.resolution,
        policy=config.prompt_policy,
        splits={name: len(rows) for name, rows in triples.items()},
        shared_subjects=len(set(train["subject"])) < len(train),
        notes=notes,
    )


def push_dataset(triples, config, notes=""):
    """Push a DatasetDict and its card, with a sentence of notes, to the Hub; nothing where `hub_repo_id` is empty."""
    if not config.hub_repo_id:
        return "not published: hub_repo_id is empty"
    card, train = dataset_card(triples, config, notes), triples["train"]
    train = train.remove_columns("prompt").add_column("prompt", draw_prompts(train, config))
    policy = config.prompt_policy  # where it isn't the profile's own, it is another data set
    own, private = get_config(config.profile).prompt_policy, config.hub_private
    repo = f"{config.hub_repo_id}-{config.source}" + (f"-{policy}" if policy != own else "")
    triples = DatasetDict({**triples, "train": train})
    return _published(repo, "dataset", private, lambda: _push_dataset(triples, repo, card, private))


def _push_dataset(triples, repo, card, private):
    triples.push_to_hub(repo, private=private)
    pushed = DatasetCard.load(repo)  # its metadata lists the splits' files
    own = DatasetCard(card)
    for name in ("license", "tags", "task_categories"):
        setattr(pushed.data, name, getattr(own, name))
    pushed.text = own.text
    pushed.push_to_hub(repo, repo_type="dataset")


def model_card(config, repo, summary, n):
    """The card of a run's ControlNet, with its scores on at most n photos; `repo`: its id on the Hub."""
    return render(
        "model_card",
        licence=next((name for part, name in LICENCES.items() if part in config.base_model), "apache-2.0"),
        repo=repo,
        profile=config.profile,
        base_model=config.base_model,
        base_revision=config.base_revision,
        own_text_encoder=not config.text_encoder,
        resolution=config.resolution,
        run=pd.read_csv(config.run_dir / "run.csv"),
        photos=n,
        scores=summary.query("merged")[["system", "prompt_level", "psnr", "ssim", "ciede2000", "chroma_ratio"]],
    )


def push_controlnet(config, summary, n):
    """Push the run's ControlNet and a model card with its scores; without `hub_repo_id`, only the card is written.

    A ControlNet that was not trained here (`controlnet`) gets no card and is not published.
    """
    if config.controlnet:
        return f"not published: {config.controlnet} was not trained by this run"
    repo = f"{config.hub_repo_id}-{config.run}"
    card = model_card(config, repo if config.hub_repo_id else "ID", summary, n)
    write_text(card, config.controlnet_dir / "README.md")
    if not config.hub_repo_id:
        return "not published: hub_repo_id is empty"
    folder, private = config.controlnet_dir, config.hub_private
    return _published(repo, "model", private, lambda: _push_folder(folder, repo, private))


def _push_folder(folder, repo, private):
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder)


def _published(repo, kind, wanted, push):
    """Run a push and say where it went and whether it is private; trouble is said too, and is no error."""
    place = f"datasets/{repo}" if kind == "dataset" else repo
    try:
        push()
    except Exception as error:  # of several clients
        reason = one_line(error, 300)
        return f"NOT published: {place} ({reason}): run this notebook again with --only"
    private = _is_private(repo, kind)
    kept = private is not None and private != wanted
    return f"published: {place} ({_visibility(private)}{', as it was before' if kept else ''})"


def _is_private(repo, kind):
    """Whether a repository is private; None where the Hub does not say."""
    try:
        return HfApi().repo_info(repo, repo_type=kind).private
    except Exception:  # of several clients: what was pushed is pushed
        return None
