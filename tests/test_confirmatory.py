"""The confirmatory notebook: a small study of shipped photos, and its numbers once more without the notebook's code."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import papermill
import pytest
from PIL import Image
from scipy.stats import t as student

from lib import ROOT

NOTEBOOK, PUBLISHED = ROOT / "notebooks/confirmatory.ipynb", ROOT / "reports/confirmatory"
SHIPPED = ROOT / "data_cards/pocket_photos"
CAPTIONS = ["object_caption", "detailed_caption", "gray_caption"]


def run(folder, **parameters):
    """Run the notebook into a folder; its executed copy is beside the results, as `make confirmatory` puts it."""
    folder.mkdir(exist_ok=True)
    parameters = {"out": str(folder), "seeds": 2, "workers": 0, **parameters}
    papermill.execute_notebook(NOTEBOOK, folder / "confirmatory.ipynb", parameters, cwd=str(ROOT), progress_bar=False)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of eight shipped photos with three sentences each, masks, and a photo without colours."""
    folder = tmp_path_factory.mktemp("photos")
    shipped = pd.read_csv(SHIPPED / "metadata.csv", keep_default_na=False).query("split == 'test' and mask != ''")[:8]
    for column in ("file_name", "mask"):
        for name in shipped[column]:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(SHIPPED / name, folder / name)
    table = pd.DataFrame({"file": shipped["file_name"], "set": "own", "split": "test"})
    table["captions"] = [json.dumps(list(row)) for row in shipped[CAPTIONS].itertuples(index=False)]
    Image.new("RGB", (60, 50), "gray").save(folder / "gray.png")
    gray = {"file": "gray.png", "set": "own", "split": "test", "captions": '["a gray wall", "a wall", "a red wall"]'}
    other = gray | {"file": "not there.png", "split": "train"}
    pd.concat([table, pd.DataFrame([gray, other])]).to_csv(folder / "photos.csv", index=False)
    masks = pd.DataFrame({"file": shipped["file_name"], "mask": shipped["mask"], "label": shipped["object"]})
    masks.to_csv(folder / "masks.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def small(photos, tmp_path_factory):
    """The notebook's results on these photos."""
    folder = tmp_path_factory.mktemp("confirmatory")
    run(folder, photos=str(photos))
    return folder


@pytest.fixture(params=["small", *(["published"] if (PUBLISHED / "metrics.csv").exists() else [])])
def study(request):
    """The small study, and the one in `reports` once it is there."""
    return request.getfixturevalue("small") if request.param == "small" else PUBLISHED


def read(study):
    """The rows of a study that count, and the errors by photo and condition."""
    metrics = pd.read_csv(study / "metrics.csv").query("true_chroma >= 2")
    return metrics, metrics.groupby(["photo", "condition"])["ciede2000"].mean().unstack()


@pytest.mark.parametrize(
    ("first", "second"), [("richest", "vague"), ("richest", "gray"), ("vague", "gray"), ("recolored", "vague")]
)
def test_effects_are_those_of_the_metrics(study, first, second):
    metrics, errors = read(study)
    difference = (errors[first] - errors[second]).dropna()
    batch = metrics.groupby("photo")["batch"].first()[difference.index]
    sums = (difference - difference.mean()).groupby(batch).sum()
    error = np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(difference)
    reach = student.ppf(0.975, len(sums) - 1) * error
    row = pd.read_csv(study / "effects.csv").set_index(["first", "second"]).loc[first, second]
    assert row["n"] == len(difference)
    expected = [difference.mean(), difference.mean() - reach, difference.mean() + reach, (difference < 0).mean()]
    assert list(row[["mean", "low", "high", "improved"]]) == pytest.approx(expected, abs=1e-4)


def test_the_worth_of_a_word_is_that_of_a_regression_with_a_dummy_for_each_photo(study):
    sentences = read(study)[0].query("condition == 'sentence'")
    counts = ["colors", "objects", "words"]
    design = np.hstack([sentences[counts], pd.get_dummies(sentences["photo"])]).astype(float)
    expected = np.linalg.lstsq(design, sentences["ciede2000"], rcond=None)[0][:3]
    slopes = pd.read_csv(study / "slopes.csv").set_index("one_more")
    assert list(slopes.loc[counts, "mean"]) == pytest.approx(list(expected), abs=1e-4)


def test_tables_agree_with_each_other(study):
    metrics, errors = read(study)
    summary = pd.read_csv(study / "summary.csv").set_index("condition")
    hue = metrics.query("condition == 'vague'").groupby("photo")[["hue_off", "colored"]].mean().sum()
    assert summary.loc["vague", "hue_off"] == pytest.approx(hue["hue_off"] / hue["colored"], abs=1e-4)
    assert summary.loc["richest", "ciede2000"] == pytest.approx(errors["richest"].mean(), abs=1e-4)
    samples = pd.read_csv(study / "samples.csv").set_index("photos")
    verdicts = samples[["better", "worse", "equivalent", "inconclusive"]]
    assert verdicts.sum(axis=1).to_numpy() == pytest.approx(1)
    objects = pd.read_csv(study / "objects.csv").query("method == 'plain'").groupby("photo")["own"].mean()
    judged = pd.read_csv(study / "objects_summary.csv").set_index("method")
    assert judged.loc["plain prompt", "accuracy"] == pytest.approx(objects.mean(), abs=1e-3)
    words = metrics.query("condition == 'without_colors'")
    assert (words["colors"] == 0).all()


def test_no_sentence_and_no_photo_is_in_the_results(small, photos):
    texts = "".join(path.read_text() for path in small.glob("*") if path.suffix != ".png").lower()
    for captions in pd.read_csv(photos / "photos.csv")["captions"]:
        assert not any(sentence.lower() in texts for sentence in json.loads(captions) if len(sentence) > 12)
    metrics = pd.read_csv(small / "metrics.csv")
    assert "gray.png" in set(metrics["photo"])  # measured, and left out of every question
    assert pd.read_csv(small / "effects.csv")["n"].max() == 8
    assert len(list(small.glob("*.png"))) == 5
    report = (small / "report.md").read_text()
    assert {path.name for path in small.glob("*.png")} == set(re.findall(r"\((\w+\.png)\)", report))
    assert "1 black-and-white" in report


def test_without_photos_the_tables_are_made_again(small, tmp_path):
    for name in ("metrics.csv", "objects.csv", "run.json"):
        (tmp_path / "again").mkdir(exist_ok=True)
        shutil.copy(small / name, tmp_path / "again" / name)
    run(tmp_path / "again")
    for name in ("effects.csv", "slopes.csv", "groups.csv", "samples.csv", "report.md"):
        assert (tmp_path / "again" / name).read_text() == (small / name).read_text()
