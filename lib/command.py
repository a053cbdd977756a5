"""The command `colorize`: photos and folders in, colour pictures out; `colorize --help` lists the options."""

import argparse
import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = """examples:
  colorize photo.jpg
  colorize photo.jpg --prompt "a red bus on a gray street, blue sky" --samples 4
  colorize album/ --prompts prompts.csv --output colored/
  colorize --again photo.color.png --overwrite

exit status: 0 all done, 1 some photos failed (a line each), 2 wrong usage
"""
OUTPUT = re.compile(r"\.color(\.\w+)?\.png$")  # what the command itself writes, and passes over in folders


@dataclass
class Job:
    """One photo to colorize: where it is, what to say, where to put it."""

    photo: Path
    prompt: str
    output: Path


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
    add("--output", metavar="PATH", help="a folder, or for one photo a .png file, e.g. --output colored/")
    add("--profile", default="pocket", help="pocket (CPU) or l4 (GPU), e.g. --profile l4")
    add(
        "--controlnet",
        metavar="PATH_OR_HUB_ID",
        help="a ControlNet of your own, e.g. --controlnet build/pocket/mine/controlnet",
    )
    add("--seed", type=int, default=0, help="other numbers give other colours, e.g. --seed 7")
    add(
        "--samples",
        type=int,
        default=1,
        metavar="K",
        help="K pictures with seeds SEED, SEED+1, ... and a sheet of them, e.g. --samples 4",
    )
    add("--steps", dest="num_inference_steps", metavar="N", help="sampling steps, e.g. --steps 5")
    add("--guidance-scale", metavar="X", help="how much the prompt counts, e.g. --guidance-scale 3")
    add("--controlnet-conditioning-scale", metavar="X", help="how much the photo's shapes count, e.g. 0.8")
    add("--saturation", type=float, default=1.0, metavar="X", help="less or more colour, e.g. --saturation 1.3")
    add("--overwrite", action="store_true", help="replace pictures that are there already")
    add(
        "--again", metavar="FILE", help="make a picture again from what it says of itself, e.g. --again photo.color.png"
    )
    options = parser.parse_args(arguments)
    if bool(options.photos) == bool(options.again):
        parser.error("name photos or folders, or one picture with --again")
    if options.prompt is not None and options.prompts:
        parser.error("--prompt or --prompts, not both")
    if options.samples < 1 or not 0 <= options.saturation <= 5:
        parser.error("--samples needs 1 or more, --saturation 0 to 5")
    return options


