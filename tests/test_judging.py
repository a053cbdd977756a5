"""The human row: nothing tells the sides apart, answers are kept and found again, and summaries are those by hand."""

import struct
from collections import Counter
from dataclasses import replace
from io import BytesIO

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import binomtest

from lib import ROOT, choice_panel, colorize, dataset, judging
from lib.choice_panel import ChoicePanel
from lib.judging import CATCH, COLUMNS, COMPARED, QUESTIONS, crossed_interval, draw_pairs, read_judgements, summarize
from lib.prompts import prompts_under

NAMES = ("true", "vague", "detailed", "recolored")


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
    monkeypatch.setattr(choice_panel, "FASTEST", 0)
    monkeypatch.setattr(choice_panel, "SIDE", 16)


def answer_all(panel, choose=lambda pair: 0, most=10**6):
    """Answer what a panel asks, as a function of the pair; how many were asked."""
    asked = 0
    while panel.waiting and asked < most:
        panel.buttons[choose(panel.waiting[0])].click()
        asked += 1
    return asked


def choose_well(pair):
    """The right side of a catch trial, else the detailed one."""
    wanted = CATCH[pair.question][0] if pair.catch else "detailed"
    return (pair.left, pair.right).index(wanted)


def sent(panel):
    """All that the browser is sent: the state of every widget, by its place in the panel."""

    def walk(widget, place):
        yield place, widget
        for number, child in enumerate(getattr(widget, "children", ())):
            yield from walk(child, f"{place}.{number}")

    ours = {"value", "description", "tooltip", "format", "width", "height", "max", "button_style", "icon", "tabbable"}
    return {
        place: {name: value for name, value in widget.get_state().items() if name in ours}
        | {f"layout.{name}": value for name, value in widget.layout.get_state().items() if not name.startswith("_")}
        for place, widget in walk(panel.box, "box")
    }


# ---- the pairs


def test_a_name_always_gives_the_same_pairs_and_another_name_others(photos):
    first = draw_pairs(photos, "Ann  B")
    assert first == draw_pairs(photos, " ann b ") == draw_pairs(make_photos(24), "ANN B")
    other = draw_pairs(photos, "Cy")
    assert [pair.image_id for pair in first] != [pair.image_id for pair in other]
    sides = {(pair.question, pair.image_id): pair.left for pair in first if not pair.catch}
    agree = [sides.get((pair.question, pair.image_id)) == pair.left for pair in other if not pair.catch]
    assert 0.2 < np.mean(agree) < 0.8


def test_every_picture_is_on_the_left_in_half_of_its_pairs(photos):
    extra = Counter()
    for judge in map(str, range(12)):
        left = Counter((pair.question, pair.catch, pair.left) for pair in draw_pairs(photos, judge))
        for question in QUESTIONS:
            assert abs(left[question, False, "vague"] - left[question, False, "detailed"]) <= 1
            right, wrong = CATCH[question]
            assert abs(left[question, True, right] - left[question, True, wrong]) <= 1
            extra[left[question, True, right] - left[question, True, wrong]] += 1
    assert min(extra[1], extra[-1]) > 0  # the odd one is no picture's own


def test_the_side_follows_neither_place_in_the_order_nor_photo(photos):
    by_place, by_photo = Counter(), Counter()
    for judge in range(60):
        for place, pair in enumerate(draw_pairs(photos, f"judge {judge}")):
            if not pair.catch:
                by_place[place] += 1 if pair.left == "detailed" else -1
                by_photo[pair.image_id] += 1 if pair.left == "detailed" else -1
    assert (len(by_place), len(by_photo)) == (45, 24)
    assert max(map(abs, by_place.values())) < 30  # of about 52 pairs, by chance below 30
    assert max(map(abs, by_photo.values())) < 42  # of about 105


def test_all_sentences_come_after_the_first_question_and_true_colours_are_shown_of_no_photo_that_is_asked_again(photos):
    pairs = draw_pairs(photos, "ann")
    questions = [pair.question for pair in pairs]
    assert questions == sorted(questions, key=list(QUESTIONS).index)
    assert len(pairs) == len({(pair.question, pair.image_id) for pair in pairs}) == 24 + 21
    seen_true = {pair.image_id for pair in pairs if "true" in (pair.left, pair.right)}
    assert len(seen_true) == 3
    assert Counter(pair.image_id for pair in pairs if pair.image_id in seen_true) == dict.fromkeys(seen_true, 1)
    assert {pair.image_id for pair in pairs} == set(photos)


