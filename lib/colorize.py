"""The test photos in colour: which pictures a run needs, made once and kept, each joined to its photo's own L*."""

import math
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd
from PIL import Image
from skimage.color import deltaE_ciede2000

from lib.binding import PLAN_COLUMNS, plan_binding
from lib.cache import hash_of, new_file, new_folder, progress
from lib.color import luminance, merge_luminance, srgb_to_lab, to_float, to_pil
from lib.config import check_config, resolve, save_config
from lib.dataset import load_dataset_dict, pick_across_categories, read_auto_captions
from lib.inference import guidance_of, guided_steps, sample, sample_batches
from lib.models import hash_of_weights, load_pipeline, process_state
from lib.prompts import COMPARED, prompts_under, write_prompts
from lib.regions import regions_of

LISTING_COLUMNS = (*PLAN_COLUMNS, "before", "after")
BASE_FIELDS = ("base_model", "base_revision", "text_encoder", "max_tokens")
CONTROLNET_FIELDS = ("controlnet", "controlnet_revision", "controlnet_conditioning_scale")
MODEL_FIELDS = (*BASE_FIELDS, *CONTROLNET_FIELDS, "annotator", "mixed_precision", "resolution")
SAMPLING_FIELDS = ("num_inference_steps", "guidance_scale", "guidance_share")
DATA_FIELDS = ("source", "photos", "test_source")
PLAN_FIELDS = ("n_images", "n_images_other", "n_images_all_seeds", "n_binding", "n_seeds", "prompt_levels")
PICTURE_FIELDS = (*DATA_FIELDS, *PLAN_FIELDS, *SAMPLING_FIELDS, *MODEL_FIELDS)


def merge(conditioning_images, outputs):
    """Each output's a*, b* joined to the L* of its conditioning image: float sRGB arrays."""
    planes = (luminance(to_float(image)) for image in conditioning_images)
    return [merge_luminance(plane, output) for plane, output in zip(planes, outputs, strict=True)]


def seed_of(image_id, seed):
    """The generator's seed of a photo: other noise for every photo, the same for its every prompt."""
    return zlib.crc32(f"{image_id}/{seed}".encode())


def plan_pictures(photos, prompts, n_seeds=1, n_other=None, n_all_seeds=None):
    """A table of `PLAN_COLUMNS`, a row a picture: photos (a table with their ids) under {level: [a prompt each]}.

    A prompt is a text, or a tuple of one for each seed.
    Only the first `n_other` photos get pictures of levels other than `COMPARED`, and only the first
    `n_all_seeds` get all `n_seeds` seeds, the others one; None: all photos.
    """
    records = []
    for index, (image_id, category) in enumerate(zip(photos["image_id"], photos["category"], strict=True)):
        levels = [level for level in prompts if level in COMPARED or index < (n_other or len(photos))]
        seeds = range(n_seeds if index < (n_all_seeds or len(photos)) else 1)
        for level, seed in product(levels, seeds):
            prompt = prompts[level][index]
            said = prompt if isinstance(prompt, str) else prompt[seed]
            records.append((image_id, category, level, said, seed))
    return pd.DataFrame(records, columns=PLAN_COLUMNS)


def plan_test_photos(rows, prompts, config):
    """What a run makes of data-set rows and their prompts by condition: `plan_pictures` by the name of a folder.

    `images`: under all conditions, or those that `prompt_levels` names; `binding`: what `plan_binding` needs of the
    first `n_binding` photos of an object; `phrases`: of each region of the detailed captions. An unknown condition is a
    ValueError, and so are `prompt_levels` without those that the study compares.
    """
    unknown = [level for level in config.prompt_levels or () if level not in prompts]
    if unknown:
        raise ValueError(f"unknown prompt condition {unknown[0]!r} in prompt_levels: known are {', '.join(prompts)}")
    lacking = [level for level in COMPARED if level not in (config.prompt_levels or COMPARED)]
    if lacking:
        raise ValueError(f"prompt_levels lacks {lacking[0]}, which the study compares: add it")
    photos = rows.select_columns(["image_id", "category", "thing"]).to_pandas()
    asked = {level: prompts[level] for level in prompts if level in (config.prompt_levels or prompts)}
    images = plan_pictures(photos, asked, config.n_seeds, config.n_images_other, config.n_images_all_seeds)
    with_object = set(photos["image_id"][photos["thing"].astype(bool)][: config.n_binding])
    binding = plan_binding([row for row in rows if row["image_id"] in with_object])
    bound = images[images["image_id"].isin(photos["image_id"][: config.n_images_other or len(photos)])]
    return {"images": images, "binding": binding, "phrases": plan_phrases(bound)}


