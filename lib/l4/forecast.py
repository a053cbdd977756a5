"""`make forecast`: hours, dollars and disk of the chosen runs, part by part, before the first of them starts.

On a GPU a few steps of the true shapes with random weights are timed; elsewhere their TFLOP are counted on tensors
without data, and turned into hours at stated rates. What falls to the processor is timed on the machine at hand.
"""

import argparse
import functools
import io
import math
import os
import platform
import sys
import time
from dataclasses import dataclass, field

import pandas as pd
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from lib import ROOT
from lib.color import make_conditioning_image, to_float
from lib.colorize import ALWAYS, N_VALIDATION
from lib.dataset import open_photo, read_manifest
from lib.files import write_text
from lib.l4.coco import COCO, PHOTO_BYTES
from lib.metrics import measure
from lib.models import compile_networks, make_controlnet, pick_device
from lib.profiles import add_field_option, own_run, profiles_to_run
from lib.prompts import PROMPT_LEVELS, STEERING_WORDS
from lib.report import markdown_table
from lib.study import RUNS
from lib.training import diffusion_loss, make_optimizer, with_train_steps

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
UNET = {"block_out_channels": (320, 640, 1280, 1280)}
SHAPES = {  # the published configurations of a run's base: UNet and autoencoder
    "SD 2.1-base": (
        {**UNET, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
        VAE,
    ),
    "SD 1.5": ({**UNET, "cross_attention_dim": 768, "attention_head_dim": 8}, VAE),
}
WORKS = ("encode", "train", "plain", "guided", "decode")  # a photo, a photo, a sampling step of each kind, a picture
RATES = (15, 25, 33)  # TFLOP/s that an L4 may sustain in bfloat16
ENCODED = 16  # photos at once, as latents are made
BYTES_PER_SECOND = 30e6  # of COCO's servers, about

TEST_PHOTOS, FLOWERS, FLOWERS_TRAINED = 5_000, 4_242, 3_818  # of val2017; of Kaggle's flowers, and 9 in 10 of them
WATCHED_PHOTOS = 8  # validation photos colorized at each checkpoint
REFERENCES = 8  # pictures a test photo that no prompt touched: six references and two systems without a prompt
JPEG_BYTES, GRAY_BYTES, PNG_BYTES = 117_000, 135_000, 376_000  # mean of 60 photos at 512 px; the data set holds two
PROMPT_BYTES = 2 * 77  # of a caption's token vectors in half precision, times their width
CHECKPOINT_GB, CONTROLNET_GB = 4.4, 1.5  # 364 M parameters with AdamW's two moments, and alone
BASE_GB, NETWORKS_GB = 5.2, 2.0  # a base model; BLIP, CLIP, Inception and AlexNet

EARLIER = {  # the plan before photos, levels, steps and guidance were chosen with care
    "n_images": 500, "n_images_other": 0, "n_images_all_seeds": 0, "n_steered": 0, "prompt_levels": (),
    "num_inference_steps": 20, "steps_to_try": (), "guidance_to_try": (), "guidance_share": 1.0,
}  # fmt: skip

GUIDE = ROOT / "notebooks/L4.md"
MARKS = ("<!-- written by `make forecast ARGS=--save` -->", "<!-- end -->")


@dataclass
class Part:
    """A row of the forecast: how often each of `WORKS` is done for a base's shape, and what else it takes."""

    name: str
    kind: str  # what it is on disk
    gb: float = 0.0
    shape: str = ""
    works: dict = field(default_factory=dict)
    download: float = 0.0  # bytes
    prepared: int = 0  # photos made ready by the processor
    measured: int = 0  # pictures measured by it


def shape_of(profile):
    """The key of `SHAPES` for a profile's base, or "" where its shape is not known and its hours can't be told."""
    name = getattr(RUNS.get(profile.folders.run) or RUNS.get(own_run(profile.name)), "base", "")
    return name if name in SHAPES else ""


def pictures_planned(profile, n_photos):
    """How many pictures a run colorizes of `n_photos` test photos: {prompt level: pictures}, and `steering`.

    Prompts that are equal at two levels are counted twice, and every photo is taken to have a thing.
    """

    def at_most(limit, n):
        return min(limit or n, n)

    photos = at_most(profile.study.n_images, n_photos)
    absent = (
        ()
        if profile.data.captioner
        else ("auto_caption", *(["gray_caption"] if profile.data.source != "folder" else []))
    )
    levels = profile.study.prompt_levels or [level for level in PROMPT_LEVELS if level not in absent]
    other, planned = at_most(profile.study.n_images_other, photos), {}
    for level in levels:
        n = photos if level in ALWAYS else other
        planned[level] = n + (profile.study.n_seeds - 1) * at_most(profile.study.n_images_all_seeds, n)
    return {**planned, "steering": at_most(profile.study.n_steered, photos) * len(STEERING_WORDS)}


def sampling(pictures, steps, guidance, share):
    """The works of sampling pictures: `share` of the steps, from the first on, are guided where guidance is not 1."""
    guided = math.ceil(steps * share) if guidance != 1 else 0
    return {"plain": pictures * (steps - guided), "guided": pictures * guided, "decode": pictures}


def add(*works):
    """The sum of several {work: times}."""
    return {name: sum(part.get(name, 0) for part in works) for name in WORKS}


def plan(profiles, choose=max):
    """The `Part`s of a study, in order; photos come once a source, latents once a source and base.

    `choose` takes the number of steps that pictures are sampled with out of those that a run tries.
    """
    of_sources = {p.data.source: p for p in [*(p.for_test_photos for p in profiles), *profiles]}
    parts = [part for profile in of_sources.values() for part in plan_source(profile)]
    parts.append(Part("networks of captions and measures", "models", NETWORKS_GB))
    parts += [Part(f"base {name}", "models", BASE_GB) for name in {p.model.base_model: 0 for p in profiles}]
    trained = [profile for profile in profiles if not profile.model.controlnet]
    parts += [plan_latents(p) for p in {(p.data.source, p.model.base_model): p for p in trained}.values()]
    captioned = {(p.data.source, p.model.base_model): p for p in trained if p.data.prompt_policy != "generic"}
    parts += [plan_prompts(p) for p in captioned.values()]
    parts += [part for profile in profiles for part in plan_run(profile, choose)]
    while_training = max(profile.training.keep_checkpoints for profile in profiles) * CHECKPOINT_GB
    return [*parts, Part("checkpoints while one trains", "runs", while_training)]


def photos_trained(profile):
    """How many photos a profile trains on."""
    return profile.data.n_train if profile.data.source == "coco" else FLOWERS_TRAINED


def plan_source(profile):
    """The parts that bring a profile's photos and make its data set; the photos of a folder are there."""
    coco = profile.data.source == "coco"
    n = profile.data.n_train + profile.data.n_validation + TEST_PHOTOS if coco else FLOWERS
    come = {"coco": sum(size for _, size, _ in COCO.values()), "flowers": 250e6}.get(profile.data.source, 0)
    gb = n * (PHOTO_BYTES + 2 * (JPEG_BYTES + GRAY_BYTES)) / 1e9
    return [
        Part(f"download of {profile.data.source}", "downloads", come / 1e9, download=come),
        Part(f"data set {profile.data.source}", "photos and data sets", gb, prepared=n),
    ]


def plan_latents(profile):
    """The latents of a source's training photos under a base's autoencoder, with their gray pictures."""
    n, side = photos_trained(profile), profile.data.resolution
    gb = n * (2 * 2 * 4 * (side // 8) ** 2 + side**2) / 1e9  # mean and deviation in half precision; gray
    shape = shape_of(profile)
    return Part(f"latents of {profile.data.source}, {shape}", "caches", gb, shape, {"encode": n})


def plan_prompts(profile):
    """The embeddings of a source's captions."""
    shape = shape_of(profile)
    width = SHAPES[shape][0]["cross_attention_dim"] if shape else 1024
    gb = photos_trained(profile) * PROMPT_BYTES * width / 1e9
    return Part(f"captions of {profile.data.source}, {shape}", "caches", gb, shape)


def plan_run(profile, choose):
    """The parts of one run: training, choosing how to sample, pictures, measuring; the strongest guidance is taken."""
    shape, run, n = shape_of(profile), profile.folders.run, photos_trained(profile)
    tried = [(steps, guidance) for steps in profile.study.steps_to_try for guidance in profile.study.guidance_to_try]
    steps = choose(profile.study.steps_to_try or (profile.sampling.num_inference_steps,))
    guidance, share = (
        max(profile.study.guidance_to_try, default=profile.sampling.guidance_scale),
        profile.sampling.guidance_share,
    )
    choosing = [sampling(N_VALIDATION, *settings, share) for settings in tried]
    planned = pictures_planned(profile, TEST_PHOTOS)
    unguided, pictures = planned.get("empty", 0), sum(planned.values())
    colorizing = add(sampling(unguided, steps, 1, share), sampling(pictures - unguided, steps, guidance, share))
    photos = min(profile.study.n_images or TEST_PHOTOS, TEST_PHOTOS)
    measured = 2 * (pictures - planned["steering"]) + (REFERENCES + len(planned) - 1) * photos
    trained = with_train_steps(profile, n)
    checkpoints = math.ceil(trained.training.train_steps / profile.training.checkpoint_every)
    training = sampling(
        WATCHED_PHOTOS * checkpoints, profile.sampling.num_inference_steps, profile.sampling.guidance_scale, share
    )
    training["train"] = trained.training.train_steps * profile.training.train_batch_size
    parts = [
        Part(f"{run}: training", "runs", CHECKPOINT_GB + CONTROLNET_GB, shape, training),
        Part(f"{run}: choosing steps and guidance", "runs", 0, shape, add(*choosing)),
        Part(f"{run}: {pictures:,} pictures", "runs", 2 * pictures * PNG_BYTES / 1e9, shape, colorizing),
        Part(f"{run}: measuring", "runs", 0, shape, {"encode": photos, "decode": photos}, measured=measured),
    ]
    return parts[1:] if profile.model.controlnet else parts


def disk_needed(profiles):
    """Gigabytes that runs take on disk, by kind of file."""
    needed = {}
    for part in plan(profiles):
        needed[part.kind] = needed.get(part.kind, 0) + part.gb
    return needed


def make_networks(shape, device, dtype):
    """A base's UNet and autoencoder in `dtype` and their ControlNet in single precision, with random weights."""
    of_unet, of_vae = SHAPES[shape]
    with torch.device(device):
        unet = UNet2DConditionModel(**of_unet).to(dtype)
        vae = AutoencoderKL(**of_vae).to(dtype)
        controlnet = make_controlnet(unet, 2 ** (len(of_vae["block_out_channels"]) - 1))
    for part in (unet, vae):
        part.eval().requires_grad_(False)
    return unet, vae, controlnet


def works_of(networks, profile):
    """{work: (function of a batch size that does it once, batch size)}, as training and sampling do it."""
    unet, vae, controlnet = networks
    side, sampled = profile.data.resolution, profile.sampling.sample_batch_size
    small = side // 2 ** (len(vae.config.block_out_channels) - 1)
    step = sampling_step(unet, controlnet, small, side)

    @torch.no_grad()
    def code(function, *shape):
        function(torch.zeros(shape, device=vae.device, dtype=vae.dtype))

    return {
        "encode": (lambda n: code(vae.encode, n, 3, side, side), ENCODED),
        "train": (training_step(unet, controlnet, small, profile), profile.training.train_batch_size),
        "plain": (step, sampled),
        "guided": (lambda n: step(2 * n), sampled),  # with the prompt and without, in one batch
        "decode": (lambda n: code(vae.decode, n, 4, small, small), sampled),
    }


def training_step(unet, controlnet, small, profile):
    """A function of a batch size that trains a step on latents of `small` px; a loss that is not finite is a ValueError."""
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    meta, side, width = unet.device.type == "meta", profile.data.resolution, unet.config.cross_attention_dim
    optimizer = None if meta else make_optimizer(controlnet, profile.training)
    mixed = {"device_type": "cpu" if meta else unet.device.type, "dtype": torch.bfloat16}
    if profile.training.gradient_checkpointing:
        for part in (unet, controlnet):
            part.enable_gradient_checkpointing()

    @functools.cache  # in training a thread makes the batches
    def make_batch(n):
        return torch.randn(n, 4, small, small), torch.randn(n, 77, width), torch.rand(n, 3, side, side)

    def train(n):
        with torch.autocast(**mixed, enabled=unet.dtype == torch.bfloat16):
            generator = torch.Generator().manual_seed(0)
            loss = diffusion_loss(unet, scheduler, make_batch(n), generator, profile.training, controlnet)
        loss.backward()
        if meta:
            return
        optimizer.step()
        optimizer.zero_grad()
        if not math.isfinite(loss.item()):
            raise ValueError(
                f"the loss of a training step with random weights is {loss.item()}: this machine computes wrongly"
            )

    return train


def sampling_step(unet, controlnet, small, side):
    """A function of a batch size: what ControlNet and UNet do in a step for that many latents, without their sampler."""
    width, options = unet.config.cross_attention_dim, {"device": unet.device, "dtype": unet.dtype}

    @torch.no_grad()
    def step(n):
        latents, words = torch.zeros(n, 4, small, small, **options), torch.zeros(n, 77, width, **options)
        gray, time_of_step = torch.zeros(n, 3, side, side, **options), torch.ones((), device=unet.device)
        down, mid = controlnet(latents, time_of_step, words, gray, return_dict=False)
        unet(latents, time_of_step, words, down_block_additional_residuals=down, mid_block_additional_residual=mid)

    return step


def count_works(shape, profile):
    """{work: TFLOP a sample} of a base's shape, counted on tensors without data."""
    counted = {}
    for name, (work, _) in works_of(make_networks(shape, torch.device("meta"), torch.float32), profile).items():
        with FlopCounterMode(display=False) as counter:
            work(1)
        counted[name] = counter.get_total_flops() / 1e12
    return counted


def time_works(shape, profile, device):
    """{work: seconds a sample} of a base's shape on a device, in the profile's precision, batches and layout."""
    dtype = torch.bfloat16 if profile.model.mixed_precision == "bf16" else torch.float32
    unet, vae, controlnet = networks = make_networks(shape, device, dtype)
    for part in networks if profile.model.channels_last else ():
        part.to(memory_format=torch.channels_last)
    if profile.model.torch_compile:
        compile_networks((unet, controlnet))
    works = works_of(networks, profile)
    seconds = {"train": time_work(*works.pop("train"), device)}
    controlnet.requires_grad_(False).eval().to(dtype)  # as it samples
    return seconds | {name: time_work(*work, device) for name, work in works.items()}


def time_work(work, n, device, warm_up=2, repeats=3):
    """Seconds a sample of a batch, halved where it does not fit in memory."""
    try:
        for turn in range(warm_up + repeats):
            if turn == warm_up:
                wait(device)
                started = time.perf_counter()
            work(n)
        wait(device)
        return (time.perf_counter() - started) / repeats / n
    except torch.OutOfMemoryError:
        if n == 1:
            raise ValueError("one sample does not fit in the GPU's memory: a larger GPU is needed") from None
    torch.cuda.empty_cache()
    return time_work(work, n // 2, device, warm_up, repeats)


def wait(device):
    """Wait for what a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def time_processor(size, repeats=3):
    """Seconds of one processor that this machine takes to make a photo of `size` px ready, and to measure a picture."""
    path = read_manifest("data_cards/pocket_photos")["path"][0]
    best = {"prepared": math.inf, "measured": math.inf}
    for _ in range(repeats):
        started = time.process_time()
        photo = open_photo(path, size)
        gray = make_conditioning_image(photo)
        photo.save(io.BytesIO(), format="jpeg", quality=95)
        gray.convert("L").save(io.BytesIO(), format="png")
        best["prepared"] = min(best["prepared"], time.process_time() - started)
        started = time.process_time()
        measure(to_float(photo), to_float(gray))
        best["measured"] = min(best["measured"], time.process_time() - started)
    return best


def forecast(parts, costs, processor, rates, workers):
    """The table of a plan: a row a part and the total, with the hours at every rate and gigabytes.

    `costs`: {shape: {work: cost}}, which a rate of a second turns into hours (1: the costs are seconds); `processor`:
    seconds of one of as many processors as there are `workers`.
    """
    rows = []
    for part in parts:
        cost = sum(n * costs[part.shape][name] for name, n in part.works.items()) if part.shape else 0
        other = part.download / BYTES_PER_SECOND
        other += sum(getattr(part, name) * seconds for name, seconds in processor.items()) / workers
        hours = {f"hours{f' at {rate}' if rate != 1 else ''}": (cost / rate + other) / 3600 for rate in rates}
        counted = {} if 1 in rates else {"TFLOP": cost}
        rows.append({"part": part.name, **counted, **hours, "GB": part.gb})
    table = pd.DataFrame(rows)
    total = {"part": "total", **table.drop(columns="part").sum()}
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def describe_machine(device):
    """What the figures come from."""
    if device.type == "cuda":
        return f"timed on {torch.cuda.get_device_name()} with CUDA {torch.version.cuda} and torch {torch.__version__}"
    return f"TFLOP counted; the processor's share timed on {os.cpu_count()} x {platform.machine()}, without a GPU"


def cost_of(profiles, device):
    """{shape: {work: cost}} of the profiles' bases, and the rates to divide it by: seconds and 1, or TFLOP and `RATES`."""
    shapes = {shape: profile for profile in profiles if (shape := shape_of(profile))}
    if device.type == "cuda":
        return {shape: time_works(shape, profile, device) for shape, profile in shapes.items()}, (1,)
    return {shape: count_works(shape, profile) for shape, profile in shapes.items()}, RATES


def compare_plans(name, overrides, device):
    """The forecast of the chosen runs, and beside its total those of other plans, all for the same machine."""
    profiles = profiles_to_run(name, **overrides)
    workers = max(1, profiles[0].data.workers)
    (costs, rates), processor = cost_of(profiles, device), time_processor(profiles[0].data.resolution)
    plans = {
        "earlier plan": plan(profiles_to_run(name, **{**overrides, **EARLIER})),
        "this plan, fewest steps": plan(profiles, choose=min),
        "this plan, most steps": plan(profiles),
    }
    tables = {name: forecast(parts, costs, processor, rates, workers) for name, parts in plans.items()}
    totals = pd.concat([table.tail(1).assign(part=name) for name, table in tables.items()], ignore_index=True)
    return tables["this plan, most steps"], totals.rename(columns={"part": "plan"})


def with_dollars(table, price):
    """A forecast with a column of dollars beside its hours, or beside those at the middle rate."""
    name = "hours" if "hours" in table else f"hours at {RATES[1]}"
    table.insert(table.columns.get_loc(name) + 1, name.replace("hours", "dollars"), table[name] * price)
    return table


def save(now, totals, source):
    """Write `reports/forecast.csv`, and its two tables between the marks of notebooks/L4.md."""
    rows = pd.concat(
        [totals.assign(part="total"), now.assign(plan="this plan, most steps").iloc[:-1]], ignore_index=True
    )
    write_text(rows.assign(machine=source).round(2).to_csv(index=False), ROOT / "reports/forecast.csv")
    before, _, rest = GUIDE.read_text().partition(MARKS[0])
    tables = "\n\n".join(markdown_table(table.round(2)) for table in (totals, now))
    written = f"{MARKS[0]}\n\n{tables}\n\n*{source[0].upper()}{source[1:]}.*\n\n{MARKS[1]}"
    write_text(before + written + rest.partition(MARKS[1])[2], GUIDE)


def report(name, overrides, price, keep=False):
    """The forecast of a profile's runs and the totals of the plans as a text; with `keep`, they are written too."""
    device = pick_device()
    now, totals = (with_dollars(table, price) for table in compare_plans(name, overrides, device))
    source = f"{describe_machine(device)}; {price:.2f} dollars an hour"
    if keep:
        save(now, totals, source)
    unknown = [profile.folders.run for profile in profiles_to_run(name, **overrides) if not shape_of(profile)]
    note = f"\n\nwithout the hours of {', '.join(unknown)}, whose base has no known shape" if unknown else ""
    return f"{markdown_table(now.round(2))}\n\n{markdown_table(totals.round(2))}\n\n{source}{note}"


def add_options(parser):
    """The options of this command and of `lib.l4.check_machine`."""
    parser.add_argument("--profile", default="l4")
    parser.add_argument("--price", type=float, default=0.30, help="dollars an hour of the machine (default: 0.30)")
    parser.add_argument(
        "--save", action="store_true", help="write the forecast to reports/forecast.csv and notebooks/L4.md"
    )
    add_field_option(parser, "a profile field, e.g. -p runs all")


def main(arguments=None):
    """The command: prints the forecast."""
    parser = argparse.ArgumentParser(prog="python -m lib.l4.forecast", description=__doc__)
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        print(report(options.profile, dict(options.overrides), options.price, options.save))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
