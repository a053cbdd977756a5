"""One list of pins, read by pip, by pyproject.toml and by conda; one list of commands."""

import re
import subprocess
import tomllib
from importlib.metadata import version

import yaml

from lib import ROOT

PINS = dict(re.findall(r"^([\w-]+)==([\w.]+)$", (ROOT / "requirements.txt").read_text(), re.M))


def test_every_requirement_is_pinned_and_installed():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert len(lines) == len(PINS)
    for name, pinned in PINS.items():
        assert version(name).split("+")[0] == pinned


def test_what_the_l4_profile_adds_leaves_the_pins_alone():
    first, *lines = [
        line for line in (ROOT / "requirements-l4.txt").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert first == "-r requirements.txt"
    added = dict(line.split("==") for line in lines)
    assert set(added) == {"tensorboard", "torch-fidelity", "torchvision"}
    assert not set(added) & set(PINS)
    torch_minor, torchvision_minor = (int(text.split(".")[1]) for text in (PINS["torch"], added["torchvision"]))
    assert torchvision_minor == torch_minor + 15  # torchvision 0.(n + 15) requires torch 2.n


def test_conda_and_pyproject_read_the_same_list():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.txt", "-e ."]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"]["file"] == ["requirements.txt"]
    assert "python=3.11" in conda["dependencies"]
    assert project["project"]["requires-python"] == ">=3.11"


def test_make_help_is_the_one_readable_list_of_commands():
    makefile, command = (ROOT / "Makefile").read_text(), ["make", "--no-print-directory", "help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    listed = {line.split()[0] for line in said}
    assert listed == set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    assert max(map(len, said)) <= 110
    for name in ("README.md", "notebooks/README.md", "notebooks/L4.md"):
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / name).read_text(), re.M))
        assert named, name
        assert named <= listed, name