def test_about_one_pair_in_eight_is_a_catch_trial_with_known_pictures_in_no_fixed_place(photos):
    places = Counter()
    for judge in map(str, range(30)):
        pairs = draw_pairs(photos, judge)
        for question in QUESTIONS:
            part = [pair for pair in pairs if pair.question == question]
            assert 1 / 8 <= np.mean([pair.catch for pair in part]) < 1 / 6
        for pair in pairs:
            assert {pair.left, pair.right} == set(CATCH[pair.question] if pair.catch else COMPARED)
        places.update(number for number, pair in enumerate(pairs) if pair.catch)
    assert len(places) > 36
    caught = [{pair.image_id for pair in draw_pairs(photos, judge) if pair.catch} for judge in "ab"]
    assert caught[0] != caught[1]


def test_catch_trials_are_pairs_that_differ_clearly():
    photos = make_photos(16)
    for number, photo in enumerate(photos.values()):
        if number % 2:
            photo["recolored"] = photo["true"] = photo["detailed"]
        if number == 0:
            del photo["recolored"]
    caught = {pair.image_id for name in "abcdefgh" for pair in draw_pairs(photos, name) if pair.catch}
    assert len(caught) > 4
    assert caught <= {f"photo{number}" for number in range(2, 16, 2)}


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_few_photos_are_asked_about_too(n, tmp_path):
    panel = ChoicePanel(make_photos(n), "ann", tmp_path / "j.csv")
    assert answer_all(panel) == len(read_judgements(tmp_path / "j.csv")) >= n
    assert "Thank you" in panel.question.value


# ---- what the browser gets


def test_nothing_that_is_sent_to_the_browser_tells_which_picture_is_on_which_side(photos, tmp_path, monkeypatch):
    pairs = draw_pairs(photos, "ann")
    monkeypatch.setattr(choice_panel, "draw_pairs", lambda *_: pairs)
    panel = ChoicePanel(photos, "ann", tmp_path / "j.csv")
    turned = [replace(pair, left=pair.right, right=pair.left) for pair in pairs]
    monkeypatch.setattr(choice_panel, "draw_pairs", lambda *_: turned)
    mirror = ChoicePanel(photos, "ann", tmp_path / "mirror.csv")
    left, right = "box.2.0.0.0", "box.2.0.1.0"
    for pair in pairs:
        ours, theirs = sent(panel), sent(mirror)
        assert ours[left]["value"] == choice_panel.encode(photos[pair.image_id][pair.left])
        assert ours[right]["value"] == choice_panel.encode(photos[pair.image_id][pair.right])
        ours[left]["value"], ours[right]["value"] = ours[right]["value"], ours[left]["value"]
        assert ours == theirs  # the pictures trade places, and nothing else changes
        pictures = [ours[place].pop("value") for place in (left, right)]
        assert ours[left] == ours[right]
        assert all(chunks(png) == {b"IHDR", b"IDAT", b"IEND"} for png in pictures)  # no words, no times, no profile
        assert {struct.unpack(">II", png[16:24]) for png in pictures} == {(16, 16)}
        said = repr(ours)
        assert not any(word in said for word in (*NAMES[1:], pair.image_id, "catch", ".png"))
        panel.buttons[0].click()
        mirror.buttons[0].click()
    assert not panel.waiting


def chunks(png):
    """The names of a PNG's chunks."""
    found, place = set(), 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        found.add(png[place + 4 : place + 8])
        place += 12 + length
    return found


def test_the_sentence_is_shown_as_text_with_its_question_only(photos, tmp_path):
    panel = ChoicePanel(photos, "ann", tmp_path / "j.csv")
    seen = Counter()
    while panel.waiting:
        pair = panel.waiting[0]
        number = pair.image_id.removeprefix("photo")
        wanted = f"<p>&lt;b&gt;thing {number}&lt;/b&gt; &amp; more</p>" if pair.question == "fits" else ""
        assert panel.sentence.value == wanted
        assert QUESTIONS[pair.question] in panel.question.value
        seen[pair.question] += 1
        panel.buttons[1].click()
    assert seen == {"natural": 24, "fits": 21}
    assert panel.choice.layout.display == "none"


