"""From grayscale photos and sentences to colour, before and after the merge with the photo's own L*."""

import json
import os
import shutil
import zlib
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from lib.color import gray_from_luminance, luminance, merge_luminance, srgb_to_lab, to_float, to_pil
from lib.dataset import load_dataset_dict, pick_across_categories
from lib.fullsize import network_size, paint, reduce_lightness
from lib.models import add_controlnet, load_base, load_controlnet, memory_advice
from lib.networks import prompts_of
from lib.profiles import check_settings, settings_of, write_settings
from lib.prompts import STEERING_WORDS, steering_prompt

LISTING_COLUMNS = ("image_id", "category", "prompt_level", "prompt", "seed", "before", "after")
SETTINGS = (
    "base_model",
    "photos",
    "resolution",
    "n_images",
    "n_seeds",
    "num_inference_steps",
    "guidance_scale",
    "controlnet_conditioning_scale",
)


def sample(pipeline, conditioning_images, prompts, seeds, profile):
    """Colour pictures before the merge: float sRGB arrays (H, W, 3), one for each (image, prompt, seed).

    The three lists are of one length and are sampled in batches of `profile.sample_batch_size`; every picture has its
    own generator, so that its batch changes no more than the last digits.
    """
    outputs = []
    for start in tqdm(
        range(0, len(prompts), profile.sample_batch_size),
        desc="colorizing",
        leave=False,
        disable=len(prompts) <= profile.sample_batch_size,
    ):
        part = slice(start, start + profile.sample_batch_size)
        with memory_advice("lower sample_batch_size"):
            result = pipeline(
                prompt=list(prompts[part]),
                image=list(conditioning_images[part]),
                generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds[part]],
                num_inference_steps=profile.num_inference_steps,
                guidance_scale=profile.guidance_scale,
                controlnet_conditioning_scale=profile.controlnet_conditioning_scale,
                output_type="np",
            )
        outputs.extend(result.images)
    return outputs


def colorize_photo(photo, prompt, seed, pipeline, profile, saturation=1.0):
    """A `Photo` of any size in colour: uint8 sRGB (H, W, 3), and the share of its pixels that lost chroma to fit sRGB.

    The network sees a reduced copy; its a*, b* (times `saturation`) are enlarged under the photo's own L*.
    """
    multiple = pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    plane = reduce_lightness(photo.pixels, network_size(*photo.pixels.shape[:2], profile.resolution, multiple))
    output = sample(pipeline, [to_pil(gray_from_luminance(plane))], [prompt], [seed], profile)[0]
    return paint(photo.pixels, plane, srgb_to_lab(output)[..., 1:], saturation)


def merge(conditioning_images, outputs):
    """Each output's a*, b* joined to the L* of its conditioning image: float sRGB arrays."""
    planes = (luminance(to_float(image)) for image in conditioning_images)
    return [merge_luminance(plane, output) for plane, output in zip(planes, outputs, strict=True)]


def seed_of(image_id, seed):
    """The generator's seed of a photo: other noise for every photo, the same for its every prompt."""
    return zlib.crc32(f"{image_id}/{seed}".encode())


def colorize_test_photos(profile):
    """Notebook 04's pictures of a profile: the test photos under the ladder of prompts, and their things in every word.

    Under accelerate's launchers every process calls this, and they share the pictures.
    """
    state = PartialState()  # gives each process its GPU
    rows = pick_across_categories(load_dataset_dict(profile)["test"], profile.n_images)
    with state.main_process_first():
        prompts = prompts_of(profile, rows)
    base = load_base(profile)
    pipeline = add_controlnet(base, load_controlnet(profile.controlnet_dir, base.unet))
    things = rows.filter(bool, input_columns="thing")
    steering = {word: [steering_prompt(thing, word) for thing in things["thing"]] for word in STEERING_WORDS}
    colorize_rows(pipeline, rows, prompts, range(profile.n_seeds), profile)
    colorize_rows(pipeline, things, steering, [0], profile, "steering")


