"""The pocket model's training pictures: the same shapes in different colours, each with a caption that names them.

The base and the ControlNet are too small to have seen much of the world, so photos are turned in hue at fixed L*, and
cut-outs are laid on photos and plain grounds in colours that their lightness allows.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, load_from_disk
from PIL import Image

from lib import ROOT
from lib.color import fit_gamut, lab_to_srgb, make_conditioning_image, srgb_to_lab, to_float, to_pil
from lib.color_words import has_color_words
from lib.dataset import FEATURES, read_manifest
from lib.files import exit_with_one_line, hash_of_file, new_folder, open_picture, progress, write_text
from lib.profiles import add_field_option
from lib.prompts import GENERIC_PROMPTS, TARGETS, VAGUE_PROMPT, allowed_words, draw_training_prompt, fix_articles
from lib.rewriting import rotate_color_words


def crop_at_random(image, size, rng):
    """A random square of 55 to 100 % of a PIL image's short side, mirrored half of the time, at `size` px."""
    side = int(min(image.size) * rng.uniform(0.55, 1))
    x, y = rng.integers(image.width - side + 1), rng.integers(image.height - side + 1)
    crop = image.crop((x, y, x + side, y + side)).resize((size, size), Image.LANCZOS)
    return crop.transpose(Image.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def rotate_hue(lab, degrees):
    """Rotate a*, b* of a CIELAB image (H, W, 3) by an angle at fixed L*; the gamut is the caller's to fit."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    return np.concatenate([lab[..., :1], lab[..., 1:] @ rotation.T], axis=-1)


def recolor_thing(lab, alpha, rng):
    """Give a cut-out one new colour that its lightness allows; returns the CIELAB image and the colour's word."""
    solid = alpha > 0.5
    word = str(rng.choice(allowed_words(lab[solid, 0].mean(), TARGETS)))
    return paint(lab, solid, word), word


def paint(lab, solid, word):
    """Turn a CIELAB image (H, W, 3) to the colour of a word of `TARGETS`, by the mean colour where `solid` (H, W)."""
    mean_ab = lab[solid, 1:].mean(axis=0)
    hue, chroma, _ = TARGETS[word]
    target = chroma * np.array([np.cos(np.deg2rad(hue)), np.sin(np.deg2rad(hue))], np.float32)
    turned = rotate_hue(lab, hue - np.degrees(np.arctan2(mean_ab[1], mean_ab[0])))
    spread = turned[..., 1:] * chroma / max(np.hypot(*mean_ab), 1)
    mostly_gray = np.hypot(*mean_ab) < 12  # too little hue of its own: tint it evenly
    turned[..., 1:] = target if mostly_gray else 0.5 * target + 0.5 * np.clip(spread, -80, 80)
    return turned


def plain_ground(size, rng):
    """An empty ground with a soft gradient in a named colour: CIELAB image (size, size, 3) and caption."""
    word = str(rng.choice(list(TARGETS)))
    hue, chroma, (low, high) = TARGETS[word]
    slope = np.linspace(rng.uniform(low, high), rng.uniform(low, high), size, dtype=np.float32)
    lab = np.empty((size, size, 3), np.float32)
    lab[..., 0] = slope[:, None] if rng.random() < 0.5 else slope
    lab[..., 1:] = chroma * np.array([np.cos(np.deg2rad(hue)), np.sin(np.deg2rad(hue))])
    return lab, f"a plain {word} background"


def make_training_picture(scenes, cutouts, size, rng, recolor=True):
    """One training picture: a photo or plain ground, perhaps with one or two cut-outs on it, perhaps recoloured.

    Returns a record with `image` (PIL, `size` px), `object_caption`, `detailed_caption`, and `recolored`: whether
    anything in it has a colour that it never had, so that only the detailed caption can go with it.
    """
    scene = scenes[rng.integers(len(scenes))]
    lab = srgb_to_lab(to_float(crop_at_random(scene["image"], size, rng)))
    objects, detailed, recolored = scene["object_caption"], scene["detailed_caption"], False
    n_cutouts = rng.choice(3, p=[0.5, 0.35, 0.15]) if cutouts else 0
    if n_cutouts and rng.random() < 0.35:
        lab, detailed = plain_ground(size, rng)
        objects, recolored = "a plain background", True
    elif recolor and rng.random() < 0.35:
        degrees = rng.uniform(40, 320)
        lab, detailed, recolored = rotate_hue(lab, degrees), rotate_color_words(detailed, degrees), True
    things = []
    for cutout in rng.choice(len(cutouts), n_cutouts) if n_cutouts else ():
        lab, thing, new_color = paste_cutout(lab, cutouts[cutout], rng, recolor)
        things.append((cutouts[cutout]["object_caption"], thing))
        recolored |= new_color
    if things:
        names, colored_names = (" and ".join(texts) for texts in zip(*reversed(things), strict=True))
        objects, detailed = f"{names} in front of {objects}", f"{colored_names} in front of {detailed}"
    picture = to_pil(lab_to_srgb(lab))
    return {"image": picture, "object_caption": objects, "detailed_caption": detailed, "recolored": recolored}


def paste_cutout(lab, cutout, rng, recolor=True):
    """Lay a cut-out (PIL, RGBA) at a random place and size on a CIELAB image.

    Returns the image, the cut-out's caption, and whether it was given a new colour.
    """
    size = len(lab)
    scale = size * rng.uniform(0.45, 0.95) / max(cutout["image"].size)
    small = shrink(cutout["image"], scale)
    if rng.random() < 0.5:
        small = small.transpose(Image.FLIP_LEFT_RIGHT)
    alpha = np.asarray(small)[..., 3].astype(np.float32) / 255
    thing, caption = srgb_to_lab(to_float(small.convert("RGB"))), cutout["detailed_caption"]
    recolored = recolor and rng.random() < 0.6 and (alpha > 0.5).any()
    if recolored:
        thing, word = recolor_thing(thing, alpha, rng)
        caption = fix_articles(f"a {word} {cutout['subject']}")
    x, y = rng.integers(size - small.width + 1), rng.integers(size - small.height + 1)
    return lay(lab, fit_gamut(thing), alpha, x, y), caption, bool(recolored)


def shrink(image, scale):
    """A PIL picture whose sides are `scale` times as long, at least 1 px."""
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.LANCZOS)


