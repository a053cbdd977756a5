"""How well the pocket segmenter finds things by name: `lib/pocket_model/segmenter/evaluation.csv` and a sheet."""

import argparse
from itertools import islice

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from lib.color import make_conditioning_image
from lib.dataset import read_manifest
from lib.figures import save_sheet
from lib.files import exit_with_one_line, open_picture, write_table
from lib.pocket_model import segmenter_pictures as pictures
from lib.segmenter import PhraseSegmenter, load_segmenter

FOLDER = "lib/pocket_model/segmenter"
SIZE, SIDES = (128, 128), (0.45, 0.8)  # of the composites, and of the things in them
ABSENT = ("zebra", "violin", "airplane", "banana", "bus", "strawberry")  # asked for where no caption names them
THRESHOLDS = np.arange(1, 20) / 20
SEEN = 0.01  # share of a photo above the threshold that counts as found


def read_masked(split):
    """The photos of a split that have a mask: row of the manifest, gray PIL picture, and mask (h, w), bool."""
    for row in read_manifest(pictures.PHOTOS).query("split == @split and mask != ''").to_dict("records"):
        with open_picture(row["path"]) as photo:
            gray = make_conditioning_image(photo.convert("RGB"))
        yield row, gray, pictures.load_mask(row["mask"], gray.size[::-1]) > 0.5


def save_masks(locate, split, path, n=10):
    """A sheet of photos of a split: gray, the mask, and what is found for the thing and for its ground."""
    columns, titles = [], []
    for row, gray, mask in islice(read_masked(split), n):
        found = locate(gray, [row["thing"], row["ground"] or "background"])
        columns.append([np.asarray(gray), *(np.dstack([plane] * 3).astype(float) for plane in (mask, *found))])
        titles.append(f"{row['thing']}, {row['ground'] or 'background'}")
    rows = [list(row) for row in zip(*columns, strict=True)]
    save_sheet(rows, path, row_titles=["gray", "mask", "thing", "ground"], column_titles=titles)


def measure_photos(locate, split):
    """One row for each photo of a split with a mask; `overlap`, `named` and `false` are lists, one value a threshold.

    `auc`: of the thing's scores against its mask; `against ground`: mean share of thing and ground where its own phrase
    scores higher than the other's; `overlap`: intersection over union; `named`, `false`: whether the thing, and which
    share of absent names, are found.
    """
    rows = []
    for row, gray, mask in tqdm(list(read_masked(split)), split):
        text = f"{row['object_caption']} {row['detailed_caption']} {row['subject']}"
        absent = [name for name in ABSENT if name not in text]
        thing, ground, *others = locate(gray, [row["thing"], row["ground"] or "background", *absent])
        named, false = (
            [(np.array(planes) > threshold).mean(axis=(1, 2)) > SEEN for threshold in THRESHOLDS]
            for planes in ([thing], others)
        )
        guesses, right = thing > THRESHOLDS[:, None, None], (thing > ground) == mask
        rows.append(
            {
                "auc": mannwhitneyu(thing[mask], thing[~mask]).statistic / (mask.sum() * (~mask).sum()),
                "against ground": (right[mask].mean() + right[~mask].mean()) / 2 if row["ground"] else np.nan,
                "overlap": (guesses & mask).sum(axis=(1, 2)) / (guesses | mask).sum(axis=(1, 2)),
                "named": np.mean(named, axis=1),
                "false": np.mean(false, axis=1),
            }
        )
    return pd.DataFrame(rows)


def make_pair(scenes, cutouts, rng):
    """Two cut-outs of different names on a photo or a plain ground: gray PIL picture and the two regions."""
    things = []
    while len(things) < 2:
        gray, things = pictures.plain_ground(SIZE, rng), []
        if rng.random() < 0.5:
            gray, _ = pictures.crop_scene(scenes[rng.integers(len(scenes))], SIZE, rng)
        for _ in range(20):
            cutout = cutouts[rng.integers(len(cutouts))]
            if len(things) < 2 and cutout.name not in [thing.name for thing in things]:
                pictures.paste(gray, things, cutout, rng, SIDES)
    return Image.fromarray((gray * 255).round().astype(np.uint8)), things


def measure_pairs(locate, scenes, cutouts, n, seed=0):
    """One row for each name of `n` pairs: mean scores of its phrase in its own mask, the other's, and the ground."""
    rng, rows = np.random.default_rng(seed), []
    for _ in tqdm(range(n), "pairs"):
        gray, things = make_pair(scenes, cutouts, rng)
        masks = [thing.mask for thing in things]
        masks.append(1 - np.maximum(*masks))
        planes = locate(gray, [thing.name for thing in things])
        scores = np.array([[(plane * mask).sum() / mask.sum() for mask in masks] for plane in planes])
        best = planes.argmax(axis=0)
        for own, other in ((0, 1), (1, 0)):
            row = {"own": scores[own, own], "other": scores[own, other], "ground": scores[own, 2]}
            row["won"] = ((best == own) * masks[own]).sum() / masks[own].sum()
            rows.append(row)
    return pd.DataFrame(rows)


def evaluate(folder_of_pictures, source=FOLDER, n=100):
    """The table of what the segmenter can do: measure, what it was measured on, how many, and the mean.

    The threshold is the one with the best overlap on validation photos. New things are those that it wasn't trained on.
    """
    locate, rows = load_segmenter(source), []

    def add(measure, on, values):
        values = pd.Series(values).dropna()
        rows.append({"measure": measure, "on": on, "n": len(values), "value": round(float(values.mean()), 3)})

    photos = {split: measure_photos(locate, split) for split in ("validation", "test")}
    best = int(np.mean(photos["validation"]["overlap"].tolist(), axis=0).argmax())
    rows.append(
        {"measure": "threshold", "on": "validation photos", "n": len(photos["validation"]), "value": THRESHOLDS[best]}
    )
    for split, table in photos.items():
        add("AUC of the thing", f"{split} photos", table["auc"])
        add("thing against ground", f"{split} photos", table["against ground"])
        for name in ("overlap", "named", "false"):
            add(name, f"{split} photos", [values[best] for values in table[name]])
    scenes, trained, new, _ = pictures.load_data(folder_of_pictures)
    for kind, cutouts in {"trained": trained, "new": new}.items():
        table = measure_pairs(locate, scenes, cutouts, n)
        add("named one of two", f"{kind} things", table["own"] > table["other"])
        add("own place won", f"{kind} things", table["won"])
        for name in ("own", "other", "ground"):
            add(f"score in {name}", f"{kind} things", table[name])
    return pd.DataFrame(rows)


def main():
    """Write `evaluation.csv` beside the weights, and the threshold to their `config.json`."""
    parser = argparse.ArgumentParser(prog="python -m lib.pocket_model.segmenter_evaluation", description=__doc__)
    parser.add_argument("--pictures", required=True, help="folder with the pictures of data_cards/training_pictures")
    parser.add_argument("--segmenter", default=FOLDER)
    parser.add_argument("-n", type=int, default=100)
    options = parser.parse_args()
    with exit_with_one_line():
        table = evaluate(options.pictures, options.segmenter, options.n)
        folder = pictures.resolve(options.segmenter)
        write_table(table, folder / "evaluation.csv")
        save_masks(load_segmenter(options.segmenter), "validation", folder / "masks.png")
        network = PhraseSegmenter.from_pretrained(folder)
        network.register_to_config(threshold=float(table.set_index("measure")["value"]["threshold"]), _name_or_path="")
        network.save_config(folder)
        print(table.to_string(index=False))


if __name__ == "__main__":
    main()
