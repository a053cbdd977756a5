"""The answer in words says what the intervals allow, and no more."""

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from jinja2 import UndefinedError

from lib import ROOT, report, stats
from lib.compare_runs import CONTRASTS_OF_RUNS, EFFECTS_OF_CHANGES, FACTORS
from lib.metrics import COLUMNS, METRICS
from lib.profiles import get_profile
from lib.stats import CONTRASTS, HIGHER_IS_BETTER


def effects(low, high):
    """Effects of both contrasts: CIEDE2000 as given, PSNR with an interval across zero."""
    rows = []
    for second in ("vague", "gray"):
        for metric, a, b in (("psnr", -1.0, 1.0), ("ciede2000", low, high)):
            ends = dict(mean=(a + b) / 2, low=a, high=b, p_holm=0.01)
            rows.append(dict(first="detailed", second=second, metric=metric, n=9, improved=0.5, **ends))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("low", "high", "word", "stands"),
    [(-2, -1, "better", "yes"), (1, 2, "worse", "no, the reverse"), (-1, 2, "not told apart", "not shown")],
)
def test_answer_and_claims_follow_the_interval(low, high, word, stands, tmp_path):
    text = answer_of(effects(low, high), tmp_path)
    assert text.startswith("Detailed against vague, in 9 photos: **not told apart** in PSNR (+0.000, 95 % interval")
    assert "50% of the photos improved in CIEDE2000. Detailed against the same photo left gray: **" in text
    assert text.count(f"**{word}** in CIEDE2000") == 2
    assert text.count("**not told apart** in PSNR") == 2
    names = [("controlnet", "vague"), ("controlnet", "detailed"), ("gray", "")]
    summary = pd.DataFrame([(*name, merged) for name, merged in product(names, (False, True))], columns=KEYS)
    summary = summary.assign(psnr=21.0, ssim=0.9, ciede2000=8.5)
    claims = report.claims(summary, effects(low, high)).set_index("the study")["stands"]
    assert claims["detailed prompts colorize better, in CIEDE2000"] == stands
    assert claims["detailed prompts colorize better, in PSNR"] == "not shown"
    assert claims["vague: PSNR 15 to 20 dB"] == "no"
    assert claims["detailed: CIEDE2000 about 8 (within 1)"] == "yes, but so does gray"


def test_the_answer_of_the_notebook_is_that_of_the_report(tmp_path):
    found = effects(-2, -1)
    assert " ".join(report.answer(found).split()) == answer_of(found, tmp_path)


def test_goals_say_what_was_wanted_and_found():
    names = [("autoencoder", "", True), ("controlnet", "detailed", True)]
    summary = pd.DataFrame(names, columns=KEYS).assign(ciede2000=[3.5, 9.0], chroma_ratio=[0.9, 0.8])
    wrong = effects(1, 2).query("second == 'vague'").assign(first="wrong_color")
    steering = pd.DataFrame({"image_id": list("abc"), "word": "red", "named": "red", "allowed": True, "reached": True})
    table = report.goals(summary, pd.concat([effects(-2, -1), wrong]), steering).set_index("goal")
    assert table.loc["autoencoder, CIEDE2000"].tolist() == ["at most 3.0", "no", "3.50"]
    assert table.loc["detailed - vague, ciede2000", ["reached", "found"]].tolist() == ["yes", "-1.50 [-2.00, -1.00]"]
    assert table.loc["detailed - vague, psnr", "reached"] == "no"
    assert table.loc["wrong_color - vague, ciede2000", "found"] == "+1.50 [+1.00, +2.00]"
    assert table.loc["things that took the named colour", ["reached", "found"]].tolist() == ["yes", "1.00"]


def test_notebook_06_says_of_pocket_what_its_effects_allow():
    """The bullets below "What we learned", which are about the shipped model."""
    effects = pd.read_csv(ROOT / "reports/pocket/effects.csv").itertuples()
    found = {(row.first, row.second, row.metric): report.word_for(row) for row in effects}
    assert {found["detailed", "vague", metric] for metric in HIGHER_IS_BETTER} == {"better"}
    assert {found["wrong_color", "vague", metric] for metric in HIGHER_IS_BETTER} == {"worse"}
    assert {found["gray_caption", "vague", metric] for metric in HIGHER_IS_BETTER} == {"not told apart"}
    assert found["detailed", "gray", "psnr"] == "better"
    assert found["detailed", "gray", "ciede2000"] == "not told apart"


def test_what_more_seeds_would_give():
    rng, rows = np.random.default_rng(0), []
    for k, seed, level in product(range(12), range(3), ("vague", "detailed")):
        if k < 6 or seed == 0:
            error = 10 - (level == "detailed") * (k + 6 * rng.normal())
            rows.append(("controlnet", True, f"p{k}", level, seed, error))
    rows = pd.DataFrame(rows, columns=["system", "merged", "image_id", "prompt_level", "seed", "ciede2000"])
    luck = report.seed_share(rows, 12)
    assert 0.5 < luck["share"] < 1  # the noise has a variance of 36, the photos' own differences one of 3
    assert luck["seeds"] == 3
    assert 0.6 < luck["width"] < 1
    assert report.seed_share(rows.query("seed == 0"), 12) == {}
    assert report.seed_share(rows[:36], 6)["width"] is None


