"""`make check-gpu` says what is missing, a line each."""

import http.server
import os
import threading
from types import SimpleNamespace

import pytest
import torch

from lib.config import configs_to_run, get_config
from lib.l4 import check_machine

FILES = (
    *check_machine.BASE_FILES, *(f"{part}/config.json" for part in check_machine.BASE_PARTS),
    "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin", "text_encoder/model.safetensors",
)  # fmt: skip


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        check_machine.main(list(arguments))
    return stopped.value.code, capsys.readouterr().out


@pytest.fixture
def machine(monkeypatch):
    """A machine that fits, from driver to Hub, whose facts a test may change."""
    facts = SimpleNamespace(memory=24e9, driver="580.95.05\n", cuda="13.0", gpu=True, free=400e9, files=FILES,
                            packages={"torch": "2.13.0+cu130", "torchvision": "0.28.0", "torch-fidelity": "0.4.0"},
                            sizes={path: size for path, size, _ in check_machine.coco.COCO.values()})  # fmt: skip

    def version(name):
        if name not in facts.packages:
            raise check_machine.PackageNotFoundError
        return facts.packages[name]

    def head(url, **_):
        size = facts.sizes.get(url.removeprefix("http://images.cocodataset.org/"))
        if size is None:
            raise check_machine.requests.ConnectionError("no route\nto host")
        return SimpleNamespace(headers={"Content-Length": size}, raise_for_status=lambda: None)

    def smi(command=(), args=(), **_):
        if "gcloud" in args:
            return SimpleNamespace(returncode=1, stderr="AccessDeniedException: 403\n")
        if not facts.driver:
            raise FileNotFoundError("nvidia-smi")
        return SimpleNamespace(stdout=facts.driver)

    def model_info(name, **_):
        if facts.files is None:
            raise OSError("no route\nto host")
        return SimpleNamespace(sha="abc", siblings=[SimpleNamespace(rfilename=file) for file in facts.files])

    properties = lambda _: SimpleNamespace(name="NVIDIA L4", total_memory=facts.memory)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_available", lambda: facts.gpu)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(
        check_machine, "torch", SimpleNamespace(cuda=torch.cuda, version=SimpleNamespace(cuda=facts.cuda))
    )
    monkeypatch.setattr(check_machine.subprocess, "run", smi)
    monkeypatch.setattr(check_machine, "version", version)
    monkeypatch.setattr(check_machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=facts.free))
    monkeypatch.setattr(check_machine.requests, "head", head)
    monkeypatch.setattr(check_machine.huggingface_hub, "model_info", model_info)
    monkeypatch.setattr(check_machine.flowers, "download_flowers", lambda: "flowers")
    monkeypatch.setattr(check_machine, "time_training", lambda _: (0.1, 17.2))
    monkeypatch.delenv("BUCKET", raising=False)
    monkeypatch.setattr(check_machine, "fetch_networks", lambda config: config.captioner or "not needed")
    monkeypatch.setattr(check_machine.forecast, "report", lambda *_: "| part |")
    return facts


def test_a_machine_that_fits(machine, capsys):
    code, said = run(capsys)
    assert code == 0
    assert said.count("ok ") == len(check_machine.CHECKS)
    assert said.endswith("| part |\n")  # the forecast
    for text in (
        "torch 2.13.0, torchvision 0.28.0, torch-fidelity 0.4.0\n",
        "NVIDIA L4, 24 GB, driver 580.95.05, torch's CUDA 13.0 (needs 580.65.06)",
        "stable-diffusion-2-1-base at revision abc",
        "stable-diffusion-v1-5 at revision abc",
        "COCO: train2017.zip at http",
        "flowers: in flowers",
        "networks: Salesforce/blip",
        "bucket: not checked",
        "stable-diffusion-v1-5: 10.0 samples/s after 30 s of warm-up, peak memory 17.2 GB at batch 8",
        "| part |",
    ):
        assert text in said


def test_each_lack_is_named(machine, monkeypatch, capsys):
    machine.memory, machine.free, machine.files, machine.sizes = 16e9, 30e9, None, {}
    machine.packages = {"torch": "2.14.0", "torchvision": "0.29.2"}
    monkeypatch.setattr(check_machine.hub, "get_token", lambda: None)

    def gone(_):
        raise ValueError("Salesforce/blip can't be had")

    monkeypatch.setattr(check_machine, "fetch_networks", gone)

    def too_large(_):
        raise ValueError("this batch does not fit in memory: lower train_batch_size")

    monkeypatch.setattr(check_machine, "time_training", too_large)
    monkeypatch.setenv("BUCKET", "gs://mine")
    code, said = run(capsys, "-p", "hub_repo_id", "me/colors", "-p", "flowers_folder", "no/flowers")
    assert code == 1
    assert [line[:6] for line in said.splitlines()[: len(check_machine.CHECKS)]] == ["FAILED"] * len(
        check_machine.CHECKS
    )
    for text in (
        "torch 2.13.0 (2.14.0), torchvision 0.28.0 (0.29.2), torch-fidelity 0.4.0 (not installed): .venv/bin/pip install",
        "16 GB, 20 are needed",
        "30 GB free",
        "no Hub token",
        "zips/train2017.zip can't be reached (no route to host)",
        "flowers_folder no/flowers is no folder",
        "are there: add disk",
        "try -p run study_3 -p base_revision '' -p base_model with Manojb/",
        "Salesforce/blip can't be had",
        "gs://mine can't be written (AccessDeniedException: 403): give the VM's service account the role",
        "training: this batch does not fit in memory: lower train_batch_size",
    ):
        assert text in said


