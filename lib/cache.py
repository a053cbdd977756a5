"""Atomic files and folders, hashes, the one cache of folders; progress bars and one-line errors."""

import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path

from PIL import Image
from tqdm import auto, std

PICTURE_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "AVIF")


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A path to write to instead of `path`: it becomes `path` if the block succeeds, and is removed otherwise.

    It lies in the same folder, which is made, under a name that nobody can foresee and plant a link at.
    """
    partial = Path(path).with_name(f".{Path(path).name[:50]}.{secrets.token_hex(8)}.part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to fill instead of `path`: it replaces `path` if the block succeeds, and is removed otherwise.

    What a killed process left of an earlier one is removed first, so only one process may fill it at a time.
    """
    path, name = Path(path), f".{Path(path).name[:50]}.{{}}.part"
    for left in path.parent.glob(name.format("[0-9a-f]" * 16)):
        shutil.rmtree(left, ignore_errors=True)
    partial = path.with_name(name.format(secrets.token_hex(8)))
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def cached(folder: Path, key: dict, make: Callable[[Path], None]) -> Path:
    """Returns the folder, which `make(new folder)` fills unless its `key.json` equals the key already.

    `key`: what the files are made from, as JSON: fields of the configuration, hashes of input files, version numbers.
    """
    if not is_current(folder, key):
        with new_folder(folder) as partial:
            make(partial)
            mark_current(partial, key)
    return folder


def is_current(folder: Path, key: dict) -> bool:
    """Tells whether the folder was made from what the key says."""
    path = folder / "key.json"
    return path.exists() and path.read_text() == json.dumps(key, indent=1)


def require_current(folder: Path, key: dict, notebook: str) -> None:
    """Raises ValueError, which names the notebook to run, unless the folder was made from all that the key says."""
    if not (folder / "key.json").exists():
        raise ValueError(f"no {folder}: run notebook {notebook} first")
    saved = json.loads((folder / "key.json").read_text())
    for name, ours in json.loads(json.dumps(key)).items():
        if saved.get(name) != ours:
            problem = f"{folder} was made with {name} {saved.get(name)!r}, not {ours!r}"
            raise ValueError(f"{problem}: run notebook {notebook} again")


def mark_current(folder: Path, key: dict) -> None:
    """Writes `key.json` to a folder whose files are complete."""
    write_text(json.dumps(key, indent=1), folder / "key.json")


def write_text(text: str, path: str | Path) -> None:
    """Writes a text file in UTF-8 atomically; makes the folder."""
    with new_file(path) as partial:
        partial.write_bytes(text.encode())


def write_table(table, path: str | Path) -> None:
    """Writes a pandas table as CSV atomically; makes the folder."""
    write_text(table.to_csv(index=False), path)


def open_picture(path) -> Image.Image:
    """Opens a picture file as PIL does, but only of formats that can't hold a program, as PostScript can."""
    return Image.open(path, formats=PICTURE_FORMATS)


def hash_of(values: Iterable) -> str:
    """Returns a short text that changes with any of several values.

    A value is a text, a number, a list or mapping of them, bytes, an array, or the Path of a file (name and content).
    """
    hashed = hashlib.blake2b(digest_size=8)
    for value in values:
        if isinstance(value, Path):
            kind, content = value.name, bytes.fromhex(hash_of_file(value, "blake2b"))
        elif isinstance(value, (str, int, float, list, tuple, dict)):
            kind, content = "json", json.dumps(value).encode()
        else:
            view = memoryview(value)
            kind, content = f"{view.shape} {view.format}", view if view.c_contiguous else view.tobytes()
        hashed.update(f"{kind}\0".encode())
        hashed.update(content)
    return hashed.hexdigest()


def hash_of_file(path: str | Path, algorithm: str = "sha256") -> str:
    """The hash of a file's content in hexadecimal, as such hashes are published."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def is_plain_name(name: str) -> bool:
    """Whether a text can name a file or folder without leading to another place."""
    return name.isprintable() and not name.startswith(".") and not set(name) & set('/\\:*?"<>|') and name != ""


def progress(iterable=None, total=None, initial=0, disable=False, **options):
    """Returns a bar of tqdm: a widget in JupyterLab, a line elsewhere; none if nothing is left to do.

    Processes that a notebook has forked, which can't reach its widgets, and headless notebooks have lines, too.
    """
    total = len(iterable) if total is None and iterable is not None else total
    bar = std.tqdm if parent_process() or "TQDM_BAR_FORMAT" in os.environ else auto.tqdm
    return bar(iterable, total=total, initial=initial, disable=disable or total == initial, **options)


@contextmanager
def explained(problem, remedy, errors=Exception):
    """Turns an error of the block into a ValueError of one line: the problem, the error's own text, and the remedy."""
    try:
        yield
    except errors as error:
        raise ValueError(f"{problem} ({one_line(error)}): {remedy}") from None


@contextmanager
def exit_with_one_line(*more):
    """Ends a command with status 1 and one line if its block raises a ValueError, an OSError or one of `more`."""
    try:
        yield
    except (ValueError, OSError, *more) as error:
        sys.exit(f"error: {one_line(error, None)}")


def one_line(error: Exception, limit: int | None = 200) -> str:
    """An exception's text in one line of at most `limit` characters (None: any number); without text, its type."""
    return printable(" ".join(str(error).split()))[:limit] or type(error).__name__


def printable(text: str) -> str:
    """Returns a text with escapes in place of control characters and what is no Unicode."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