def plan_phrases(images):
    """The pictures of each region of a plan's detailed prompts, all in its colour, which are laid over these."""
    records = []
    for row in images[images["prompt_level"] == "detailed"].itertuples():
        for region in regions_of(row.prompt):
            records.append((row.image_id, row.category, "phrase", region.phrase, row.seed))
    return pd.DataFrame(records, columns=PLAN_COLUMNS).drop_duplicates()


def colorize_test_photos(config):
    """Notebook 04's pictures of a profile: the test photos under the prompt conditions, and for the binding table.

    Under accelerate's launchers every process calls this, and they share the pictures.
    """
    process_state()  # gives each process its GPU
    rows = pick_across_categories(load_dataset_dict(config)["test"], config.n_images)
    prompts = write_prompts(rows, config.n_seeds) | read_auto_captions(config, rows["image_id"])
    plans = plan_test_photos(rows, prompts, config)
    colorize_rows(load_pipeline(config), rows, plans, config)


def colorize_rows(pipeline, rows, plans, config):
    """Colorize data-set rows as plans say, {folder: a table of `PLAN_COLUMNS`}; equal pictures are made once.

    8-bit PNGs before and after the merge go to `pictures` in the run's folder, under names that say what they were made
    from, so those that are there stay, those of other photos and prompts too. Then each plan's folder gets an
    `images.csv` (`LISTING_COLUMNS`), and pictures of other weights, sizes or steps are removed. Returns these tables by
    folder. Under accelerate's launchers the processes share the work.
    """
    state, run_dir = process_state(), config.run_dir
    position = {image_id: index for index, image_id in enumerate(rows["image_id"])}
    gray_of = lru_cache(2 * config.sample_batch_size)(lambda name: rows[position[name]]["conditioning_image"])
    tables = name_pictures(pipeline, plans, gray_of, config)
    pictures = pd.concat(tables.values()).drop_duplicates("after")
    there = {path.relative_to(run_dir).as_posix() for path in run_dir.glob("pictures/*/*")}
    state.wait_for_everyone()  # nobody writes before everybody has looked
    guidance = np.array([guidance_of(prompt, pipeline, config) for prompt in pictures["prompt"]])
    for scale, group in pictures.groupby(guidance):
        missing = group[~(group["before"].isin(there) & group["after"].isin(there))]
        mine = missing[state.process_index :: state.num_processes]
        full = math.ceil(len(group) / state.num_processes)  # a restart has fewer, but samples as many at once
        make_pictures(pipeline, mine, gray_of, config.replace(guidance_scale=scale), full)
    state.wait_for_everyone()
    if state.is_main_process:
        write_listings(tables, config)
        remove_others(pictures["after"], run_dir)
    state.wait_for_everyone()
    return tables


def name_pictures(pipeline, plans, gray_of, config):
    """The plans with the columns `before` and `after`: names of files, which change with all that makes a picture.

    What all pictures are made with names their folder; photo, prompt, seed and guidance name the file in it.
    """
    weights = [hash_of_weights(part) for part in (pipeline.unet, pipeline.controlnet, pipeline.vae)]
    weights.append(pipeline.annotator.key)
    common = hash_of([*weights, config.values(*MODEL_FIELDS), config.num_inference_steps])
    photos = pd.concat(plans.values())["image_id"].unique()
    grays = {name: hash_of([gray_of(name).convert("RGB").tobytes()]) for name in photos}

    def name_of(picture):
        scale = guidance_of(picture.prompt, pipeline, config)
        guidance = [scale, guided_steps(config.replace(guidance_scale=scale))]
        own = [grays[picture.image_id], picture.prompt, seed_of(picture.image_id, picture.seed)]
        return f"pictures/{common}/{picture.image_id}.{hash_of([*guidance, *own])}"

    named = {}
    for folder, plan in plans.items():
        names = pd.Series([name_of(picture) for picture in plan.itertuples()], plan.index, dtype=str)
        named[folder] = plan.assign(before=names + ".before.png", after=names + ".after.png")
    return named


