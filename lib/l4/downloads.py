"""Large downloads that go on where they were broken off, and whether the disk has room for them."""

import os
import shutil
import time
import zipfile

import requests

from lib.cache import hash_of_file, progress, write_bytes

ATTEMPTS, PAUSE = 5, 1.0  # of a download; seconds before the second, doubling
CHUNK = 1 << 16  # bytes


def require_disk(folder, downloads, sizes, extracted):
    """Refuse to start where a disk can't hold what will come, {download: bytes} and photos: ValueError."""
    missing = sum(size - bytes_of(downloads / name) for name, size in sizes.items())
    have = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    needs = {"photos": (folder, max(extracted - have, 0)), "downloads": (downloads, missing)}
    disks = {}
    for field, (place, needed) in needs.items():
        while not place.exists():
            place = place.parent
        disk = disks.setdefault(place.stat().st_dev, {"place": place, "needed": 0, "fields": []})
        disk["needed"] += needed
        disk["fields"].append(f"-p {field} FOLDER")
    for disk in disks.values():
        free = shutil.disk_usage(disk["place"]).free
        if free < disk["needed"]:
            said = f"{free / 1e9:.0f} GB free, but {disk['needed'] / 1e9:.0f} GB are to come"
            raise ValueError(f"{disk['place']}: {said}: free some, or pass {' '.join(disk['fields'])}")


def bytes_of(path):
    """How many bytes of a download are there, whole or in part."""
    partial = path.with_name(path.name + ".part")
    return next((file.stat().st_size for file in (path, partial) if file.exists()), 0)


def download(url, path, size, md5):
    """Fetch a file of known size and MD5, from where it was broken off. Trouble is a ValueError that keeps the part."""
    if path.exists() and path.stat().st_size == size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    trouble = None
    for attempt in range(ATTEMPTS):
        have = partial.stat().st_size if partial.exists() else 0
        if have >= size:
            break
        try:
            fetch_rest(url, partial, have, size)
        except requests.RequestException as error:
            trouble = error
            time.sleep(PAUSE * 2**attempt)
    have = partial.stat().st_size if partial.exists() else 0
    if have != size:
        said = f"{have} of {size} bytes came ({trouble or 'broken off'})"
        raise ValueError(f"{url}: {said}: run it again, it goes on there")
    if hash_of_file(partial, "md5") != md5:
        partial.unlink()
        raise ValueError(f"{url}: the file is not the published one (MD5): run it again, it starts anew")
    os.replace(partial, path)


def fetch_rest(url, partial, have, size):
    """Append what is missing of a file, or start it anew where the server can't send a part."""
    with requests.get(url, headers={"Range": f"bytes={have}-"}, stream=True, timeout=60) as answer:
        answer.raise_for_status()
        mode, have = ("ab", have) if answer.status_code == 206 else ("wb", 0)
        bar = progress(total=size, initial=have, unit="B", unit_scale=True, desc=partial.stem)
        with bar, partial.open(mode) as file:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def extract(names, archive, folder):
    """Take the named photos out of an archive into a folder; those that are there whole are left as they are."""
    with zipfile.ZipFile(archive) as file:
        sizes = {info.filename: info.file_size for info in file.infolist()}
        for name in progress(names, desc=f"{archive.stem} photos"):
            target = folder / name
            if name not in sizes or (target.exists() and target.stat().st_size == sizes[name]):
                continue
            write_bytes(file.read(name), target)