def test_an_interval_alone_does_not_make_an_effect(tmp_path):
    text = answer_of(effects(-2, -1).assign(p_holm=0.2), tmp_path)
    assert "better" not in text
    assert "-1.000, but p after correction is 0.2)" in text


def test_no_answer_without_an_interval(tmp_path):
    text = answer_of(effects(np.nan, np.nan), tmp_path)
    assert text == "**Too few photos to tell**: 9, or no difference between them."


def test_tables_show_a_missing_number_as_a_dash():
    table = pd.DataFrame([{"system": "gray", "hue_error": np.nan, "psnr": 22.636}])
    assert report.markdown_table(table).splitlines()[-1] == "| gray | - | 22.64 |"


def test_tables_in_notebooks_fit_a_page_and_lead_to_the_rest(tmp_path, monkeypatch):
    table = pd.DataFrame(np.zeros((2, 9)), columns=list("abcdefghi"))
    with pytest.raises(ValueError, match="9 columns do not fit on a page: name at most 8"):
        report.show(table)
    monkeypatch.chdir(tmp_path)
    path = report.save_table(table, get_profile("pocket", reports=str(tmp_path / "my reports")), "all")
    assert pd.read_csv(path).equals(table)
    text = report.show(table, *"abc", csv=path).data
    assert text.splitlines()[0] == "| a | b | c |"
    assert text.splitlines()[-1] == "All columns: [all.csv](my%20reports/pocket/all.csv)"


def test_facts_that_are_empty_are_not_shown():
    assert report.show_facts({"rate": 2e-5, "other": "", "seed": 0}).data == "rate **2e-05**, seed **0**"


LEVELS = ("empty", "vague", "gray_caption", "object", "detailed", "wrong_color")
KEYS = ["system", "prompt_level", "merged"]


def measured(levels, photos=9):
    """Metrics of a run on some photos: two seeds for three of them and one for the others."""
    rng, rows = np.random.default_rng(0), []
    systems = [("controlnet", level, merged) for level in levels for merged in (False, True)]
    systems += [("seed_mean", level, True) for level in levels] + [(name, "", True) for name in ("gray", "gan")]
    for k in range(photos):
        for system, level, merged in systems:
            for seed in range(2 if system == "controlnet" and k < 3 else 1):
                values = dict.fromkeys(METRICS, 1.0) | {"ciede2000": rng.uniform(5, 9), "psnr": rng.uniform(20, 25)}
                prompt = "a red cup" if k else "a cup"
                facts = dict(image_id=f"p{k}", category="ab"[k % 2], system=system, prompt_level=level, merged=merged)
                rows.append({**facts, "prompt": prompt, "seed": seed, **values})
    return pd.DataFrame(rows)[list(COLUMNS)]


def report_of(profile, levels, **others):
    """The written report, on one line, of a run on photos that were measured under some levels; `others`: tables."""
    metrics = measured(levels)
    known = [pair for pair in CONTRASTS if set(pair) <= {"gray", *levels}]
    tables = {"effects": stats.contrasts(metrics, known), "summary": stats.summary(metrics)}
    tables["before_merge"] = tables["effects"]
    tables["seeds"] = stats.seed_gain(metrics)
    tables |= {"steering": [], "binding": [], "variance": pd.DataFrame({"part": ["photo"], "share": [1.0]})}
    rows = {"image_id": sorted(set(metrics["image_id"]))}
    report.write_report(profile, metrics, tables | others, Dataset.from_dict(rows))
    return " ".join((profile.folders.reports_dir / "report.md").read_text().split())


def answer_of(table, folder):
    """What a report with these effects says under "Answer"."""
    text = report_of(get_profile("pocket", reports=str(folder)), ("vague", "detailed"), effects=table)
    return text.partition("## Answer ")[2].partition(" ## Method")[0]


def test_the_pocket_report_says_who_wrote_its_captions(tmp_path):
    profile = get_profile("pocket", reports=str(tmp_path))
    text = report_of(profile, LEVELS)
    lines = (profile.folders.reports_dir / "report.md").read_text().splitlines()
    columns = [line.count("|") - 1 for line in lines if line.startswith("|---")]
    assert len(columns) > 5
    assert max(columns) == report.MAX_COLUMNS
    assert (
        "`detailed` was written by people who saw the colours. `gray_caption` was written by people who saw only"
        in text
    )
    assert "though their writers may have known a famous place" in text
    assert "**What does the writer gain by seeing the colours?**" in text
    assert "trained at 128 px on the training split of `data_cards/pocket_photos`" in text
    assert "a size that they were not trained on" not in text
    assert "under 6 kinds of prompt, with the same noise for each, 2 seeds for 3 photos and 1 for the others (" in text
    assert re.search(r"In detailed - vague the seed has \d+% of the variance of a single sample", text)
    assert re.search(r"\(CIEDE2000\): 2 seeds for all 9 photos would make its interval \d\.\d\d times as wide\.", text)
    assert "COCO" not in text
    assert "auto_caption" not in text
    assert "defined in `notebooks/05_evaluate.ipynb`" in text


