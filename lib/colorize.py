"""The pictures that a run needs, each made once; for the binding table, with a colour for object and background."""

import math
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from lib.cache import explained, hash_of, mark_current, new_file, new_folder, progress, require_current
from lib.captions import article_of
from lib.color import luminance, restore_lightness, to_float, to_pil
from lib.config import Config
from lib.dataset import load_dataset_dict, pick_across_categories
from lib.metrics import SAME_HUE, hue_and_chroma, name_color
from lib.models import hash_of_weights, load_pipeline, process_state
from lib.prompts import COMPARED, TARGETS, VAGUE_PROMPT, allowed_words, write_prompts
from lib.regions import Region, regions_of
from lib.sampling import DATA_FIELDS, MODEL_FIELDS, guided_steps, hash_of_controlnet, sample_batches, seed_of

PLAN_COLUMNS = ("image_id", "category", "prompt_condition", "prompt", "seed")
PLAN_FIELDS = ("n_images", "n_images_other", "n_images_all_seeds", "n_binding", "n_seeds", "prompt_conditions")
PICTURE_FIELDS = (*DATA_FIELDS, *PLAN_FIELDS, "num_inference_steps", "guidance_scale", "guidance_share", *MODEL_FIELDS)
PAIRS = 2  # pairs of words for object and background of a photo, each used both ways


def plan_pictures(photos: pd.DataFrame, prompts: dict, n_seeds=1, n_other=None, n_all_seeds=None) -> pd.DataFrame:
    """Returns a table of `PLAN_COLUMNS` from `image_id` and `category` of photos, and {condition: a prompt for each}.

    Conditions of `COMPARED` have `n_seeds` seeds on the first `n_all_seeds` photos, and one on the others; the other
    conditions have one seed, on the first `n_other` photos. None: all photos.
    """
    records = []
    for index, (image_id, category) in enumerate(zip(photos["image_id"], photos["category"], strict=True)):
        for condition, texts in prompts.items():
            compared = condition in COMPARED
            if compared or index < (n_other or len(photos)):
                seeds = n_seeds if compared and index < (n_all_seeds or len(photos)) else 1
                records += [(image_id, category, condition, texts[index], seed) for seed in range(seeds)]
    return pd.DataFrame(records, columns=PLAN_COLUMNS)


def plan_test_photos(rows, prompts: dict, config: Config) -> dict[str, pd.DataFrame]:
    """Returns the plans of a run for data-set rows and their prompts by condition.

    `images`: under all conditions, or those of `prompt_conditions`; `binding`: cases of the first `n_binding` photos
    of an object; `phrases`: each region of the detailed captions, all in its colour. Raises ValueError if
    `prompt_conditions` has an unknown condition, or lacks one of `COMPARED`.
    """
    chosen = config.prompt_conditions or tuple(prompts)
    if not set(COMPARED) <= set(chosen) <= set(prompts):
        needed = f"{' and '.join(COMPARED)}, and may have {', '.join(prompts)}"
        raise ValueError(f"prompt_conditions {', '.join(chosen)}: it must have {needed}")
    photos = rows.select_columns(["image_id", "category", "object"]).to_pandas()
    chosen_prompts = {condition: texts for condition, texts in prompts.items() if condition in chosen}
    images = plan_pictures(photos, chosen_prompts, config.n_seeds, config.n_images_other, config.n_images_all_seeds)
    binding = [
        (row["image_id"], row["category"], condition, prompt, 0)
        for row in rows.select(photos.index[photos["object"] != ""][: config.n_binding])
        for words in cases_of(row)
        for condition, prompt in prompts_of(row, *words).items()
    ]
    phrases = [
        (row.image_id, row.category, "phrase", region.phrase, 0)
        for row in images.query("prompt_condition == 'detailed' and seed == 0")[: config.n_images_other].itertuples()
        for region in regions_of(row.prompt)
    ]
    binding, phrases = (pd.DataFrame(records, columns=PLAN_COLUMNS).drop_duplicates() for records in (binding, phrases))
    return {"images": images, "binding": binding, "phrases": phrases}


def load_test_photos(config: Config):
    """Returns the test photos of the study as data-set rows: `n_images` of them, from each category in turn."""
    return pick_across_categories(load_dataset_dict(config)["test"], config.n_images)


