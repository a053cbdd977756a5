"""The recipe of the pocket model: autoencoder, base UNets and ControlNet, trained in this order and shipped."""

import copy
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from lib import ROOT
from lib.dataset import build_dataset, pick_across_categories
from lib.figures import save_sheet
from lib.files import write_table, write_text
from lib.latents import Batches, build_cache
from lib.models import add_controlnet, load_controlnet, load_text_encoder, pick_device
from lib.pocket_model.autoencoder import set_scaling_factor, train_autoencoder
from lib.pocket_model.goals import KNOWN_PHOTOS, goals_table, measure_models, save_goal_sheet, trials_table
from lib.pocket_model.grounding import WEIGHT, Grounding, train_grounding
from lib.pocket_model.painted_parts import BORDERED, SHARES, SPOILED, make_painted
from lib.pocket_model.segmenter import STAGE
from lib.pocket_model.training_pictures import load_training_pictures, make_dataset, prompt_shares, run_recipe
from lib.profiles import get_profile
from lib.report import markdown_table, render
from lib.sampling_choice import try_sampling
from lib.segmenter import PhraseSegmenter
from lib.training import diffusion_loss, read_losses, run_settings, save_model, train, train_controlnet

WIDTHS = {"base": (64, 128, 192), "narrow_base": (32, 64, 96)}  # 11.5 and 3 M parameters


def make_unet(size, widths=WIDTHS["base"]):
    """UNet2DConditionModel for `size` px photos, with text attention at its two lower levels."""
    return UNet2DConditionModel(
        sample_size=size // 4,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=384,
    )


def make_base(vae, unet, model):
    """The text-to-image pipeline of autoencoder, UNet and MiniLM: v-prediction, zero terminal SNR (Lin et al. 2024)."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    parts = load_text_encoder(model.text_encoder, model.max_tokens)
    parts |= {"vae": vae, "unet": unet, "scheduler": scheduler, "safety_checker": None, "feature_extractor": None}
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(pick_device())


def train_base(base, cache, profile, folder):
    """Train a base's UNet: text-to-image on all training pictures with their captions."""
    noise_scheduler, batches = DDPMScheduler.from_config(base.scheduler.config), Batches(cache, profile.training)
    prompts = ["a red apple in front of a plain white background", "a blue bird in front of green leaves"]
    prompts += ["a white windmill, blue sky, green grass", "a purple flower in front of dark green leaves"]

    def loss_of_step(unet, step, part):
        return diffusion_loss(unet, noise_scheduler, *batches(step), profile.training, part=part)

    def on_checkpoint(unet, step):
        generator = [torch.Generator().manual_seed(0) for _ in prompts]
        steps, scale = profile.sampling.num_inference_steps, profile.sampling.guidance_scale
        pictures = base(prompts, generator=generator, num_inference_steps=steps, guidance_scale=scale, output_type="np")
        save_sheet([pictures.images], folder / f"samples/{step:07d}.png", column_titles=prompts)

    settings = run_settings(profile, **cache.key)
    precision = profile.model.mixed_precision
    return train(base.unet, loss_of_step, profile.training, precision, folder, settings, on_checkpoint)


def ship(base, folder, **more):
    """Write a base and models beside it in diffusers' layout: half precision, safetensors, without MiniLM."""
    folder = Path(folder)
    base.save_config(folder)  # model_index.json
    base.scheduler.save_pretrained(folder / "scheduler")
    for name, model in {"vae": base.vae, "unet": base.unet, **more}.items():
        save_model(copy.deepcopy(model).half().cpu(), folder / name)


