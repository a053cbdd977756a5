"""From a folder of photos and its manifest to the study's triples: prompt, image, conditioning_image."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from datasets import Dataset, DatasetDict, Features, Image, Value, disable_progress_bars, load_from_disk
from datasets.exceptions import DatasetGenerationError
from PIL import Image as PILImage
from PIL import ImageOps

from lib.cache import cached, explained, hash_of, is_plain_name, open_picture, require_current
from lib.color import make_conditioning_image
from lib.config import Config, require_known, resolve
from lib.prompts import CAPTIONS, WRITERS, draw_training_prompt

VERSION = 2  # of the files of a data set
disable_progress_bars()
SPLITS = ("train", "validation", "test")
MANIFEST_COLUMNS = ("file_name", "image_id", "split", "subject", "category", *CAPTIONS)
OPTIONAL_TEXTS = ("object", "object_box", "background", "narrative", *WRITERS)  # box: "left top right bottom"
OPTIONAL_COLUMNS = (*OPTIONAL_TEXTS, "mask")  # of the object, a PNG
TEXT_COLUMNS = ("image_id", "subject", "category", *CAPTIONS, *OPTIONAL_TEXTS)
FEATURES = Features(prompt=Value("string"), image=Image(), conditioning_image=Image(mode="RGB"))  # kept as "L"
ROW_FEATURES = Features({**FEATURES, **{name: Value("string") for name in TEXT_COLUMNS}, "mask": Image()})
DATASET_FIELDS = ("source", "photos", "resolution", "image_format", "dataset_seed")


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Returns a CSV file as text; raises ValueError if it can't be read or lacks one of these columns."""
    with explained(f"{path} can't be read as CSV", "correct it, as data_cards/ describes it", (ValueError, OSError)):
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{path}: column {missing[0]!r} is missing: needed are {', '.join(columns)}")
    return table


def read_manifest(photos: str | Path) -> pd.DataFrame:
    """Returns `metadata.csv` of a folder of photos as text, with the files' paths in `path` and `mask_path` (or None).

    `OPTIONAL_COLUMNS` that the file lacks are empty. Raises ValueError if a file, column or caption is missing, a split
    is unknown or empty, a subject is in two splits, or an `image_id` is used twice or can't name a file.
    """
    path = resolve(photos) / "metadata.csv"
    manifest = read_table(path, MANIFEST_COLUMNS)
    manifest = manifest.assign(**{column: "" for column in OPTIONAL_COLUMNS if column not in manifest})
    manifest["path"] = [path.parent / name for name in manifest["file_name"]]
    manifest["mask_path"] = [path.parent / name if name else None for name in manifest["mask"]]
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
        for row in manifest[rows].itertuples():
            raise ValueError(f"{path}: row {row.image_id!r} ({row.file_name}) {problem}: correct or remove the row")
    if empty := set(SPLITS) - set(manifest["split"]):
        raise ValueError(f"{path}: no row has the split {min(empty)!r}: needed are {', '.join(SPLITS)}")
    return manifest


def open_photo(path: Path, mode: str = "RGB") -> PILImage.Image:
    """Returns a photo turned as its EXIF says; raises ValueError if it can't be read."""
    with explained(f"{path} can't be read", "replace it or remove its row"), open_picture(path) as file:
        return ImageOps.exif_transpose(file).convert(mode)


