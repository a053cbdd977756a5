"""`Colorizer`: a photo of any size in colour, by a network that sees a reduced copy of it."""

import json
import operator
import re
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from lib import ROOT, regions
from lib.captions import COLOR_PATTERN, KNOWN, WORDS
from lib.color import gray_from_luminance, srgb_to_lab, to_pil
from lib.config import Config, get_config
from lib.models import load_pipeline
from lib.photo.formats import ColorPicture, Photo, open_photo
from lib.photo.full_resolution import find_border, guided_functions, network_size, paint, reduce_lightness, refine
from lib.prompts import VAGUE_PROMPT
from lib.sampling import sample

FIND_PX, WORKING_PX = 256, 512  # longer side of the photo in which objects are found, and of the masks that are kept
OTHER_LANGUAGES = re.compile("|".join(WORDS["other_languages"].values()))
SAMPLING = ("num_inference_steps", "guidance_scale", "controlnet_conditioning_scale")


class Colorizer:
    """Colorizes photos with one model, which is loaded once.

    Args:
        profile: "pocket" (CPU), "l4" (GPU), or a `Config`, whose run's ControlNet is then taken.
        controlnet: a folder or Hub id of another ControlNet, e.g. "build/l4/study_1/controlnet". If `config.json`
            beside its folder names another base, that base is loaded.
        fields: other fields of the configuration, e.g. num_inference_steps=5, base_model="FOLDER_OR_HUB_ID".

    Raises:
        ValueError: if a field is unknown or wrong, or the ControlNet does not fit the base.
    """

    def __init__(self, profile: str | Config = "pocket", controlnet: str | Path | None = None, **fields):
        config = profile
        if isinstance(profile, str):
            if controlnet and Path(controlnet).is_dir():
                controlnet = Path(controlnet).resolve()
                if (saved := controlnet.with_name("config.json")).is_file():
                    trained = json.loads(saved.read_text(encoding="utf-8"))
                    fields = {name: trained[name] for name in ("run", "base_model", "base_revision")} | fields
            config = get_config(profile, **fields)
            source = controlnet or config.controlnet or config.initial_controlnet or config.run_dir / "controlnet"
            config = config.replace(controlnet=str(source), torch_compile=False)
        self.config, self.pipeline = config, load_pipeline(config)

    def __call__(self, photo, prompt=VAGUE_PROMPT, seed=0, saturation=1.0, colors=(), bind=False, **sampling):
        """Returns the photo in colour, a `ColorPicture`: a PIL image at the photo's own size.

        Args:
            photo: what `open_photo` takes (a path, a PIL image, an array, a file), or the `Photo` that it returns.
            prompt: what is in the photo, with its colours.
            seed: another number gives other colours.
            saturation: 0 is gray, 1 as the network says, 2 twice as much; at most 5.
            colors: colours of single objects, {"tram": "dark red"}, or of places, [((left, top, right, bottom),
                "dark red"), (mask, "blue")]: see `regions.Region`. If places overlap, the later one wins.
            bind: find each object that the prompt gives a colour, and keep the colour to it.
            sampling: fields of the configuration for this picture: num_inference_steps, guidance_scale, ...

        Raises:
            ValueError: if the photo can't be read, is too small or too large, or another argument is wrong.
        """
        seed = operator.index(seed)
        if not (0 <= seed < 2**63 and 0 <= saturation <= 5):
            raise ValueError(f"seed {seed} should be at least 0, saturation {saturation} from 0 to 5")
        config = self.config.replace(**sampling)
        photo = photo if isinstance(photo, Photo) else open_photo(photo)
        colors = to_regions(colors, photo.plane.shape)
        names = {region.place for region in colors if isinstance(region.place, str)}
        bound = [region for region in regions.regions_of(prompt) if region.place not in names] if bind else []
        multiple = self.pipeline.vae_scale_factor * 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)
        plane = reduce_lightness(photo.plane, network_size(*photo.plane.shape, config.resolution, multiple))
        fine = reduce_lightness(photo.plane, WORKING_PX)
        placed, weights, notes = self.place([*bound, *colors], photo.plane, fine)
        gray = to_pil(gray_from_luminance(plane))
        # the prompt's picture alone, so that it is the same with and without regions
        outputs = sample(self.pipeline, [gray], [prompt], [seed], config)
        phrases, count = [region.phrase for region in placed], len(placed)
        outputs += sample(self.pipeline, [gray] * count, phrases, [seed] * count, config)
        layers = (float(saturation) * srgb_to_lab(output)[..., 1:] for output in outputs)
        functions = [cv2.resize(guided_functions(plane, ab), fine.shape[::-1]) for ab in layers]
        pixels = paint(photo.plane, regions.compose(functions, weights) * (1 - find_border(fine))[..., None])
        made = {"photo": photo.path.name} if photo.path else {}
        made |= {"prompt": prompt, "colors": ", ".join(map(str, colors))}
        made["bind"] = ", ".join(f"{region.color} {region.place}" for region in bound if region in placed)
        made |= {"seed": seed, "saturation": saturation, **config.values(*SAMPLING, "profile", "base_model")}
        made["controlnet"] = str(config.controlnet_source).removeprefix(f"{ROOT}/")  # nothing of the machine
        return ColorPicture(pixels, photo, made, notes)

    def place(self, wanted: list[regions.Region], plane: np.ndarray, fine: np.ndarray) -> tuple[list, np.ndarray, list]:
        """Returns the regions that are found, the weights (1 + regions, h, w) of the rest and of them, and notes.

        `plane`: the photo's L* (H, W); `fine`: the same at the size of the weights. Names share places by how sure the
        segmenter is; boxes and masks go over them, the later over the earlier.
        """
        coarse = reduce_lightness(plane, FIND_PX)
        named = [region for region in wanted if isinstance(region.place, str)]
        others = [region for region in wanted if not isinstance(region.place, str)]
        masks = [*regions.find_masks(named, coarse, lambda: self.segmenter)]
        masks = refine([*masks, *(mask_of_place(region.place, coarse) for region in others)], coarse, fine)
        weights = regions.share_out(masks[: len(named)], self.segmenter.threshold if named else 1)
        for mask in masks[len(named) :]:
            weights = np.concatenate([weights * (1 - mask), mask[None]])
        found, wanted = masks.any(axis=(1, 2)), [*named, *others]
        notes = [f"not found in the photo: {wanted[index]}" for index in np.flatnonzero(~found)]
        if (masks[len(named) :] > 0.5).sum(axis=0).max() > 1:  # a pixel belongs to two
            notes.append("regions overlap: the later one wins")
        return [wanted[index] for index in np.flatnonzero(found)], weights[np.append(True, found)], notes

    @cached_property
    def segmenter(self):
        """Finds objects by name; loaded when the first is to be found."""
        return regions.load_segmenter(self.config.segmenter, self.config.segmenter_revision)

    def prompt_notes(self, prompt: str) -> list[str]:
        """Returns notes on a prompt: that it isn't English, and which words the text encoder doesn't read."""
        notes = [] if looks_english(prompt) else ["this model reads English only: write the prompt in English"]
        tokenizer = self.pipeline.tokenizer
        ids, longest = tokenizer(prompt, truncation=False, verbose=False)["input_ids"], tokenizer.model_max_length
        if len(ids) > longest:
            notes.append(f"the prompt is too long, not read is: {tokenizer.decode(ids[longest - 1 : -1])}")
        return notes


