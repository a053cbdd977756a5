"""Judging: nothing tells the sides apart, answers are kept and corrected, and the verdict is that by hand."""

from collections import Counter
from io import BytesIO

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import binomtest

from lib import ROOT, colorize, dataset
from lib.config import get_config
from lib.prompts import prompts_under

NOTEBOOK = nbformat.read(ROOT / "notebooks/judge.ipynb", 4)
NAMES = ("true", "vague", "detailed", "recolored")
judging = {}  # what the folded cells of the notebook define
for cell in NOTEBOOK.cells:
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        exec(cell.source, judging)
CATCH, COLUMNS, COMPARED, QUESTIONS = (judging[name] for name in ("CATCH", "COLUMNS", "COMPARED", "QUESTIONS"))
ChoicePanel, draw_pairs, read_judgements = (judging[name] for name in ("ChoicePanel", "draw_pairs", "read_judgements"))


def make_photos(n, seed=0):
    """Noise of a few colours in place of pictures, as `load_photos` returns them."""
    rng = np.random.default_rng(seed)
    photos = {}
    for number in range(n):
        noise = {name: Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for name in NAMES}
        photos[f"photo{number}"] = {"sentence": f"<b>thing {number}</b> & more", **noise}
    return photos


@pytest.fixture
def photos():
    return make_photos(24)


@pytest.fixture(autouse=True)
def no_haste(monkeypatch):
    """Tests answer faster than people, about smaller pictures."""
    monkeypatch.setitem(judging, "FASTEST", 0)
    monkeypatch.setitem(judging, "SIDE", 16)


def answer(panel, n, choose=lambda pair: 0):
    """Answers `n` pairs, or those that are left, as a function of the pair."""
    for pair in panel.pairs[panel.position :][:n]:
        panel.buttons[choose(pair)].click()


def sent(widget):
    """All that the browser is sent: the state of a widget and of its children."""
    state = {name: value for name, value in widget.get_state().items() if not str(value).startswith("IPY_MODEL")}
    for name in ("children", "layout", "style"):
        state.pop(name, None)
    layout = {name: value for name, value in widget.layout.get_state().items() if value is not None}
    return [state, layout, *(sent(child) for child in getattr(widget, "children", ()))]


def test_pairs_are_balanced_and_show_true_colours_of_no_photo_that_comes_again(photos):
    by_place, by_photo, catch_places = Counter(), Counter(), set()
    for judge in map(str, range(30)):
        pairs = draw_pairs(photos, judge)
        questions = [pair.question for pair in pairs]
        assert questions == sorted(questions, key=list(QUESTIONS).index)
        assert len(pairs) == len({pair[:2] for pair in pairs}) == 24 + 21
        seen_true = {pair.image_id for pair in pairs if "true" in pair}
        assert sum(pair.image_id in seen_true for pair in pairs) == len(seen_true) == 3
        left = Counter((pair.question, pair.catch, pair.left) for pair in pairs)
        for question in QUESTIONS:
            assert abs(left[question, False, "vague"] - left[question, False, "detailed"]) <= 1
            assert abs(left[question, True, CATCH[question][0]] - left[question, True, CATCH[question][1]]) <= 1
            assert 1 / 8 <= np.mean([pair.catch for pair in pairs if pair.question == question]) < 1 / 6
        for place, pair in enumerate(pairs):
            assert {pair.left, pair.right} == set(CATCH[pair.question] if pair.catch else COMPARED)
            if pair.catch:
                catch_places.add(place)
            else:
                by_place[place] += 1 if pair.left == "detailed" else -1
                by_photo[pair.image_id] += 1 if pair.left == "detailed" else -1
    assert len(catch_places) > 36
    assert max(map(abs, by_place.values())) < 21  # of about 26 pairs: 4 standard deviations
    assert max(map(abs, by_photo.values())) < 30  # of about 52
    assert draw_pairs(photos, "ann b") == draw_pairs(make_photos(24), "ann b") != draw_pairs(photos, "cy")


