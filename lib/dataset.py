"""From a folder of photos and its manifest to the study's triples: prompt, image, conditioning_image."""

import json
import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, Features, Image, Value, disable_progress_bars, load_from_disk
from datasets.exceptions import DatasetGenerationError
from PIL import Image as PILImage
from PIL import ImageOps

from lib.cache import cached, explained, hash_of, hash_of_file, is_plain_name, open_picture, progress, write_text
from lib.color import make_conditioning_image
from lib.config import Config, check_config, resolve
from lib.prompts import CAPTIONS, WRITERS, draw_training_prompt

VERSION = 1  # of the files of a data set
disable_progress_bars()  # of `datasets`; ours say what is being done
SPLITS = ("train", "validation", "test")
MANIFEST_COLUMNS = ("file_name", "image_id", "split", "subject", "category", *CAPTIONS)
FEATURES = Features(  # a gray picture is kept with one channel and read with three
    {"prompt": Value("string"), "image": Image(), "conditioning_image": Image(mode="RGB")}
)
# May be missing: one dominant thing, a box in it ("left top right bottom"), its mask (a PNG), and what surrounds it;
# a long description; detailed captions by other writers.
OPTIONAL_COLUMNS = ("thing", "thing_box", "mask", "ground", "narrative", *WRITERS)
PICTURES = ("image", "conditioning_image")
AUTO_CAPTIONS, AUTO_LEVELS = "auto_captions.csv", {"gray_caption": "conditioning_image", "auto_caption": "image"}
DATASET_FIELDS = ("source", "photos", "resolution", "image_format", "dataset_seed")
TEXT_COLUMNS = ("image_id", "subject", "category", *CAPTIONS, "thing", "thing_box", "ground", "narrative", *WRITERS)
ROW_FEATURES = Features({**FEATURES, **{name: Value("string") for name in TEXT_COLUMNS}, "mask": Image()})


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A CSV file as text; a ValueError if it can't be read or lacks one of these columns."""
    with explained(f"{path} can't be read as CSV", "correct it", (ValueError, OSError)):
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"{path}: column {missing[0]!r} is missing: needed are {', '.join(columns)}")
    return table


def read_manifest(photos):
    """The rows of `metadata.csv` in a folder of photos (below the repository, if relative), and their files' paths.

    These are `path` and `mask_path` (None without a mask). All other columns are text; `OPTIONAL_COLUMNS` are empty
    where the file has none. A ValueError names what is wrong: a missing folder, column, caption, photo or mask, an
    unknown or empty split, a subject in two splits, or an `image_id` used twice.
    """
    folder = resolve(photos)
    path = folder / "metadata.csv"
    if not path.exists():
        raise ValueError(f"no manifest {path}: the data set needs a metadata.csv, see data_cards/")
    manifest = read_table(path, MANIFEST_COLUMNS)
    manifest = manifest.assign(**{column: "" for column in OPTIONAL_COLUMNS if column not in manifest})
    manifest["path"] = [folder / name for name in manifest["file_name"]]
    manifest["mask_path"] = [folder / name if name else None for name in manifest["mask"]]
    problems = {
        "has an unknown split": ~manifest["split"].isin(SPLITS),
        "has an image_id used before": manifest["image_id"].duplicated(),
        "has an image_id that is no plain name": ~manifest["image_id"].map(is_plain_name),
        "has an empty caption": (manifest[["object_caption", "detailed_caption"]] == "").any(axis=1),
        "has no file": [not file.is_file() for file in manifest["path"]],
        "names a mask that is no file": [bool(file) and not file.is_file() for file in manifest["mask_path"]],
        "has a subject that another split has": manifest.groupby("subject")["split"].transform("nunique") > 1,
    }
    for problem, rows in problems.items():
        if np.any(rows):
            row = manifest[rows].iloc[0]
            which = f"row {row['image_id']!r} ({row['file_name']})"
            raise ValueError(f"{path}: {which} {problem}: correct or remove the row")
    empty = set(SPLITS) - set(manifest["split"])
    if empty:
        raise ValueError(f"{path}: no row has the split {min(empty)!r}: needed are {', '.join(SPLITS)}")
    return manifest


