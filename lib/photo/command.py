"""The command `colorize`: photos and folders in, colour pictures out; `colorize --help` lists the options."""

import argparse
import csv
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from lib.files import hash_of_file, one_line
from lib.photo.formats import (
    MAX_MEGAPIXELS,
    SAMPLING_FIELDS,
    SUFFIXES,
    made_with,
    open_photo_file,
    read_metadata,
    save_picture,
)
from lib.profiles import PROFILES, get_profile
from lib.prompts import VAGUE_PROMPT
from lib.study import STANDS_FOR

EXAMPLES = f"""examples:
  colorize photo.jpg
  colorize photo.jpg --prompt "a red bus on a gray street, blue sky" --samples 4
  colorize album/ --prompts prompts.csv --output colored/
  colorize --again photo.color.png --output again.png

Photos of up to {MAX_MEGAPIXELS} megapixels. Exit status: 0 all done, 1 some failed (a line each), 2 wrong usage.
"""
OUTPUT = re.compile(
    r"\.color(\.(-?\d+|sheet))?\.png$"
)  # the names that outputs have by default: passed over in folders
ALONE = (
    "prompt",
    "prompts",
    "seed",
    "samples",
    "saturation",
    "controlnet",
    "base_model",
    *SAMPLING_FIELDS,
)  # not beside --again
SHEET_PX = 600  # of the longer side of a picture in a contact sheet


@dataclass
class Job:
    """One photo to colorize: where it is, what to say, where to put it, and which files are photos too."""

    photo: Path
    prompt: str
    output: Path
    inputs: set = field(default_factory=set)


def number(kind, low, high=math.inf):
    """A reader of option values: numbers of a kind between two bounds."""

    def read(text):
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
        return value

    read.__name__ = f"number from {low}" + (f" to {high}" if high < math.inf else "")
    return read


def folder_or_id(text):
    """A folder as an absolute path; any other text, such as a Hub id, as it is."""
    return str(Path(text).resolve()) if Path(text).is_dir() else text


def parse_arguments(arguments=None):
    """The command line; wrong usage exits with status 2."""
    parser = argparse.ArgumentParser(
        prog="colorize", description="Colorize grayscale photos with a sentence, at their own size.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO_OR_FOLDER", help="photos, or folders whose photos are taken, e.g. album/")
    add("--prompt", help='what is in the photo, with its colours, e.g. --prompt "a red bus, blue sky"')
    add(
        "--prompts",
        metavar="FILE.csv",
        help="a prompt for each photo: columns photo,prompt, e.g. --prompts prompts.csv",
    )
    add("--output", metavar="PATH", help="a folder, or for one picture a .png file, e.g. --output colored/")
    add("--profile", choices=tuple(PROFILES), default="pocket", help="pocket (CPU) or l4 (GPU), e.g. --profile l4")
    add(
        "--controlnet",
        metavar="PATH_OR_HUB_ID",
        help="a ControlNet of your own, e.g. --controlnet build/pocket/mine/controlnet",
    )
    add(
        "--base",
        dest="base_model",
        type=folder_or_id,
        metavar="PATH_OR_HUB_ID",
        help="the base that the ControlNet was trained for, where it is not the profile's and no run.csv lies beside the ControlNet, "
        "e.g. --base stable-diffusion-v1-5/stable-diffusion-v1-5",
    )
    add("--seed", type=number(int, 0, 2**62), help="another number gives other colours, e.g. --seed 7")
    add(
        "--samples",
        type=number(int, 1, 100),
        metavar="K",
        help="K pictures with seeds SEED, SEED+1, ... and a sheet of them, e.g. --samples 4",
    )
    add(
        "--steps",
        dest="num_inference_steps",
        type=number(int, 1, 1000),
        metavar="N",
        help="sampling steps, e.g. --steps 5",
    )
    add(
        "--guidance-scale",
        type=number(float, 0, 100),
        metavar="X",
        help="how much the prompt counts, e.g. --guidance-scale 3",
    )
    add(
        "--controlnet-conditioning-scale",
        type=number(float, 0, 10),
        metavar="X",
        help="how much the photo's shapes count, e.g. --controlnet-conditioning-scale 0.8",
    )
    add("--saturation", type=number(float, 0, 5), metavar="X", help="less or more colour, e.g. --saturation 1.3")
    add("--overwrite", action="store_true", help="replace pictures that are there, e.g. colorize photo.jpg --overwrite")
    add(
        "--again",
        metavar="FILE",
        help="make a picture again from what it says of itself, e.g. --again photo.color.png; its photo may be named too, where it has moved",
    )
    options = parser.parse_args(arguments)
    if not options.photos and not options.again:
        parser.error("name photos or folders, or one picture with --again")
    if options.again and (len(options.photos) > 1 or any(getattr(options, name) is not None for name in ALONE)):
        parser.error("beside --again, only its photo, --output and --overwrite")
    if options.prompt is not None and options.prompts:
        parser.error("--prompt or --prompts, not both")
    defaults = {"seed": 0, "samples": 1, "saturation": 1.0}
    return argparse.Namespace(**{**vars(options), **{n: v for n, v in defaults.items() if getattr(options, n) is None}})


