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
from lib.photo import BIND
from lib.photo.formats import ColorPicture, Photo, open_photo
from lib.photo.full_resolution import guided_functions, network_size, paint, reduce_lightness, refine
from lib.photo.places import FIND_PX, WORKING_PX, describe, mask_of, reduced_size, to_regions, weigh
from lib.prompts import VAGUE_PROMPT
from lib.sampling import sample

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

    def __call__(self, photo, prompt=VAGUE_PROMPT, seed=0, saturation=1.0, colors=(), bind=BIND, **sampling):
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
        shape = photo.plane.shape
        colors = to_regions(colors, shape)
        names = {region.place for region in colors if isinstance(region.place, str)}
        bound = [region for region in regions.regions_of(prompt) if region.place not in names] if bind else []
        multiple = self.pipeline.vae_scale_factor * 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)
        plane = reduce_lightness(photo.plane, network_size(*shape, config.resolution, multiple))
        fine = reduce_lightness(photo.plane, reduced_size(shape, WORKING_PX))
        placed, weights, notes = self.place([*bound, *colors], fine, photo.plane)
        gray = to_pil(gray_from_luminance(plane))
        # the prompt's picture alone, so that it is the same with and without regions
        outputs = sample(self.pipeline, [gray], [prompt], [seed], config)
        phrases, count = [region.phrase for region in placed], len(placed)
        outputs += sample(self.pipeline, [gray] * count, phrases, [seed] * count, config)
        layers = [float(saturation) * srgb_to_lab(output)[..., 1:] for output in outputs]
        functions = [cv2.resize(guided_functions(plane, ab), fine.shape[::-1]) for ab in layers]
        pixels = paint(photo.plane, regions.compose(functions, weights))
        made = {"photo": photo.path.name} if photo.path else {}
        made |= {"prompt": prompt, "colors": ", ".join(map(describe, colors))}
        made["bind"] = ", ".join(f"{region.color} {region.place}" for region in bound if region in placed)
        made |= {"seed": seed, "saturation": saturation, **config.values(*SAMPLING), "profile": config.profile}
        for name, source in (("base", config.base_model), ("controlnet", config.controlnet_source)):
            made[name] = str(source).removeprefix(f"{ROOT.resolve()}/")  # nothing of the machine
        return ColorPicture(pixels, photo, made, notes)

    def place(self, wanted: list, fine: np.ndarray, plane: np.ndarray) -> tuple[list, np.ndarray, list]:
        """Returns the regions that are found, the weights (1 + regions, h, w) of the rest and of them, and notes.

        `fine`: the photo's L* (h, w) at the size of the weights; `plane`: at its own size. Names share places by how
        sure the segmenter is; boxes and masks go over them, the later over the earlier.
        """
        if not wanted:
            return [], np.ones((1, *fine.shape), np.float32), []
        coarse = reduce_lightness(plane, reduced_size(plane.shape, FIND_PX))
        named = [region for region in wanted if isinstance(region.place, str)]
        others = [region for region in wanted if not isinstance(region.place, str)]
        masks = [*regions.find_masks(named, coarse, lambda: self.segmenter)]
        masks = refine(masks + [mask_of(region.place, coarse) for region in others], coarse, fine)
        found, wanted = masks.any(axis=(1, 2)), [*named, *others]
        notes = [f"not found in the photo: {describe(wanted[index])}" for index in np.flatnonzero(~found)]
        placed, masks = [wanted[index] for index in np.flatnonzero(found)], masks[found]
        n_names = sum(isinstance(region.place, str) for region in placed)
        if ((masks[n_names:] > 0.5).sum(axis=0) > 1).any():  # a pixel belongs to two
            notes.append("regions overlap: the later one wins")
        over = weigh(masks[n_names:])
        shares = regions.share_out(masks[:n_names], self.segmenter.threshold if n_names else 1)
        return placed, np.concatenate([shares * over[0], over[1:]]), notes

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