def open_square(path, size):
    """A photo as RGB, turned as its EXIF says, centre-cropped to a square and resized with Lanczos.

    A damaged or missing photo is a ValueError.
    """
    return crop_square(_open_upright(path), size)


def _open_upright(path, mode="RGB", kind="photo"):
    errors = (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError)
    with explained(f"{kind} {path} can't be read", "replace it or remove its row", errors), open_picture(path) as file:
        return ImageOps.exif_transpose(file).convert(mode)


def crop_square(picture: PILImage.Image, size: int) -> PILImage.Image:
    """The central square of a photo, resized with Lanczos."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((size, size), PILImage.LANCZOS)


def build_dataset(config: Config) -> DatasetDict:
    """The data set of a configuration: prompt, image and conditioning_image, with ids and captions; square photos.

    Training prompts are drawn under `prompt_policy`; validation and test prompts are the detailed captions. It lies in
    `dataset_dir`, with its pictures as files and `prompts.json`, which lists prompts and files. While photos and fields
    are the same, only `prompts.json` is written again: runs with other policies share the data set and draw their own
    prompts (`draw_prompts`). The data set of `test_source` is built, too.
    """
    if config.test_source:
        build_dataset(config.for_test_photos)
    manifest = read_manifest(config.photos_dir)
    with ThreadPoolExecutor(os.cpu_count()) as pool, explained("a photo can't be read", "allow reading it", OSError):
        manifest["content"] = list(pool.map(hash_of_file, manifest["path"]))
        manifest["mask_content"] = [hash_of_file(file) if file else "" for file in manifest["mask_path"]]
    fields, rows = {"version": VERSION, **config.values(*DATASET_FIELDS)}, manifest.drop(columns=["path", "mask_path"])
    fingerprints = {split: hash_of([fields, rows[rows["split"] == split].to_dict("records")]) for split in SPLITS}
    key = {**fields, "fingerprints": fingerprints}
    cached(config.dataset_dir, key, lambda folder: _write_dataset(manifest, config, fingerprints, folder))
    dataset = load_from_disk(str(config.dataset_dir))
    write_text(_listing(dataset, config), config.dataset_dir / "prompts.json")
    return dataset


def _write_dataset(manifest, config, fingerprints, folder):
    """Write the data set of a manifest's photos, and their picture files, to a folder; opens photos one by one."""
    dataset = DatasetDict()
    for split in SPLITS:
        records = manifest[manifest["split"] == split].to_dict("records")
        with progress(total=len(records), desc=f"{split} photos", disable=config.workers > 0) as bar:
            done = None if config.workers else bar.update  # other processes can't reach the bar
            try:
                dataset[split] = Dataset.from_generator(  # which hands out the records one by one
                    _make_rows,
                    features=ROW_FEATURES,
                    gen_kwargs={"records": records, "config": config, "folder": folder, "done": done},
                    num_proc=config.workers or None,
                    cache_dir=str(folder / "cache"),
                    fingerprint=fingerprints[split],
                )
            except DatasetGenerationError as error:
                raise ValueError(str(error.__cause__ or error)) from None
    dataset.save_to_disk(str(folder))
    shutil.rmtree(folder / "cache")


def _listing(dataset, config):
    """The text of `prompts.json`: by split, each photo's prompt and where its two pictures are."""
    listing = {}
    for split, rows in dataset.items():
        prompts = draw_prompts(rows, config) if split == "train" else rows["prompt"]
        listing[split] = [
            {"prompt": prompt, **{column: _file_of(column, split, name, config) for column in PICTURES}}
            for name, prompt in zip(rows["image_id"], prompts, strict=True)
        ]
    return json.dumps(listing, indent=1)


def _file_of(column, split, image_id, config):
    """Where a picture of a row is, below the data set's folder."""
    return f"{column}/{split}/{image_id}.{config.image_format if column == 'image' else 'png'}"


