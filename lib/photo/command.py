"""The command `colorize`: photos and folders in, colour pictures out; `colorize --help` lists the options."""

import argparse
import csv
import gc
import os
import re
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lib.files import exit_with_one_line, explained, hash_of_file, new_file, one_line, open_picture, printable
from lib.photo.formats import EXPECT, MAX_MEGAPIXELS, SUFFIXES, open_photo, regular_file
from lib.photo.pictures import LIMITS, SAMPLING_OPTIONS, folder_or_id, place_in_project, read_metadata
from lib.profiles import PROFILES, get_profile, resolve
from lib.prompts import VAGUE_PROMPT
from lib.study import EQUIVALENTS

EXAMPLES = f"""examples:
  colorize photo.jpg
  colorize photo.jpg --prompt "a red bus on a gray street, blue sky" --samples 4
  colorize photo.jpg --prompt "a street" --color "tram: dark red" --color "sky: pale blue"
  colorize album/ --prompts prompts.csv --output colored/
  colorize --again photo.color.png --output again.png

{EXPECT}
Photos of up to {MAX_MEGAPIXELS} megapixels. Exit status: 0 all done, 1 some failed (a line each), 2 wrong usage.
"""
FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}  # of pictures: names of --format and endings
ENDINGS = (*FORMATS.values(), ".jpeg")
OUTPUT = re.compile(r"\.color(\.(-?\d+|sheet|compare))?\.(png|jpe?g|webp)$")  # names of outputs: no photos of a folder
MODEL_OPTIONS = ("controlnet", "base_model", *SAMPLING_OPTIONS)
ALONE = ("prompt", "prompts", "seed", "samples", "saturation", "colors", "bind", *SAMPLING_OPTIONS)  # without --again
SAMPLES_STEPS = 3  # at least, for several samples: in one step the pocket model's seeds hardly differ, in many too much
SHEET_PX = 600  # of the longer side of a picture in a contact sheet


@dataclass
class Job:
    """One photo to colorize: where it is, what to say, and where to put the picture."""

    photo: Path
    prompt: str
    output: Path

    def outputs(self, seed, samples, compare):
        """Its pictures by seed, and the picture that shows several beside each other; None where there is none."""
        if samples == 1:
            beside = self.output.with_suffix(f".compare{self.output.suffix}") if compare else None
            return {seed: self.output}, beside
        seeds = range(seed, seed + samples)
        pictures = {seed: self.output.with_suffix(f".{seed}{self.output.suffix}") for seed in seeds}
        return pictures, self.output.with_suffix(".sheet.png")


def number(kind, low, high):
    """A reader of option values: numbers of a kind between two bounds."""

    def read(text):
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
        return value

    read.__name__ = f"number from {low} to {high}"
    return read


def thing_and_color(text):
    """A thing and its colour from "THING: COLOR"."""
    thing, colon, color = text.rpartition(":")
    if not (colon and thing.strip() and color.strip()):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form "tram: dark red"')
    return thing.strip(), color.strip()


