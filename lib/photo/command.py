"""The command `colorize`: photos and folders in, colour pictures out; `colorize --help` lists the options."""

import argparse
import gc
import os
import re
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unicodedata import normalize

import numpy as np
from tqdm import tqdm

from lib.cache import exit_with_one_line, explained, one_line, open_picture, printable
from lib.config import PROFILES, get_config
from lib.photo.formats import EXPECT, MAX_MEGAPIXELS, SUFFIXES, open_photo
from lib.photo.pictures import LIMITS, SAMPLING_OPTIONS, check_target, format_of
from lib.prompts import VAGUE_PROMPT

EXAMPLES = f"""examples:
  colorize photo.jpg
  colorize photo.jpg --prompt "a red bus on a gray street, blue sky" --samples 4
  colorize photo.jpg --prompt "a street" --color "tram: dark red" --color "sky: pale blue"
  colorize album/ --output colored/

Without --prompt, the text file photo.txt beside photo.jpg is its prompt, or else "{VAGUE_PROMPT}"
{EXPECT}
Photos of up to {MAX_MEGAPIXELS} megapixels. Exit status: 0 all done, 1 some failed (a line each), 2 wrong usage.
"""
FORMATS = {"png": (".png",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",)}  # of pictures: names of --format, endings
OUTPUT = re.compile(r"\.color(\.\d+)?\.(png|jpe?g|webp)$")  # names of outputs: no photos of a folder
MODEL_OPTIONS = ("controlnet", "base_model", *SAMPLING_OPTIONS)
SAMPLES_STEPS = 3  # at least, for several samples: in one step the pocket model's seeds hardly differ, in many too much


def number(kind, low, high):
    """A reader of option values: numbers of a kind between two bounds."""

    def read(text):
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
        return value

    read.__name__ = f"number from {low} to {high}"
    return read


def pair(separator, example, kind):
    """A reader of option values of two parts, of which the first becomes a `kind`: an object or file, and a colour."""

    def read(text):
        place, found, color = text.rpartition(separator)
        if not (found and place.strip() and color.strip()):
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {example}")
        return kind(place.strip()), color.strip()

    return read


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    about = {"prog": "colorize", "description": "Colorize grayscale photos with a sentence, at their own size."}
    parser = argparse.ArgumentParser(**about, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(name, help, **options):
        example = options.pop("example", name)
        parser.add_argument(name, help=f"{help}, e.g. {example}", **options)

    def add_number(name, help, field, example, metavar="X"):
        add(name, help, dest=field, type=number(*LIMITS[field]), metavar=metavar, example=f"{name} {example}")

    text = "photos, or folders whose photos are taken"
    add("photos", text, nargs="+", metavar="PHOTO_OR_FOLDER", example="album/")
    add("--prompt", "what is in the photo, with its colours", example='--prompt "a red bus, blue sky"')
    text = "a folder, or for one picture a .png, .jpg or .webp file"
    add("--output", text, metavar="PATH", example="--output colored/")
    form, text = '"tram: dark red"', "the colour of one object, wherever it is; several may be given"
    colors = {"dest": "colors", "action": "append", "default": []}
    add("--color", text, type=pair(":", form, str), metavar='"OBJECT: COLOR"', example=f"--color {form}", **colors)
    form, text = "roof.png=red", "the colour of a place: white in a picture of the photo's size; the last one wins"
    add("--mask", text, type=pair("=", form, Path), metavar="FILE=COLOR", example=f"--mask {form}", **colors)
    add("--bind", "find each object that the prompt gives a colour, and keep the colour to it", action="store_true")
    text = "of the pictures if --output names no file: png (the default) loses nothing, jpeg and webp are smaller"
    add("--format", text, choices=tuple(FORMATS), example="--format jpeg")
    text = "take the photos of subfolders too"
    add("--recursive", text, action="store_true", example="colorize album/ --recursive")
    text = "pocket (CPU) or l4 (GPU)"
    add("--profile", text, choices=tuple(PROFILES), default="pocket", example="--profile l4")
    model, example = {"metavar": "PATH_OR_HUB_ID"}, "--controlnet build/pocket/mine/controlnet"
    add("--controlnet", "a ControlNet of your own", example=example, **model)
    text = "the base that the ControlNet was trained for, if it is not the profile's and no run.csv lies beside it"
    add("--base", text, dest="base_model", example="--base stable-diffusion-v1-5/stable-diffusion-v1-5", **model)
    add_number("--seed", "another number gives other colours", "seed", 7)
    text = f"K pictures with seeds SEED, SEED+1, ..., in at least {SAMPLES_STEPS} steps, so that they differ visibly"
    add("--samples", text, type=number(int, 1, 100), metavar="K", default=1, example="--samples 4")
    add_number("--steps", "sampling steps", "num_inference_steps", 5, "N")
    add_number("--guidance-scale", "how much the prompt counts", "guidance_scale", 3)
    name = "controlnet_conditioning_scale"
    add_number("--controlnet-conditioning-scale", "how much the photo's shapes count", name, 0.8)
    add_number("--saturation", "less or more colour", "saturation", 1.3)
    parser.set_defaults(seed=0, saturation=1.0)
    example = "colorize photo.jpg "
    for name, text in (
        ("--overwrite", "replace pictures that are there"),
        ("--skip-existing", "leave out photos whose pictures are all there"),
        ("--keep-gps", "keep where the photo was taken in the picture"),
    ):
        add(name, text, action="store_true", example=example + name)
    return parser


def parse_arguments(arguments=None) -> argparse.Namespace:
    """The command line; wrong usage exits with status 2."""
    options = make_parser().parse_args(arguments)
    if options.samples > 1 and options.num_inference_steps is None:
        options.num_inference_steps = max(SAMPLES_STEPS, get_config(options.profile).num_inference_steps)
    return options


def say(line: str) -> None:
    """Print a line above the progress bar, notes and errors to stderr; nothing if the other end of a pipe is closed."""
    stream = sys.stderr if line.startswith(("note: ", "error: ")) else sys.stdout
    try:
        tqdm.write(printable(line), file=stream)
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def as_on_disk(path: Path) -> Path:
    """A path by the form of its name, composed or decomposed Unicode, that exists; else as it is."""
    forms = (path, *(path.with_name(normalize(form, path.name)) for form in ("NFC", "NFD") if path.name))
    return next((form for form in forms if os.path.lexists(form)), path)


def find_photos(name, recursive):
    """{photo: the folder of its picture below --output} of the name of a file or folder, and what is passed over.

    A folder without photos is a ValueError.
    """
    top = as_on_disk(Path(name))
    if not top.is_dir():
        return {top: Path()}, ""
    inside, others, folders = {}, 0, 0
    for folder, subfolders, names in os.walk(top):
        subfolders.sort()
        folders += 0 if recursive else len(subfolders)
        paths = [Path(folder, name) for name in sorted(names) if not OUTPUT.search(name) and not name.startswith(".")]
        photos = [path for path in paths if path.suffix.lower() in SUFFIXES and not path.is_dir()]
        inside |= {path: path.parent.relative_to(top) for path in photos}
        prompts = {normalize("NFC", str(path.with_suffix(".txt"))) for path in photos}
        others += sum(path not in inside and normalize("NFC", str(path)) not in prompts for path in paths)
        if not recursive:
            break
    passed = [f"files that are no photos ({others})"] if others else []
    passed += [f"folders ({folders}; --recursive takes them in)"] if folders else []
    passed_over = f"passed over: {', '.join(passed)}" if passed else ""
    if not inside:
        why = f" ({passed_over})" if passed else ""
        raise ValueError(f"{top}: holds no photo{why}: known endings are {', '.join(SUFFIXES)}")
    return inside, f"{top}: {passed_over}" if passed else ""


def make_jobs(options):
    """{photo: {seed: file}} of the pictures to make, and a line for each photo or name that can't be done."""
    photos, problems, jobs, skipped = {}, [], {}, 0
    for name in options.photos:
        try:
            found, passed_over = find_photos(name, options.recursive)
            photos |= {Path(os.path.realpath(path)): (path, below) for path, below in found.items()}
            if passed_over:
                say(f"note: {passed_over}")
        except (ValueError, OSError) as error:
            problems.append(str(error))
    output_of = output_rule(options, len(photos))
    outputs = {path: output_of(path, below) for path, below in photos.values()}
    count = Counter(output.resolve() for output in outputs.values())
    for photo, output in outputs.items():
        files = {options.seed: output}
        if options.samples > 1:
            seeds = range(options.seed, options.seed + options.samples)
            files = {seed: output.with_suffix(f".{seed}{output.suffix}") for seed in seeds}
        there = [file for file in files.values() if file.exists()]
        replaced = [file for file in files.values() if Path(os.path.realpath(file)) in photos]
        folder = next(place for place in output.absolute().parents if place.exists())
        if count[output.resolve()] > 1:
            problems.append(f"{photo}: another photo has the output {output} too: rename one")
        elif replaced:
            reason = f"its output {replaced[0]} is a photo itself, which is never overwritten: name another --output"
            problems.append(f"{photo}: {reason}")
        elif options.skip_existing and len(there) == len(files):
            skipped += 1
        elif there and not options.overwrite:
            remedy = "pass --overwrite or --skip-existing, or name another --output"
            problems.append(f"{photo}: its output {there[0]} is there already: {remedy}")
        elif not (folder.is_dir() and os.access(folder, os.W_OK)):
            problems.append(f"{photo}: {output} can't be written (no permission in {folder}): name another --output")
        else:
            jobs[photo] = files
    if skipped:
        say(f"{skipped} of {len(photos)} photos have their pictures already: skipped")
    return jobs, problems


def output_rule(options, n_photos):
    """A function of a photo and its folder below --output: where its picture goes; ValueError if --output is wrong."""
    target, endings = Path(options.output) if options.output else None, FORMATS[options.format or "png"]
    if not target or target.is_dir() or not (format_of(target) or target.suffix.lower() in SUFFIXES):
        return lambda path, below: (target / below if target else path.parent) / f"{path.stem}.color{endings[0]}"
    if n_photos > 1 or options.samples > 1:
        raise ValueError(f"--output {target} is one file, but there are several pictures: name a folder")
    allowed = endings if options.format else sum(FORMATS.values(), ())
    if target.suffix.lower() not in allowed:
        raise ValueError(f"--output {target}: pictures are {', '.join(allowed)} here: name such a file or a folder")
    return lambda path, below: target


def read_prompt(photo: Path) -> str:
    """The text of photo.txt beside a photo, or the vague prompt; ValueError if the file can't be read."""
    path = as_on_disk(photo.with_suffix(".txt"))
    if not path.is_file():
        return VAGUE_PROMPT
    with explained(f"{photo}: its prompt {path} can't be read", "save it as text in UTF-8"):
        return " ".join(path.read_text(encoding="utf-8-sig").split())


@contextmanager
def quiet_libraries():
    """Keep what C libraries write about damaged files (libtiff's warnings) from the terminal."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def load(options):
    """The `Colorizer` of a command line."""
    gc.disable()  # what imports leave stays for good: to search it for garbage takes a second
    from lib.photo.colorizer import Colorizer

    given = {name: getattr(options, name) for name in MODEL_OPTIONS if getattr(options, name, None) is not None}
    colorizer = Colorizer(options.profile, **given)
    gc.freeze()
    gc.enable()
    return colorizer


def colorize_photo(path: Path, files: dict[int, Path], options, colorizer) -> None:
    """Colorize one photo, write its pictures one by one, and say what there is to be said."""
    prompt = read_prompt(path) if options.prompt is None else options.prompt
    with quiet_libraries():
        photo = open_photo(path, options.keep_gps)
    for file in files.values():
        check_target(file, photo.pixels.shape, photo.alpha is not None)
    unread = colorizer.unread(prompt)
    for note in (*photo.notes, *([f"the prompt is too long, not read is: {unread}"] if unread else [])):
        say(f"note: {path}: {note}")
    for seed, file in files.items():
        picture = colorizer(photo, prompt, seed, options.saturation, options.colors, options.bind)
        picture.save(file)
        for note in picture.notes if seed == options.seed else ():
            say(f"note: {path}: {note}")
        say(str(file))


def open_mask(place):
    """The pixels (H, W) of a mask's file; any other place as it is."""
    if not isinstance(place, Path):
        return place
    with explained(f"mask {place} can't be read", "name a picture, white where the colour belongs"):
        if not place.is_file():
            raise ValueError("no such file")
        return np.asarray(open_picture(place).convert("L"))


def run(options) -> int:
    """Colorize all that a command line names; returns the number of failures, each said in a line."""
    options.colors = [(open_mask(place), color) for place, color in options.colors]
    jobs, problems = make_jobs(options)
    for problem in problems:
        say(f"error: {problem}")
    failures = len(problems)
    colorizer = load(options) if jobs else None  # after all that can be said without it
    for photo, files in tqdm(jobs.items(), desc="colorizing", unit="photo", disable=len(jobs) <= 1):
        try:
            colorize_photo(photo, files, options, colorizer)
            continue
        except MemoryError:
            line = f"{photo}: too large for this machine's memory: reduce it first"
        except OSError as error:
            place, reason = error.filename or next(iter(files.values())), error.strerror or error
            line = f"{photo}: {place} can't be written ({reason}): name another --output"
        except Exception as error:  # one photo's trouble, whatever it is, is not the others'
            line, name = one_line(error, None), printable(str(photo))
            line = line if line.startswith(f"{name}: ") else f"{name}: {line}"
        failures += 1
        say(f"error: {line}")
    return failures


def main(arguments=None):
    """The command: exits with 0 when all is done, 1 when some failed, 2 on wrong usage."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that its code page doesn't have
    options = parse_arguments(arguments)
    try:
        with exit_with_one_line():
            failures = run(options)
    except KeyboardInterrupt:
        sys.exit("stopped: the pictures written so far are whole")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
