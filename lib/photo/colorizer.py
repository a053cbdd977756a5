"""`Colorizer`: a photo of any size in colour, by a network that sees a reduced copy of it."""

import csv
from functools import cached_property
from pathlib import Path

import numpy as np

from lib import ROOT
from lib.color import gray_from_luminance, srgb_to_lab, to_pil
from lib.config import RUNS, Config, get_config
from lib.inference import sample
from lib.models import add_controlnet, load_base, load_controlnet, load_pipeline
from lib.photo.formats import Photo, open_photo
from lib.photo.full_resolution import color_functions, network_size, paint, reduce_lightness, reduced_plane, refine
from lib.photo.pictures import SAMPLING_OPTIONS, ColorPicture, check_number
from lib.prompts import VAGUE_PROMPT
from lib.regions import FIND_PX, WORKING_PX, find_masks, overlap, regions_of, share_out, to_regions, weigh


class Colorizer:
    """Colorizes photos with one model, which is loaded once.

        colorizer = Colorizer("pocket")
        colorizer("photo.jpg", "a red tram in a gray street").save("photo.color.png")

    - `profile`: "pocket" (CPU), "l4" (GPU), or a `Config`, whose run's ControlNet is then taken.
    - `controlnet`: a folder or Hub id of another ControlNet, e.g. "build/l4/study_1/controlnet".
    - `base_model`: a folder or Hub id of the base that it was trained for; by default the one that `run.csv` beside the
      ControlNet's folder names, or the profile's.
    - `num_inference_steps` (1 to 1000), `guidance_scale` (0 to 100), `controlnet_conditioning_scale` (0 to 10): as in
      diffusers; by default the profile's.

    What does not fit together is a ValueError.
    """

    def __init__(self, profile="pocket", controlnet="", base_model="", **sampling):
        if isinstance(profile, Config):
            if controlnet or base_model or sampling:
                raise ValueError("a Config has its own ControlNet, base and sampling: use config.replace(...)")
            self.config, self.controlnet = profile, str(profile.controlnet_source)
            self.pipeline = load_pipeline(profile)
            return
        sampling = check_sampling(sampling)
        base_model = folder_or_id(base_model) if base_model else ""
        given = {"base_model": base_model} if base_model else {}
        config = get_config(profile, **sampling, **given)
        source = folder_or_id(controlnet or config.initial_controlnet or config.controlnet_dir)
        base_model = base_model or base_of_run(source) or config.base_model
        config = config.replace(base_model=base_model, base_revision=pinned_revision(config.profile, base_model))
        base = load_base(config)
        check_text_encoder(base, config)
        self.config, self.controlnet = config, source
        self.pipeline = add_controlnet(base, load_controlnet(source, base.unet))

    def __call__(self, photo, prompt=VAGUE_PROMPT, seed=0, saturation=1.0, colors=(), bind=False, **sampling):
        """The photo in colour, a `ColorPicture`: a PIL image at the photo's own size, whose `save` writes its metadata.

        - `photo`: what `open_photo` takes (a path, a PIL image, an array, a file), or the `Photo` that it returns.
        - `prompt`: what is in the photo, with its colours.
        - `seed`: another number gives other colours.
        - `saturation`: 0 is gray, 1 as the network says, 2 twice as much; at most 5.
        - `colors`: colours of single objects, {"tram": "dark red"}, or of places, [((left, top, right, bottom),
          "dark red"), (mask, "blue")]: see `regions.Region`. Where places overlap, the later one wins.
        - `bind`: find each object that the prompt gives a colour, and keep the colour to it.
        - `sampling`: options as the class takes them, for this picture.

        A photo that can't be read, or is too small or too large, is a ValueError that names it.
        """
        seed, saturation = check_number("seed", seed), check_number("saturation", saturation)
        config = self.config.replace(**check_sampling(sampling))
        photo = photo if isinstance(photo, Photo) else open_photo(photo)
        colors = to_regions(colors, photo.pixels.shape[:2])
        names = {region.place for region in colors if isinstance(region.place, str)}
        bound = [region for region in regions_of(prompt) if region.place not in names] if bind else []
        height, width = photo.pixels.shape[:2]
        multiple = self.pipeline.vae_scale_factor * 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)
        plane = reduce_lightness(photo.pixels, network_size(height, width, self.config.resolution, multiple))
        fine = reduced_plane(photo.pixels, WORKING_PX)
        regions, weights, notes = self.place([*bound, *colors], photo.pixels, fine)
        gray = to_pil(gray_from_luminance(plane))
        # the prompt's picture alone, so that it is the same with and without regions
        outputs = sample(self.pipeline, [gray], [prompt], [seed], config)
        phrases, count = [region.phrase for region in regions], len(regions)
        outputs += sample(self.pipeline, [gray] * count, phrases, [seed] * count, config)
        layers = [saturation * srgb_to_lab(output)[..., 1:] for output in outputs]
        pixels = paint(photo.pixels, color_functions(plane, layers, fine, weights))
        made = {"photo": photo.path.name} if photo.path else {}
        made |= {"prompt": prompt, "colors": ", ".join(region.name for region in colors), "bind": bind, "seed": seed}
        made |= {"saturation": saturation, **config.values(*SAMPLING_OPTIONS), "profile": config.profile}
        for name, source in (("base", config.base_model), ("controlnet", self.controlnet)):
            made[name] = source.removeprefix(f"{ROOT.resolve()}/")  # nothing of the machine
        return ColorPicture(pixels, photo, made, notes)

    def place(self, regions, pixels, fine):
        """The regions that are found in a photo, the weights (1 + regions, h, w) of the rest and of them, and notes.

        `fine`: the photo's L* (h, w) at the size of the weights. Names share places by how sure the segmenter is; boxes
        and masks go over them, the later over the earlier.
        """
        if not regions:
            return [], np.ones((1, *fine.shape), np.float32), []
        coarse = reduced_plane(pixels, FIND_PX)
        regions = sorted(regions, key=lambda region: not isinstance(region.place, str))
        masks = refine(find_masks(regions, coarse, lambda: self.segmenter), coarse, fine)
        there = masks.max(axis=(1, 2)) > 0
        notes = [f"not found in the photo: {region.name}" for region, ok in zip(regions, there, strict=True) if not ok]
        regions, masks = [region for region, ok in zip(regions, there, strict=True) if ok], masks[there]
        names = sum(isinstance(region.place, str) for region in regions)
        if overlap(masks[names:]):
            notes.append("regions overlap: the later one wins")
        over = weigh(masks[names:])
        shares = share_out(masks[:names], self.segmenter.threshold if names else 1)
        return regions, np.concatenate([shares * over[0], over[1:]]), notes

    @cached_property
    def segmenter(self):
        """Finds objects by name; loaded when the first is to be found."""
        from lib.segmenter import load_segmenter  # most photos need none

        return load_segmenter(self.config.segmenter, self.config.segmenter_revision)

    def unread(self, prompt: str) -> str:
        """The end of a prompt that the text encoder does not read, or ""."""
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
        longest = tokenizer.model_max_length
        return tokenizer.decode(ids[longest - 1 : -1]) if len(ids) > longest else ""


