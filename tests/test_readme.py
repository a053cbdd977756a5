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
    *ROOT.glob("tests/*/README.md"),
    *ROOT.glob("lib/*/README.md"),
]


def contrast(first, second):
    """The row of effects.csv on CIEDE2000 of one contrast."""
    rows = pd.read_csv(ROOT / "reports/pocket/effects.csv").query("metric == 'ciede2000'")
    (row,) = rows[(rows["first"] == first) & (rows["second"] == second)].itertuples()
    return row


def test_the_numbers_are_those_of_the_reports():
    text = " ".join(README.read_text().split())
    answer = contrast("detailed", "vague")
    goals = pd.read_csv(ROOT / "lib/pocket_model/goals.csv").set_index("measure")
    writers = pd.read_csv(ROOT / "reports/pocket/writers.csv").set_index("writer")
    assert f"Over {answer.n} photos" in text
    assert f"CIEDE2000 by **{answer.mean:.2f}** (95 % interval **{answer.low:.2f} to {answer.high:.2f}**" in text
    assert f"and {answer.improved:.0%} of the photos improve".replace("%", " %") in text
    shown = {name: contrast(*name.split(" - ")) for name in ("detailed - gray", "vague - gray", "gray_caption - vague")}
    shown |= {"recolored": contrast("recolored", "vague"), "people": goals.loc["detailed - vague"]}
    by_chroma = pd.read_csv(ROOT / "reports/pocket/by_chroma.csv").query("second == 'gray'")
    shown["dull photos"] = by_chroma.set_index("third").loc["least chroma"]
    for name, row in {**shown, "writers": writers.loc["all"]}.items():
        numbers = f"{row.mean if isinstance(row, tuple) else row['mean']:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
        assert numbers in text, name
    assert answer.high < 0  # "yes"
    assert goals.loc["detailed - vague", "low"] < 0 < goals.loc["detailed - vague", "high"]  # "no difference was seen"
    for limit in ("It is not Stable Diffusion.", "Both sets were looked at", "The prompts carry part of the answer."):
        assert text.index(limit) < text.index("## Start")


def test_it_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 110
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_are_there(path):
    text = path.read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert [target for target in targets if "://" not in target and not (path.parent / target).exists()] == []


def test_the_map_has_every_folder():
    text = README.read_text()
    for name in ("notebooks", "lib", "data_cards", "reports", "tests"):
        assert f"\n{name}/ " in text
    for folder in ROOT.glob("lib/*/"):
        if folder.name != "__pycache__":
            assert f"\n  {folder.name}/ " in text


def test_every_notebook_is_linked():
    for path in ROOT.glob("notebooks/*.ipynb"):
        assert f"](notebooks/{path.name})" in README.read_text()


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
        assert set(options.only) <= {notebook.stem[:2] for notebook in run_notebooks.NOTEBOOKS}
        given = dict(options.overrides)
        _, overrides = run_notebooks.split_parameters(options.profile, given, run_notebooks.NOTEBOOKS)
        assert configs_to_run(options.profile, **overrides)
