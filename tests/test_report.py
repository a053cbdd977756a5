"""The answer in words says what the intervals allow, and no more."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from jinja2 import UndefinedError

from lib import ROOT, gains, report, stats
from lib.metrics import COLUMNS, METRICS
from lib.profiles import get_profile
from lib.stats import METRIC, QUESTIONS


def effects(low, high, p_holm=0.01, p_equal=0.5):
    """Effects of two contrasts: CIEDE2000 as given, PSNR with an interval across zero."""
    rows = []
    for second in ("vague", "gray"):
        for metric, a, b in (("psnr", -1.0, 1.0), ("ciede2000", low, high)):
            family = QUESTIONS["detailed", second].family
            tested = dict(p_holm=p_holm, p_equal=p_equal) if metric == METRIC else dict(p_holm=np.nan, p_equal=np.nan)
            values = dict(n=9, mean=(a + b) / 2, low=a, high=b, median=-0.5, improved=0.5, p_more=0.2, **tested)
            values |= dict(photos_needed=37, photos_needed_low=18, photos_needed_high=126, power_of_five=0.13)
            rows.append(dict(family=family, first="detailed", second=second, metric=metric, **values))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("given", "start", "word", "stands"),
    [
        ((-2, -1), "**Yes, for this model and these photos.** Detailed prompts change CIEDE2000 by **-1.50**", "better", "yes"),
        ((1, 2), "**No, the reverse, for", "worse", "no, the reverse"),
        ((-1, 2, 0.6), "**It can't be told, for", "not told apart", "not shown"),
        ((-0.5, 0.4, 0.6, 0.01), "**No, for", "the same within 1", "not shown"),
    ],
)  # fmt: skip
def test_answer_and_claims_follow_the_rule(given, start, word, stands, tmp_path):
    text = answer_of(effects(*given), tmp_path)
    assert text.startswith(start)
    assert "The median photo changes by -0.50, and 50% of 9 photos get better." in text
    assert ("the declared margin, is not shown (one-sided p 0.2)." in text) == (word in ("better", "worse"))
    assert f"the detailed prompt changes the error by {(given[0] + given[1]) / 2:+.2f}" in text
    assert f"], {word}. How it was tested:" in text
    names = [("controlnet", "vague"), ("controlnet", "detailed"), ("gray", "")]
    summary = pd.DataFrame([(*name, merged) for name, merged in product(names, (False, True))], columns=KEYS)
    summary = summary.assign(psnr=21.0, ssim=0.9, ciede2000=8.5)
    claims = report.claims(summary, effects(*given)).set_index("the study")["stands"]
    assert claims["detailed prompts colorize better, in CIEDE2000"] == stands
    assert claims["detailed prompts colorize better, in PSNR"] == "not tested; the interval has zero"
    assert claims["vague: PSNR 15 to 20 dB"] == "no"
    assert claims["detailed: CIEDE2000 about 8 (within 1)"] == "yes, but gray meets it too"


def test_the_answer_of_the_notebook_is_that_of_the_report(tmp_path):
    found = effects(-2, -1)
    assert answer_of(found, tmp_path).startswith(" ".join(report.answer(found).split()))


def test_no_answer_without_an_interval(tmp_path):
    text = answer_of(effects(np.nan, np.nan, np.nan), tmp_path)
    assert text.startswith("**Too few photos to tell**, or no difference between them. Why, and where?")


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
                prompt = f"a red cup{'' if level == 'detailed' else ', ' + level}" if k else f"a cup {level[:0]}"
                facts = dict(
                    image_id=f"p{k}",
                    subject=f"s{k}",
                    category="ab"[k % 2],
                    system=system,
                    prompt_level=level,
                    merged=merged,
                )
                rows.append({**facts, "prompt": prompt, "seed": seed, **values})
    return pd.DataFrame(rows)[list(COLUMNS)]


def report_of(profile, levels, **others):
    """The written report, on one line, of a run on photos that were measured under some levels; `others`: tables."""
    metrics = measured(levels)
    known = [pair for pair in QUESTIONS if set(pair) <= {"gray", *levels}]
    tables = {"effects": stats.contrasts(metrics, known), "summary": stats.summary(metrics)}
    tables["before_merge"] = tables["effects"]
    tables["binding"] = []
    rows = {"image_id": sorted(set(metrics["image_id"]))}
    photos = [{"image_id": name, "image": np.full((4, 4, 3), 0.5)} for name in rows["image_id"]]
    gained = gains.gains_by_photo(metrics, photos).assign(true_chroma=range(9), hues=[0, 1, 2] * 3)
    tables |= {"gain_fit": gains.fit_gains(gained), "gains_thirds": gains.gains_by_third(gained)}
    tables |= {"tint": gains.tint_shares(metrics, [("detailed", "vague")]), "writers": gains.effect_of_writers(metrics)}
    tables["dose"] = gains.dose_table(others.get("effects", tables["effects"]))
    report.write_report(profile, metrics, tables | others, Dataset.from_dict(rows))
    return " ".join((profile.folders.reports_dir / "report.md").read_text().split())


def answer_of(table, folder):
    """What a report with these effects says under "Answer"."""
    text = report_of(get_profile("pocket", reports=str(folder)), ("vague", "detailed"), effects=table)
    return text.partition("## Answer ")[2].partition(" ## ")[0]


def test_the_pocket_report_says_who_wrote_its_captions(tmp_path):
    profile = get_profile("pocket", reports=str(tmp_path))
    text = report_of(profile, LEVELS)
    lines = (profile.folders.reports_dir / "report.md").read_text().splitlines()
    columns = [line.count("|") - 1 for line in lines if line.startswith("|---")]
    assert len(columns) > 5
    assert max(columns) == report.MAX_COLUMNS
    assert (
        "`detailed` was written by somebody who saw the colour photo (for the pocket photos, a language model). `gray_caption`"
        in text
    )
    assert "though their writers may have known a famous place" in text
    assert "trained at 128 px on the training split of `data_cards/pocket_photos`" in text
    assert "a size that they were not trained on" not in text
    assert "under 6 kinds of prompt, with the same noise for each, 2 seeds for 3 photos and 1 for the others (" in text
    assert "COCO" not in text
    assert "auto_caption" not in text
    assert "defined in `notebooks/05_evaluate.ipynb`" in text


def test_the_l4_report_says_what_the_captioner_wrote_and_what_people_did(tmp_path):
    profile = get_profile("l4", run="study_1", reports=str(tmp_path), mixed_precision="no")
    text = report_of(profile, (*LEVELS, "auto_caption"))
    assert (
        "`detailed` is one of COCO's captions, which people wrote who saw the colours" in text
    )  # tested on COCO's photos
    blip = "Salesforce/blip-image-captioning-base"
    assert f"`gray_caption` was written by a captioning network, {blip}, that was shown only the gray photo" in text
    assert f"`auto_caption` was written by {blip}, which was shown the colour photo" in text
    assert "(1 of 9 have none and stay as they are)" in text
    assert "the captioner may have learned from captions of these very photos" in text
    assert "somebody who saw only the gray photo" not in text
    assert "famous place" not in text
    assert "trained at 128 px on the training split of `data_cards/pocket_photos`" in text
    assert "here they see photos of 512 px, a size that they were not trained on" in text
    assert "2 seeds for 3 photos and 1 for the others" in text
    assert "guidance: 7.5 on the first 50% of the steps" in text


def test_the_first_cell_of_every_notebook_refuses_bf16_without_cuda(monkeypatch):
    cells = [path.read_text() for path in ROOT.glob("notebooks/0*.ipynb")]
    assert len(cells) == 6
    assert all(text.count("report.provenance(profile)") == 1 for text in cells)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="bf16 needs a CUDA GPU"):
        report.provenance(get_profile("l4"))
    assert report.provenance(get_profile("l4", mixed_precision="no"))["profile"] == "l4"


def test_levels_that_were_not_asked_are_not_explained(tmp_path):
    text = report_of(get_profile("l4", reports=str(tmp_path), mixed_precision="no"), ("vague", "detailed"))
    assert "gray_caption" not in text
    assert "wrong_color" not in text
    assert "gray captions" not in text


WRITERS = {  # by source: who wrote the captions
    "folder": "`detailed` was written by somebody who saw the colour photo",
    "coco": "`detailed` is one of COCO's captions, which people wrote who saw the colours",
    "flowers": "`detailed` names the kind of flower and no colour.",
}


@pytest.mark.parametrize("source", ["folder", "coco", "flowers"])
def test_every_source_of_photos_has_its_words(source, tmp_path):
    text = report_of(get_profile("pocket", source=source, reports=str(tmp_path)), ("vague", "detailed", "object"))
    assert [name for name, words in WRITERS.items() if words in text] == [source]
    assert text.count("`object` is the ") + text.count("`object` names things") == 1


def test_a_value_that_a_template_lacks_is_an_error():
    values = {"profile": "pocket", "splits": {"train": 3}, "source": "folder", "resolution": 64, "policy": "mix"}
    with pytest.raises(UndefinedError, match="'shared_subjects' is undefined"):
        report.render("dataset_card", **values, notes="")
    assert "| train | 3 |" in report.render("dataset_card", **values, notes="", shared_subjects=False)
