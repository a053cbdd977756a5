"""The command `colorize`: photos and folders in, colour pictures out; `colorize --help` lists the options."""

import os
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize

import click
from tqdm import tqdm

from lib import photo
from lib.cache import exit_with_one_line, explained, one_line, printable
from lib.config import PROFILES, get_config
from lib.photo.formats import EXPECT, MAX_MEGAPIXELS, SUFFIXES, check_target, open_photo
from lib.prompts import VAGUE_PROMPT

ENDINGS = {"png": (".png",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",)}  # of the pictures, by --format
NO_PHOTO = re.compile(r"^\.|\.color(\.\d+)?\.(png|jpe?g|webp)$")  # in a folder: hidden files, and pictures
COLOR_HELP = 'The colour of one object, which is found by its name: "tram: dark red". May be repeated.'
BIND_HELP = "Find each object that the prompt gives a colour, and keep the colour to it."
FIELD_HELP = "A field of the configuration: -p num_inference_steps 5, -p guidance_scale 3."
EXAMPLES = f"""\b
Examples:
  colorize photo.jpg
  colorize photo.jpg --prompt "a red bus on a gray street, blue sky"
  colorize photo.jpg --prompt "a street" --color "tram: dark red" --color "sky: pale blue"
  colorize album/ --output colored/

Without --prompt, the text file photo.txt beside photo.jpg is its prompt, or else "{VAGUE_PROMPT}" {EXPECT}
Photos may have up to {MAX_MEGAPIXELS} megapixels. Exit status: 0 all done, 1 some failed (a line each), 2 wrong usage.
"""


def split_color(context, parameter, values):
    """[(object, colour)] of the values of --color."""
    pairs = [tuple(part.strip() for part in value.rpartition(":")[::2]) for value in values]
    for value, pair in zip(values, pairs, strict=True):
        if not all(pair):
            raise click.BadParameter(f'{value!r} is not of the form "tram: dark red"')
    return pairs


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO_OR_FOLDER...")
@click.option("--prompt", help='What is in the photo, with its colours: "a red bus, blue sky".')
@click.option("--color", "colors", multiple=True, callback=split_color, metavar='"OBJECT: COLOR"', help=COLOR_HELP)
@click.option("--bind/--no-bind", default=photo.BIND, show_default=True, help=BIND_HELP)
@click.option("--output", type=click.Path(path_type=Path), help="A folder, or one .png, .jpg or .webp file.")
@click.option("--format", type=click.Choice(list(ENDINGS)), help="Of the pictures; png (the default) loses nothing.")
@click.option("--recursive", is_flag=True, help="Take the photos of subfolders, too.")
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, help="Another number gives other colours.")
@click.option("--saturation", type=click.FloatRange(0, 5), default=1.0, help="Less or more colour than 1.")
@click.option("--overwrite", is_flag=True, help="Replace pictures that exist.")
@click.option("--skip-existing", is_flag=True, help="Leave out photos whose picture exists.")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="pocket", help="pocket (CPU) or l4 (GPU).")
@click.option("--controlnet", metavar="FOLDER_OR_HUB_ID", help="A ControlNet of your own.")
@click.option("-p", "fields", nargs=2, multiple=True, metavar="FIELD VALUE", help=FIELD_HELP)
def main(**options):
    """Colorize grayscale photos with a sentence, at their own size."""
    sys.stdout.reconfigure(errors="backslashreplace")  # names that its code page doesn't have
    try:
        with exit_with_one_line():
            sys.exit(1 if run(SimpleNamespace(**options)) else 0)
    except KeyboardInterrupt:
        sys.exit("stopped: the pictures written so far are whole")


def run(options: SimpleNamespace) -> int:
    """Colorizes all that a command line names; returns the number of failures, each said in a line."""
    fields = dict(options.fields)
    get_config(options.profile, **fields)  # a wrong field is said at once
    jobs, problems = plan(options)
    for problem in problems:
        say(f"error: {problem}")
    failures = len(problems)
    if not jobs:
        return failures
    colorizer = photo.Colorizer(options.profile, options.controlnet, **fields)  # last, because it takes seconds
    for note in colorizer.prompt_notes(options.prompt) if options.prompt else ():
        say(f"note: {note}")
    for path, output in tqdm(jobs.items(), desc="colorizing", unit="photo", disable=len(jobs) == 1):
        try:
            colorize_photo(path, output, options, colorizer)
            continue
        except MemoryError:
            problem = "too large for this machine's memory: reduce it first"
        except OSError as error:
            problem = f"{error.filename or output} can't be written ({error.strerror or error}): name another --output"
        except Exception as error:  # whatever is wrong with one photo, the rest is done
            problem = one_line(error, None).removeprefix(f"{printable(str(path))}: ")
        failures += 1
        say(f"error: {path}: {problem}")
    return failures


