"""`make forecast`: hours, dollars and disk of the chosen runs, part by part, before the first of them starts.

The TFLOP of each part are turned into hours: on a GPU at the rate of a few training steps that are timed, elsewhere at
stated rates. The processor's share is timed on the machine at hand.
"""

import argparse
import io
import math
import os
import platform
import time
from dataclasses import dataclass, field

import pandas as pd
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from lib import ROOT
from lib.cache import exit_with_one_line, write_table, write_text
from lib.color import make_conditioning_image, to_float
from lib.colorize import plan_pictures
from lib.config import add_field_option, configs_to_run
from lib.dataset import open_square, read_manifest
from lib.l4.coco import COCO, PHOTO_BYTES
from lib.metrics import measure
from lib.models import compile_networks, make_controlnet, memory_advice, pick_device
from lib.prompts import CONDITIONS, OBJECT_COLORS
from lib.report import markdown_table
from lib.sampling_choice import N_VALIDATION, grid
from lib.training import diffusion_loss, make_optimizer, with_train_steps

# TFLOP per sample at 512 px: a photo encoded, a photo in a training step, a sampling step without and with guidance, a
# picture decoded. Source: torch.utils.flop_counter on diffusers' networks with the published configurations, with the
# ControlNet that `make_controlnet` makes (November 2026).
COSTS = {
    "SD 2.1-base": dict(encode=1.116658, train=2.267059, plain=1.088004, guided=2.176007, decode=2.514519),
    "SD 1.5": dict(encode=1.116658, train=2.265167, plain=1.086565, guided=2.173131, decode=2.514519),
}
TEXT_WIDTHS = {"SD 2.1-base": 1024, "SD 1.5": 768}
TIMED_BASE, TIMED_UNET = "SD 2.1-base", dict(
    block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
    use_linear_projection=True,
)  # fmt: skip
RATES = (15, 25, 33)  # TFLOP/s that an L4 may sustain in bfloat16
BYTES_PER_SECOND = 30e6  # of COCO's servers, about
TEST_PHOTOS, FLOWER_PHOTOS, FLOWERS_TRAINED = 5_000, 4_242, 3_818  # of val2017; of Kaggle's flowers, and 9 in 10
WATCHED_PHOTOS = 8  # validation photos colorized at each checkpoint
PHRASES = 2  # pictures of a caption's regions
BINDING_PICTURES = 9 + 2 * len(OBJECT_COLORS)  # of an object: without a word, with one, with two, and of its regions
REFERENCE_PICTURES = 8  # pictures a test photo that no prompt touched: six references and two systems without a prompt
JPEG_BYTES, GRAY_BYTES, PNG_BYTES = 117_000, 135_000, 376_000  # mean of 60 photos at 512 px; the data set holds two
PROMPT_BYTES = 2 * 77  # of a caption's token vectors in half precision, times their width
CHECKPOINT_GB, CONTROLNET_GB = 4.4, 1.5  # 364 M parameters with AdamW's two moments, and alone
BASE_GB, NETWORKS_GB = 5.2, 2.6  # a base model; BLIP, CLIPSeg, CLIP, Inception and AlexNet
GUIDE = ROOT / "notebooks/L4.md"
MARKS = ("<!-- written by `make forecast ARGS=--save` -->", "<!-- end -->")


@dataclass
class Part:
    """A row of the forecast: how often each work of `COSTS` is done for a base, and what else it takes."""

    name: str
    kind: str  # what it is on disk
    gb: float = 0.0
    shape: str = ""
    works: dict = field(default_factory=dict)
    download: float = 0.0  # bytes
    prepared: int = 0  # photos made ready by the processor
    measured: int = 0  # pictures measured by it


def shape_of(config):
    """The key of `COSTS` for a profile's base, or "" if its cost is not known."""
    known = {"v1-5": "SD 1.5", "2-1-base": "SD 2.1-base"}
    return next((shape for part, shape in known.items() if part in config.base_model), "")


