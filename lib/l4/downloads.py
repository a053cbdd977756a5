"""Large downloads that continue after a break, and whether a disk has room for them."""

import os
import shutil
import zipfile
from pathlib import Path

from huggingface_hub.file_download import http_get

from lib.cache import explained, hash_of_file, progress, write_bytes


def require_disk(folder: Path, needed: float) -> str:
    """Describes the space where a folder is or will be; raises a ValueError if these bytes don't fit."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    said = f"{free / 1e9:.0f} GB free at {place}, {needed / 1e9:.0f} GB to come"
    if free < needed:
        raise ValueError(f"{said}: free some, or pass another -p photos, -p downloads or -p build FOLDER")
    return said


def download(url: str, path: Path, size: int | None = None, md5: str | None = None) -> None:
    """Downloads a file unless it is here, from where an earlier download stopped.

    Args:
        size, md5: as published; None: not published, and a broken download starts again.

    Raises:
        ValueError: if the server fails, which keeps what came, or if the file is not the published one.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    remedy = explained(f"{url} can't be downloaded", "run it again, it continues there")
    with remedy, partial.open("ab" if size else "wb") as file:
        have = partial.stat().st_size
        http_get(url, file, resume_size=have, expected_size=size, displayed_filename=path.name, tqdm_class=progress)
    if md5 and hash_of_file(partial, "md5") != md5:
        partial.unlink()
        raise ValueError(f"{url}: the file is not the published one (MD5): run it again, it starts from the beginning")
    os.replace(partial, path)


def extract(names: list[str], archive: Path, folder: Path) -> None:
    """Extracts the named photos of a zip archive to a folder; photos that are complete there stay."""
    with zipfile.ZipFile(archive) as file:
        sizes = {info.filename: info.file_size for info in file.infolist()}
        for name in progress(names, desc=f"{archive.stem} photos"):
            target = folder / name
            if name in sizes and not (target.exists() and target.stat().st_size == sizes[name]):
                write_bytes(file.read(name), target)