def read_prompts(path):
    """The prompts of a CSV file with the columns photo and prompt, by photo name."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {row["photo"]: row["prompt"] or "" for row in rows}
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(f"{path}: can't be read ({error}): needs a CSV file in UTF-8") from None
    except KeyError as error:
        raise ValueError(f"{path}: column {error} is missing: needed are photo,prompt") from None


def find_photos(names):
    """The photo files that names of files and folders stand for; a folder without photos is a ValueError."""
    from lib.photo import SUFFIXES

    found = []
    for name in map(Path, names):
        inside = sorted(p for p in name.iterdir() if p.suffix.lower() in SUFFIXES) if name.is_dir() else [name]
        inside = [path for path in inside if not OUTPUT.search(path.name)] if name.is_dir() else inside
        if not inside:
            raise ValueError(f"{name}: holds no photo: known endings are {', '.join(SUFFIXES)}")
        found.extend(inside)
    return found


def make_jobs(options):
    """The jobs of a command line, and one line for each name that gives none."""
    from lib.prompts import VAGUE_PROMPT

    jobs, problems = [], []
    prompts = read_prompts(options.prompts) if options.prompts else {}
    photos = []
    for name in options.photos:
        try:
            photos.extend(find_photos([name]))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    absent = set(prompts) - {photo.name for photo in photos}
    problems += [
        f"{options.prompts}: names {name}, which is not among the photos: mend the row" for name in sorted(absent)
    ]
    file_output = options.output and options.output.lower().endswith(".png")
    if file_output and (len(photos) > 1 or options.samples > 1):
        raise ValueError(f"--output {options.output} is one file, but there are several pictures: name a folder")
    for photo in photos:
        folder = Path(options.output) if options.output else photo.parent
        output = folder if file_output else folder / f"{photo.stem}.color.png"
        prompt = prompts.get(photo.name, VAGUE_PROMPT if options.prompt is None else options.prompt)
        jobs.append(Job(photo, prompt, output))
    twice = {job.output for job in jobs if sum(other.output == job.output for other in jobs) > 1}
    problems += [
        f"{job.photo}: another photo has the output {job.output} too: rename one" for job in jobs if job.output in twice
    ]
    return [job for job in jobs if job.output not in twice], problems


def remember(options):
    """Replace the options by what the picture of `--again` says of itself; the photo must be the same file."""
    from lib.photo import SAMPLING_FIELDS, digest, read_metadata

    path = Path(options.again)
    made = read_metadata(path)
    photo = path.parent / made["photo"]
    if not photo.is_file() or digest(photo) != made["sha256"]:
        raise ValueError(f"{path}: was made from {made['photo']}, which is not beside it or has changed: put it there")
    settings = {
        name: made[name] for name in ("prompt", "profile", "seed", "saturation", "controlnet", *SAMPLING_FIELDS)
    }
    output = options.output or str(path)
    return argparse.Namespace(**{**vars(options), **settings, "photos": [str(photo)], "samples": 1, "output": output})


def load(options):
    """The pipeline and the profile of a command line."""
    from lib.models import add_controlnet, load_base, load_controlnet
    from lib.photo import SAMPLING_FIELDS
    from lib.profiles import get_profile

    given = {name: getattr(options, name) for name in SAMPLING_FIELDS if getattr(options, name) is not None}
    profile = get_profile(options.profile, **given)
    source = options.controlnet or profile.initial_controlnet or str(profile.controlnet_dir)
    source = str(Path(source).resolve()) if Path(source).is_dir() else source
    base = load_base(profile)
    return add_controlnet(base, load_controlnet(source, base.unet)), profile


def cut_words(prompt, tokenizer):
    """The end of a prompt that the text encoder does not read, or ""."""
    ids = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
    return tokenizer.decode(ids[tokenizer.model_max_length - 1 : -1]) if len(ids) > tokenizer.model_max_length else ""


def colorize_job(job, options, pipeline, profile):
    """Colorize one photo and write its pictures; returns what should be said about it, a line each."""
    from lib.colorize import colorize_photo
    from lib.figures import save_sheet
    from lib.photo import made_with, open_photo_file, save_picture

    seeds = range(options.seed, options.seed + options.samples)
    files = [job.output if len(seeds) == 1 else job.output.with_suffix(f".{seed}.png") for seed in seeds]
    for file in files:
        if file.resolve() == job.photo.resolve():
            raise ValueError(f"{file}: is the photo itself, which is never overwritten: name another --output")
        if file.exists() and not options.overwrite:
            raise ValueError(f"{file}: is there already: pass --overwrite, or name another --output")
    photo = open_photo_file(job.photo)
    notes = [f"{job.photo}: {note}" for note in photo.notes]
    if cut := cut_words(job.prompt, pipeline.tokenizer):
        notes.append(f"{job.photo}: the prompt is too long, not read is: {cut}")
    pictures = colorize_photo(photo, job.prompt, seeds, pipeline, profile, options.saturation)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    for file, seed, (picture, lost) in zip(files, seeds, pictures, strict=True):
        made = made_with(job.photo, job.prompt, seed, options.saturation, profile, options.controlnet)
        save_picture(picture, photo, file, made)
        if lost > 0.05:
            notes.append(f"{file}: {lost:.0%} of the pixels lost chroma, which sRGB does not hold at their lightness")
    if len(seeds) > 1:
        sheet = job.output.with_suffix(".sheet.png")
        save_sheet(
            [[picture for picture, _ in pictures]], sheet, column_titles=[f"seed {seed}" for seed in seeds], cell=3
        )
    return notes


def in_one_line(error, job):
    """An error of one job as a line that names the file."""
    if isinstance(error, MemoryError):
        return f"{job.photo}: too large for this machine's memory: reduce it first"
    if isinstance(error, OSError):
        return f"{job.output}: can't be written ({error.strerror or error}): free the place, or name another --output"
    return " ".join(str(error).split())


def run(options):
    """Colorize all that a command line names; returns the number of failures, each said in a line."""
    from tqdm.auto import tqdm

    if options.again:
        options = remember(options)
    jobs, problems = make_jobs(options)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not jobs:
        return max(len(problems), 1)
    pipeline, profile = load(options)
    for job in (bar := tqdm(jobs, desc="colorizing", unit="photo", disable=len(jobs) == 1)):
        try:
            for note in colorize_job(job, options, pipeline, profile):
                bar.write(f"note: {note}", file=sys.stderr)
        except (ValueError, OSError, MemoryError) as error:
            problems.append(in_one_line(error, job))
            bar.write(f"error: {problems[-1]}", file=sys.stderr)
    return len(problems)


def main(arguments=None):
    """The command: exits with 0 when all is done, 1 when some failed, 2 on wrong usage."""
    options = parse_arguments(arguments)
    try:
        failures = run(options)
    except KeyboardInterrupt:
        sys.exit("stopped: the pictures written so far are whole")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.exit(1 if failures else 0)