def pictures_planned(config, n_photos):
    """How many pictures a run colorizes of `n_photos` test photos: {prompt level or other plan: pictures}.

    Prompts that are equal at two levels are counted twice, and every photo is taken to have a thing.
    """
    n = min(config.n_images or n_photos, n_photos)
    absent = set() if config.captioner else {"auto_caption"}
    if not config.captioner and config.source != "folder":
        absent.add("gray_caption")
    levels = config.prompt_levels or [level for level in CONDITIONS if level not in absent]
    photos = pd.DataFrame({"image_id": range(n), "category": ""})
    prompts = {level: [""] * n for level in levels}
    plan = plan_pictures(photos, prompts, config.n_seeds, config.n_images_other, config.n_images_all_seeds)
    things = min(config.n_binding or n, n)
    phrases = PHRASES * min(config.n_images_other or n, n)
    counts = plan["prompt_level"].value_counts(sort=False)
    return {**counts, "binding": things * BINDING_PICTURES, "phrases": phrases}


def sampling(pictures, steps, guidance, share):
    """The works of sampling pictures: `share` of the steps, from the first on, are guided where guidance is not 1."""
    guided = math.ceil(steps * share) if guidance != 1 else 0
    return {"plain": pictures * (steps - guided), "guided": pictures * guided, "decode": pictures}


def add(*works):
    """The sum of several {work: times}."""
    return {name: sum(part.get(name, 0) for part in works) for name in COSTS[TIMED_BASE]}


def plan(configs, choose=max):
    """The `Part`s of a study, in order; photos come once a source, latents once a source and base.

    `choose` takes the number of steps that pictures are sampled with out of those that a run tries.
    """
    with_photos = [config.for_test_photos for config in configs] + configs
    of_sources = {config.source: config for config in with_photos}
    parts = [part for config in of_sources.values() for part in plan_source(config)]
    parts.append(Part("networks of captions, masks and measures", "models", NETWORKS_GB))
    bases = dict.fromkeys(config.base_model for config in configs)
    parts += [Part(f"base {name}", "models", BASE_GB) for name in bases]
    trained = [config for config in configs if not config.controlnet]
    encoded = {(p.source, p.base_model): p for p in trained}
    parts += [plan_latents(config) for config in encoded.values()]
    captioned = {(p.source, p.base_model): p for p in trained if p.prompt_policy != "generic"}
    parts += [plan_prompts(p) for p in captioned.values()]
    parts += [part for config in configs for part in plan_run(config, choose)]
    while_training = max(config.keep_checkpoints for config in configs) * CHECKPOINT_GB
    return [*parts, Part("checkpoints while one trains", "runs", while_training)]


def photos_trained(config):
    """How many photos a profile trains on."""
    return config.n_train if config.source == "coco" else FLOWERS_TRAINED


def plan_source(config):
    """The parts that bring a profile's photos and make its data set; the photos of a folder are there."""
    coco = config.source == "coco"
    n = config.n_train + config.n_validation + TEST_PHOTOS if coco else FLOWER_PHOTOS
    come = {"coco": sum(size for _, size, _ in COCO.values()), "flowers": 250e6}.get(config.source, 0)
    gb = n * (PHOTO_BYTES + 2 * (JPEG_BYTES + GRAY_BYTES)) / 1e9
    return [
        Part(f"download of {config.source}", "downloads", come / 1e9, download=come),
        Part(f"data set {config.source}", "photos and data sets", gb, prepared=n),
    ]