def colorize_rows(pipeline, rows, prompts, seeds, profile, name="images"):
    """Colorize data-set rows under `prompts` {level: [a prompt a row]} with every one of the seeds.

    Writes 8-bit PNGs before and after the merge and `images.csv` (`LISTING_COLUMNS`) to the folder of that name in
    `profile.run_dir`, which appears when it is whole. Pictures that are there of the same ControlNet, prompts and settings
    stay: only missing ones are made. Returns that table. Under accelerate's launchers the processes share the pictures.
    """
    records = [
        {**{key: row[key] for key in ("image_id", "category")}, "prompt_level": level, "prompt": prompts[level][index],
         "seed": seed, **{c: f"{name}/{row['image_id']}.{level}.{seed}.{c}.png" for c in ("before", "after")}}
        for index, row in enumerate(rows.remove_columns(["image", "conditioning_image"]))
        for level in prompts for seed in seeds
    ]  # fmt: skip
    position = {image_id: index for index, image_id in enumerate(rows["image_id"])}
    folder = profile.run_dir / name
    table = pd.DataFrame(records, columns=LISTING_COLUMNS)
    state = PartialState()
    with state.main_process_first():
        partial = start_or_resume(folder, table, profile)
    mine = records[state.process_index :: state.num_processes]
    there = {path.name for path in partial.iterdir()}
    missing = [record for record in mine if not {Path(record[c]).name for c in ("before", "after")} <= there]
    size = profile.sample_batch_size
    for start in tqdm(range(0, len(missing), size), desc=f"colorizing {name}"):
        batch = missing[start : start + size]
        gray = [rows[position[record["image_id"]]]["conditioning_image"] for record in batch]
        noise = [seed_of(record["image_id"], record["seed"]) for record in batch]
        before = sample(pipeline, gray, [record["prompt"] for record in batch], noise, profile)
        for column, pictures in (("before", before), ("after", merge(gray, before))):
            for record, picture in zip(batch, pictures, strict=True):
                target = partial / Path(record[column]).name
                to_pil(picture).save(target.with_suffix(".tmp"), format="png")
                os.replace(target.with_suffix(".tmp"), target)
    state.wait_for_everyone()
    if state.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    state.wait_for_everyone()
    return table


def start_or_resume(folder, table, profile):
    """The folder in which pictures are made until they are whole: what is there of them, or a new one."""
    partial = folder.with_name(folder.name + ".part")
    if is_current(folder, table, profile):
        shutil.rmtree(partial, ignore_errors=True)
        os.replace(folder, partial)
    if not is_current(partial, table, profile):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_settings(profile, SETTINGS, partial)
        table.to_csv(partial / "images.csv", index=False)
    return partial


def is_current(folder, table, profile):
    """Whether a folder's pictures, all or some of them, are of this table, these settings and this ControlNet."""
    stamp = folder / "settings.json"
    if not ((folder / "images.csv").exists() and json.loads(stamp.read_text()) == settings_of(profile, SETTINGS)):
        return False
    same = pd.read_csv(folder / "images.csv", keep_default_na=False, dtype=str).equals(table.astype(str))
    return same and newest_weights(profile) <= stamp.stat().st_mtime


def newest_weights(profile):
    """When the run's ControlNet was written, in seconds; 0 where there is none."""
    return max((path.stat().st_mtime for path in profile.controlnet_dir.glob("*.safetensors")), default=0.0)


def read_images(profile, name="images"):
    """The table that `colorize_rows` wrote; without it, or made with other fields, a ValueError that says to run 04."""
    path = profile.run_dir / name / "images.csv"
    if not path.exists():
        raise ValueError(f"no colorized photos in {path.parent}: run notebook 04_colorize_photos first")
    check_settings(profile, path.parent, "04_colorize_photos")
    if newest_weights(profile) > (path.parent / "settings.json").stat().st_mtime:
        raise ValueError(f"{path.parent} is older than {profile.controlnet_dir}: run notebook 04_colorize_photos again")
    return pd.read_csv(path, keep_default_na=False, dtype={"image_id": str})


def read_image(profile, name):
    """One picture of such a table, by its file name there, as a float sRGB array."""
    path = profile.run_dir / name
    try:
        return to_float(Image.open(path))
    except (OSError, SyntaxError, ValueError):
        raise ValueError(
            f"picture {path} is missing or damaged: remove what is left of it and run notebook 04_colorize_photos again"
        ) from None