def crop_square(picture: PILImage.Image, size: int) -> PILImage.Image:
    """Returns the central square of a photo, resized with Lanczos."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((size, size), PILImage.LANCZOS)


def build_dataset(config: Config) -> DatasetDict:
    """Returns the data set of a configuration: prompt, image and conditioning_image, with ids, captions and masks.

    It is built again only if photos, captions or `DATASET_FIELDS` change, and so is that of `test_source`. Training
    prompts are drawn under `prompt_policy` (runs of another draw their own); the others are the detailed captions.
    """
    if config.test_source:
        build_dataset(config.for_test_photos)
    manifest = read_manifest(config.photos_dir)
    with ThreadPoolExecutor() as pool:
        files = zip(manifest["path"], manifest["mask_path"], strict=True)
        manifest["content"] = list(pool.map(lambda paths: hash_of(filter(None, paths)), files))
    fields, rows = {"version": VERSION, **config.values(*DATASET_FIELDS)}, manifest.drop(columns=["path", "mask_path"])
    fingerprints = {split: hash_of([fields, rows[rows["split"] == split].to_dict("records")]) for split in SPLITS}

    def write(folder):
        dataset, options = DatasetDict(), {"num_proc": config.workers or None, "cache_dir": str(folder / "cache")}
        for split, fingerprint in fingerprints.items():
            inputs = {"records": manifest[manifest["split"] == split].to_dict("records")}
            options |= {"gen_kwargs": {**inputs, "config": config, "folder": folder}, "fingerprint": fingerprint}
            dataset[split] = Dataset.from_generator(_make_rows, ROW_FEATURES, **options)
        dataset.save_to_disk(str(folder))
        shutil.rmtree(folder / "cache")

    try:
        cached(config.dataset_dir, {**fields, "fingerprints": fingerprints}, write)
    except DatasetGenerationError as error:
        raise ValueError(str(error.__cause__ or error)) from None
    return load_from_disk(str(config.dataset_dir))


def _make_rows(records, config, folder):
    """The rows of the data set, photo by photo; their pictures are files below `folder`, and bytes in the row."""
    for record in records:
        photo, name, mask = open_photo(record["path"]), f"{record['split']}/{record['image_id']}", None
        files = {"image": folder / f"image/{name}.{config.image_format}"}
        files["conditioning_image"] = folder / f"conditioning_image/{name}.png"
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        crop_square(photo, config.resolution).save(files["image"], quality=95, subsampling=0)
        gray = make_conditioning_image(PILImage.open(files["image"])).convert("L")  # of the photo as it is kept
        gray.save(files["conditioning_image"])
        if path := record["mask_path"]:
            mask = open_photo(path, "L")
            if mask.size != photo.size:
                sizes = f"{mask.size}, the photo {photo.size}"
                raise ValueError(f"row {record['image_id']!r}: mask {path} has the size {sizes}: correct or remove it")
            mask = crop_square(mask, config.resolution).point(lambda value: 255 * (value > 127))
        row = {column: {"path": file.name, "bytes": file.read_bytes()} for column, file in files.items()}
        row |= {column: record[column] for column in TEXT_COLUMNS} | {"prompt": record["detailed_caption"]}
        if record["split"] == "train":
            row["prompt"] = draw_training_prompt(record, config.prompt_policy, config.dataset_seed)
        yield row | {"mask": mask if mask and mask.getbbox() else None}


def training_rows(triples: DatasetDict, categories: Sequence[str] | None) -> Dataset:
    """Returns the training photos of some categories, or all if none is named; raises ValueError if one is unknown."""
    rows = triples["train"]
    require_known("category", categories or (), sorted(set(rows["category"])))
    return rows.select([n for n, own in enumerate(rows["category"]) if own in categories]) if categories else rows


def draw_prompts(rows: Dataset, config: Config) -> list[str]:
    """Returns the training prompts that a run draws for rows of the data set, one a row."""
    records = rows.select_columns(["image_id", *CAPTIONS])
    return [draw_training_prompt(record, config.prompt_policy, config.dataset_seed) for record in records]


def load_dataset_dict(config: Config) -> DatasetDict:
    """Returns the data set of notebook 01, with the test photos of `test_source`; ValueError if it isn't current."""
    require_current(config.dataset_dir, {"version": VERSION, **config.values(*DATASET_FIELDS)}, "01_build_dataset")
    triples = load_from_disk(str(config.dataset_dir))
    if config.test_source:
        triples["test"] = load_dataset_dict(config.for_test_photos)["test"]
    return triples


def pick_across_categories(split: Dataset, n: int | None) -> Dataset:
    """Returns `n` rows of a split (0, None: all), in turn from every category, each in order of image_id."""
    table = split.select_columns(["image_id", "category"]).to_pandas()
    order = table.sort_values("image_id").groupby("category").cumcount()
    turns = table.assign(turn=order).sort_values(["turn", "category"]).index
    return split.select(turns[: n or len(split)])