def check_sampling(options: dict) -> dict:
    """Options of sampling, {name: value}; ValueError if one is unknown or out of bounds."""
    for name in options:
        if name not in SAMPLING_OPTIONS:
            raise ValueError(f"unknown option {name!r}: known are {', '.join(SAMPLING_OPTIONS)}")
    return {name: check_number(name, value) for name, value in options.items()}


def folder_or_id(name: str | Path) -> str:
    """A folder as an absolute path; any other name, such as a Hub id, as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)


def base_of_run(controlnet: str) -> str:
    """The base that a run's `run.csv` names beside its ControlNet's folder; "" where there is none."""
    path = Path(controlnet).parent / "run.csv"
    if not Path(controlnet).is_dir() or not path.is_file():
        return ""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return next(csv.DictReader(file))["base"]
    except (OSError, UnicodeError, csv.Error, StopIteration, KeyError):
        raise ValueError(f"{path} names no base: name one with --base, or base_model in Python") from None


def pinned_revision(profile: str, base: str) -> str | None:
    """The commit of a base that a profile or one of its runs pins; None, the newest, if none does."""
    known = [get_config(profile, run=run) for run in RUNS[profile]]
    return next((config.base_revision for config in known if config.base_model == base), None)


def check_text_encoder(base, config):
    """Refuse a base that needs another text encoder than the profile's: ValueError."""
    width, needed = base.text_encoder.config.hidden_size, base.unet.config.cross_attention_dim
    if width != needed:
        said = f"base {config.base_model} needs a text encoder of width {needed}"
        raise ValueError(f"{said}, that of the profile {config.profile} has {width}: name another --profile or --base")
