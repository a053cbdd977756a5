"""COCO's archives and Kaggle's flowers in small: the pocket photos in many sizes, and the flaws that the real sets have."""

import csv
import hashlib
import io
import json
import random
import zipfile

from PIL import Image

from lib import ROOT
from lib.l4 import coco

POCKET_PHOTOS = ROOT / "data_cards/pocket_photos"
# Where the server has them, by name
FILES = {name: place.partition("localized-narratives/")[2] or place for name, (place, *_) in coco.FILES.items()}
COCO_SIZES = [(640, 480), (640, 427), (480, 640), (640, 640), (500, 375), (333, 500), (640, 211), (120, 160)]
FLOWER_SIZES = [(320, 240), (240, 320), (500, 333), (180, 240)]
FLAWS = {  # of the photo with this number in its part
    "train2017": {5: "gray", 6: "gray in RGB", 7: "broken", 8: "CMYK", 9: "turned by EXIF", 10: "missing"},
    "val2017": {3: "gray"},
}
NAMES = {"person": "person", "car": "vehicle", "cat": "animal", "horse": "animal", "cup": "kitchen", "apple": "food"}
CATEGORIES = [{"supercategory": kind, "id": k, "name": name} for k, (name, kind) in enumerate(NAMES.items(), 1)]
FLOWERS = ("daisy", "dandelion", "rose", "sunflower", "tulip")


def read_rows():
    """The rows of the pocket photos' `metadata.csv`."""
    with (POCKET_PHOTOS / "metadata.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def resized(row, size):
    """A pocket photo in RGB, stretched to a size (width, height)."""
    with Image.open(POCKET_PHOTOS / row["file_name"]) as photo:
        return photo.convert("RGB").resize(size)


def jpeg_of(photo, flaw):
    """The bytes of a photo as JPEG, with one of the flaws of `FLAWS`, or none."""
    exif = Image.Exif()
    if flaw == "turned by EXIF":
        exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    modes = {"gray": ["L"], "gray in RGB": ["L", "RGB"], "CMYK": ["CMYK"]}
    for mode in modes.get(flaw, []):
        photo = photo.convert(mode)
    photo.save(file := io.BytesIO(), "jpeg", quality=90, exif=exif)
    content = file.getvalue()
    return content[: len(content) // 3] if flaw == "broken" else content


def write_coco(folder, n_train, n_val):
    """Writes COCO's files below `folder`; returns them as in `lib.l4.coco.FILES`: {name: (path, bytes, MD5)}.

    train2017 has `n_train` photos (at least 11, for all the flaws), val2017 `n_val`.
    """
    rng, rows, annotations = random.Random(0), read_rows(), {}
    rng.shuffle(rows)
    for name in FILES.values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for part, chosen in (("train2017", rows[:n_train]), ("val2017", rows[n_train : n_train + n_val])):
        images = write_part(folder / FILES[f"{part}.zip"], part, chosen, rng)
        annotations |= annotate(part, images, chosen, rng)
    with zipfile.ZipFile(folder / FILES["annotations_trainval2017.zip"], "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in annotations.items():
            archive.writestr(f"annotations/{name}", json.dumps(content))
    narratives = [narrate(image, row) for image, row in zip(images, chosen, strict=True)]  # of val2017
    (folder / FILES["coco_val_captions.jsonl"]).write_text("".join(f"{json.dumps(line)}\n" for line in narratives))
    contents = {name: (path, (folder / path).read_bytes()) for name, path in FILES.items()}
    facts = {name: (path, len(data), hashlib.md5(data).hexdigest()) for name, (path, data) in contents.items()}
    return facts | {"coco_val_captions.jsonl": (FILES["coco_val_captions.jsonl"], None, None)}


def narrate(image, row):
    """A line of Localized Narratives: a photo's number as text, and what somebody said about it."""
    words = f"In this image I can see {row['detailed_caption']}. In the background there is a wall. "
    return {"dataset_id": "mscoco_val2017", "image_id": str(image["id"]), "annotator_id": 93, "caption": words}


def write_part(path, part, rows, rng):
    """Writes the photos of one part to its archive, uncompressed as COCO's; returns what its annotations list as images."""
    images = []
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{part}/", "")
        for index, (number, row) in enumerate(zip(sorted(rng.sample(range(9, 581_929), len(rows))), rows, strict=True)):
            name, flaw, (width, height) = f"{number:012}.jpg", FLAWS[part].get(index), rng.choice(COCO_SIZES)
            if flaw != "missing":
                archive.writestr(f"{part}/{name}", jpeg_of(resized(row, (width, height)), flaw))
            images.append({"id": number, "file_name": name, "width": width, "height": height, "license": 4})
    return images


def annotate(part, images, rows, rng):
    """The annotation files of one part, {name: content}: captions and instances, in any order."""
    captions = [caption for image, row in zip(images, rows, strict=True) for caption in captions_of(image, row)]
    objects = [mark_object(image, rng) for image in images[1:] for _ in range(rng.randint(1, 4))]  # the first has none
    files, head = {}, {"info": {"year": 2017}, "images": rng.sample(images, len(images))}
    for kind, notes in {"captions": captions, "instances": objects}.items():
        notes = [{"id": index, **note} for index, note in enumerate(rng.sample(notes, len(notes)))]
        categories = {"categories": CATEGORIES} if kind == "instances" else {}
        files[f"{kind}_{part}.json"] = head | {"annotations": notes} | categories
    return files


def captions_of(image, row):
    """Four captions of a photo, with the stray spaces and line ends of COCO's."""
    detailed = row["detailed_caption"]
    texts = (f"{row['object_caption'].capitalize()}.", f"{detailed} .\n", f" {detailed.capitalize()}.", "A photo")
    return [{"image_id": image["id"], "caption": text} for text in texts]


def mark_object(image, rng):
    """An instance somewhere in a photo: a polygon, or one time in ten a crowd as run lengths."""
    width, height = (rng.uniform(8, 0.8 * image[side]) for side in ("width", "height"))
    left, top = rng.uniform(0, image["width"] - width), rng.uniform(0, image["height"] - height)
    crowd = rng.random() < 0.1
    outline = [[left, top, left + width, top, left + width, top + height]]
    counts = [3, 4, image["width"] * image["height"] - 7]
    segmentation = {"counts": counts, "size": [image["height"], image["width"]]} if crowd else outline
    note = {"image_id": image["id"], "category_id": rng.choice(CATEGORIES)["id"], "iscrowd": int(crowd)}
    return note | {"bbox": [left, top, width, height], "area": 0.6 * width * height, "segmentation": segmentation}


def write_flowers(folder, n):
    """Writes `n` photos to a folder for each kind, and the script that lies between the real ones."""
    rng = random.Random(1)
    for index, row in enumerate(read_rows()[:n]):
        path = folder / FLOWERS[index % len(FLOWERS)] / f"{rng.randrange(10**9)}_{index:010x}_n.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg_of(resized(row, rng.choice(FLOWER_SIZES)), None))
    (folder / FLOWERS[0] / "flickr.py").write_text("print()\n")