def say(line: str) -> None:
    """Prints a line above the progress bar, notes and errors to stderr; nothing if the pipe is closed."""
    stream = sys.stderr if line.startswith(("note: ", "error: ")) else sys.stdout
    try:
        tqdm.write(printable(line), file=stream)
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def plan(options: SimpleNamespace) -> tuple[dict[Path, Path], list[str]]:
    """Returns {photo: picture to make}, and a line for each photo or name that can't be done."""
    photos, problems, jobs, skipped = {}, [], {}, 0
    for name in options.photos:
        try:
            found = find_photos(as_on_disk(Path(name)), options.recursive)
            photos |= {Path(os.path.realpath(path)): (path, folder) for path, folder in found.items()}
        except (ValueError, OSError) as error:
            problems.append(str(error))
    ending, endings = ENDINGS[options.format or "png"][0], ENDINGS.get(options.format, sum(ENDINGS.values(), ()))
    suffix = options.output.suffix.lower() if options.output and not options.output.is_dir() else ""
    to_file = suffix in (*SUFFIXES, *endings)
    if to_file and (len(photos) > 1 or suffix not in endings):
        rule = f"name a folder, or for one photo a file that ends in {', '.join(endings)}"
        raise ValueError(f"--output {options.output}: {rule}")
    outputs = {
        path: options.output if to_file else (options.output or path.parent) / folder / f"{path.stem}.color{ending}"
        for path, folder in photos.values()
    }
    count = Counter(output.resolve() for output in outputs.values())
    for path, output in outputs.items():
        folder = next(parent for parent in output.absolute().parents if parent.exists())
        if count[output.resolve()] > 1:
            problems.append(f"{path}: another photo has the output {output} too: rename one")
        elif Path(os.path.realpath(output)) in photos:
            problems.append(f"{path}: its output is a photo itself, which is never overwritten: name another --output")
        elif output.exists() and options.skip_existing:
            skipped += 1
        elif output.exists() and not options.overwrite:
            remedy = "pass --overwrite or --skip-existing, or name another --output"
            problems.append(f"{path}: its output {output} exists: {remedy}")
        elif not (folder.is_dir() and os.access(folder, os.W_OK)):
            problems.append(f"{path}: {output} can't be written (no permission in {folder}): name another --output")
        else:
            jobs[path] = output
    if skipped:
        say(f"{skipped} of {len(photos)} photos have their pictures already: skipped")
    return jobs, problems


def find_photos(top: Path, recursive: bool) -> dict[Path, Path]:
    """Returns {photo: folder of its picture below --output} of a file or folder; ValueError if a folder has none."""
    if not top.is_dir():
        return {top: Path()}
    entries = sorted(top.rglob("*") if recursive else top.iterdir())
    files = [path for path in entries if not path.is_dir()]
    photos = [path for path in files if path.suffix.lower() in SUFFIXES and not NO_PHOTO.search(path.name)]
    if not photos:
        raise ValueError(f"{top}: holds no photo: known endings are {', '.join(SUFFIXES)}")
    if not recursive and len(files) < len(entries):
        say(f"note: {top}: its subfolders are passed over: --recursive takes their photos, too")
    return {path: path.parent.relative_to(top) for path in photos}


def as_on_disk(path: Path) -> Path:
    """Returns a path with its name in composed or decomposed Unicode, whichever exists; else as it is."""
    forms = (path, *(path.with_name(normalize(form, path.name)) for form in ("NFC", "NFD") if path.name))
    return next((form for form in forms if os.path.lexists(form)), path)


def colorize_photo(path: Path, output: Path, options: SimpleNamespace, colorizer) -> None:
    """Colorizes one photo with --prompt or the text file beside it, writes its picture, and prints notes on both."""
    prompt, words, notes = options.prompt, as_on_disk(path.with_suffix(".txt")), []
    if prompt is None and words.is_file():
        with explained(f"{path}: its prompt {words} can't be read", "save it as text in UTF-8"):
            prompt = " ".join(words.read_text(encoding="utf-8-sig").split())
        notes = colorizer.prompt_notes(prompt)
    prompt = VAGUE_PROMPT if prompt is None else prompt
    opened = open_photo(path)
    check_target(output, opened.plane.shape, opened.alpha is not None)
    picture = colorizer(opened, prompt, options.seed, options.saturation, options.colors, options.bind)
    picture.save(output)
    for note in [*opened.notes, *notes, *picture.notes]:
        say(f"note: {path}: {note}")
    say(str(output))


if __name__ == "__main__":
    main()