def test_pictures_are_enlarged_without_changing_their_colours(monkeypatch):
    monkeypatch.undo()
    blue = Image.new("RGB", (128, 128), (10, 90, 200))
    pixels = np.asarray(Image.open(BytesIO(choice_panel.encode(blue))))
    assert pixels.shape == (320, 320, 3)
    assert (pixels == (10, 90, 200)).all()


# ---- the file of answers


def test_each_answer_is_in_the_file_at_once(photos, tmp_path):
    path = tmp_path / "reports/pocket/judgements.csv"
    panel = ChoicePanel(photos, "Ann", path)
    assert not path.exists()
    for number, side in enumerate([0, 1, 1], 1):
        pair = panel.waiting[0]
        panel.buttons[side].click()
        table = read_judgements(path)
        assert list(table.columns) == list(COLUMNS)
        assert len(table) == number == panel.progress.value
        row = table.iloc[-1]
        assert (row["judge"], row["question"], row["image_id"]) == ("ann", "natural", pair.image_id)
        assert (row["left"], row["right"], row["catch"]) == (pair.left, pair.right, pair.catch)
        assert row["chosen"] == (pair.left, pair.right)[side]
        assert 0 <= row["seconds"] < 60
        assert row["pictures"] == judging.hash_pair(photos[pair.image_id], (pair.right, pair.left))
    assert [file.name for file in path.parent.iterdir()] == ["judgements.csv"]


def test_a_judge_goes_on_where_the_last_answer_was_beside_other_judges(photos, tmp_path):
    path = tmp_path / "j.csv"
    answer_all(ChoicePanel(photos, "ann", path), most=30)
    other = ChoicePanel(photos, "bo", path)
    assert len(other.waiting) == 45
    answer_all(other, most=3)
    again = ChoicePanel(photos, " ANN", path)
    assert again.waiting == draw_pairs(photos, "ann")[30:]
    assert (again.progress.value, again.progress.max) == (30, 45)
    assert answer_all(again) == 15
    table = read_judgements(path)
    assert not table.duplicated(["judge", "question", "image_id"]).any()
    assert table["judge"].value_counts().to_dict() == {"ann": 45, "bo": 3}
    done = ChoicePanel(photos, "ann", path)
    assert "Thank you" in done.question.value
    done.buttons[0].click()
    assert len(read_judgements(path)) == 48


def test_two_open_panels_keep_each_other_s_answers(photos, tmp_path):
    panels = [ChoicePanel(photos, judge, tmp_path / "j.csv") for judge in ("ann", "bo")]
    for panel in panels * 2:
        panel.buttons[0].click()
    assert read_judgements(tmp_path / "j.csv")["judge"].tolist() == ["ann", "bo", "ann", "bo"]


def test_answers_about_other_pictures_stay_in_the_file_and_are_ignored_and_counted(photos, tmp_path):
    path = tmp_path / "j.csv"
    answer_all(ChoicePanel(photos, "ann", path), choose_well)
    before = read_judgements(path)
    changed = make_photos(24, seed=1)
    assert len(judging.about_these(before, photos)) == 45
    assert judging.about_these(before, changed).empty
    panel = ChoicePanel(changed, "ann", path)
    assert panel.message.value == "45 of your answers are about other pictures and don't count here."
    assert len(panel.waiting) == 45
    answer_all(panel, choose_well, most=2)
    after = read_judgements(path)
    assert after[:45].equals(before)
    assert judging.about_these(after, changed).equals(after[45:])

    one = {**photos, "photo3": {**photos["photo3"], "vague": changed["photo3"]["vague"]}}
    gone = before.drop(judging.about_these(before, one).index)
    assert set(gone["image_id"]) == {"photo3"}
    assert not gone["catch"].any()