def test_nothing_that_is_sent_to_the_browser_tells_which_picture_is_on_which_side(photos, tmp_path, monkeypatch):
    panels, pairs = [], draw_pairs(photos, "ann")
    turned = [pair._replace(left=pair.right, right=pair.left) for pair in pairs]
    for name, drawn in (("ours", pairs), ("mirrored", turned)):
        monkeypatch.setitem(judging, "draw_pairs", lambda *_, drawn=drawn: drawn)
        panels.append(ChoicePanel(photos, "ann", tmp_path / name))
    for pair in pairs:
        pictures = [[image.value for image in panel.pictures] for panel in panels]
        assert pictures[0] == pictures[1][::-1]
        for png, name in zip(pictures[0], (pair.left, pair.right), strict=True):
            shown = np.asarray(photos[pair.image_id][name].resize((16, 16), Image.Resampling.LANCZOS))
            assert (np.asarray(Image.open(BytesIO(png))) == shown).all()
            assert Image.open(BytesIO(png)).info == {}  # no words, no times, no profile
        for panel in panels:
            for image in panel.pictures:
                image.value = b""
        states = [sent(panel.box) for panel in panels]
        assert states[0] == states[1]
        assert not any(word in repr(states[0]) for word in (*NAMES, pair.image_id, "catch", ".png"))
        sentence = f"<p>&lt;b&gt;thing {pair.image_id.removeprefix('photo')}&lt;/b&gt; &amp; more</p>"
        assert panels[0].sentence.value == (sentence if pair.question == "fits" else "")
        for panel in panels:
            panel.buttons[0].click()


def test_each_answer_is_in_the_file_at_once_and_can_be_corrected(photos, tmp_path):
    path = tmp_path / "reports/pocket/judgements.csv"
    panel = ChoicePanel(photos, " Ann  B", path)
    assert panel.back.disabled
    for number, side in enumerate([0, 1, 1], 1):
        pair = panel.pairs[panel.position]
        panel.buttons[side].click()
        table = read_judgements(path)
        assert len(table) == number
        last = table.iloc[-1]
        assert (last["judge"], *last[list(pair._fields)]) == ("ann b", *pair)
        assert last["chosen"] == (pair.left, pair.right)[side]
        assert 0 <= float(last["seconds"]) < 60
        assert last["pictures"] == judging["hash_pair"](photos[pair.image_id], (pair.right, pair.left))
    panel.back.click()
    panel.back.click()
    assert panel.place.value == "pair 2 of 45"
    panel.buttons[0].click()
    assert panel.place.value == "pair 3 of 45"
    table = read_judgements(path).set_index("image_id")
    pair = panel.pairs[1]
    assert (len(table), table["chosen"][pair.image_id]) == (3, pair.left)
    assert [file.name for file in path.parent.iterdir()] == ["judgements.csv"]


def test_judges_go_on_where_they_stopped_beside_other_judges_and_other_pictures(photos, tmp_path):
    path = tmp_path / "j.csv"
    panels = [ChoicePanel(photos, judge, path) for judge in ("ann", "NA")]
    answer(panels[0], 29)
    answer(panels[1], 3)  # two open panels keep each other's answers
    answer(panels[0], 1)
    again = ChoicePanel(photos, " ANN", path)
    assert again.pairs == draw_pairs(photos, "ann")
    assert again.place.value == "pair 31 of 45"
    answer(again, 45)
    table = read_judgements(path)
    assert table["judge"].value_counts().to_dict() == {"ann": 45, "na": 3}
    assert "Thank you" in ChoicePanel(photos, "ann", path).question.value
    changed = make_photos(24, seed=1)
    panel = ChoicePanel(changed, "ann", path)
    assert panel.position == 0  # answers about other pictures stay in the file and do not count
    answer(panel, 2)
    assert read_judgements(path)[:48].equals(table)
    assert [len(judging["about_these"](read_judgements(path), shown)) for shown in (photos, changed)] == [48, 2]