SHARED = dict(lr_scheduler="cosine", lr_warmup_steps=100, prompt_dropout=0.1, checkpoint_every=200, log_every=10)
STAGES = {  # what else differs from the pocket profile, stage by stage
    "autoencoder": dict(train_steps=1200, train_batch_size=8, learning_rate=1e-4, ema_decay=0.995, log_every=20),
    "base": dict(train_steps=2000, learning_rate=4e-4, ema_decay=0.998),
    "controlnet": dict(train_steps=3200, learning_rate=4e-4, ema_decay=0.998, initial_controlnet=""),
    # the ControlNet again, from where it stood, nearer to the noise that one-step sampling starts from
    "restart": dict(train_steps=3600, learning_rate=3e-4, ema_decay=0.998, timestep_bias=4.0, checkpoint_every=250),
    # on pictures of named parts, some of them with the empty prompt: where nouns are, where colour words are, colours
    "nouns": dict(train_steps=1000, learning_rate=7e-4, ema_decay=0.998, prompt_dropout=0.0),
    "words": dict(train_steps=2200, learning_rate=7e-4, ema_decay=0.998, prompt_dropout=0.0),
    "parts": dict(train_steps=4000, learning_rate=8e-4, ema_decay=0.998, timestep_bias=4.0, prompt_dropout=0.0),
}
STAGES["narrow_base"] = STAGES["base"]  # the other base of the runs, half as wide
ON_PARTS = ("nouns", "words", "parts")  # the stages that learn from painted pictures
N_PICTURES = 12_000
STEPS, SCALES = (1, 2, 4, 8), (1.0, 1.5, 2.0)  # of sampling and guidance, to choose from


def stage_profile(stage, **overrides):
    """The pocket profile with the fields of one stage of the recipe."""
    return get_profile("pocket", **{**SHARED, **STAGES[stage], **overrides})


def build_pocket_model(pictures, overrides, folder=ROOT / "build/pocket_model", target=ROOT / "lib/pocket_model"):
    """All stages in order, each resumed from its checkpoint or skipped when done; ships the result to `target`."""
    folder.mkdir(parents=True, exist_ok=True)
    size = get_profile("pocket").data.resolution
    dataset = make_dataset(pictures, folder / "dataset", N_PICTURES, size)
    profiles = {stage: stage_profile(stage, **overrides) for stage in STAGES}
    bases = {}
    torch.manual_seed(profiles["autoencoder"].training.train_seed)
    vae = train_autoencoder(dataset, profiles["autoencoder"], folder / "autoencoder")
    set_scaling_factor(vae, dataset[:256]["image"])
    for stage, widths in WIDTHS.items():
        torch.manual_seed(profiles[stage].training.train_seed)
        bases[stage] = make_base(vae, make_unet(size, widths), profiles[stage].model)
        cache = build_cache(dataset, dataset["prompt"], bases[stage], folder / "cache")
        train_base(bases[stage], cache, profiles[stage], folder / stage)
    base = bases["base"]
    for part in (base.vae, base.unet, base.text_encoder):
        part.eval().requires_grad_(False)
    photos = build_dataset(get_profile("pocket", build=str(folder)))
    watched = pick_across_categories(photos["validation"], 8)
    train_controlnet(base, cache, profiles["controlnet"], folder / "controlnet", watched)
    profiles["restart"] = profiles["restart"].replace(initial_controlnet=str(folder / "controlnet/controlnet"))
    train_controlnet(base, cache, profiles["restart"], folder / "restart", watched)
    controlnet = train_on_parts(base, pictures, size, profiles, folder, watched)
    ship(base, target, controlnet=controlnet)
    ship(bases["narrow_base"], target / "narrow")
    write_logs(profiles, folder, target)
    write_table(prompt_shares(*load_training_pictures(pictures), N_PICTURES), target / "prompts.csv")
    before = load_controlnet(str(folder / "restart/controlnet"), base.unet)
    measure({"before": before, "now": controlnet}, base, photos, target)
    write_card(target)


def train_on_parts(base, pictures, size, profiles, folder, watched):
    """The last three stages, which go on from `restart`: the ControlNet's attention, then all of it; returns it."""
    dataset, before = make_painted(pictures, folder / "painted", N_PICTURES, size), folder / "restart/controlnet"
    cache = build_cache(dataset, dataset["prompt"], base, folder / "cache")
    for stage in ("nouns", "words"):
        grounding = Grounding(dataset, base.tokenizer, profiles[stage].training, words=stage == "words")
        train_grounding(load_controlnet(str(before), base.unet), cache, grounding, profiles[stage], folder / stage)
        before = folder / stage / "controlnet"
    profile = profiles["parts"].replace(initial_controlnet=str(before))
    grounding = Grounding(dataset, base.tokenizer, profile.training)
    return train_controlnet(base, cache, profile, folder / "parts", watched, more_loss_for=grounding.loss_for)