def test_a_double_click_is_one_answer(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(choice_panel, "FASTEST", 0.3)
    now = [100.0]
    monkeypatch.setattr(choice_panel.time, "monotonic", lambda: now[0])
    panel = ChoicePanel(photos, "ann", tmp_path / "j.csv")
    for moment in (101, 101.1, 101.2):
        now[0] = moment
        panel.buttons[0].click()
    assert read_judgements(tmp_path / "j.csv")["seconds"].tolist() == [1.0]
    assert panel.waiting == panel.pairs[1:]


@pytest.mark.parametrize("judge", ["", "  ", "\n"])
def test_without_a_name_nothing_is_shown_and_the_panel_says_why(judge, photos, tmp_path):
    panel = ChoicePanel(photos, judge, tmp_path / "j.csv")
    assert panel.message.value == "Write your name or initials as judge in the first cell, and run the cells again."
    assert [image.value for image in panel.pictures] == [b"", b""]
    assert panel.choice.layout.display == "none"
    panel.buttons[0].click()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("judge", ["a, b", 'the "judge"', "NA", "7", "<b>", "Zoë", "=1+1"])
def test_names_are_kept_as_they_are(judge, photos, tmp_path):
    path = tmp_path / "j.csv"
    answer_all(ChoicePanel(photos, judge, path), most=2)
    assert read_judgements(path)["judge"].tolist() == [judge.casefold()] * 2
    assert len(ChoicePanel(photos, judge, path).waiting) == 43


GOOD = "ann,natural,photo1,vague,detailed,detailed,False,1.5,abc"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (GOOD.rpartition(",")[0], "line 3 has 8 fields, not 9"),
        (GOOD + ",1", "line 3 has 10 fields, not 9"),
        ("", "line 3 has 0 fields, not 9"),
        (GOOD.replace("ann", ""), "line 3 has '' as judge"),
        (GOOD.replace("natural", "nice"), "line 3 has 'nice' as question"),
        (GOOD.replace("vague", "empty"), "line 3 has 'empty' as left"),
        (GOOD.replace("vague,detailed", "vague,vague"), "line 3 has 'vague' as right"),
        (GOOD.replace("detailed,False", "left,False"), "line 3 has 'left' as chosen"),
        (GOOD.replace("False", "1"), "line 3 has '1' as catch"),
        (GOOD.replace("False", "True"), "line 3 has 'vague' as left"),
        (GOOD.replace("1.5", "soon"), "line 3 has 'soon' as seconds"),
        (GOOD.replace("abc", ""), "line 3 has '' as pictures"),
        ('"' + GOOD, "can't be read as CSV"),
    ],
)
def test_a_damaged_file_is_named_with_its_line_and_never_overwritten(line, said, photos, tmp_path):
    path = tmp_path / "j.csv"
    content = f"{','.join(COLUMNS)}\n{GOOD}\n{line}\n"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"j.csv:? ({said}).*: correct it, or move the file elsewhere"):
        read_judgements(path)
    panel = ChoicePanel(photos, "ann", path)
    assert "correct it, or move the file elsewhere to start anew" in panel.message.value
    assert "\n" not in panel.message.value
    assert panel.choice.layout.display == "none"
    panel.buttons[0].click()
    assert path.read_text() == content


