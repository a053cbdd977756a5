"""`make check-gpu` says what is missing, a line each."""

from types import SimpleNamespace

import pytest
import torch

from lib import check
from lib.profiles import profiles_to_run

RUN = {"run": "study_3"}


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        check.main(list(arguments))
    return stopped.value.code, capsys.readouterr().out


def fake_gpu(monkeypatch, memory, bf16=True):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="NVIDIA L4", total_memory=memory)
    )
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(check.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="580.95\n"))


def test_a_machine_that_fits(monkeypatch, capsys):
    fake_gpu(monkeypatch, 24e9)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: SimpleNamespace(free=400e9))
    monkeypatch.setattr(check.huggingface_hub, "model_info", lambda *_, **__: SimpleNamespace(sha="abc"))
    code, said = run(capsys)
    assert code == 0
    assert "NVIDIA L4, 24 GB, driver 580.95" in said
    assert "at revision abc" in said
    assert said.count("ok ") == 5
    assert "stable-diffusion-2-1-base at revision abc" in said
    assert "stable-diffusion-v1-5 at revision abc" in said


def test_each_lack_is_named(monkeypatch, capsys):
    fake_gpu(monkeypatch, 16e9)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: SimpleNamespace(free=30e9))
    monkeypatch.setattr(check.hub, "get_token", lambda: None)

    def gone(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(check.huggingface_hub, "model_info", gone)
    code, said = run(capsys, "-p", "hub_repo_id", "me/colors", "-p", "flowers_folder", "no/flowers")
    assert code == 1
    assert [line[:6] for line in said.splitlines()] == ["FAILED"] * 5
    for text in (
        "16 GB, 20 are needed",
        "30 GB free",
        "no Hub token",
        "flowers_folder no/flowers is no folder",
        "are there: add disk",
        "try -p run study_1 -p base_revision '' -p base_model with sd-legacy/",
    ):
        assert text in said


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, said = run(capsys, "--profile", "pocket")
    assert code == 1
    assert "no CUDA GPU that torch can use" in said
    assert "lib/pocket_model: here" in said


def test_disk_arithmetic():
    three, all_runs, one = (check.disk_needed(profiles_to_run("l4", **fields)) for fields in ({}, {"runs": "all"}, RUN))
    assert 120 < sum(three.values()) < 190  # the VM of the README has 200 GB
    assert three["downloads"] == pytest.approx(20.66, abs=0.01)
    assert all_runs["downloads"] == three["downloads"]  # photos come once
    assert all_runs["caches"] > three["caches"] + 7.8  # the embeddings of 50,000 captions
    assert sum(one.values()) < sum(three.values()) < sum(all_runs.values())