def colorize_test_photos(config: Config, own_conditions: dict | None = None) -> None:
    """Makes notebook 04's pictures: the test photos under the prompt conditions, and for the binding table.

    Under accelerate's launchers every process calls this, and they share the pictures. `own_conditions`: prompt
    conditions beside those of `lib.prompts`, {name: function of a photo's text columns that returns the prompt}.
    """
    process_state()  # gives each process its GPU
    rows = load_test_photos(config)
    prompts = write_prompts(rows)
    if config.captioner:
        from lib.l4.captioner import read_auto_captions  # which `pocket` doesn't need

        prompts |= read_auto_captions(config)
    for name, write in (own_conditions or {}).items():
        prompts[name] = [write(row) for row in rows]
        if not all(isinstance(text, str) for text in prompts[name]):
            raise ValueError(f"own_conditions[{name!r}] gives {prompts[name]!r:.200}: return a text for every photo")
    colorize_rows(load_pipeline(config), rows, plan_test_photos(rows, prompts, config), config)


def colorize_rows(pipeline, rows, plans: dict[str, pd.DataFrame], config: Config) -> dict[str, pd.DataFrame]:
    """Colorizes data-set rows as plans say, {name: a table of `PLAN_COLUMNS`}; equal pictures are made once.

    PNGs before and after lightness is restored go to `pictures`, under names that change with what they are made from,
    so existing ones stay; those of other weights, sizes or steps are removed. Processes of accelerate's launchers share
    the work. Returns the listings, also written to `images`: the plans with the file names `before` and `after`.
    """
    state, run_dir = process_state(), config.run_dir
    named = zip(rows["image_id"], rows["conditioning_image"], strict=True)
    grays, tables = {image_id: gray.convert("L") for image_id, gray in named}, {}
    networks = (pipeline.unet, pipeline.controlnet, pipeline.vae, pipeline.text_encoder)
    weights = [*map(hash_of_weights, networks), pipeline.annotator.key]
    folder = f"pictures/{hash_of([*weights, config.values(*MODEL_FIELDS), config.num_inference_steps])}"
    guidance = [config.guidance_scale, guided_steps(config)]
    hashes = {image_id: hash_of([gray.convert("RGB").tobytes()]) for image_id, gray in grays.items()}
    for name, plan in plans.items():
        jobs = zip(plan["image_id"], plan["prompt"], map(seed_of, plan["image_id"], plan["seed"]), strict=True)
        keys = pd.Series([hash_of([*guidance, hashes[image_id], *job]) for image_id, *job in jobs], plan.index, str)
        stems = f"{folder}/" + plan["image_id"] + "." + keys
        tables[name] = plan.assign(before=stems + ".before.png", after=stems + ".after.png")
    pictures = pd.concat(tables.values()).drop_duplicates("after")
    existing = {path.relative_to(run_dir).as_posix() for path in run_dir.glob("pictures/*/*")}
    state.wait_for_everyone()  # nobody writes before everybody has looked
    missing = [picture for picture in pictures.itertuples() if not existing >= {picture.before, picture.after}]
    share = missing[state.process_index :: state.num_processes]
    full = math.ceil(len(pictures) / state.num_processes)  # a restart has fewer, but samples as many at once
    jobs = [(picture.image_id, picture.prompt, seed_of(picture.image_id, picture.seed)) for picture in share]
    bar = progress(total=len(jobs), desc="colorizing", unit="picture")
    with bar, ThreadPoolExecutor(max(config.workers, 1)) as threads:  # numpy and PNG release Python's lock
        writing = ()  # while the next batch is sampled
        for batch, outputs in sample_batches(pipeline, jobs, grays.get, config, full):
            bar.update(len(list(writing)))  # waits for the batch before, and raises what went wrong in it
            targets = [(run_dir / picture.before, run_dir / picture.after) for picture in share[batch]]
            writing = threads.map(write_pictures, [grays[image_id] for image_id, *_ in jobs[batch]], outputs, targets)
        bar.update(len(list(writing)))
    state.wait_for_everyone()
    if state.is_main_process:
        with new_folder(run_dir / "images") as partial:
            for name, table in tables.items():
                table.to_csv(partial / f"{name}.csv", index=False)
            mark_current(partial, _key(config))
        for other in set(run_dir.glob("pictures/*")) - {run_dir / folder}:
            shutil.rmtree(other)
        for partial in run_dir.glob("pictures/*/*.part"):  # of a killed process
            partial.unlink()
    state.wait_for_everyone()
    return tables


