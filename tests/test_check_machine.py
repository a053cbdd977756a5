"""`make check-gpu` reports what is missing, a line each; the forecast's arithmetic."""

import os
import subprocess
from types import SimpleNamespace

import pytest
import torch

from lib import ROOT
from lib.config import configs_to_run, get_config
from lib.l4 import check_machine
from lib.prompts import CONDITIONS


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        check_machine.main(list(arguments))
    return stopped.value.code, capsys.readouterr().out


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine with an L4 and 400 GB of disk, on which every download succeeds."""
    properties = lambda _: SimpleNamespace(name="NVIDIA L4", total_memory=24e9)  # noqa: E731
    stand_ins = {"init": lambda: None, "is_available": lambda: True, "get_device_properties": properties}
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=400e9))
    monkeypatch.setattr(check_machine, "resolve", lambda _: tmp_path / "build")
    for name in ("find_flowers", "load_captioner", "load_segmenter", "load_clip", "make_metrics"):
        monkeypatch.setattr(check_machine, name, lambda *_: None)
    monkeypatch.setattr(check_machine, "time_training", lambda _: (10.0, 17.2))


def test_a_machine_that_fits(gpu, capsys):
    code, output = run(capsys)
    assert code == 0
    assert output.count("ok ") == len(check_machine.CHECKS)
    for text in (
        "GPU: NVIDIA L4, 24 GB, CUDA ",
        "400 GB free at ",
        "downloads: CIDAS/clipseg-rd64-refined, flowers, Salesforce/blip-image-captioning-base, openai/clip",
        "stable-diffusion-v1-5: 10.0 samples/s, peak 17.2 GB at 8",
        "hours at 23 TFLOP/s",  # 10 samples a second
        "study_3: training",
    ):
        assert text in output


def test_each_lack_is_named(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "init", failing(RuntimeError("The NVIDIA driver on your system is too old")))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=30e9))
    monkeypatch.setattr(check_machine, "load_captioner", failing(OSError("no route\nto host")))
    monkeypatch.setattr(check_machine, "time_training", failing(ValueError("this batch does not fit: lower it")))
    code, output = run(capsys)
    assert code == 1
    checks = len(check_machine.CHECKS)
    assert [line[:6] for line in output.splitlines()[:checks]] == ["FAILED"] * checks
    for text in (
        "can't use a CUDA GPU (The NVIDIA driver on your system is too old): take the image",
        "30 GB free",
        "blip-image-captioning-base can't be loaded (no route to host): try again, or go without: -p captioner ''",
        "training: this batch does not fit: lower it",
        "hours at 25 TFLOP/s",  # assumed
    ):
        assert text in output


@pytest.mark.parametrize("status", [0, 1])
def test_a_bucket_that_refuses_a_file_stops_the_command_before_the_checks(tmp_path, status):
    """The Makefile's probe, with stand-ins for gcloud and Python; the environment counts as installed."""
    for name in ("gcloud", "python"):
        answer = f'echo "{name} $*" >> "{tmp_path}/calls"; exit {status if name == "gcloud" else 0}'
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "BUCKET": "gs://mine"}
    command = ["make", "check-gpu", f"PY={tmp_path}/python", "-o", ".venv/installed-l4"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "gcloud storage cp - gs://mine/probe.txt"
    assert (result.returncode != 0) == bool(status)
    assert ("python -m lib.l4.check_machine" in [call.strip() for call in calls]) == (not status)


def test_training_is_timed_with_the_real_steps(monkeypatch):
    monkeypatch.setattr(check_machine, "STEPS", 2)
    config = get_config("pocket", train_batch_size=2, resolution=32, initial_controlnet="")
    rate, peak = check_machine.time_training(config)
    assert 0 < rate < 1000
    assert peak == 0  # of a GPU
    too_large = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    monkeypatch.setattr("diffusers.ControlNetModel.forward", failing(too_large))
    with pytest.raises(ValueError, match="fit in memory .*: raise gradient_accumulation_steps or lower train_b"):
        check_machine.time_training(config.replace(train_seed=1))


def test_pictures_are_counted():
    fields = {"n_images": 650, "n_images_other": 200, "n_images_all_seeds": 60, "n_binding": 100}
    pictures, bound = check_machine.count_pictures(get_config("l4", **fields, n_seeds=3))
    assert pictures == 2 * (650 + 2 * 60) + (len(CONDITIONS) - 2) * (200 + 2 * 60)
    assert bound == 100 * 25 + 2 * 200
    few = get_config("l4", **fields, n_seeds=1, prompt_conditions="vague,detailed,empty")
    assert check_machine.count_pictures(few)[0] == 2 * 650 + 200


def test_the_forecast_counts_each_part_once_and_fits_the_disk():
    plans = ("study_3", "study_3,study_1,study_2", "study_3,study_1,study_2,captions")
    one, three, four = (check_machine.forecast(configs_to_run("l4", runs=runs)) for runs in plans)
    assert four.index.is_unique
    assert sum(four.index.str.startswith("photos of")) == 2
    training = three.loc["study_3: training"]
    assert training["TFLOP"] == pytest.approx(3 * 50_000 * check_machine.TRAIN)
    assert training["seconds"] == check_machine.COMPILE + 19 * check_machine.SAVE  # one per 1,000 of 18,750 steps
    assert four.loc["captions: training", "GB"] > training["GB"] + 7.8  # 50,000 captions
    assert one["GB"].sum() < 110 < three["GB"].sum() < four["GB"].sum() < 170  # the VM of notebooks/L4.md has 200 GB
    assert not check_machine.forecast([get_config("l4", controlnet="me/net")]).index.str.contains("training").any()


def test_the_guide_shows_the_forecast(capsys):
    code, output = run(capsys, "--forecast")
    assert code == 0
    assert output.partition("\n\n")[0] in (ROOT / "notebooks/L4.md").read_text()


def test_the_memory_of_a_gpu_is_managed_for_shapes_that_stay():
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert torch.backends.cudnn.benchmark