def test_a_file_is_written_to_the_bucket_and_removed(tmp_path, monkeypatch):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls.txt\n')
    gcloud.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("BUCKET", "gs://mine")
    assert check_machine.check_bucket([]) == "gs://mine can be written"
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert calls == ["storage cp - gs://mine/probe.txt", "storage rm gs://mine/probe.txt"]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="gs://mine can't be reached .*: install gcloud"):
        check_machine.check_bucket([])


def test_a_training_batch_that_does_not_fit_says_what_to_lower(monkeypatch):
    config = get_config("pocket", train_batch_size=2, resolution=64)
    seconds, peak = check_machine.time_training(config, warm_up=0, timed=0)
    assert 0 < seconds < 60
    assert peak == 0  # of a GPU

    def too_large(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lib.training.diffusion_loss", too_large)
    with pytest.raises(ValueError, match="does not fit in memory: raise gradient_accumulation_steps, .* lower train_b"):
        check_machine.time_training(config, warm_up=0, timed=0)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"driver": "535.183.01\n", "gpu": False},
            "driver 535.183.01, torch's CUDA 13.0, which needs driver 580.65.06",
        ),
        ({"driver": "", "gpu": False}, "driver not found, torch's CUDA 13.0, which needs driver 580.65.06 or newer"),
        ({"driver": "580.65.06\n", "gpu": False}, "no CUDA GPU that torch can use .driver 580.65.06"),
    ],
)
def test_an_old_driver_is_told_from_a_missing_gpu(machine, facts, message):
    vars(machine).update(facts)
    with pytest.raises(ValueError, match=message):
        check_machine.check_gpu([])


def test_a_torch_without_cuda_is_named(monkeypatch):
    monkeypatch.setattr(check_machine, "torch", SimpleNamespace(version=SimpleNamespace(cuda=None)))
    with pytest.raises(ValueError, match="a build without CUDA"):
        check_machine.check_gpu([])


def test_packages_are_asked_for_by_what_needs_them(machine):
    machine.packages = {"torch": "2.13.0+cpu"}
    assert check_machine.check_packages([get_config("pocket")]) == "torch 2.13.0"
    with pytest.raises(
        ValueError, match=r"torchvision 0.28.0 \(not installed\), torch-fidelity 0.4.0 \(not installed\)"
    ):
        check_machine.check_packages([get_config("pocket", set_metrics=True)])


def test_a_base_without_all_its_files_is_refused(machine):
    variants = [name.replace(".safetensors", ".fp16.safetensors") for name in FILES]
    assert check_machine.missing_files(FILES) == []
    assert check_machine.missing_files(variants) == ["unet/", "text_encoder/"]
    machine.files = variants
    with pytest.raises(ValueError, match="at revision abc lacks unet/, text_encoder/: try -p run study_3"):
        check_machine.check_models([get_config("l4")])


def test_what_a_run_takes_from_others_is_asked_for(machine):
    assert "me/net at revision abc" in check_machine.check_models([get_config("l4", controlnet="me/net")])


def test_an_archive_of_another_size_is_refused_over_http():
    class Server(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/zips/val2017.zip"
    check_machine.check_offered_size(url, 10)
    with pytest.raises(ValueError, match="offers 10 bytes, published are 11"):
        check_machine.check_offered_size(url, 11)
    server.shutdown()


def test_archives_that_are_here_are_not_asked_for(machine, monkeypatch):
    machine.sizes = {}
    monkeypatch.setattr(check_machine.downloads, "bytes_of", lambda path: check_machine.coco.COCO[path.name][1])
    assert check_machine.check_coco([get_config("l4")]) == "archives are here"


def test_a_hub_copy_of_coco_needs_the_annotations_besides(machine, monkeypatch):
    monkeypatch.setattr(check_machine.coco, "list_parquet", lambda _: {"a.parquet": 1})
    machine.sizes = {path: size for path, size in machine.sizes.items() if "annotations" in path}
    said = check_machine.check_coco([get_config("l4", coco_hub_id="you/coco")])
    assert said.startswith("1 parquet files in you/coco, annotations_trainval2017.zip at ")
    machine.sizes = {}
    with pytest.raises(ValueError, match="annotations_trainval2017.zip can't be reached"):
        check_machine.check_coco([get_config("l4", coco_hub_id="you/coco")])


def test_disk_arithmetic():
    needed = check_machine.forecast.disk_needed
    default, three, all_runs = (
        needed(configs_to_run("l4", **fields)) for fields in ({}, {"runs": "study_3,study_1,study_2"}, {"runs": "all"})
    )
    one = needed(configs_to_run("l4", run="study_3"))
    assert 110 < sum(three.values()) < sum(default.values()) < 170  # the VM of notebooks/L4.md has 200 GB
    assert three["downloads"] == pytest.approx(20.66, abs=0.01)
    assert all_runs["downloads"] == three["downloads"]  # photos come once
    assert all_runs["caches"] > three["caches"] + 7.8  # the embeddings of 50,000 captions
    assert sum(one.values()) < sum(three.values()) < sum(all_runs.values())