def test_the_l4_report_says_what_the_captioner_wrote_and_what_people_did(tmp_path):
    profile = get_profile("l4", run="study_1", reports=str(tmp_path))
    text = report_of(profile, (*LEVELS, "auto_caption"))
    assert (
        "`detailed` is one of COCO's captions, which people wrote who saw the colours" in text
    )  # tested on COCO's photos
    blip = "Salesforce/blip-image-captioning-base"
    assert f"`gray_caption` was written by a captioning network, {blip}, that was shown only the gray photo" in text
    assert f"`auto_caption` was written by {blip}, which was shown the colour photo" in text
    assert "(1 of 9 have none and stay as they are)" in text
    assert "the captioner may have learned from captions of these very photos" in text
    assert "people who saw only the gray photo" not in text
    assert "What does the writer gain" not in text
    assert "famous place" not in text
    assert "trained at 128 px on the training split of `data_cards/pocket_photos`" in text
    assert "here they see photos of 512 px, a size that they were not trained on" in text
    assert "2 seeds for 3 photos and 1 for the others" in text
    assert "guidance: 7.5 on the first 50% of the steps" in text


def test_levels_that_were_not_asked_are_not_explained(tmp_path):
    text = report_of(get_profile("l4", reports=str(tmp_path)), ("vague", "detailed"))
    assert "gray_caption" not in text
    assert "wrong_color" not in text
    assert "gray captions" not in text


WRITERS = {  # by source: who wrote the captions
    "folder": "`detailed` was written by people who saw the colours.",
    "coco": "`detailed` is one of COCO's captions, which people wrote who saw the colours",
    "flowers": "`detailed` names the kind of flower and no colour.",
}


@pytest.mark.parametrize("source", ["folder", "coco", "flowers"])
def test_every_source_of_photos_has_its_words(source, tmp_path):
    text = report_of(get_profile("pocket", source=source, reports=str(tmp_path)), ("vague", "detailed", "object"))
    assert [name for name, words in WRITERS.items() if words in text] == [source]
    assert text.count("`object` is the ") + text.count("`object` names things") == 1


def test_the_page_of_runs_says_what_the_intervals_allow(tmp_path):
    row = dict.fromkeys(FACTORS, "a") | {"seeds": 1, "photos_measured": 9, "things_measured": 4}
    row |= {"vague": 11.0, "detailed": 10.0, "gray": 12.0, "chroma_ratio": 0.5, "obeyed": 0.25}
    table = pd.DataFrame([row | {"run": run} for run in ("one", "two")])
    contrasts = []
    for run, (pair, mean) in product(("one", "two"), zip(CONTRASTS_OF_RUNS, (-1.0, -1.0, -2.0), strict=True)):
        contrasts.append((run, *pair, 9, mean, mean - 1.5, mean + 1.5))
    contrasts = pd.DataFrame(contrasts, columns=["run", "first", "second", "n", "mean", "low", "high"])
    ends = zip(EFFECTS_OF_CHANGES, (-2.0, 0.0, 2.0), strict=True)
    effects = pd.DataFrame([(*pair, mean, mean - 1, mean + 1) for pair, mean in ends])
    effects.columns = ["first", "second", "mean", "low", "high"]
    facts = dict(changed="learning rate", first_run="two", second_run="one", metric="ciede2000", p_holm=0.01)
    profile = get_profile("pocket", reports=str(tmp_path))
    report.write_runs(profile, table, contrasts, effects.assign(**facts))
    text = (profile.folders.reports_home / "runs.md").read_text()
    assert (
        "\n\n- learning rate (two - one): vague -2.00 [-3.00, -1.00] **better**; detailed +0.00 [-1.00, +1.00] "
        "**not told apart**; detailed - vague +2.00 [+1.00, +3.00] **smaller gain**\n\n" in text
    )
    assert "- Under the vague prompt 0 of 2 runs are clearly better than gray and 0 clearly worse.\n" in text
    assert "- Under the detailed prompt 2 of 2 runs are clearly better than gray and 0 clearly worse.\n" in text
    assert "allows it (4 things that all runs coloured)\n\nRows: `runs.csv`" in text
    assert (
        "| one | 1 | 11.0 | 10.0 | -1.00 [-2.50, +0.50] | -1.00 [-2.50, +0.50] | -2.00 [-3.50, -0.50] | 0.50 | 25% |"
        in text
    )
    assert "(left gray: 12.00)" in text


def test_a_value_that_a_template_lacks_is_an_error():
    values = {"profile": "pocket", "splits": {"train": 3}, "source": "folder", "resolution": 64, "policy": "mix"}
    with pytest.raises(UndefinedError, match="'shared_subjects' is undefined"):
        report.render("dataset_card", **values, notes="")
    assert "| train | 3 |" in report.render("dataset_card", **values, notes="", shared_subjects=False)