def read_prompts(path):
    """The prompts of a CSV file with the columns photo and prompt, by photo name."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(f"{path}: can't be read ({error}): needs a CSV file in UTF-8") from None
    missing = {"photo", "prompt"} - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"{path}: column {min(missing)!r} is missing: needed are photo,prompt")
    prompts = {row["photo"]: row["prompt"] or "" for row in rows}
    if len(prompts) < len(rows):
        raise ValueError(f"{path}: names a photo twice: leave one row for each")
    return prompts


def find_photos(name):
    """The photo files that the name of a file or folder stands for; a folder without photos is a ValueError."""
    path = Path(name)
    if not path.is_dir():
        return [path]
    inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not OUTPUT.search(p.name))
    if not inside:
        raise ValueError(f"{path}: holds no photo: known endings are {', '.join(SUFFIXES)}")
    return inside


def make_jobs(options):
    """The jobs of a command line, and one line for each thing that it names in vain."""
    prompts, photos, problems = read_prompts(options.prompts) if options.prompts else {}, {}, []
    for name in options.photos:
        try:
            photos |= {path.resolve(): path for path in find_photos(name)}
        except (ValueError, OSError) as error:
            problems.append(str(error))
    names = [path.name for path in photos.values()]
    problems += [
        f"{options.prompts}: names {n}, which is not among the photos: mend the row"
        for n in sorted(set(prompts) - set(names))
    ]
    problems += [f"{n}: has no row in {options.prompts}: add one" for n in names if prompts and n not in prompts]
    folder = Path(options.output) if options.output else None
    one_file = folder and folder.suffix.lower() in SUFFIXES
    if one_file and (len(photos) > 1 or options.samples > 1):
        raise ValueError(f"--output {folder} is one file, but there are several pictures: name a folder")
    if one_file and folder.suffix.lower() != ".png":
        raise ValueError(f"--output {folder}: pictures are PNG: name a .png file or a folder")
    default = VAGUE_PROMPT if options.prompt is None else options.prompt
    jobs = [
        Job(path, prompts.get(path.name, default), folder if one_file else (folder or path.parent) / f"{path.stem}.color.png",
            set(photos))
        for path in photos.values() if not prompts or path.name in prompts
    ]  # fmt: skip
    outputs = [job.output.resolve() for job in jobs]
    clash = [outputs.count(output) > 1 for output in outputs]
    problems += [
        f"{j.photo}: another photo has the output {j.output} too: rename one"
        for j, c in zip(jobs, clash, strict=True)
        if c
    ]
    return [job for job, clashes in zip(jobs, clash, strict=True) if not clashes], problems


def remember(options):
    """Replace the options by what the picture of `--again` says of itself; the photo must be the same file."""
    made = read_metadata(options.again)
    beside = Path(options.again).parent / Path(made["photo"]).name
    places = [Path(name) for name in options.photos] or [Path(made["photo"]), beside]
    photo = next((path for path in places if path.is_file() and hash_of_file(path) == made["sha256"]), None)
    if photo is None:
        raise ValueError(
            f"{options.again}: was made from {made['photo']}, which has gone or changed: name it after --again FILE"
        )
    names = ("prompt", "profile", "seed", "saturation", "controlnet", "base_model", *SAMPLING_FIELDS)
    said = {name: made[name] for name in names}
    return argparse.Namespace(
        **{**vars(options), **said, "photos": [str(photo)], "output": options.output or options.again}
    )


def base_of_run(controlnet):
    """The base that a run's `run.csv` names beside its ControlNet's folder; "" where there is none."""
    path = Path(controlnet).parent / "run.csv"
    if not Path(controlnet).is_dir() or not path.is_file():
        return ""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return next(csv.DictReader(file))["base"]
    except (OSError, UnicodeError, csv.Error, StopIteration, KeyError):
        raise ValueError(f"{path} names no base: name one with --base") from None


def pinned_revision(profile, base):
    """The commit of a base that a profile or one of its runs pins; "", the newest, where none does."""
    known = [get_profile(profile).values(), *STANDS_FOR[profile].values()]
    return next((row["base_revision"] for row in known if row.get("base_model") == base and "base_revision" in row), "")


def load(options):
    """The pipeline and the profile of a command line, and where its ControlNet is from.

    The base is the one that is named, that of the ControlNet's run, or the profile's.
    """
    from lib.models import add_controlnet, load_base, load_controlnet  # imports that take seconds

    names = ("base_model", *SAMPLING_FIELDS)
    given = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    profile = get_profile(options.profile, **given)
    source = options.controlnet or profile.training.initial_controlnet or str(profile.folders.controlnet_dir)
    source = folder_or_id(source)
    model = profile.model.base_model if "base_model" in given else base_of_run(source) or profile.model.base_model
    profile = profile.replace(base_model=model, base_revision=pinned_revision(profile.name, model))
    base = load_base(profile.model)
    width, needed = base.text_encoder.config.hidden_size, base.unet.config.cross_attention_dim
    if width != needed:
        raise ValueError(
            f"base {profile.model.base_model} needs a text encoder of width {needed}, that of the profile {profile.name} has {width}: "
            "name another --profile or --base"
        )
    return add_controlnet(base, load_controlnet(source, base.unet)), profile, source


def cut_words(prompt, tokenizer):
    """The end of a prompt that the text encoder does not read, or ""."""
    ids = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
    return tokenizer.decode(ids[tokenizer.model_max_length - 1 : -1]) if len(ids) > tokenizer.model_max_length else ""


def colorize_job(job, options, pipeline, profile, controlnet, say):
    """Colorize one photo, write its pictures one by one, and say what there is to be said."""
    from lib.photo.colorizer import colorize_photo

    seeds = range(options.seed, options.seed + options.samples)
    files = [job.output if len(seeds) == 1 else job.output.with_suffix(f".{seed}.png") for seed in seeds]
    sheet = [job.output.with_suffix(".sheet.png")] if len(seeds) > 1 else []
    for file in (*files, *sheet):
        if file.resolve() in job.inputs:
            raise ValueError(
                f"{job.photo}: its output {file} is a photo itself, which is never overwritten: name another --output"
            )
        if file.exists() and not options.overwrite:
            raise ValueError(
                f"{job.photo}: its output {file} is there already: pass --overwrite, or name another --output"
            )
    photo = open_photo_file(job.photo)
    for note in photo.notes:
        say(f"note: {job.photo}: {note}")
    if cut := cut_words(job.prompt, pipeline.tokenizer):
        say(f"note: {job.photo}: the prompt is too long, not read is: {cut}")
    small = []
    for file, seed in zip(files, seeds, strict=True):
        picture, lost = colorize_photo(photo, job.prompt, seed, pipeline, profile, options.saturation)
        save_picture(
            picture, photo, file, made_with(job.photo, job.prompt, seed, options.saturation, profile, controlnet)
        )
        share = f" ({lost:.1%} of the pixels lost chroma that sRGB does not hold)" if lost >= 0.001 else ""
        say(f"{file}{share}")
        small.append(picture[:: max(1, max(picture.shape) // SHEET_PX), :: max(1, max(picture.shape) // SHEET_PX)])
    for file in sheet:
        from lib.figures import save_sheet

        save_sheet([small], file, column_titles=[f"seed {seed}" for seed in seeds], cell=3)
        say(f"{file}")


def in_one_line(error, job):
    """An error of one job as a line that names its photo."""
    if isinstance(error, MemoryError):
        return f"{job.photo}: too large for this machine's memory: reduce it first"
    if isinstance(error, OSError):
        return f"{job.photo}: {error.filename or job.output} can't be written ({error.strerror or error}): name another --output"
    line = one_line(error, None)
    return line if line.startswith(f"{job.photo}: ") else f"{job.photo}: {line}"


def run(options):
    """Colorize all that a command line names; returns the number of failures, each said in a line."""
    from tqdm import tqdm

    if options.again:
        options = remember(options)
    jobs, problems = make_jobs(options)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if jobs:
        model = load(options)
    failures = len(problems)
    for job in (bar := tqdm(jobs, desc="colorizing", unit="photo", disable=len(jobs) <= 1)):
        try:
            colorize_job(
                job,
                options,
                *model,
                lambda line: bar.write(line, file=sys.stderr if line[:5] == "note:" else sys.stdout),
            )
        except Exception as error:  # one photo's trouble, whatever it is, is not the others'
            failures += 1
            bar.write(f"error: {in_one_line(error, job)}", file=sys.stderr)
    return failures


def main(arguments=None):
    """The command: exits with 0 when all is done, 1 when some failed, 2 on wrong usage."""
    options = parse_arguments(arguments)
    try:
        failures = run(options)
    except KeyboardInterrupt:
        sys.exit("stopped: the pictures written so far are whole")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error, None)}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
