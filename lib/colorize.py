"""The test photos in colour: which pictures a run needs, each made once, with the lightness of its photo restored."""

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from lib.binding import PLAN_COLUMNS, plan_binding
from lib.cache import hash_of, new_file, new_folder, progress
from lib.color import restore_lightness, to_float, to_pil
from lib.config import Config, check_config, save_config
from lib.dataset import load_dataset_dict, pick_across_categories, read_auto_captions
from lib.models import hash_of_weights, load_pipeline, process_state
from lib.prompts import COMPARED, write_prompts
from lib.regions import regions_of
from lib.sampling import DATA_FIELDS, MODEL_FIELDS, guided_steps, hash_of_controlnet, sample_batches, seed_of

LISTING_COLUMNS = (*PLAN_COLUMNS, "before", "after")
SAMPLING_FIELDS = ("num_inference_steps", "guidance_scale", "guidance_share")
PLAN_FIELDS = ("n_images", "n_images_other", "n_images_all_seeds", "n_binding", "n_seeds", "prompt_conditions")
PICTURE_FIELDS = (*DATA_FIELDS, *PLAN_FIELDS, *SAMPLING_FIELDS, *MODEL_FIELDS)


def plan_pictures(photos: pd.DataFrame, prompts: dict, n_seeds=1, n_other=None, n_all_seeds=None) -> pd.DataFrame:
    """Returns a table of `PLAN_COLUMNS`, a row a picture.

    Args:
        photos: `image_id` and `category` of each photo.
        prompts: {condition: a prompt for each photo}.
        n_seeds: seeds under the conditions of `COMPARED`; other conditions have the first seed.
        n_other: how many photos, the first ones, have conditions other than `COMPARED`; None: all.
        n_all_seeds: how many photos, the first ones, have all `n_seeds` seeds, and the others one; None: all.
    """
    records = []
    for index, (image_id, category) in enumerate(zip(photos["image_id"], photos["category"], strict=True)):
        for condition in prompts:
            compared = condition in COMPARED
            if compared or index < (n_other or len(photos)):
                seeds = n_seeds if compared and index < (n_all_seeds or len(photos)) else 1
                prompt = prompts[condition][index]
                records += [(image_id, category, condition, prompt, seed) for seed in range(seeds)]
    return pd.DataFrame(records, columns=PLAN_COLUMNS)


def plan_test_photos(rows, prompts: dict, config: Config) -> dict[str, pd.DataFrame]:
    """Returns what a run makes of data-set rows and their prompts by condition: plans by the name of a folder.

    `images`: under all conditions, or those that `prompt_conditions` names; `binding`: what `plan_binding` needs of the
    first `n_binding` photos of an object; `phrases`: each region of the detailed captions, all in its colour.

    Raises:
        ValueError: if `prompt_conditions` has an unknown condition, or lacks one of `COMPARED`.
    """
    chosen = config.prompt_conditions or tuple(prompts)
    if unknown := [condition for condition in chosen if condition not in prompts]:
        known = f"known are {', '.join(prompts)}"
        raise ValueError(f"unknown prompt condition {unknown[0]!r} in prompt_conditions: {known}")
    if lacking := [condition for condition in COMPARED if condition not in chosen]:
        raise ValueError(f"prompt_conditions lacks {lacking[0]}, which the study compares: add it")
    photos = rows.select_columns(["image_id", "category", "object"]).to_pandas()
    chosen_prompts = {condition: texts for condition, texts in prompts.items() if condition in chosen}
    images = plan_pictures(photos, chosen_prompts, config.n_seeds, config.n_images_other, config.n_images_all_seeds)
    with_object = set(photos["image_id"][photos["object"].astype(bool)][: config.n_binding])
    binding = plan_binding([row for row in rows if row["image_id"] in with_object])
    detailed = images[(images["prompt_condition"] == "detailed") & (images["seed"] == 0)]
    detailed = detailed[: config.n_images_other]
    phrases = [
        (row.image_id, row.category, "phrase", region.phrase, 0)
        for row in detailed.itertuples()
        for region in regions_of(row.prompt)
    ]
    phrases = pd.DataFrame(phrases, columns=PLAN_COLUMNS).drop_duplicates()
    return {"images": images, "binding": binding, "phrases": phrases}


def load_test_photos(config: Config):
    """Returns the test photos of the study as data-set rows: `n_images` of them, from each category in turn."""
    return pick_across_categories(load_dataset_dict(config)["test"], config.n_images)


def colorize_test_photos(config: Config, own_conditions: dict | None = None) -> None:
    """Makes notebook 04's pictures: the test photos under the prompt conditions, and for the binding table.

    Under accelerate's launchers every process calls this, and they share the pictures.

    Args:
        config: of the run.
        own_conditions: prompt conditions beside those of `lib.prompts`, {name: function of a photo's record, which maps
            the names of its text columns to the texts, that returns the prompt}.
    """
    process_state()  # gives each process its GPU
    rows = load_test_photos(config)
    prompts = write_prompts(rows) | read_auto_captions(config, rows["image_id"])
    prompts |= {name: list(map(write, rows)) for name, write in (own_conditions or {}).items()}
    plans = plan_test_photos(rows, prompts, config)
    colorize_rows(load_pipeline(config), rows, plans, config)