def _make_rows(records, config, folder, done):
    """The rows of the data set; their two pictures are written below `folder`, and kept as bytes in the row."""
    for record in records:
        whole = _open_upright(record["path"])
        photo = crop_square(whole, config.resolution)
        row = {key: record[key] for key in TEXT_COLUMNS}
        row["prompt"] = draw_prompt(record, config) if record["split"] == "train" else record["detailed_caption"]
        row["mask"] = _make_mask(record, whole.size, config.resolution)
        path, gray = (folder / _file_of(column, record["split"], record["image_id"], config) for column in PICTURES)
        for file in (path, gray):
            file.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path, quality=95, subsampling=0)
        make_conditioning_image(PILImage.open(path)).convert("L").save(gray)  # of the photo as it is kept
        for column, file in zip(PICTURES, (path, gray), strict=True):
            row[column] = {"path": file.name, "bytes": file.read_bytes()}
        if done:
            done()
        yield row


def _make_mask(record, photo_size, size):
    """A thing's mask (size, size), 0 or 255, cropped as its photo; None without one or where nothing of it is left."""
    path = record["mask_path"]
    if not path:
        return None
    mask = _open_upright(path, "L", "mask")
    if mask.size != photo_size:
        sizes = " px, its photo ".join(f"{width} x {height}" for width, height in (mask.size, photo_size))
        raise ValueError(
            f"row {record['image_id']!r}: the mask {path} has {sizes}: make it the same, or empty its field"
        )
    mask = crop_square(mask, size).point(lambda value: 255 * (value > 127))
    return mask if mask.getbbox() else None


def draw_prompt(record, config):
    """The training prompt of a photo under `prompt_policy`: the same for the same seed and `image_id`."""
    rng = np.random.default_rng((config.dataset_seed, zlib.crc32(record["image_id"].encode())))
    return draw_training_prompt(record, config.prompt_policy, rng)


def training_rows(triples, kinds):
    """The training photos of some categories, or all where none is named. No such photo is a ValueError."""
    rows = triples["train"]
    if kinds:
        rows = rows.select([row for row, kind in enumerate(rows["category"]) if kind in kinds])
    if not len(rows):
        known = ", ".join(sorted(set(triples["train"]["category"])))
        raise ValueError(f"no training photo of train_categories {', '.join(kinds)}: known are {known}")
    return rows


def draw_prompts(rows, config):
    """The training prompts that a run draws for rows of the data set, one a row."""
    return [draw_prompt(record, config) for record in rows.select_columns(["image_id", *CAPTIONS])]


def load_dataset_dict(config):
    """The data set that notebook 01 saved, its test photos from that of `test_source` if it is set.

    Without it, or made with other fields, a ValueError that says to run 01.
    """
    if not (config.dataset_dir / "key.json").exists():
        raise ValueError(f"no data set in {config.dataset_dir}: run notebook 01_build_dataset first")
    check_config(config, config.dataset_dir / "key.json", DATASET_FIELDS, "01_build_dataset")
    triples = load_from_disk(str(config.dataset_dir))
    if config.test_source:
        triples["test"] = load_dataset_dict(config.for_test_photos)["test"]
    return triples


def read_auto_captions(config, image_ids):
    """The captions that the profile's captioner wrote for test photos, {level: texts}; {} without a captioner.

    Notebook 01 writes them beside the data set that has the photos; where one is missing, a ValueError says so.
    """
    if not config.captioner:
        return {}
    path = config.for_test_photos.dataset_dir / AUTO_CAPTIONS
    known = pd.read_csv(path, keep_default_na=False, dtype=str) if path.exists() else pd.DataFrame(columns=["image_id"])
    known = known.set_index("image_id")
    missing = [name for name in image_ids if name not in known.index]
    writers = [config.captioner, config.captioner_revision or ""]
    raw_is_kept = {f"{level}_raw" for level in AUTO_LEVELS} <= set(known)
    if missing or not raw_is_kept or not (known[["captioner", "captioner_revision"]] == writers).all(axis=None):
        raise ValueError(f"{path} lacks captions by {' at '.join(writers)}: run notebook 01_build_dataset again")
    return {level: list(known[level][list(image_ids)]) for level in AUTO_LEVELS}


def pick_across_categories(split, n):
    """`n` rows of a split (0: all), taken in turn from every category, each category in order of image_id."""
    table = split.select_columns(["image_id", "category"]).to_pandas()
    order = table.sort_values("image_id").groupby("category").cumcount()
    turns = table.assign(turn=order).sort_values(["turn", "category"]).index
    return split.select(turns[: n or len(split)])