def measure(controlnets, base, photos, target):
    """Measure ControlNets on the validation photos: `goals.csv`, `goals.png`, and for the last one `sampling.csv`."""
    rows, known = photos["validation"], pick_across_categories(photos["train"], KNOWN_PHOTOS)
    profile = get_profile("pocket", steps_to_try=STEPS, guidance_to_try=SCALES)
    write_table(measure_models(base, controlnets, rows, known, profile.sampling), target / "goals.csv")
    save_goal_sheet(base, controlnets, rows, profile.sampling, target / "goals.png")
    pipeline = add_controlnet(base, list(controlnets.values())[-1])
    write_table(try_sampling(pipeline, rows, profile), target / "sampling.csv")


def write_logs(profiles, folder, target):
    """Ship what each stage was trained on and how (`stages.csv`), its losses, and its last fixed-seed pictures."""
    made = {name: json.loads((folder / name / "made_from.json").read_text()) for name in ("dataset", "painted")}
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    rows, losses = [], []
    for stage, profile in profiles.items():
        log = pd.DataFrame(read_losses(folder / stage, profile.training.train_steps))
        losses.append(log.assign(stage=stage))
        training, precision = profile.training, {"no": "float32", "bf16": "bfloat16"}[profile.model.mixed_precision]
        row = {"stage": stage, "steps": training.train_steps, "batch": training.train_batch_size}
        row |= {"learning rate": training.learning_rate, "seed": training.train_seed}
        row |= {"hours": round(float(log["seconds"].iloc[-1]) / 3600, 2), "machine": machine, "precision": precision}
        data = made["painted" if stage in ON_PARTS else "dataset"]
        rows.append(row | {"data": "{pictures} pictures of {photos} photos and {cutouts} cut-outs".format(**data)})
        for sheet in sorted((folder / stage / "samples").glob("*.png"))[-1:]:
            shutil.copy(sheet, target / f"{stage}.png")
    write_table(pd.DataFrame(rows), target / "stages.csv")
    write_table(pd.concat(losses), target / "losses.csv")


def write_card(target):
    """The model card, from the tables that the recipe (`stages.csv`) and the trials left beside the weights."""
    tables = {name: read_table(target / f"{name}.csv") for name in ("stages", "prompts")}
    shown = ["steps", "guidance", "vague", "detailed", "over_vague", "over_gray", "chroma_ratio"]
    tables["sampling"] = read_table(target / "sampling.csv", shown)
    tables["goals"] = read_table(target / "goals.csv", then=goals_table)
    tables["trials"] = read_table(target / "trials.csv", then=trials_table)
    tables["segmenter"] = read_table(target / "segmenter/evaluation.csv")
    narrow = make_unet(get_profile("pocket").data.resolution, WIDTHS["narrow_base"]).num_parameters()
    fields = {"dropout": SHARED["prompt_dropout"], "schedule": SHARED["lr_scheduler"], "narrow": narrow / 1e6}
    fields |= {"segmenter_size": PhraseSegmenter().num_parameters() / 1e6, "segmenter_steps": STAGE["train_steps"]}
    fields |= {"weight": WEIGHT, "shares": SHARES, "bordered": BORDERED, "spoiled": SPOILED}
    write_text(render("pocket_card", **fields, **tables), target / "README.md")


def read_table(path, columns=None, then=lambda table: table):
    """A CSV file, or these columns of it, or what `then` makes of it, as a Markdown table; a line if it is missing."""
    return markdown_table(then(pd.read_csv(path, usecols=columns))) if path.exists() else "Not measured yet."


if __name__ == "__main__":
    run_recipe(build_pocket_model, "lib.pocket_model.recipe", "Rebuild lib/pocket_model from the photos.")
