"""One list of pins, read by pip, by pyproject.toml and by conda; commands as the README says."""

import re
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
    assert set(added) == {"torch-fidelity", "torchvision"}
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


def test_templates_are_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (glob,) = project["tool"]["setuptools"]["package-data"]["lib"]
    packaged = set(ROOT.glob(f"lib/{glob}"))
    assert len(packaged) > 1
    assert packaged == {path for path in ROOT.glob("lib/templates/*") if path.is_file()}


def test_readme_names_every_make_target():
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    readme = (ROOT / "README.md").read_text()
    assert [target for target in targets if f"make {target}" not in readme] == []