def mask_and_color(text):
    """The path of a mask and its colour from FILE=COLOR."""
    file, equals, color = text.rpartition("=")
    if not (equals and file and color.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form roof.png=red")
    return Path(file), color.strip()


def make_parser():
    """The options of the command."""
    about = {"prog": "colorize", "description": "Colorize grayscale photos with a sentence, at their own size."}
    parser = argparse.ArgumentParser(**about, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO_OR_FOLDER", help="photos, or folders whose photos are taken, e.g. album/")
    add("--prompt", help='what is in the photo, with its colours, e.g. --prompt "a red bus, blue sky"')
    text = "a prompt for each photo: columns photo,prompt, e.g. --prompts prompts.csv"
    add("--prompts", metavar="FILE.csv", help=text)
    text = "a folder, or for one picture a .png, .jpg or .webp file, e.g. --output colored/"
    add("--output", metavar="PATH", help=text)
    text = 'the colour of one thing, wherever it is, e.g. --color "tram: dark red"; several may be given'
    add("--color", dest="colors", type=thing_and_color, action="append", metavar='"THING: COLOR"', help=text)
    text = "the colour of a place: white in a picture of the photo's size, e.g. --mask roof.png=red; the last one wins"
    add("--mask", dest="colors", type=mask_and_color, action="append", metavar="FILE=COLOR", help=text)
    text = "find each thing that the prompt gives a colour, and keep the colour to it, e.g. --bind"
    add("--bind", action="store_true", default=None, help=text)
    text = "of the pictures where --output names no file: png (the default) loses nothing, jpeg and webp are smaller"
    add("--format", choices=tuple(FORMATS), help=f"{text}, e.g. --format jpeg")
    add("--recursive", action="store_true", help="take the photos of subfolders too, e.g. colorize album/ --recursive")
    add_model_options(add)
    text = "also the photo and its picture side by side; with --samples, the photo in the sheet, e.g. --compare"
    add("--compare", action="store_true", help=text)
    add("--overwrite", action="store_true", help="replace pictures that are there, e.g. colorize photo.jpg --overwrite")
    text = "leave out photos whose pictures are all there, e.g. colorize photo.jpg --skip-existing"
    add("--skip-existing", action="store_true", help=text)
    text = "keep where the photo was taken in the picture, e.g. colorize photo.jpg --keep-gps"
    add("--keep-gps", action="store_true", help=text)
    text = "make a picture again from what it says of itself, e.g. --again photo.color.png; "
    add("--again", metavar="FILE", help=text + "its photo may be named too, where it has moved")
    return parser


def add_model_options(add):
    """Add the options of the network and its sampling by a parser's method `add`."""
    x, model = {"metavar": "X"}, {"metavar": "PATH_OR_HUB_ID"}
    add("--profile", choices=tuple(PROFILES), default="pocket", help="pocket (CPU) or l4 (GPU), e.g. --profile l4")
    add("--controlnet", **model, help="a ControlNet of your own, e.g. --controlnet build/pocket/mine/controlnet")
    text = "the base that the ControlNet was trained for, where it is not the profile's and no run.csv lies beside the "
    text += "ControlNet, e.g. --base stable-diffusion-v1-5/stable-diffusion-v1-5"
    add("--base", dest="base_model", type=folder_or_id, **model, help=text)
    add("--seed", type=number(*LIMITS["seed"]), help="another number gives other colours, e.g. --seed 7")
    text = f"K pictures with seeds SEED, SEED+1, ... and a sheet of them, in at least {SAMPLES_STEPS} steps, "
    text += "so that they differ visibly, e.g. --samples 4"
    add("--samples", type=number(int, 1, 100), metavar="K", help=text)
    text = "sampling steps, e.g. --steps 5"
    add("--steps", dest="num_inference_steps", type=number(*LIMITS["num_inference_steps"]), metavar="N", help=text)
    text = "how much the prompt counts, e.g. --guidance-scale 3"
    add("--guidance-scale", type=number(*LIMITS["guidance_scale"]), **x, help=text)
    text = "how much the photo's shapes count, e.g. --controlnet-conditioning-scale 0.8"
    add("--controlnet-conditioning-scale", type=number(*LIMITS["controlnet_conditioning_scale"]), **x, help=text)
    add("--saturation", type=number(*LIMITS["saturation"]), **x, help="less or more colour, e.g. --saturation 1.3")


def parse_arguments(arguments=None):
    """The command line; wrong usage exits with status 2."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if not options.photos and not options.again:
        parser.error("name photos or folders, or one picture with --again")
    if options.again and (len(options.photos) > 1 or any(getattr(options, name) is not None for name in ALONE)):
        parser.error("beside --again, only its photo, --controlnet, --base, --output, --overwrite and --keep-gps")
    if options.prompt is not None and options.prompts:
        parser.error("--prompt or --prompts, not both")
    for name, default in (("seed", 0), ("samples", 1), ("saturation", 1.0), ("colors", ()), ("bind", False)):
        if getattr(options, name) is None:
            setattr(options, name, default)
    if options.samples > 1 and options.num_inference_steps is None:
        options.num_inference_steps = max(SAMPLES_STEPS, get_profile(options.profile).sampling.num_inference_steps)
    return options


def read_prompts(path):
    """The prompts of a CSV file with the columns photo and prompt, parted by commas or semicolons, by photo name."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            rows = list(csv.reader(file, delimiter="," if "," in first else ";"))
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(f"{path}: can't be read ({error}): needs a CSV file in UTF-8") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    missing = {"photo", "prompt"} - set(header)
    if missing:
        raise ValueError(f"{path}: column {min(missing)!r} is missing: needed are photo,prompt")
    prompts, at = {}, {name: header.index(name) for name in ("photo", "prompt")}
    for line, row in enumerate(rows[1:], 2):
        if len(row) > len(header):
            example = 'photo.jpg,"a red bus, blue sky"'
            raise ValueError(f"{path}: row {line} has more fields than columns: put the prompt in quotes, as {example}")
        if row and len(row) <= max(at.values()):
            raise ValueError(f"{path}: row {line} has no prompt: add one, or remove the row")
        if row and row[at["photo"]] in prompts:
            raise ValueError(f"{path}: names a photo twice: leave one row for each")
        if row:
            prompts[row[at["photo"]]] = row[at["prompt"]]
    return prompts


def find_photos(name, recursive):
    """{photo: the folder of its picture below --output} of the name of a file or folder, and what is passed over.

    A folder without photos is a ValueError.
    """
    top = Path(name)
    if not top.is_dir():
        return {top: Path()}, ""
    inside, others, folders = {}, 0, 0
    for folder, subfolders, names in os.walk(top):
        subfolders.sort()
        folders += 0 if recursive else len(subfolders)
        for path in (Path(folder, name) for name in sorted(names) if not OUTPUT.search(name)):
            if path.suffix.lower() in SUFFIXES and not path.is_dir():
                inside[path] = path.parent.relative_to(top)
            else:
                others += 1
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
    """The jobs of a command line, a line for each thing that it names in vain, and the real paths of all its photos."""
    prompts, photos, problems = read_prompts(options.prompts) if options.prompts else {}, {}, []
    for name in options.photos:
        try:
            found, passed_over = find_photos(name, options.recursive)
            photos |= {Path(os.path.realpath(path)): (path, below) for path, below in found.items()}
            if passed_over:
                print(printable(f"note: {passed_over}"), file=sys.stderr)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    names, csv_file = [path.name for path, _ in photos.values()], options.prompts
    strange = sorted(set(prompts) - set(names))
    problems += [f"{csv_file}: names {name}, which is not among the photos: correct the row" for name in strange]
    problems += [f"{name}: has no row in {csv_file}: add one" for name in names if prompts and name not in prompts]
    output_of = output_rule(options, len(photos))
    default, jobs = VAGUE_PROMPT if options.prompt is None else options.prompt, []
    for path, below in photos.values():
        if not prompts or path.name in prompts:
            jobs.append(Job(path, prompts.get(path.name, default), output_of(path, below)))
    count = Counter(job.output.resolve() for job in jobs)
    clashing = [job for job in jobs if count[job.output.resolve()] > 1]
    problems += [f"{job.photo}: another photo has the output {job.output} too: rename one" for job in clashing]
    return [job for job in jobs if job not in clashing], problems, set(photos)


def output_rule(options, n_photos):
    """A function of a photo and its folder below --output: where its picture goes; what can't be is a ValueError."""
    target, ending = Path(options.output) if options.output else None, FORMATS[options.format or "png"]
    if not target or target.suffix.lower() not in SUFFIXES:
        return lambda path, below: (target / below if target else path.parent) / f"{path.stem}.color{ending}"
    if n_photos > 1 or options.samples > 1:
        raise ValueError(f"--output {target} is one file, but there are several pictures: name a folder")
    allowed = (ending, ".jpeg") if options.format == "jpeg" else (ending,) if options.format else ENDINGS
    if target.suffix.lower() not in allowed:
        raise ValueError(f"--output {target}: pictures are {', '.join(allowed)} here: name such a file or a folder")
    return lambda path, below: target


def remember(options):
    """Replace the options by what the picture of `--again` says of itself; the photo must be the same file."""
    made = read_metadata(options.again)
    if not made["sha256"]:
        raise ValueError(f"{options.again}: was made from an image that was no file: it can't be made again")
    places = [Path(name) for name in options.photos] or [Path(options.again).parent / Path(made["photo"]).name]
    photo = next((path for path in places if path.is_file() and hash_of_file(path) == made["sha256"]), None)
    if photo is None:
        said = f"was made from {made['photo']}, which is not beside it or has changed"
        raise ValueError(f"{options.again}: {said}: name it after --again FILE")
    names = ("prompt", "profile", "seed", "saturation", "colors", "bind", *SAMPLING_OPTIONS)
    said = {name: made[name] for name in names}
    for name, option in (("controlnet", "--controlnet"), ("base_model", "--base")):
        said[name] = getattr(options, name) or made[name]
        if not getattr(options, name) and not is_of_project(made[name], made["profile"]):
            other = f"was made with the {name} {made[name]}, which is not this project's"
            raise ValueError(f"{options.again}: {other}: add {option} {made[name]} if you trust it")
    said |= {"photos": [str(photo)], "output": options.output or options.again}
    return argparse.Namespace(**{**vars(options), **said})


def is_of_project(name, profile):
    """Whether a picture may choose a model by this name: a folder of this repository, or a base of a profile."""
    bases = {get_profile(profile).model.base_model, *(row.get("base_model") for row in EQUIVALENTS[profile].values())}
    place = Path(place_in_project(name))
    return name in bases or (resolve(name).is_dir() and not place.is_absolute() and ".." not in place.parts)


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


def pick_jobs(jobs, options, photos):
    """The jobs to do, and a line for each other: what they would replace is a photo, or is there already."""
    todo, problems, skipped = [], [], 0
    for job in jobs:
        files, beside = job.outputs(options.seed, options.samples, options.compare)
        files = [*files.values(), *([beside] if beside else [])]
        there = [file for file in files if file.exists()]
        replaced = [file for file in files if Path(os.path.realpath(file)) in photos]
        if replaced:
            reason = f"its output {replaced[0]} is a photo itself, which is never overwritten: name another --output"
            problems.append(f"{job.photo}: {reason}")
        elif options.skip_existing and there == files:
            skipped += 1
        elif there and not options.overwrite:
            remedy = "pass --overwrite or --skip-existing, or name another --output"
            problems.append(f"{job.photo}: its output {there[0]} is there already: {remedy}")
        else:
            todo.append(job)
    if skipped:
        print(f"{skipped} of {len(jobs)} photos have their pictures already: skipped")
    return todo, problems


def colorize_job(job, options, colorizer, say):
    """Colorize one photo, write its pictures one by one, and say what there is to be said."""
    files, beside = job.outputs(options.seed, options.samples, options.compare)
    with quiet_libraries():
        photo = open_photo(job.photo, options.keep_gps)
    for note in photo.notes:
        say(f"note: {job.photo}: {note}")
    if unread := colorizer.unread(job.prompt):
        say(f"note: {job.photo}: the prompt is too long, not read is: {unread}")
    shown = {}
    if options.compare:
        from lib.photo.full_resolution import paint_gray  # an import that what is said before can do without

        shown["photo"] = paint_gray(photo.pixels)
    for seed, file in files.items():
        picture = colorizer(photo, job.prompt, seed, options.saturation, options.colors, options.bind)
        picture.save(file)
        for note in picture.notes if seed == options.seed else ():
            say(f"note: {job.photo}: {note}")
        paler = picture.paler()
        say(f"{file} ({paler})" if paler else f"{file}")
        if beside:
            shown[f"seed {seed}"] = np.asarray(picture.convert("RGB"))
    if beside:
        save_beside(shown, beside)
        say(f"{beside}")


def save_beside(shown, path):
    """Save pictures (H, W, 3) of one photo beside each other: two at full size, more in a sheet under their names."""
    if len(shown) == 2:
        with new_file(path) as partial:
            format = Image.registered_extensions()[path.suffix.lower()]
            Image.fromarray(np.hstack(list(shown.values()))).save(partial, format=format, quality=95)
        return
    from lib.figures import save_sheet

    small = [picture[:: max(1, max(picture.shape) // SHEET_PX)] for picture in shown.values()]
    save_sheet([small], path, column_titles=list(shown), cell=3)


def open_mask(place):
    """The pixels (H, W) of a mask's file; any other place as it is."""
    if not isinstance(place, Path):
        return place
    with explained(f"mask {place} can't be read", "name a picture, white where the colour belongs"):
        return np.asarray(open_picture(regular_file(place)).convert("L"))


def in_one_line(error, job):
    """An error of one job as a line that names its photo."""
    if isinstance(error, MemoryError):
        return f"{job.photo}: too large for this machine's memory: reduce it first"
    if isinstance(error, OSError):
        place, reason = error.filename or job.output, error.strerror or error
        return f"{job.photo}: {place} can't be written ({reason}): name another --output"
    line, name = one_line(error, None), printable(str(job.photo))
    return line if line.startswith(f"{name}: ") else f"{name}: {line}"


def run(options):
    """Colorize all that a command line names; returns the number of failures, each said in a line."""
    from tqdm import tqdm

    if options.again:
        options = remember(options)
    options.colors = [(open_mask(place), color) for place, color in options.colors]
    jobs, problems, photos = make_jobs(options)
    jobs, more = pick_jobs(jobs, options, photos)
    for problem in (*problems, *more):
        print(printable(f"error: {problem}"), file=sys.stderr)
    failures = len(problems) + len(more)
    colorizer = load(options) if jobs else None  # after all that can be said without it
    for job in (bar := tqdm(jobs, desc="colorizing", unit="photo", disable=len(jobs) <= 1)):

        def say(line):
            bar.write(printable(line), file=sys.stderr if line.startswith("note:") else sys.stdout)

        try:
            colorize_job(job, options, colorizer, say)
        except Exception as error:  # one photo's trouble, whatever it is, is not the others'
            failures += 1
            bar.write(printable(f"error: {in_one_line(error, job)}"), file=sys.stderr)
    return failures


def main(arguments=None):
    """The command: exits with 0 when all is done, 1 when some failed, 2 on wrong usage."""
    options = parse_arguments(arguments)
    try:
        with exit_with_one_line():
            failures = run(options)
    except KeyboardInterrupt:
        sys.exit("stopped: the pictures written so far are whole")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