def looks_english(prompt: str) -> bool:
    """Returns False if most words that tell a language don't tell English, the one that `pocket` reads."""
    words = re.findall(r"[^\W\d_]+", prompt.lower())
    other = sum(bool(OTHER_LANGUAGES.fullmatch(word)) or max(word) > "\u024f" for word in words)
    return other <= sum(bool(KNOWN.fullmatch(word) or COLOR_PATTERN.fullmatch(word)) for word in words)


def to_regions(colors: dict | list[tuple], shape: tuple[int, int]) -> list[regions.Region]:
    """Returns the regions of {object: colour}, or of (place, colour) pairs, in a photo of this shape (H, W).

    Raises ValueError if a place is not in the photo or marks nothing, or a colour is no text.
    """
    named = []
    for place, color in colors.items() if isinstance(colors, dict) else colors:
        if isinstance(place, str):
            place = place.strip()
            valid = place != ""
        elif np.ndim(place) == 1:
            place = tuple(map(float, place))
            valid = len(place) == 4 and 0 <= place[0] < place[2] <= 1 and 0 <= place[1] < place[3] <= 1
        else:
            place = np.asarray(place) / np.float32(255 if np.asarray(place).dtype == np.uint8 else 1)
            valid = place.shape == shape and place.min() >= 0 and 0 < place.max() <= 1
        if not (valid and isinstance(color, str) and color.strip()):
            rule = "it needs a name, a box (left, top, right, bottom from 0 to 1) or a mask of the photo, and a colour"
            raise ValueError(f"region {regions.Region(place, color)}: {rule}")
        named.append(regions.Region(place, color.strip()))
    return named


def mask_of_place(place: tuple | np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Returns the mask of a place on L* (h, w), float32 in [0, 1]; of a box, that of the object in it.

    The object is found by GrabCut (Rother et al. 2004) on L*, its local mean and its local roughness. If hardly
    anything in the box differs from the rest, all of the box counts.
    """
    if isinstance(place, np.ndarray):
        return cv2.resize(place, plane.shape[::-1], interpolation=cv2.INTER_AREA)
    height, width = plane.shape
    left, top, right, bottom = np.array(place) * (width, height, width, height)
    inside = np.s_[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
    gray = (plane * 2.55).astype(np.uint8)
    rough = cv2.GaussianBlur(np.abs(cv2.Laplacian(gray, cv2.CV_32F)), (0, 0), 3)
    layers = cv2.merge([gray, cv2.GaussianBlur(gray, (0, 0), 3), cv2.convertScaleAbs(rough, alpha=3)])
    labels, whole = np.full(plane.shape, cv2.GC_BGD, np.uint8), np.zeros(plane.shape, np.float32)
    labels[inside], whole[inside] = cv2.GC_PR_FGD, 1
    if whole.mean() < 0.98:
        cv2.setRNGSeed(0)
        cv2.grabCut(layers, labels, None, None, None, 5, cv2.GC_INIT_WITH_MASK)
    found = (labels == cv2.GC_PR_FGD).astype(np.float32)
    return cv2.blur(found, (3, 3)) * whole if found[inside].mean() > 0.1 else whole