def make_pictures(pipeline, table, gray_of, config, full):
    """Sample the pictures that a table names; each batch is merged and written while the next is sampled.

    This takes `workers` threads, which is enough: numpy and PNG's compression release Python's lock. With 0,
    each batch is written before the next.
    """
    pictures = list(table.itertuples())
    jobs = [(picture.image_id, picture.prompt, seed_of(picture.image_id, picture.seed)) for picture in pictures]
    bar = progress(total=len(jobs), desc="colorizing", unit="picture")
    run_dir = config.run_dir
    with bar, ThreadPoolExecutor(max(config.workers, 1)) as threads:
        start, writing = threads.map if config.workers else _at_once, ()
        for part, outputs in sample_batches(pipeline, jobs, gray_of, config, full):
            bar.update(len(list(writing)))  # waits for the batch before, and raises what went wrong in it
            targets = [(run_dir / picture.before, run_dir / picture.after) for picture in pictures[part]]
            writing = start(write_pictures, [gray_of(image_id) for image_id, *_ in jobs[part]], outputs, targets)
        bar.update(len(list(writing)))


def _at_once(function, *arguments):
    return list(map(function, *arguments))


def write_pictures(gray, output, targets):
    """Write an output and its merge with the gray photo as PNGs to two paths, each whole or not at all."""
    for picture, path in zip((output, *merge([gray], [output])), targets, strict=True):
        try:
            with new_file(path) as partial:
                to_pil(picture).save(partial, format="png")
        except OSError as error:
            raise ValueError(f"can't write {path}: {error.strerror or error}") from None


def write_listings(tables, config):
    """Write each table and what it was made from to its folder."""
    for name, table in tables.items():
        with new_folder(config.run_dir / name) as partial:
            save_config(config, partial)
            (partial / "controlnet.txt").write_text(hash_of_controlnet(config))
            table.to_csv(partial / "images.csv", index=False)


def remove_others(names, run_dir):
    """Remove the pictures that do not lie beside these: those of other weights, which would pile up run after run.

    And what a killed process left of a file.
    """
    kept = {(run_dir / name).parent for name in names}
    for folder in (run_dir / "pictures").iterdir():
        if folder not in kept:
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    for left in (run_dir / "pictures").glob("*/*.part"):
        left.unlink()


def hash_of_controlnet(config):
    """A text that changes with the files of the run's ControlNet; one and the same where it is on the Hub."""
    return hash_of(sorted(resolve(config.controlnet_source).glob("*.safetensors")))


def read_images(config, name="images"):
    """The table that `colorize_rows` wrote; without it, or made with other fields or weights, a ValueError: run 04."""
    path = config.run_dir / name / "images.csv"
    if not path.exists():
        raise ValueError(f"no colorized photos in {path.parent}: run notebook 04_colorize_photos first")
    check_config(config, path.parent / "config.json", PICTURE_FIELDS, "04_colorize_photos")
    if (path.parent / "controlnet.txt").read_text() != hash_of_controlnet(config):
        raise ValueError(
            f"{path.parent} was made with another ControlNet than {config.controlnet_source}: "
            "run notebook 04_colorize_photos again"
        )
    return pd.read_csv(path, keep_default_na=False, dtype={"image_id": str})


def read_image(run_dir, name):
    """One picture of such a table, by its file name there, as a float sRGB array."""
    path = run_dir / name
    try:
        return to_float(Image.open(path))
    except (OSError, SyntaxError, ValueError):
        raise ValueError(
            f"picture {path} is missing or damaged: remove what is left of it and run notebook 04_colorize_photos again"
        ) from None


def colorize_under(pipeline, rows, condition, seed, config):
    """Data-set rows under a prompt condition, with one seed, after the merge: CIELAB pictures (H, W, 3)."""
    gray, noise = list(rows["conditioning_image"]), [seed_of(name, seed) for name in rows["image_id"]]
    prompts = prompts_under(condition, rows)
    return [srgb_to_lab(picture) for picture in sample_and_merge(pipeline, gray, prompts, noise, config)]


def sample_and_merge(pipeline, gray, prompts, seeds, config):
    """Pictures after the merge, float sRGB (H, W, 3): one for each gray picture, prompt and seed."""
    return merge(gray, sample(pipeline, gray, prompts, seeds, config))


def errors_of(labs, truths):
    """Mean CIEDE2000 of CIELAB pictures from the true ones, picture by picture."""
    return [float(deltaE_ciede2000(truth, lab).mean()) for truth, lab in zip(truths, labs, strict=True)]
