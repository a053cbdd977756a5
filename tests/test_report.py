"""The report, its answer and the table of runs say what the intervals allow, and no more."""

import numpy as np
import pandas as pd
import pytest

from lib import ROOT, report, stats
from lib.config import get_config, save_config
from lib.metrics import COLUMNS, METRICS
from lib.stats import METRIC


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
    ("given", "short", "word"),
    [
        ((-2, -1), "yes", "better"),
        ((1, 2), "no, the reverse", "worse"),
        ((-1, 2, 0.6), "it can't be told", "inconclusive"),
        ((-0.5, 0.4, 0.6, 0.01), "no", "equivalent"),
    ],
)
def test_the_answer_follows_the_rule(given, short, word):
    rows = report.in_words(effects(*given), report.MAIN_CONTRASTS)
    assert list(rows["verdict"]) == [word] * 2
    text = report.render("answer", effects=rows)
    for part in (f"9 development photos: {short}. ", f"**{sum(given[:2]) / 2:+.2f}** against", f"Verdict: {word}."):
        assert part in text
    few = report.in_words(effects(np.nan, np.nan, np.nan))
    assert "Too few photos" in report.render("answer", effects=few)


def test_tables_in_notebooks_lead_to_the_rest(tmp_path, monkeypatch):
    table = pd.DataFrame(np.zeros((2, 9)), columns=list("abcdefghi")).assign(a=[0, np.nan])
    monkeypatch.chdir(tmp_path)
    path = report.save_table(table, get_config("pocket", reports=str(tmp_path / "my reports")), "all")
    assert pd.read_csv(path).equals(table)
    text = report.show(table, *"abc", csv=path).data
    assert text.splitlines()[0].split() == ["|", "a", "|", "b", "|", "c", "|"]
    assert text.splitlines()[3].split() == ["|", "-", "|", "0.0", "|", "0.0", "|"]  # a missing number is a dash
    assert text.splitlines()[-1] == "All columns: [all.csv](my%20reports/pocket/all.csv)"


def measured(conditions, photos=9):
    """Metrics of a run on some photos, two seeds each, and of the photos left gray."""
    rng, rows = np.random.default_rng(0), []
    systems = [("controlnet", condition, seed) for condition in conditions for seed in range(2)] + [("gray", "", 0)]
    for k in range(photos):
        for system, condition, seed in systems:
            values = dict.fromkeys(METRICS, 1.0) | {"ciede2000": rng.uniform(5, 9), "true_chroma": 1.0 * k}
            names = {"image_id": f"p{k}", "subject": f"s{k}", "category": "ab"[k % 2], "system": system, "seed": seed}
            rows.append({**names, "prompt_condition": condition, "prompt": condition, "restored": True, **values})
    return pd.DataFrame(rows)[list(COLUMNS)]


def report_of(config, conditions):
    """The lines of the written report of a run on photos under these conditions."""
    metrics = measured(conditions)
    report.write_report(config, metrics, stats.contrasts(metrics))
    return (config.reports_dir / "report.md").read_text().splitlines()


def test_the_report_is_one_page_with_the_findings_of_a_person(tmp_path):
    config = get_config("pocket", reports=str(tmp_path))
    conditions = ("empty", "vague", "object", "detailed", "gray_caption", "recolored", "writer_2")
    lines = report_of(config, conditions)
    assert len(lines) <= 62
    unseen = pd.read_csv(ROOT / "reports/confirmatory/effects.csv").iloc[0]
    start = next(line for line in lines[lines.index("## Answer") + 1 :] if line)
    numbers = f"{unseen['mean']:+.2f} [{unseen['low']:+.2f}, {unseen['high']:+.2f}]"
    for part in ("**No, on", f"{unseen['n']} photos", numbers, unseen["verdict"], "](../confirmatory/report.md)"):
        assert part in start
    assert sum(line.startswith("![") for line in lines) == 3
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows == ["contrast", *(" - ".join(pair) for pair in report.MAIN_CONTRASTS)]
    assert any(line.startswith("9 development photos of 9 subjects, 128 px,") for line in lines)
    assert any("**100%** have no hue or one more than 60° off under the vague prompt" in line for line in lines)
    assert not any("nan" in line.split() for line in lines)
    (config.reports_dir / "findings.md").write_text("1. Grass is green.\n")
    (config.reports_dir / "binding.csv").write_text("")
    lines = report_of(config, conditions)
    assert "1. Grass is green." in lines
    assert sum(line.startswith("![") for line in lines) == 4
    assert any("[binding.csv](binding.csv)" in line for line in lines)


def test_a_notebook_begins_only_where_it_can_run(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="bf16 needs a CUDA GPU"):
        report.begin("l4", "", {})
    config = report.begin("l4", "", {"mixed_precision": "no"}, sampling_is_chosen=False)
    assert config.profile == "l4"
    with pytest.raises(ValueError, match="run notebook 04_colorize_photos first"):
        report.begin("l4", "never", {"mixed_precision": "no"})


def test_each_run_writes_its_own_row_and_keeps_the_others(tmp_path):
    def update(run, gain, gray=12.0):
        config = get_config("pocket", run=run, build=str(tmp_path), reports=str(tmp_path), learning_rate=1e-5)
        save_config(config, config.run_dir)
        measures = {"n": 10, "gray": gray, "vague": 9.0, "detailed": 9.0 - gain, "detailed - vague": -gain}
        return report.update_runs(config, measures)

    for run in ("mine", "study_3", "1", "study_1"):
        table = update(run, 1.0)
    assert list(table["run"]) == ["study_1", "study_3", "1", "mine"]
    again = update("study_3", 2.0)
    assert list(again["run"]) == list(table["run"])
    assert list(again["detailed - vague"]) == [-1, -2, -1, -1]
    page = report.render("runs", profile="pocket", photos=10, gray=12.0, table=again).splitlines()
    assert "(left gray: 12.00)" in "".join(page)
    study = next(line.split() for line in page if line.startswith("| study_3 "))
    assert {"1e-05", "generic", "9.00", "7.00", "-2.00"} < set(study)
    assert list(update("study_3", 2.0, 13.0)["run"]) == ["study_3"]  # on other photos: beside no other run,
    assert list(update("study_1", 1.0)["run"]) == ["study_1", "1", "mine"]  # and whose rows stay
    assert len(pd.read_csv(tmp_path / "pocket/runs.csv")) == 4
