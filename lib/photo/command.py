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
from lib.config import PROFILES
from lib.photo.formats import EXPECT, MAX_MEGAPIXELS, SUFFIXES, check_target, open_photo
from lib.prompts import VAGUE_PROMPT

ENDINGS = {"png": (".png",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",)}  # of the pictures, by --format
NO_PHOTO = re.compile(r"^\.|\.color(\.\d+)?\.(png|jpe?g|webp)$")  # in a folder: hidden files, and pictures
COLOR_HELP = 'The colour of one object, which is found by its name: "tram: dark red". May be repeated.'
EXAMPLES = f"""\b
Examples:
  colorize photo.jpg --prompt "a red bus on a gray street, blue sky"
  colorize photo.jpg --prompt "a street" --color "tram: dark red" --color "sky: pale blue"
  colorize album/ --output colored/

Without --prompt, the text file photo.txt beside photo.jpg is its prompt, or else "{VAGUE_PROMPT}" {EXPECT}
Photos may have up to {MAX_MEGAPIXELS} megapixels. Exit status: 0 all done, 1 some failed (a line each), 2 wrong usage.
"""


def split_color(context, parameter, values):
    """Returns [(object, colour)] of the values of --color."""
    pairs = [tuple(part.strip() for part in value.rpartition(":")[::2]) for value in values]
    if not all(map(all, pairs)):
        raise click.BadParameter(f'{", ".join(map(repr, values))} is not of the form "tram: dark red"')
    return pairs


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO_OR_FOLDER...")
@click.option("--prompt", help='What is in the photo, with its colours: "a red bus, blue sky".')
@click.option("--color", "colors", multiple=True, callback=split_color, metavar='"OBJECT: COLOR"', help=COLOR_HELP)
@click.option("--bind/--no-bind", default=False, help="Keep each colour of the prompt to its object.")
@click.option("--output", type=click.Path(path_type=Path), help="A folder, or one .png, .jpg or .webp file.")
@click.option("--format", type=click.Choice(list(ENDINGS)), help="Of the pictures; png (the default) loses nothing.")
@click.option("--recursive", is_flag=True, help="Take the photos of subfolders, too.")
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, help="Another number gives other colours.")
@click.option("--saturation", type=click.FloatRange(0, 5), default=1.0, help="Less or more colour than 1.")
@click.option("--overwrite", is_flag=True, help="Replace pictures that exist.")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="pocket", help="pocket (CPU) or l4 (GPU).")
@click.option("--controlnet", metavar="FOLDER_OR_HUB_ID", help="A ControlNet of your own.")
@click.option("-p", "fields", nargs=2, multiple=True, metavar="FIELD VALUE", help="A setting: -p guidance_scale 3.")
@exit_with_one_line()
def main(**options):
    """Colorize grayscale photos with a sentence, at their own size."""
    sys.stdout.reconfigure(errors="backslashreplace")  # names that its code page doesn't have
    options = SimpleNamespace(**options)
    jobs, errors = plan(options)
    for error in errors:
        say(f"error: {error}")
    if jobs:
        colorizer = photo.Colorizer(options.profile, options.controlnet, **dict(options.fields))
        for note in colorizer.prompt_notes(options.prompt) if options.prompt else ():
            say(f"note: {note}")
    for path, output in tqdm(jobs.items(), desc="colorizing", unit="photo", disable=len(jobs) < 2):
        prompt, words, notes = options.prompt, as_on_disk(path.with_suffix(".txt")), []
        try:
            if prompt is None and words.is_file():
                with explained(f"its prompt {words} can't be read", "save it as text in UTF-8"):
                    prompt = " ".join(words.read_text(encoding="utf-8-sig").split())
                notes = colorizer.prompt_notes(prompt)
            opened = open_photo(path)
            check_target(output, opened.plane.shape, opened.alpha is not None)
            prompt = VAGUE_PROMPT if prompt is None else prompt
            picture = colorizer(opened, prompt, options.seed, options.saturation, options.colors, options.bind)
            picture.save(output)
        except Exception as error:  # whatever is wrong with one photo, the rest is done
            errors.append(one_line(error, None).removeprefix(f"{printable(str(path))}: "))
            say(f"error: {path}: {errors[-1]}")
            continue
        for note in [*opened.notes, *notes, *picture.notes]:
            say(f"note: {path}: {note}")
        say(str(output))
    sys.exit(1 if errors else 0)


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
    photos, problems, jobs = {}, [], {}  # {real path: (path, folder of its picture below --output)}
    for top in (as_on_disk(Path(name)) for name in options.photos):
        paths, base = [top], top.parent
        if top.is_dir():
            known = (path for path in top.glob("**/*" if options.recursive else "*") if not NO_PHOTO.search(path.name))
            paths, base = sorted(path for path in known if path.suffix.lower() in SUFFIXES and not path.is_dir()), top
        if not paths:
            problems.append(f"{top}: holds no photo: known endings are {', '.join(SUFFIXES)}")
        photos |= {Path(os.path.realpath(path)): (path, path.parent.relative_to(base)) for path in paths}
    ending, endings = ENDINGS[options.format or "png"][0], ENDINGS.get(options.format, sum(ENDINGS.values(), ()))
    suffix = options.output.suffix.lower() if options.output and not options.output.is_dir() else ""
    to_file = suffix in (*SUFFIXES, *endings)
    if to_file and (len(photos) > 1 or suffix not in endings):
        raise ValueError(f"--output {options.output}: name a folder, or for one photo a {' or '.join(endings)} file")
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
        elif output.exists() and not options.overwrite:
            problems.append(f"{path}: its output {output} exists: pass --overwrite, or name another --output")
        elif not (folder.is_dir() and os.access(folder, os.W_OK)):
            problems.append(f"{path}: {output} can't be written (no permission in {folder}): name another --output")
        else:
            jobs[path] = output
    return jobs, problems


def as_on_disk(path: Path) -> Path:
    """Returns a path with its name in composed or decomposed Unicode, whichever exists; else as it is."""
    forms = (path, *(path.with_name(normalize(form, path.name)) for form in ("NFC", "NFD") if path.name))
    return next((form for form in forms if os.path.lexists(form)), path)


if __name__ == "__main__":
    main()
