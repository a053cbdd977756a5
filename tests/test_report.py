"""The report and its answer say what the intervals allow, and no more."""

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

from lib import ROOT, report, stats
from lib.config import get_config
from lib.metrics import COLUMNS, METRICS
from lib.stats import METRIC, QUESTIONS


def effects(low, high, p_holm=0.01, p_equal=0.5):
    """Effects of two contrasts: CIEDE2000 as given, PSNR with an interval across zero."""
    rows = []
    for second in ("vague", "gray"):
        for metric, a, b in (("psnr", -1.0, 1.0), ("ciede2000", low, high)):
            tested = dict(p_holm=p_holm, p_equal=p_equal) if metric == METRIC else dict(p_holm=np.nan, p_equal=np.nan)
            values = dict(n=9, mean=(a + b) / 2, low=a, high=b, median=-0.5, improved=0.5, **tested)
            rows.append(dict(first="detailed", second=second, metric=metric, **values))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("given", "start", "word"),
    [
        (
            (-2, -1),
            "**Yes, for this model and these photos.** Detailed prompts change CIEDE2000 by **-1.50**",
            "better",
        ),
        ((1, 2), "**No, the reverse, for", "worse"),
        ((-1, 2, 0.6), "**It can't be told, for", "inconclusive"),
        ((-0.5, 0.4, 0.6, 0.01), "**No, for", "equivalent"),
    ],
)
def test_the_answer_follows_the_rule(given, start, word):
    text = report.answer(effects(*given))
    assert text.startswith(start)
    assert f"n = 9; lower is better). Verdict: {word}." in text
    assert "The error of 50% of the photos falls; the median photo changes by -0.50." in text
    assert list(report.main_effects(effects(*given))["verdict"]) == [word] * 2


def test_no_answer_without_an_interval():
    few = "**Too few photos to tell**, or no difference between them."
    assert report.answer(effects(np.nan, np.nan, np.nan)) == report.answer(effects(-2, -1)[:0]) == few


def test_tables_show_a_missing_number_as_a_dash():
    table = pd.DataFrame([{"system": "gray", "hue_error": np.nan, "psnr": 22.636}])
    assert report.markdown_table(table).splitlines()[-1] == "| gray | - | 22.64 |"


def test_tables_in_notebooks_fit_a_page_and_lead_to_the_rest(tmp_path, monkeypatch):
    table = pd.DataFrame(np.zeros((2, 9)), columns=list("abcdefghi"))
    with pytest.raises(ValueError, match="9 columns do not fit on a page: name at most 8"):
        report.show(table)
    monkeypatch.chdir(tmp_path)
    path = report.save_table(table, get_config("pocket", reports=str(tmp_path / "my reports")), "all")
    assert pd.read_csv(path).equals(table)
    text = report.show(table, *"abc", csv=path).data
    assert text.splitlines()[0] == "| a | b | c |"
    assert text.splitlines()[-1] == "All columns: [all.csv](my%20reports/pocket/all.csv)"


def test_facts_that_are_empty_are_not_shown():
    assert report.show_facts({"rate": 2e-5, "other": "", "seed": 0}).data == "rate **2e-05**, seed **0**"


def measured(conditions, photos=9):
    """Metrics of a run on some photos, two seeds each, and of the photos left gray."""
    rng, rows = np.random.default_rng(0), []
    systems = [("controlnet", condition, seed) for condition in conditions for seed in range(2)] + [("gray", "", 0)]
    for k in range(photos):
        for system, condition, seed in systems:
            values = dict.fromkeys(METRICS, 1.0) | {"ciede2000": rng.uniform(5, 9), "true_chroma": 1.0 * k}
            names = {"image_id": f"p{k}", "subject": f"s{k}", "category": "ab"[k % 2], "system": system, "seed": seed}
            rows.append({**names, "prompt_level": condition, "prompt": condition, "merged": True, **values})
    return pd.DataFrame(rows)[list(COLUMNS)]


def report_of(config, conditions):
    """The lines of the written report of a run on photos under these conditions."""
    metrics = measured(conditions)
    pairs = [pair for pair in QUESTIONS if set(pair) <= {"gray", *conditions}]
    tables = {"effects": stats.contrasts(metrics, pairs), "writers": stats.effect_of_writers(metrics), "binding": []}
    report.write_report(config, metrics, tables)
    return (config.reports_dir / "report.md").read_text().splitlines()


def test_the_report_is_one_page_with_at_most_four_charts(tmp_path):
    config = get_config("pocket", reports=str(tmp_path))
    lines = report_of(config, ("empty", "vague", "object", "detailed", "gray_caption", "recolored", "writer_2"))
    assert len(lines) <= 70
    assert sum(line.startswith("![") for line in lines) == 3  # and the binding chart, if objects have masks
    rows = [line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ")]
    assert rows == ["contrast", *(" - ".join(pair) for pair in report.MAIN_CONTRASTS)]
    assert any(line.startswith("Captions by 2 writers against the vague prompt") for line in lines)
    assert any(line.startswith("9 test photos of 9 subjects, 128 px, 2 seeds at most,") for line in lines)
    assert not any("nan" in line.split() for line in lines)


def test_conditions_that_were_not_measured_are_not_told(tmp_path):
    config = get_config("l4", reports=str(tmp_path), mixed_precision="no")
    text = "\n".join(report_of(config, ("vague", "detailed")))
    assert "gray_caption" not in text
    assert "detailed - object" not in text
    assert "writers against" not in text
    assert "512 px" in text
    assert "[sets.csv](sets.csv)" in text


def test_the_first_cell_of_every_notebook_refuses_bf16_without_cuda(monkeypatch):
    cells = [path.read_text() for path in ROOT.glob("notebooks/0*.ipynb")]
    assert len(cells) == 6
    assert all(text.count("report.provenance(config)") == 1 for text in cells)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="bf16 needs a CUDA GPU"):
        report.provenance(get_config("l4"))
    assert report.provenance(get_config("l4", mixed_precision="no"))["profile"] == "l4"


def test_a_value_that_a_template_lacks_is_an_error():
    values = {"profile": "pocket", "splits": {"train": 3}, "source": "folder", "resolution": 64, "policy": "mix"}
    with pytest.raises(UndefinedError, match="'shared_subjects' is undefined"):
        report.render("dataset_card", **values, notes="")
    assert "| train | 3 |" in report.render("dataset_card", **values, notes="", shared_subjects=False)
