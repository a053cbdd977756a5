"""The cache, the loss, and a loop that resumes as if it had never stopped."""

import copy
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

from lib import ROOT, dataset, models, training
from lib.config import get_config


@pytest.fixture(scope="module")
def cache(base, triples, tmp_path_factory):
    rows = triples["validation"]
    return training.build_cache(rows, rows["prompt"], base, tmp_path_factory.mktemp("cache"))


def run(base, triples, config, folder):
    """Train a ControlNet from the same start."""
    torch.manual_seed(0)
    watched = triples["validation"].select(range(2))
    rows = triples["train"].select(range(10))
    cache = training.build_cache(rows, rows["prompt"], base, folder / "cache")
    return training.train_controlnet(base, cache, config, folder, watched)


def test_cache_holds_what_the_pipeline_would_encode(base, triples, cache):
    row = triples["validation"][3]
    latents, embeddings, conditioning = cache.batch([3], torch.Generator().manual_seed(0))
    with torch.no_grad():
        posterior = base.vae.encode(base.image_processor.preprocess(row["image"])).latent_dist
        wanted, _ = base.encode_prompt([row["prompt"]], "cpu", 1, False)
    scale = base.vae.config.scaling_factor
    assert np.allclose(cache.latents_mean[3], posterior.mean[0] * scale, atol=2e-3)
    assert np.allclose(cache.latents_std[3], posterior.std[0] * scale, atol=2e-3)
    assert torch.allclose(embeddings, wanted, atol=5e-3)
    shown = base.annotator([row["conditioning_image"]], [row["prompt"]])
    assert torch.allclose(conditioning, shown, atol=5e-3)  # half precision
    assert latents.shape == (1, 4, 8, 8)