def lay(lab, thing, alpha, x, y):
    """A CIELAB image with a smaller one, `thing` (h, w, 3) of opacity `alpha` (h, w), laid on it at column x, row y."""
    window, solid, lab = np.s_[y : y + len(thing), x : x + thing.shape[1]], alpha[..., None], lab.copy()
    lab[window] = solid * thing + (1 - solid) * lab[window]
    return lab


def load_training_pictures(pictures):
    """Scenes and cut-outs, as records with a PIL `image` and captions.

    The scenes are the training split of the pocket photos and, where `pictures` names the folder that holds them, the
    training-only photos and cut-outs that `data_cards/training_pictures/metadata.csv` lists.
    """
    manifest = read_manifest("data_cards/pocket_photos")
    scenes = [
        {**record, "image": open_picture(record["path"]).convert("RGB")}
        for record in manifest[manifest["split"] == "train"].to_dict("records")
    ]
    cutouts = []
    if pictures:
        listed = pd.read_csv(ROOT / "data_cards/training_pictures/metadata.csv", keep_default_na=False)
        for record in listed.to_dict("records"):
            path = Path(pictures) / record["file"]
            if not path.is_file() or hash_of_file(path) != record["sha256"]:
                raise ValueError(f"{path} is missing or not the file of data_cards/training_pictures/metadata.csv")
            image = open_picture(path)
            image.thumbnail((512, 512), Image.LANCZOS)
            if record["kind"] == "photo":
                scenes.append({**record, "image": image.convert("RGB")})
            else:
                cutouts.append({**record, "image": image.convert("RGBA")})
    return scenes, cutouts


def make_records(scenes, things, n, size, seed=0, recolor=True):
    """`n` training pictures with their prompts, one by one: records with `image`, `prompt` and `recolored`."""
    for index in progress(range(n), desc="training pictures"):
        rng = np.random.default_rng((seed, index))
        record = make_training_picture(scenes, things, size, rng, recolor)
        prompt = draw_training_prompt(record, "captions" if record["recolored"] else "mix", rng)
        yield {"prompt": prompt, "image": record["image"], "recolored": record["recolored"]}


def prompt_shares(scenes, things, n, size=16):
    """How the first `n` training prompts were made, as a table of shares: recoloured, with colour words, vague."""
    table = pd.DataFrame([(r["recolored"], r["prompt"]) for r in make_records(scenes, things, n, size)])
    prompts = table[1]
    shares = {
        "recoloured pictures": table[0].mean(),
        "prompts with colour words": prompts.map(has_color_words).mean(),
        "generic prompts": prompts.isin(GENERIC_PROMPTS).mean(),
        "the vague prompt itself": (prompts == VAGUE_PROMPT).mean(),
    }
    return pd.DataFrame({"training": list(shares), "share": list(shares.values())})


def make_dataset(pictures, folder, n, size, seed=0, cutouts=True, recolor=True):
    """A data set of `n` training pictures with the columns of notebook 01's, made once and kept in `folder`.

    Systems without a prompt learn without cut-outs and recolouring, trials from fewer pictures.
    """

    def rows(scenes, things):
        for record in make_records(scenes, things if cutouts else [], n, size, seed, recolor):
            gray = make_conditioning_image(record["image"])
            yield {"prompt": record["prompt"], "image": record["image"], "conditioning_image": gray}

    return load_or_make(pictures, folder, {"pictures": n, "size": size, "seed": seed}, rows, FEATURES)


def load_or_make(pictures, folder, wanted, rows, features):
    """The data set of what `rows(scenes, cutouts)` yields, made once and kept in `folder`.

    `wanted`: what it is made from, by name; a folder made from something else is a ValueError.
    """
    stamp = folder / "made_from.json"
    if not stamp.exists():
        scenes, things = load_training_pictures(pictures)
        cache = str(folder.parent / "arrow")
        dataset = Dataset.from_generator(lambda: rows(scenes, things), features=features, cache_dir=cache)
        with new_folder(folder) as partial:
            dataset.save_to_disk(str(partial))
        write_text(json.dumps({**wanted, "photos": len(scenes), "cutouts": len(things)}), stamp)
    made = json.loads(stamp.read_text())
    if wanted.items() - made.items():
        raise ValueError(f"{folder} was made from {made}, not {wanted}: remove it")
    return load_from_disk(str(folder))


def run_recipe(recipe, module, description):
    """The command of a recipe, `recipe(pictures, overrides)`: a folder of training pictures and profile fields."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--pictures", default="", help="folder with the pictures of data_cards/training_pictures")
    add_field_option(parser, "a profile field for all trainings, e.g. -p mixed_precision bf16")
    options = parser.parse_args()
    with exit_with_one_line():
        recipe(options.pictures, options.overrides)