@pytest.mark.parametrize("content", [b"", b"judge;question\n", b"\xff\xfe\x00", b"\n"])
def test_a_file_of_another_kind_is_refused(content, tmp_path):
    (tmp_path / "j.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"j.csv(: the first line is not judge,question|.* can't be read as CSV)"):
        read_judgements(tmp_path / "j.csv")


def test_a_file_that_is_damaged_while_the_panel_is_open_is_left_and_the_pair_is_asked_again(photos, tmp_path):
    path = tmp_path / "j.csv"
    panel = ChoicePanel(photos, "ann", path)
    panel.buttons[0].click()
    good = path.read_text()
    path.write_text(good + "x\n")
    waiting = list(panel.waiting)
    panel.buttons[0].click()
    assert panel.message.value.startswith("Your answer was not kept: ")
    assert "line 3 has 1 fields" in panel.message.value
    assert path.read_text() == good + "x\n"
    path.write_text(good)
    panel.buttons[0].click()
    assert (panel.message.value, panel.waiting) == ("", waiting[1:])
    assert len(read_judgements(path)) == 2


# ---- the summary


def judged(judge, question, choices, catch=(1, 0)):
    """Rows of one judge: {photo: the name chosen}, and (right, wrong) catch trials."""
    rows = [(judge, question, photo, "vague", "detailed", name, False) for photo, name in choices.items()]
    right, wrong = CATCH[question]
    for number, name in enumerate([right] * catch[0] + [wrong] * catch[1]):
        rows.append((judge, question, f"caught{number}", right, wrong, name, True))
    return pd.DataFrame([(*row, 1.0, "abc") for row in rows], columns=COLUMNS)


def test_the_summary_by_hand():
    d, v = "detailed", "vague"
    table = pd.concat(
        [
            judged("ann", "natural", {"p1": d, "p2": d, "p3": v, "p4": d}),
            judged("bo", "natural", {"p1": d, "p2": v, "p3": v}),
            judged("ann", "fits", {"p1": d, "p2": d}),
        ]
    )
    natural, fits = summarize(table).itertuples()
    assert natural.question == "natural"
    assert (natural.judges, natural.photos, natural.trials) == (2, 4, 7)
    assert natural.share == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert natural.p == pytest.approx(binomtest(2, 3).pvalue) == pytest.approx(1.0)  # p2 is a tie
    assert np.isnan([natural.low, natural.high]).all()  # four photos
    assert (fits.question, fits.judges, fits.photos, fits.trials, fits.share) == ("fits", 1, 2, 2, 1)
    assert fits.p == pytest.approx(0.5)


def test_photos_weigh_alike_and_the_sign_test_counts_each_once():
    d, v = "detailed", "vague"
    wide = {f"p{n}": d for n in range(9)} | {"p9": v}
    table = pd.concat([judged(name, "fits", wide) for name in ("a", "b", "c", "d")])
    (row,) = summarize(table).itertuples()
    assert (row.judges, row.photos, row.trials, row.share) == (4, 10, 40, pytest.approx(0.9))
    assert row.p == pytest.approx(2 * (1 + 10) / 2**10)  # of 10 photos, not of 40 choices
    assert 0.6 <= row.low < 0.9 < row.high <= 1
    twice = pd.concat([table, table])
    assert summarize(twice).equals(summarize(table))  # an answer given in two windows counts once


def test_judges_who_miss_catch_trials_are_left_out_and_listed():
    table = pd.concat(
        [
            judged("good", "natural", {"p1": "detailed"}, (4, 1)),
            judged("bad", "natural", {"p1": "vague"}, (7, 2)),
            judged("new", "natural", {"p1": "vague"}, (0, 0)),
        ]
    )
    checks = judging.check_judges(table).set_index("judge")
    assert checks["right"].to_dict() == pytest.approx({"good": 0.8, "bad": 7 / 9, "new": np.nan}, nan_ok=True)
    assert checks["counts"].to_dict() == {"good": True, "bad": False, "new": False}
    assert checks["answers"].to_dict() == {"good": 6, "bad": 10, "new": 1}
    assert checks["catch_trials"].to_dict() == {"good": 5, "bad": 9, "new": 0}
    (row,) = summarize(table).itertuples()
    assert (row.judges, row.trials, row.share) == (1, 1, 1)
    assert judging.state_verdict(table) == (
        "The picture under the detailed prompt looks more natural in 100% of choices (p 1, 1 photos, 1 judge). "
        "Left out for too few catch trials answered right: bad, new."
    )
    bad = table[table["judge"] == "bad"]
    assert summarize(bad).empty
    assert judging.state_verdict(bad) == ("No judge counts yet. Left out for too few catch trials answered right: bad.")


def test_without_answers_nothing_is_claimed(tmp_path):
    none = read_judgements(tmp_path / "missing.csv")
    assert list(none.columns) == list(COLUMNS)
    assert summarize(none).empty
    assert judging.check_judges(none).empty
    assert "share" in summarize(none)
    assert judging.state_verdict(none) == "Nobody has judged yet: `make judge`."
    assert list(ROOT.glob("reports/**/judgements.csv")) == []  # none ships


def test_the_verdict_of_both_questions():
    choices = {f"p{n}": "detailed" if n < 15 else "vague" for n in range(20)}
    table = pd.concat([judged(name, question, choices) for name in ("a", "b") for question in QUESTIONS])
    said = judging.state_verdict(table)
    assert "looks more natural in 75% of choices (95 % interval " in said
    assert "and fits the sentence better in 75% of choices (95 % interval " in said
    assert said.count("p 0.041, 20 photos, 2 judges)") == 2


def test_the_interval_draws_photos_and_judges():
    rng = np.random.default_rng(0)
    alike = pd.DataFrame(np.repeat(rng.integers(0, 2, (60, 1)), 6, axis=1).astype(float))
    mean, low, high = crossed_interval(alike)
    error = 1.96 * np.sqrt(mean * (1 - mean) / 60)
    assert (low, high) == pytest.approx((mean - error, mean + error), abs=0.02)  # of photos alone
    apart = pd.DataFrame(np.repeat([[1, 1, 1, 0, 0, 0]], 60, axis=0).astype(float))
    mean, low, high = crossed_interval(apart)
    assert mean == 0.5
    assert low < 0.2  # 60 photos say nothing of other judges
    assert high > 0.8
    holes = apart.mask(rng.random(apart.shape) < 0.5)
    assert crossed_interval(holes)[0] == pytest.approx(holes.mean(axis=1).mean())
    assert np.isnan(crossed_interval(apart[:7])[1:]).all()
    assert np.isnan(crossed_interval(apart[[0, 1]])[1:]).all()  # all the same


def test_guessing_is_found_not_to_matter(photos, tmp_path):
    rng = np.random.default_rng(3)
    for judge in "abcdef":
        guess = lambda pair: choose_well(pair) if pair.catch else int(rng.integers(2))  # noqa: E731
        answer_all(ChoicePanel(photos, judge, tmp_path / "j.csv"), guess)
    table = summarize(read_judgements(tmp_path / "j.csv"))
    assert (table["low"] < 0.5).all()
    assert (table["high"] > 0.5).all()
    assert (table["p"] > 0.05).all()


# ---- pictures of a run


def test_the_pictures_of_a_run_are_those_of_seed_0_after_the_merge(pipeline, triples, own_run, monkeypatch):
    config, rows = own_run, dataset.pick_across_categories(triples["test"], 3)
    with pytest.raises(ValueError, match="no colorized photos in .*: run notebook 04_colorize_photos first"):
        judging.load_photos(config, 0)
    prompts = {level: prompts_under(level, rows) for level in ("vague", "detailed", "recolored")}
    plan = colorize.plan_pictures(rows.select_columns(["image_id", "category"]).to_pandas(), prompts, 2)
    table = colorize.colorize_rows(pipeline, rows, {"images": plan}, config)["images"]
    monkeypatch.setattr(judging, "load_dataset_dict", lambda _: triples)
    photos = judging.load_photos(config, 0)
    assert list(photos) == list(rows["image_id"])
    for row in rows:
        photo = photos[row["image_id"]]
        assert photo["sentence"] == row["detailed_caption"]
        assert photo["true"].tobytes() == row["image"].convert("RGB").tobytes()
        for level in prompts:
            (name,) = table.query("image_id == @row['image_id'] and prompt_level == @level and seed == 0")["after"]
            written = Image.open(config.run_dir / name)
            assert photo[level].tobytes() == written.convert("RGB").tobytes()
    assert list(judging.load_photos(config, 2)) == list(rows["image_id"])[:2]
    plan = plan[plan["prompt_level"] != "recolored"]
    colorize.colorize_rows(pipeline, rows, {"images": plan}, config)
    with pytest.raises(ValueError, match="no picture under recolored, for catch trials: add it to prompt_levels"):
        judging.load_photos(config, 0)


def test_the_notebook_opens_with_its_question_and_tells_no_hypothesis():
    notebook = nbformat.read(ROOT / "notebooks/judge.ipynb", 4)
    first, *_ = notebook.cells
    assert first.source.startswith("# Judge the pictures\n\n> ")
    assert not any(word in first.source for word in ("detailed", "vague", "prompt"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code)
    assert "make judge" in (ROOT / "notebooks/README.md").read_text()