def test_cache_is_made_once_and_latents_are_shared_by_other_prompts(base, triples, tmp_path):
    rows = triples["test"].select(range(3))
    first = training.build_cache(rows, ["a red one"] * 3, base, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(first.gray) == 3
    training.build_cache(rows, ["a red one"] * 3, base, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == times
    other = training.build_cache(rows, ["a red one", "", "a blue one"], base, tmp_path)
    assert [len(first.embeddings), len(other.embeddings)] == [2, 3]
    assert [first.prompt_index.tolist(), other.prompt_index.tolist()] == [[1, 1, 1], [2, 0, 1]]
    assert len(list(tmp_path.glob("latents-*"))) == 1
    assert len(training.build_cache(triples["test"].select(range(4)), [""] * 4, base, tmp_path).gray) == 4
    assert len(list(tmp_path.glob("latents-*"))) == 2


def test_prompt_dropout_takes_the_empty_prompt(base, cache):
    _, dropped, _ = cache.batch([0, 1], torch.Generator().manual_seed(0), prompt_dropout=1.0)
    empty, _ = base.encode_prompt([""], "cpu", 1, False)
    assert torch.allclose(dropped, empty.expand_as(dropped), atol=5e-3)


def test_every_epoch_visits_every_row_once():
    rows = np.concatenate([training.batch_rows(10, 4, step, seed=3) for step in range(5)])
    assert sorted(rows) == sorted([*range(10)] * 2)
    assert not np.array_equal(training.batch_rows(10, 4, 0, seed=4), training.batch_rows(10, 4, 0, seed=3))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_loss_of_a_perfect_prediction_is_zero(cache, prediction_type):
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    batch = cache.batch([0, 1, 2], torch.Generator().manual_seed(0))

    class Oracle(torch.nn.Linear):
        """Knows the clean latents and solves for what it is asked to predict."""

        def forward(self, noisy, timesteps, embeddings, return_dict):
            alpha = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            noise = (noisy - alpha.sqrt() * batch[0]) / (1 - alpha).sqrt()
            return [noise if prediction_type == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * batch[0]]

    drawn = training.draw_noise(batch[0], torch.Generator().manual_seed(1), 1.0)
    assert float(training.diffusion_loss(Oracle(1, 1), scheduler, (*batch, *drawn))) < 1e-6


@pytest.mark.parametrize(("bias", "share"), [(1.0, 0.2), (2.0, 0.447)])  # of the noisiest fifth: 0.2^(1 / bias)
def test_timestep_bias_trains_more_at_high_noise(bias, share):
    noise, timesteps = training.draw_noise(torch.zeros(4000, 1, 1, 1), torch.Generator().manual_seed(0), bias)
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    assert (int(timesteps.min()) >= 0, int(timesteps.max())) == (True, 999)
    assert float((timesteps >= 800).float().mean()) == pytest.approx(share, abs=0.03)


@pytest.fixture(scope="module")
def plain(base, triples, config, tmp_path_factory):
    """A folder in which six steps were trained, and the weights."""
    folder, before = tmp_path_factory.mktemp("plain"), models.hash_of_weights(base.unet)
    weights = run(base, triples, config, folder).state_dict()
    assert models.hash_of_weights(base.unet) == before  # only the ControlNet is trained
    return folder, weights


def test_an_untrained_controlnet_changes_nothing_and_training_changes_it(base, plain):
    fresh = models.make_controlnet(base.unet, base.vae_scale_factor)
    assert all(not block.weight.any() for block in fresh.controlnet_down_blocks)
    assert plain[1]["controlnet_down_blocks.0.weight"].any()


def test_a_stopped_run_ends_with_the_same_weights(base, triples, config, plain, tmp_path):
    original = training.step_generator

    def interrupted(seed, step):
        if step == 4:
            raise KeyboardInterrupt
        return original(seed, step)

    with pytest.raises(KeyboardInterrupt), mock.patch.object(training, "step_generator", interrupted):
        run(base, triples, config, tmp_path)
    assert torch.load(tmp_path / "checkpoints/0000003.pt", weights_only=True)["step"] == 3
    resumed = run(base, triples, config, tmp_path).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in plain[1].items())
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["0000003.png", "0000006.png"]
    whole, parts = (pd.read_csv(folder / "losses.csv").drop(columns="seconds") for folder in (plain[0], tmp_path))
    assert parts.equals(whole)
    assert list(whole["step"]) == [1, 2, 3, 4, 5, 6]
    measured = whole.dropna()
    assert list(measured["step"]) == [3, 6]
    assert measured["lightness_ssim"].between(-1, 1).all()
    assert (measured["validation_loss"] > 0).all()


def test_a_finished_training_started_again_keeps_its_weights(base, triples, config, plain, tmp_path, capsys):
    shutil.copytree(plain[0], tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "controlnet/diffusion_pytorch_model.safetensors"
    written = weights.read_bytes()
    weights.unlink()  # as if stopped between the last checkpoint and the weights
    for _ in range(2):
        run(base, triples, config, tmp_path)
        assert weights.read_bytes() == written
        assert "has all 6 steps, so nothing is trained: another name for `run`" in capsys.readouterr().out
    run(base, triples, config.replace(train_steps=7), tmp_path)  # trained for longer
    assert weights.read_bytes() != written


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"prompt_dropout": 0.5}])
def test_a_checkpoint_of_other_settings_is_refused(base, triples, config, plain, change):
    with pytest.raises(ValueError, match=rf"0000006.pt does not fit this run \({next(iter(change))} was"):
        run(base, triples, config.replace(**change), plain[0])


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(config, tmp_path, capsys):
    config = config.replace(checkpoint_every=1, learning_rate=0.1)

    def train(folder, until=6):
        def loss_of_step(model, step, part):
            if step == until:
                raise KeyboardInterrupt
            return (model.weight - step).square().sum()

        torch.manual_seed(0)
        return training.train(torch.nn.Linear(1, 1), loss_of_step, config, "no", tmp_path / folder, {}).weight

    with pytest.raises(KeyboardInterrupt):
        train("cut", until=4)
    newest, before = sorted((tmp_path / "cut/checkpoints").iterdir(), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert torch.equal(train("cut"), train("whole"))
    assert "0000004.pt is damaged" in capsys.readouterr().err
    for path in (tmp_path / "cut/checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="only damaged files: remove them to start again"):
        train("cut")


def test_the_newest_checkpoints_are_kept_and_the_last_one_at_the_end(config, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/.0000001.pt.0123456789abcdef.part").write_bytes(b"half")  # a killed process left it
    for step, left in ((1, [1]), (2, [1, 2]), (4, [2, 4]), (6, [6])):
        training.save_checkpoint(tmp_path, step, {"model": torch.nn.Linear(1, 1)}, {}, config)
        assert [int(path.stem) for path in sorted((tmp_path / "checkpoints").iterdir())] == left


@pytest.mark.parametrize(
    ("fails", "log_every", "message"),
    [
        (False, 1, "loss is not finite at step 5: lower learning_rate"),
        (False, 100, "loss is not finite at step 6: lower learning_rate"),
        (
            True,
            1,
            "does not fit in memory .CUDA out of memory.: raise gradient_accumulation_steps or lower",
        ),
    ],
)
def test_a_step_that_fails_reaches_no_checkpoint(config, tmp_path, fails, log_every, message):
    def loss_of_step(model, step, part):
        if step == 4 and fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model.weight.sum() * (float("nan") if step == 4 else 1)

    config = config.replace(log_every=log_every)
    with pytest.raises(ValueError, match=message):
        training.train(torch.nn.Linear(1, 1), loss_of_step, config, "no", tmp_path, {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0000003.pt"]


def test_averaged_weights_follow_and_are_returned(config, tmp_path):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    averaged = training.train(model, lambda m, *_: m.weight.sum(), config.replace(ema_decay=0.5), "no", tmp_path, {})
    current = torch.load(tmp_path / "checkpoints/0000006.pt", weights_only=True)["model"]["weight"]
    assert 1.0 > float(averaged.weight) > float(current)


@pytest.mark.parametrize("change", [{"gradient_accumulation_steps": 1}, {"torch_compile": True}])
def test_shares_and_memory_layout_give_the_same_weights(base, triples, config, plain, tmp_path, monkeypatch, change):
    monkeypatch.setattr(torch, "compile", lambda network: network)  # to channels_last alone
    trained = run(copy.deepcopy(base), triples, config.replace(**change), tmp_path)
    compare_weights(plain[1], trained.state_dict())


def test_a_batch_that_cannot_be_divided_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="train_batch_size must be a multiple of 3, processes x gradient_acc"):
        training.prepare_training(torch.nn.Linear(1, 1), config.replace(gradient_accumulation_steps=3), tmp_path)


def test_losses_are_written_and_logged_before_the_first_checkpoint(config, tmp_path, monkeypatch):
    def loss_of_step(model, step, part):
        if step == 4:
            raise KeyboardInterrupt
        return model.weight.sum()

    logged = {}
    monkeypatch.setattr(training.Accelerator, "log", lambda _, row, step: logged.update({step: row["loss"]}))
    late = config.replace(checkpoint_every=100, train_steps=100, log_every=2)
    with pytest.raises(KeyboardInterrupt):
        training.train(torch.nn.Linear(1, 1), loss_of_step, late, "no", tmp_path, {})
    losses = pd.read_csv(tmp_path / "losses.csv").set_index("step")["loss"]
    assert list(losses.index) == [2, 4]
    assert logged == pytest.approx(losses.to_dict())


FIELDS = {"resolution": 32, "train_steps": 4, "train_batch_size": 4, "checkpoint_every": 1, "learning_rate": 1e-3,
          "lr_warmup_steps": 0, "log_every": 1}  # fmt: skip
WEIGHTS = "pocket/default/controlnet/diffusion_pytorch_model.safetensors"


def training_command(folder, *launcher):
    """The command that trains in a build folder."""
    options = [text for name, value in {**FIELDS, "build": folder}.items() for text in ("-p", name, str(value))]
    return [sys.executable, "-m", *launcher, "lib.training", *options]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A build folder with a data set, and one that a single process has trained in."""
    start, one = (tmp_path_factory.mktemp("builds") / name for name in ("start", "one"))
    dataset.build_dataset(get_config("pocket", build=str(start), **FIELDS))
    shutil.copytree(start, one)
    subprocess.run(training_command(one), check=True, cwd=ROOT, capture_output=True)
    return start, one


TWO = """import os, sys
from lib import models, training
if sys.argv[1] == "apart":
    sys.argv += ["-p", "build", f"{sys.argv[-1]}/{os.environ['RANK']}"]
del sys.argv[1]
training.main()
sys.exit(models.process_state().num_processes != 2)
"""


def launch_two(script, *options, check=True):
    """Train in two processes."""
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    return subprocess.run([*command, *options], check=check, cwd=ROOT, capture_output=True, text=True)


def test_two_processes_give_the_weights_of_one(trained, tmp_path):
    start, one = trained
    shutil.copytree(start, two := tmp_path / "two")
    launch_two(tmp_path / "two.py", "together", *training_command(two)[3:])
    before = load_file(ROOT / "lib/pocket_model/controlnet/diffusion_pytorch_model.safetensors")
    ours = load_file(two / WEIGHTS)
    assert max(float((ours[name] - before[name]).abs().max()) for name in ours) > 1e-3
    compare_weights(load_file(one / WEIGHTS), ours)


def test_two_processes_with_folders_of_their_own_are_refused(tmp_path):
    result = launch_two(tmp_path / "two.py", "apart", "-p", "build", str(tmp_path), check=False)
    assert result.returncode != 0
    assert "is not one folder for all processes: let `build` be in one that all machines share" in result.stderr


@pytest.mark.parametrize(("sent", "every"), [(signal.SIGKILL, "1"), (signal.SIGTERM, "100")])
def test_stopped_and_started_again_gives_the_same_weights(trained, tmp_path, sent, every):
    start, one = trained
    shutil.copytree(start, cut := tmp_path / "cut")
    command, run_dir = [*training_command(cut), "-p", "checkpoint_every", every], cut / "pocket/default"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(run_dir.glob("checkpoints/*.pt" if sent == signal.SIGKILL else "losses.csv")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(sent)
    said = process.communicate()[1]
    assert process.returncode == -sent
    if sent == signal.SIGTERM:  # it has saved a checkpoint
        assert "stopped by SIGTERM: the same command goes on from the last checkpoint" in said
        assert [1 <= int(path.stem) < 4 for path in run_dir.glob("checkpoints/*.pt")] == [True]
    assert not (cut / WEIGHTS).exists()
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert (cut / WEIGHTS).read_bytes() == (one / WEIGHTS).read_bytes()


def compare_weights(first, second):
    """Equal within what another order of summing gives; AdamW's first steps magnify tiny gradients."""
    distances = torch.cat([(first[name] - second[name]).abs().ravel() for name in first])
    assert float(distances.quantile(0.999) if len(distances) < 10**7 else distances.sort()[0][-1000]) < 1e-4


def test_controlnet_learns_a_few_photos(base, triples, config, tmp_path):
    rows = triples["train"].select(range(4))
    longer = config.replace(train_steps=60, checkpoint_every=60, learning_rate=1e-3, prompt_dropout=0.0)
    cache = training.build_cache(rows, rows["prompt"], base, tmp_path / "cache")
    trained = training.train_controlnet(base, cache, longer, tmp_path, triples["validation"].select(range(2)))
    scheduler = DDPMScheduler.from_config(base.scheduler.config)

    @torch.no_grad()
    def loss(controlnet):
        losses = []
        for seed in range(8):
            batch = cache.batch(range(4), generator := torch.Generator().manual_seed(seed))
            batch = (*batch, *training.draw_noise(batch[0], generator, longer.timestep_bias))
            losses.append(float(training.diffusion_loss(base.unet, scheduler, batch, controlnet)))
        return np.mean(losses)

    assert loss(trained) < 0.9 * loss(models.make_controlnet(base.unet, base.vae_scale_factor, base.annotator.channels))
