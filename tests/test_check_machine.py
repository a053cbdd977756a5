"""`make check-gpu` says what is missing, a line each; the forecast's arithmetic."""

from types import SimpleNamespace

import pytest
import torch

from lib import ROOT
from lib.config import configs_to_run, get_config
from lib.l4 import check_machine, coco
from lib.prompts import CONDITIONS
from tests.rehearsal import photos, servers


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        check_machine.main(list(arguments))
    return stopped.value.code, capsys.readouterr().out


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine that fits, whose facts a test may change, and a server that has COCO's files."""
    monkeypatch.setattr(coco, "FILES", photos.write_coco(tmp_path / "served", 11, 4))
    facts = SimpleNamespace(memory=24e9, free=400e9, server=servers.Coco(tmp_path / "served"), rate=(10.0, 17.2))
    properties = lambda _: SimpleNamespace(name="NVIDIA L4", total_memory=facts.memory)  # noqa: E731
    for name, value in {"init": lambda: None, "is_available": lambda: True, "is_bf16_supported": lambda: True}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=facts.free))
    monkeypatch.setattr("kagglehub.dataset_download", lambda _: "flowers")
    monkeypatch.setattr(check_machine, "require_packages", lambda _: None)
    for name in ("load_captioner", "load_segmenter", "load_clip", "make_metrics"):
        monkeypatch.setattr(check_machine, name, lambda *_: None)
    monkeypatch.setattr(check_machine, "time_training", lambda _: facts.rate)
    yield facts
    facts.server.shutdown()


def test_a_machine_that_fits(machine, capsys, tmp_path):
    code, said = run(capsys, "-p", "coco_url", machine.server.url, "-p", "downloads", str(tmp_path / "downloads"))
    assert code == 0
    assert said.count("ok ") == len(check_machine.CHECKS)
    for text in (
        "GPU: NVIDIA L4, 24 GB, CUDA ",
        "GB free at ",
        "COCO: train2017.zip offered, val2017.zip offered, ",
        "coco_val_captions.jsonl offered",
        "flowers: in flowers",
        "networks: Salesforce/blip-image-captioning-base, CIDAS/clipseg-rd64-refined, openai/clip",
        "stable-diffusion-v1-5: 10.0 samples/s, peak 17.2 GB at batch 8",
        "hours at 23 TFLOP/s",  # 10 samples a second
        "study_3: training",
    ):
        assert text in said


def test_each_lack_is_named(machine, monkeypatch, capsys, tmp_path):
    machine.memory, machine.free = 16e9, 30e9
    name, (path, _, md5) = next(iter(coco.FILES.items()))
    monkeypatch.setitem(coco.FILES, name, (path, 11, md5))

    def gone(_):
        raise OSError("no route\nto host")

    def too_large(_):
        raise ValueError("this batch does not fit in memory: lower train_batch_size")

    monkeypatch.setattr(check_machine, "load_captioner", gone)
    monkeypatch.setattr(check_machine, "time_training", too_large)
    fields = {"coco_url": machine.server.url, "downloads": str(tmp_path / "downloads"), "flowers_folder": "no/flowers"}
    code, said = run(capsys, *(text for field in fields.items() for text in ("-p", *field)))
    assert code == 1
    assert [line[:6] for line in said.splitlines()[: len(check_machine.CHECKS)]] == ["FAILED"] * len(
        check_machine.CHECKS
    )
    for text in (
        "16 GB, CUDA",
        "20 GB are needed",
        "30 GB free",
        "bytes offered, 11 published",
        "no/flowers is no folder",
        "blip-image-captioning-base can't be loaded (no route to host): try again, or go without: -p captioner ''",
        "training: this batch does not fit in memory: lower train_batch_size",
        "hours at 25 TFLOP/s",
    ):
        assert text in said


def test_torch_says_why_it_has_no_gpu(monkeypatch):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(
        ValueError, match="can't use a CUDA GPU .The NVIDIA driver on your system is too old.: take the im"
    ):
        check_machine.check_gpu([])


def test_training_is_timed_with_the_real_steps(monkeypatch):
    monkeypatch.setattr(check_machine, "STEPS", 2)
    config = get_config("pocket", train_batch_size=2, resolution=32, initial_controlnet="")
    rate, peak = check_machine.time_training(config)
    assert 0 < rate < 1000
    assert peak == 0  # of a GPU

    def too_large(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lib.training.diffusion_loss", too_large)
    with pytest.raises(ValueError, match="does not fit in memory: raise gradient_accumulation_steps, .* lower train_b"):
        check_machine.time_training(config.replace(train_seed=1))


def test_pictures_are_counted():
    fields = {"n_images": 650, "n_images_other": 200, "n_images_all_seeds": 60, "n_binding": 100}
    conditions = len(CONDITIONS)
    asked, bound = check_machine.count_pictures(get_config("l4", **fields, n_seeds=3))
    assert asked == 2 * (650 + 2 * 60) + (conditions - 2) * (200 + 2 * 60)
    assert bound == 100 * 25 + 2 * 200
    few = get_config("l4", **fields, n_seeds=1, prompt_conditions="vague,detailed,empty")
    assert check_machine.count_pictures(few)[0] == 2 * 650 + 200


def test_guidance_doubles_its_share_of_the_steps():
    config = get_config("l4", guidance_share=0.5)
    step, decode = check_machine.STEP, check_machine.DECODE
    assert check_machine.sampling(config, 10, 20, 7.5) == pytest.approx(10 * (30 * step + decode))
    assert check_machine.sampling(config, 10, 5, 7.5) == pytest.approx(10 * (8 * step + decode))
    assert check_machine.sampling(config, 10, 20, 1.0) == pytest.approx(10 * (20 * step + decode))


def test_the_forecast_counts_each_download_once_and_fits_the_disk():
    plans = {runs: check_machine.forecast(configs_to_run("l4", runs=runs)).set_index("part")
             for runs in ("study_3", "study_3,study_1,study_2", "study_3,study_1,study_2,captions")}  # fmt: skip
    one, three, four = plans.values()
    assert four.index.is_unique
    assert sum(four.index.str.startswith("photos of")) == 2
    assert three.loc["study_3: training", "TFLOP"] == pytest.approx(3 * 50_000 * check_machine.TRAIN)
    assert four.loc["captions: training", "GB"] > three.loc["study_3: training", "GB"] + 7.8  # 50,000 captions
    assert one["GB"].sum() < 110 < three["GB"].sum() < four["GB"].sum() < 170  # the VM of notebooks/L4.md has 200 GB
    theirs = check_machine.forecast([get_config("l4", controlnet="me/net")])
    assert not theirs["part"].str.contains("training").any()


def test_the_guide_shows_the_forecast(capsys):
    code, said = run(capsys, "--forecast")
    assert code == 0
    assert said.partition("\n\n")[0] in (ROOT / "notebooks/L4.md").read_text()