@pytest.mark.parametrize("damage", ["ann,natural,photo1,vague,detailed,False,left,1.5,abc\n", "a" + 20 * ",b"])
def test_a_damaged_file_is_named_and_never_overwritten(damage, photos, tmp_path):
    path = tmp_path / "j.csv"
    panel = ChoicePanel(photos, "ann", path)
    answer(panel, 1)
    good = path.read_text()
    path.write_text(good + damage)
    with pytest.raises(ValueError, match=r"j\.csv.*correct it"):
        ChoicePanel(photos, "ann", path)
    answer(panel, 1)
    assert panel.message.value.startswith("Your answer was not kept: ")
    assert path.read_text() == good + damage


def judged(judge, question, choices, right=1, wrong=0):
    """Rows of one judge: {photo: the name chosen}, and so many right and wrong answers of catch trials."""
    rows = [(judge, question, photo, "vague", "detailed", False, name) for photo, name in choices.items()]
    for number, name in enumerate([CATCH[question][0]] * right + [CATCH[question][1]] * wrong):
        rows.append((judge, question, f"caught{number}", *CATCH[question], True, name))
    return pd.DataFrame([(*row, "1.0", "abc") for row in rows], columns=COLUMNS)


def test_the_verdict_counts_photos_once_and_leaves_out_careless_judges():
    choices = {f"p{n}": "detailed" if n < 15 else "vague" for n in range(20)}
    judges = [judged(name, question, choices, 4, 1) for name in ("a", "b") for question in QUESTIONS]
    careless = [judged("bad", "natural", {"p1": "vague"}, 7, 2), judged("new", "natural", {"p1": "vague"}, 0)]
    verdict = judging["state_verdict"](pd.concat([*judges, *careless]))
    p = f"{binomtest(15, 20).pvalue:.2g}"  # of 20 photos, not of 40 choices
    assert "looks more natural in 75% of choices (95 % interval " in verdict
    assert "and fits the sentence better in 75% of choices (95 % interval " in verdict
    assert verdict.count(f"p {p}, photos: 20, judges: 2)") == 2
    split = [judged("a", "fits", {"p1": "detailed", "p2": "detailed"}), judged("b", "fits", {"p1": "vague"})]
    assert "better in 75% of choices" in judging["state_verdict"](pd.concat(split))  # photos weigh alike
    assert judging["state_verdict"](pd.concat(careless)) == "No judge counts yet."
    assert "Nobody has judged" in judging["state_verdict"](judges[0][:0])


def test_the_pictures_of_a_run_are_those_of_seed_0_after_lightness_is_restored(pipeline, triples, own_run, monkeypatch):
    config, rows = own_run, dataset.pick_across_categories(triples["test"], 2)
    with pytest.raises(ValueError, match="no .*images: run notebook 04_colorize_photos first"):
        judging["load_photos"](config)
    prompts = {condition: prompts_under(condition, rows) for condition in ("vague", "detailed", "recolored")}
    plan = colorize.plan_pictures(rows.select_columns(["image_id", "category"]).to_pandas(), prompts, 2)
    table = colorize.colorize_rows(pipeline, rows, {"images": plan}, config)["images"]
    monkeypatch.setitem(judging, "load_dataset_dict", lambda _: triples)
    photos = judging["load_photos"](config)
    assert list(photos) == list(rows["image_id"])
    for row in table.query("seed == 0").itertuples():
        written = Image.open(config.run_dir / row.after).convert("RGB")
        assert photos[row.image_id][row.prompt_condition].tobytes() == written.tobytes()
    assert [photo["sentence"] for photo in photos.values()] == rows["detailed_caption"]
    usual, changed = (each.model_dump(mode="json") for each in (get_config("pocket"), config))
    overrides = {name: value for name, value in changed.items() if value != usual[name]}
    names = judging | {
        "judge": "Ann",
        "profile_name": "pocket",
        "overrides": overrides,
        "n_photos": 1,
        "show_results": True,
    }
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "code" and "def " not in cell.source and "tags" not in cell.metadata:
            exec(cell.source, names)