def plan_latents(config):
    """The latents of a source's training photos under a base's autoencoder, with their gray pictures."""
    n, side = photos_trained(config), config.resolution
    gb = n * (2 * 2 * 4 * (side // 8) ** 2 + side**2) / 1e9  # mean and deviation in half precision; gray
    shape = shape_of(config)
    return Part(f"latents of {config.source}, {shape}", "caches", gb, shape, {"encode": n})


def plan_prompts(config):
    """The embeddings of a source's captions."""
    shape = shape_of(config)
    gb = photos_trained(config) * PROMPT_BYTES * TEXT_WIDTHS.get(shape, 1024) / 1e9
    return Part(f"captions of {config.source}, {shape}", "caches", gb, shape)


def plan_run(config, choose):
    """The parts of one run: training, choosing how to sample, pictures, measuring; the strongest guidance is taken."""
    shape, run, share = shape_of(config), config.run, config.guidance_share
    steps, guidance = choose(config.steps_to_try), max(config.guidance_to_try)
    tried = grid(config)
    choosing = [sampling(N_VALIDATION, steps, scale, share) for steps, scale in tried]
    planned = pictures_planned(config, TEST_PHOTOS)
    unguided, pictures = planned.get("empty", 0), sum(planned.values())
    colorizing = add(sampling(unguided, steps, 1, share), sampling(pictures - unguided, steps, guidance, share))
    photos = min(config.n_images or TEST_PHOTOS, TEST_PHOTOS)
    asked = pictures - planned["binding"] - planned["phrases"]
    measured = 2 * asked + (REFERENCE_PICTURES + len(planned) - 1) * photos
    parts = [
        Part(f"{run}: choosing steps and guidance", "runs", 0, shape, add(*choosing)),
        Part(f"{run}: {pictures:,} pictures", "runs", 2 * pictures * PNG_BYTES / 1e9, shape, colorizing),
        Part(f"{run}: measuring", "runs", 0, shape, {"encode": photos, "decode": photos}, measured=measured),
    ]
    if config.controlnet:
        return parts
    config = with_train_steps(config, photos_trained(config))
    checkpoints = math.ceil(config.train_steps / config.checkpoint_every)
    works = sampling(WATCHED_PHOTOS * checkpoints, config.num_inference_steps, config.guidance_scale, share)
    works["train"] = config.train_steps * config.train_batch_size
    return [Part(f"{run}: training", "runs", CHECKPOINT_GB + CONTROLNET_GB, shape, works), *parts]


def disk_needed(configs):
    """Gigabytes that runs take on disk, by kind of file."""
    needed = {}
    for part in plan(configs):
        needed[part.kind] = needed.get(part.kind, 0) + part.gb
    return needed


def time_processor(size, repeats=3):
    """Seconds of one processor that this machine takes to make a photo of `size` px ready, and to measure a picture."""
    path = read_manifest("data_cards/pocket_photos")["path"][0]
    best = {"prepared": math.inf, "measured": math.inf}
    for _ in range(repeats):
        started = time.process_time()
        photo = open_square(path, size)
        gray = make_conditioning_image(photo)
        photo.save(io.BytesIO(), format="jpeg", quality=95)
        gray.convert("L").save(io.BytesIO(), format="png")
        best["prepared"] = min(best["prepared"], time.process_time() - started)
        started = time.process_time()
        measure(to_float(photo), to_float(gray))
        best["measured"] = min(best["measured"], time.process_time() - started)
    return best


def measure_rate(config, device, warm_up: int = 2, repeats: int = 3) -> float:
    """Times training steps at the size of SD 2.1-base, with random weights and the profile's batch and precision.

    Returns:
        TFLOP/s.

    Raises:
        ValueError: if the batch does not fit in memory, or the loss is not finite.
    """
    n, side, bf16 = config.train_batch_size, config.resolution, config.mixed_precision == "bf16"
    with torch.device(device):
        unet = UNet2DConditionModel(**TIMED_UNET).to(torch.bfloat16 if bf16 else torch.float32).requires_grad_(False)
        controlnet = make_controlnet(unet, 8)
    for network in (unet, controlnet) if config.channels_last else ():
        network.to(memory_format=torch.channels_last)
    if config.torch_compile:
        compile_networks((unet, controlnet))
    width = unet.config.cross_attention_dim
    batch = torch.randn(n, 4, side // 8, side // 8), torch.randn(n, 77, width), torch.rand(n, 3, side, side)
    optimizer = make_optimizer(controlnet, config)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    with memory_advice("lower train_batch_size"):
        for step in range(warm_up + repeats):
            if step == warm_up:
                started = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                generator = torch.Generator().manual_seed(step)
                loss = diffusion_loss(unet, scheduler, batch, generator, config, controlnet)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if not math.isfinite(loss.item()):  # reading it waits for the GPU
                raise ValueError(f"the loss with random weights is {loss.item()}: this machine computes wrongly")
        if device.type == "cuda":
            torch.cuda.synchronize()
    return n * repeats * costs_at(side)[TIMED_BASE]["train"] / (time.perf_counter() - started)


def costs_at(side):
    """`COSTS` at another size of photo: proportional to its area, which leaves out that attention costs more."""
    return {name: {work: cost * (side / 512) ** 2 for work, cost in of_base.items()} for name, of_base in COSTS.items()}


def forecast(parts, costs, processor, rates, workers):
    """The table of a plan: a row a part and the total, with TFLOP, the hours at every rate (TFLOP/s) and gigabytes.

    `costs`: {shape: {work: TFLOP}}; `processor`: seconds of one of as many processors as there are `workers`.
    """
    rows = []
    for part in parts:
        cost = sum(n * costs[part.shape][name] for name, n in part.works.items()) if part.shape else 0
        other = part.download / BYTES_PER_SECOND
        other += sum(getattr(part, name) * seconds for name, seconds in processor.items()) / workers
        hours = {f"hours at {rate:.0f}": (cost / rate + other) / 3600 for rate in rates}
        rows.append({"part": part.name, "TFLOP": cost, **hours, "GB": part.gb})
    table = pd.DataFrame(rows)
    total = {"part": "total", **table.drop(columns="part").sum()}
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def compare_plans(name, overrides, device):
    """The forecast of the chosen runs, and its total beside that with the fewest steps that they try."""
    configs = configs_to_run(name, **overrides)
    workers = max(1, configs[0].workers)
    costs, processor = costs_at(configs[0].resolution), time_processor(configs[0].resolution)
    rates = (measure_rate(configs[0], device),) if device.type == "cuda" else RATES
    plans = {"fewest steps": plan(configs, choose=min), "most steps": plan(configs)}
    tables = {name: forecast(parts, costs, processor, rates, workers) for name, parts in plans.items()}
    totals = pd.concat([table.tail(1).assign(part=name) for name, table in tables.items()], ignore_index=True)
    return tables["most steps"], totals.rename(columns={"part": "plan"})


def with_dollars(table, price):
    """A forecast with a column of dollars beside its hours at the middle rate."""
    columns = [name for name in table if name.startswith("hours")]
    name = columns[len(columns) // 2]
    table.insert(table.columns.get_loc(name) + 1, name.replace("hours", "dollars"), table[name] * price)
    return table


def save_forecast(now, totals, source):
    """Write `reports/forecast.csv`, and its two tables between the marks of notebooks/L4.md."""
    rows = pd.concat([totals.assign(part="total"), now.assign(plan="most steps").iloc[:-1]], ignore_index=True)
    write_table(rows.assign(machine=source).round(2), ROOT / "reports/forecast.csv")
    before, _, rest = GUIDE.read_text().partition(MARKS[0])
    tables = "\n\n".join(markdown_table(table.round(2)) for table in (totals, now))
    written = f"{MARKS[0]}\n\n{tables}\n\n*{source[0].upper()}{source[1:]}.*\n\n{MARKS[1]}"
    write_text(before + written + rest.partition(MARKS[1])[2], GUIDE)


def report(name, overrides, price, keep=False):
    """The forecast of a profile's runs and the totals of the plans as a text; with `keep`, they are written too."""
    device = pick_device()
    now, totals = (with_dollars(table, price) for table in compare_plans(name, overrides, device))
    source = (
        f"hours at stated rates; the processor's share timed on {os.cpu_count()} x {platform.machine()}, without a GPU"
    )
    if device.type == "cuda":
        machine = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, torch {torch.__version__}"
        source = f"hours at the rate of training steps timed on {machine}"
    source += f"; {price:.2f} dollars an hour"
    if keep:
        save_forecast(now, totals, source)
    unknown = [config.run for config in configs_to_run(name, **overrides) if not shape_of(config)]
    note = f"\n\nwithout the hours of {', '.join(unknown)}, whose base has no known cost" if unknown else ""
    return f"{markdown_table(now.round(2))}\n\n{markdown_table(totals.round(2))}\n\n{source}{note}"


def add_options(parser):
    """The options of this command and of `lib.l4.check_machine`."""
    parser.add_argument("--profile", default="l4")
    parser.add_argument("--price", type=float, default=0.30, help="dollars an hour of the machine (default: 0.30)")
    parser.add_argument("--save", action="store_true", help="write reports/forecast.csv and notebooks/L4.md")
    add_field_option(parser, "a profile field, e.g. -p runs all")


def main(arguments=None):
    """The command: prints the forecast."""
    parser = argparse.ArgumentParser(prog="python -m lib.l4.forecast", description=__doc__)
    add_options(parser)
    options = parser.parse_args(arguments)
    with exit_with_one_line():
        print(report(options.profile, dict(options.overrides), options.price, options.save))


if __name__ == "__main__":
    main()