def write_pictures(gray, output, targets):
    """Writes an output before and after lightness is restored to two PNG files, atomically."""
    for picture, path in zip((output, restore_lightness(gray, output)), targets, strict=True):
        with new_file(path) as partial:
            to_pil(picture).save(partial, format="png", compress_level=1)


def read_images(config: Config, name: str = "images") -> pd.DataFrame:
    """Returns a listing of `colorize_rows`; raises ValueError if there is none, or of other settings or weights."""
    require_current(config.run_dir / "images", _key(config), "04_colorize_photos")
    return pd.read_csv(config.run_dir / f"images/{name}.csv", keep_default_na=False, dtype={"image_id": str})


def _key(config):
    return {**config.values(*PICTURE_FIELDS), "weights": hash_of_controlnet(config)}


def read_image(run_dir: Path, name: str) -> np.ndarray:
    """Returns one picture of such a listing, by its file name there, as float sRGB; ValueError if it can't be read."""
    with explained(f"picture {run_dir / name} is missing or damaged", "remove it and run notebook 04 again"):
        return to_float(Image.open(run_dir / name))


def mask_of(row: dict) -> np.ndarray | None:
    """Returns the mask of a data-set row's object, bool (H, W); None if there is none or it fills the photo."""
    mask = np.asarray(row["mask"]) > 127 if row["mask"] else None
    return mask if mask is not None and 0.01 < mask.mean() < 0.97 else None


def cases_of(row: dict) -> list[tuple[str, str]]:
    """Returns the cases of a data-set row: (word of the object, word of the background or "" for the object alone).

    The lightness must allow a word. Pairs of words are drawn from the photo's id; colours of one hue are not paired.
    """
    mask, plane = mask_of(row), luminance(to_float(row["image"]))
    if mask is None:
        return []
    words = allowed_words(plane[mask].mean())
    both = [word for word in allowed_words(plane[~mask].mean()) if word in words] if row["background"] else []
    pairs = [(a, b) for a in both for b in both if a < b and SAME_HUE.get(a, a) != SAME_HUE.get(b, b)]
    drawn = np.random.default_rng(zlib.crc32(row["image_id"].encode())).permutation(len(pairs))[:PAIRS]
    return [(word, "") for word in words] + [case for a, b in (pairs[k] for k in drawn) for case in ((a, b), (b, a))]


def prompts_of(row: dict, object_word: str, background_word: str) -> dict[str, str]:
    """Returns the prompts of a case: `vague`, `object` and `colored_object`, with two words `both`, and of regions."""
    name, background = row["object"], row["background"]
    colored = f"{article_of(object_word)} {object_word} {name}"
    prompts = {"vague": VAGUE_PROMPT, "object": f"{article_of(name)} {name}", "colored_object": colored}
    prompts["object_region"] = Region(name, object_word).phrase
    if background_word:
        prompts["both"] = f"{colored}, {background_word} {background}"
        prompts["background_region"] = Region(background, background_word).phrase
    return prompts


def judge(ab: np.ndarray, reference: np.ndarray, mask: np.ndarray, object_word: str, background_word: str) -> dict:
    """Returns the results of an a*b* picture (H, W, 2) for a case; those of the background only if it has a word.

    `own_*`, `other_*`: whether the mean colour has the name of its own word, or of the other one; `shift_*`: mean
    distance in a*b* from `reference`, the picture without words; `chroma_deficit`: mean lack of chroma.
    """
    shift = np.hypot(*np.moveaxis(ab - reference, -1, 0))
    results, deficits = {"shift_inside": float(shift[mask].mean()), "shift_outside": float(shift[~mask].mean())}, []
    words = (("object", mask, object_word, background_word), ("background", ~mask, background_word, object_word))
    for name, inside, own, other in words[: 2 if background_word else 1]:
        hue, chroma = hue_and_chroma(*ab[inside].mean(axis=0))
        color = name_color(hue, chroma)
        results[f"own_{name}"] = float(color == SAME_HUE.get(own, own))
        results[f"other_{name}"] = float(color == SAME_HUE.get(other, other)) if other else np.nan
        deficits.append(max(0.0, TARGETS[own][1] - chroma))
    return results | {"chroma_deficit": float(np.mean(deficits))}