def colorize_rows(pipeline, rows, plans: dict[str, pd.DataFrame], config: Config) -> dict[str, pd.DataFrame]:
    """Colorizes data-set rows as plans say, {folder: a table of `PLAN_COLUMNS`}; equal pictures are made once.

    8-bit PNGs before and after lightness is restored go to `pictures` in the run's folder, under names that say what
    they were made from, so existing ones stay, those of other photos and prompts too. Then each plan's folder gets an
    `images.csv` (`LISTING_COLUMNS`), and pictures of other weights, sizes or steps are removed. Under accelerate's
    launchers the processes share the work.

    Returns:
        The listings by folder.
    """
    state, run_dir = process_state(), config.run_dir
    position = {image_id: index for index, image_id in enumerate(rows["image_id"])}
    gray_of = lru_cache(2 * config.sample_batch_size)(lambda name: rows[position[name]]["conditioning_image"])
    tables = name_pictures(pipeline, plans, gray_of, config)
    pictures = pd.concat(tables.values()).drop_duplicates("after")
    existing = {path.relative_to(run_dir).as_posix() for path in run_dir.glob("pictures/*/*")}
    state.wait_for_everyone()  # nobody writes before everybody has looked
    missing = pictures[~(pictures["before"].isin(existing) & pictures["after"].isin(existing))]
    full = math.ceil(len(pictures) / state.num_processes)  # a restart has fewer, but samples as many at once
    make_pictures(pipeline, missing[state.process_index :: state.num_processes], gray_of, config, full)
    state.wait_for_everyone()
    if state.is_main_process:
        for name, table in tables.items():
            with new_folder(run_dir / name) as partial:
                save_config(config, partial)
                (partial / "controlnet.txt").write_text(hash_of_controlnet(config))
                table.to_csv(partial / "images.csv", index=False)
        remove_others(pictures["after"], run_dir)
    state.wait_for_everyone()
    return tables


def name_pictures(pipeline, plans, gray_of, config):
    """Returns the plans with the columns `before` and `after`: file names, which change with all that makes a picture.

    What all pictures are made with names their folder; photo, prompt, seed and guidance name the file in it.
    """
    networks = (pipeline.unet, pipeline.controlnet, pipeline.vae, pipeline.text_encoder)
    weights = [*map(hash_of_weights, networks), pipeline.annotator.key]
    common = hash_of([*weights, config.values(*MODEL_FIELDS), config.num_inference_steps])
    guidance = [config.guidance_scale, guided_steps(config)]
    photos = pd.concat(plans.values())["image_id"].unique()
    grays = {name: hash_of([gray_of(name).convert("RGB").tobytes()]) for name in photos}
    named = {}
    for folder, plan in plans.items():
        names = [
            f"pictures/{common}/{name}.{hash_of([*guidance, grays[name], prompt, seed_of(name, seed)])}"
            for name, prompt, seed in zip(plan["image_id"], plan["prompt"], plan["seed"], strict=True)
        ]
        names = pd.Series(names, plan.index, dtype=str)
        named[folder] = plan.assign(before=names + ".before.png", after=names + ".after.png")
    return named


def make_pictures(pipeline, table, gray_of, config, full):
    """Samples the pictures that a table names; threads restore lightness and write while the next batch is sampled."""
    pictures, run_dir = list(table.itertuples()), config.run_dir
    jobs = [(picture.image_id, picture.prompt, seed_of(picture.image_id, picture.seed)) for picture in pictures]
    bar = progress(total=len(jobs), desc="colorizing", unit="picture")
    with bar, ThreadPoolExecutor(max(config.workers, 1)) as threads:  # numpy and PNG release Python's lock
        writing = ()
        for batch, outputs in sample_batches(pipeline, jobs, gray_of, config, full):
            bar.update(len(list(writing)))  # waits for the batch before, and raises what went wrong in it
            targets = [(run_dir / picture.before, run_dir / picture.after) for picture in pictures[batch]]
            writing = threads.map(write_pictures, [gray_of(image_id) for image_id, *_ in jobs[batch]], outputs, targets)
        bar.update(len(list(writing)))


def write_pictures(gray, output, targets):
    """Writes an output before and after lightness is restored to two PNG files, atomically."""
    for picture, path in zip((output, restore_lightness(gray, output)), targets, strict=True):
        try:
            with new_file(path) as partial:
                to_pil(picture).save(partial, format="png", compress_level=1)
        except OSError as error:
            raise ValueError(f"can't write {path}: {error.strerror or error}") from None


def remove_others(names, run_dir):
    """Removes pictures of other weights, which would pile up, and what a killed process left of a file."""
    kept = {(run_dir / name).parent for name in names}
    for folder in (run_dir / "pictures").iterdir():
        if folder not in kept:
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    for partial in (run_dir / "pictures").glob("*/*.part"):
        partial.unlink()


def read_images(config: Config, name: str = "images") -> pd.DataFrame:
    """Returns the listing that `colorize_rows` wrote to a folder.

    Raises:
        ValueError: if there is none, or it was made with other fields or weights: run notebook 04.
    """
    path = config.run_dir / name / "images.csv"
    if not path.exists():
        raise ValueError(f"no colorized photos in {path.parent}: run notebook 04_colorize_photos first")
    check_config(config, path.parent / "config.json", PICTURE_FIELDS, "04_colorize_photos")
    if (path.parent / "controlnet.txt").read_text() != hash_of_controlnet(config):
        problem = f"{path.parent} was made with another ControlNet than {config.controlnet_source}"
        raise ValueError(f"{problem}: run notebook 04_colorize_photos again")
    return pd.read_csv(path, keep_default_na=False, dtype={"image_id": str})


def read_image(run_dir: Path, name: str) -> np.ndarray:
    """Returns one picture of such a listing, by its file name there, as float sRGB; ValueError if it can't be read."""
    path = run_dir / name
    try:
        return to_float(Image.open(path))
    except (OSError, SyntaxError, ValueError):
        remedy = "remove what is left of it and run notebook 04_colorize_photos again"
        raise ValueError(f"picture {path} is missing or damaged: {remedy}") from None
