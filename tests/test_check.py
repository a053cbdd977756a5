"""`make check-gpu` says what is missing, a line each."""

from types import SimpleNamespace

import pytest
import torch

from lib import check
from lib.profiles import get_profile


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
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: SimpleNamespace(free=300e9))
    monkeypatch.setattr(check.huggingface_hub, "model_info", lambda *_, **__: SimpleNamespace(sha="abc"))
    code, said = run(capsys)
    assert code == 0
    assert "NVIDIA L4, 24 GB, driver 580.95" in said
    assert "at revision abc" in said
    assert said.count("ok ") == 4


def test_each_lack_is_named(monkeypatch, capsys):
    fake_gpu(monkeypatch, 16e9)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: SimpleNamespace(free=30e9))
    monkeypatch.setattr(check.hub, "get_token", lambda: None)

    def gone(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(check.huggingface_hub, "model_info", gone)
    code, said = run(capsys, "-p", "hub_repo_id", "me/colors")
    assert code == 1
    assert [line[:6] for line in said.splitlines()] == ["FAILED"] * 4
    for text in (
        "16 GB, 20 are needed",
        "30 GB free",
        "no Hub token",
        'try -p base_revision "" -p base_model with Manojb/',
    ):
        assert text in said


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, said = run(capsys, "--profile", "pocket")
    assert code == 1
    assert "no CUDA GPU that torch can use" in said
    assert "lib/pocket_model: here" in said


def test_disk_arithmetic():
    need = check.disk_needed(get_profile("l4"))
    assert 90e9 < need < 120e9
