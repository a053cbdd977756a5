"""The two READMEs say what the reports and the code say."""

import re
import shlex

import pandas as pd
import pytest
from PIL import Image

from lib import ROOT
from lib.config import RUNS, configs_to_run
from lib.headless import run_notebooks

README, GUIDE = ROOT / "README.md", ROOT / "notebooks/README.md"
DOCUMENTS = [
    README,
    *ROOT.glob("notebooks/*.md"),
    *ROOT.glob("notebooks/*.ipynb"),
    *ROOT.glob("reports/*/notebooks/*.ipynb"),
    *ROOT.glob("tests/*/README.md"),
    *ROOT.glob("lib/*/README.md"),
]


def interval_of(row: pd.Series) -> str:
    """A mean with its interval, as the README writes it."""
    return f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def test_the_numbers_are_those_of_the_reports():
    text, study = " ".join(README.read_text().split()), ROOT / "reports/confirmatory"
    effects = pd.read_csv(study / "effects.csv").set_index(["first", "second"])
    answer = effects.loc["richest", "vague"]
    assert answer["verdict"] == "equivalent"
    assert f"On {answer['n']} photos that" in text
    assert f"**{answer['mean']:+.2f}** (95 % interval **{answer['low']:+.2f} to {answer['high']:+.2f}**" in text
    assert interval_of(effects.loc["recolored", "vague"]) in text
    assert interval_of(pd.read_csv(study / "slopes.csv").set_index("one_more").loc["colors"]) in text
    objects = pd.read_csv(study / "objects_summary.csv").set_index("method")
    plain, found = (objects.loc[name] for name in ("plain prompt", "region found by name"))
    for number in (plain["accuracy"], found["accuracy"]):
        assert f"{number:.0%}".replace("%", " %") in text
    ceiling = pd.read_csv(ROOT / "reports/ceiling/ceiling.csv").query("photos == 'all'").set_index("picture")
    ceiling = ceiling.filter(like="over_vague").set_axis(["mean", "low", "high"], axis=1)
    assert all(interval_of(ceiling.loc[name]) in text for name in ("word and picture - picture", "true colours"))
    shipped = pd.read_csv(ROOT / "reports/pocket/effects.csv").query("metric == 'ciede2000'")
    assert interval_of(shipped.set_index(["first", "second"]).loc["detailed", "vague"]) in text
    assert text.index("the model is not Stable Diffusion") < text.index("## Start")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_are_there(path):
    text = path.read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert [target for target in targets if "://" not in target and not (path.parent / target).exists()] == []


def test_the_map_has_every_folder_and_notebook_and_the_page_is_short():
    text = README.read_text()
    assert len(text.splitlines()) <= 110
    assert all(f"notebooks/{path.name})" in text for path in ROOT.glob("notebooks/*.ipynb"))
    for name in ("notebooks", "lib", "data_cards", "reports", "tests"):
        assert f"\n{name}/ " in text
    for folder in ROOT.glob("lib/*/"):
        if folder.name != "__pycache__":
            assert f"\n  {folder.name}/ " in text


def test_three_lines_of_python_colorize_a_photo(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert sum(map(bool, code.splitlines())) == 3
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((90, 60)).save("photo.jpg")
    exec(code, {})
    picture = Image.open("photo.color.png").convert("RGB")
    assert picture.size == (90, 60)
    assert len(set(picture.getpixel((45, 30)))) > 1  # a colour, not a gray


def test_the_table_of_runs_is_that_of_the_code():
    guide = GUIDE.read_text()
    for name, run in RUNS["l4"].items():
        rate = f"{run['learning_rate']:.0e}".replace("e-0", "e-")
        fields = f"{rate} | {run['train_epochs']} | {run['prompt_policy']} | {run['prompt_dropout']:.0%}"
        assert re.search(rf"\| `{name}` \| [^|]* \| [^|]* \| {re.escape(fields)} \|", guide)


@pytest.mark.parametrize("path", [GUIDE, ROOT / "notebooks/L4.md"], ids=["README", "L4"])
def test_the_commands_shown_are_accepted(path):
    text = path.read_text().replace("\\\n", " ")
    commands = re.findall(r'^make reports(?: PROFILE=(\w+))?(?: ARGS="(.*?)")?', text, re.M)
    assert len(commands) > 1
    for profile, words in commands:
        options = run_notebooks.parse_arguments(["--profile", profile or "pocket", *shlex.split(words)])
        given = dict(options.overrides)
        _, overrides = run_notebooks.split_parameters(options.profile, given, run_notebooks.NOTEBOOKS)
        assert configs_to_run(options.profile, **overrides)
