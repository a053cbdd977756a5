"""`make rehearse`: the l4 study from its downloads to its reports, small and offline; README.md tells what it shows."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil

from lib import ROOT
from lib.config import configs_to_run, get_config
from tests.hub_stand_in import TOKEN, Hub
from tests.rehearsal import photos, repositories, servers

RUNS = ("study_1", "study_3")
FIELDS = {  # of the profile, so that the study takes minutes
    "resolution": 64, "n_train": 60, "n_validation": 8, "workers": 2,
    "train_steps": 4, "train_batch_size": 4, "checkpoint_every": 2, "lr_warmup_steps": 1, "log_every": 1,
    "steps_to_try": "2,1", "guidance_to_try": "7.5,1.0", "sample_batch_size": 8,
    "n_images": 6, "n_images_other": 4, "n_images_all_seeds": 3, "n_binding": 2,
    "torch_compile": "false",  # takes minutes on a CPU
    "set_metrics": "false",  # its networks need torchvision
}  # fmt: skip
N_VAL2017, N_FLOWERS = 12, 60


@contextmanager
def stage(name):
    """Prints a stage's name and seconds when it has passed; an error in it becomes a RuntimeError that names it."""
    started = time.time()
    try:
        yield
    except (AssertionError, OSError, ValueError) as error:
        raise RuntimeError(f"{name}: {error}") from error
    print(f"{name:<66}{time.time() - started:5.0f} s", flush=True)


class StandIns:
    """The stand-ins in a folder, their servers, and the fields and environment that lead commands to them."""

    def __init__(self, folder):
        archives = photos.write_coco(folder / "coco", FIELDS["n_train"] + FIELDS["n_validation"], N_VAL2017)
        (folder / "archives.json").write_text(json.dumps(archives))
        photos.write_flowers(folder / "flowers", N_FLOWERS)
        self.coco = servers.Coco(folder / "coco")
        self.fields = {**FIELDS, "coco_url": self.coco.url, "flowers_folder": str(folder / "flowers")}
        self.pinned = pinned_revisions(configs_to_run("l4", runs=",".join(RUNS)))
        self.hub = Hub(self.pinned)
        written = repositories.write_repositories(folder / "repositories", repositories.REPOSITORIES)
        self.hub.repos |= {("models", name): files for name, files in written.items()}
        self.environment = {
            **os.environ,
            "HF_ENDPOINT": self.hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1",  # since two commands run at a time
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "as_cuda"), str(ROOT)]),
            "REHEARSAL_COCO": str(folder / "archives.json"),
        }  # fmt: skip


class Place:
    """A folder in which the study is made, as on a machine of its own; the event `stopped` ends what runs in it."""

    def __init__(self, folder, stand_ins, stopped):
        folder.mkdir()
        self.folder, self.stopped = folder, stopped
        self.fields = {**stand_ins.fields, "hub_repo_id": f"me/{folder.name}"}
        self.fields |= {name: str(folder / name) for name in ("build", "reports", "photos", "downloads")}
        self.environment = {**stand_ins.environment, "HF_HOME": str(folder / "hub")}

    def config(self, run):
        """The l4 profile of a run as the commands have it."""
        return get_config("l4", **self.fields, run=run)

    def python(self, *arguments, kill_when=None):
        """Runs Python to its end, or kills it and its children as soon as `kill_when()` is true; ValueError if it fails."""
        log = self.folder / "output.log"
        with log.open("w") as output:
            process = psutil.Popen([sys.executable, *arguments], cwd=ROOT, env=self.environment, stdout=output,
                                   stderr=subprocess.STDOUT)  # fmt: skip
        try:
            while process.poll() is None:
                if kill_when and kill_when():
                    return
                if self.stopped.wait(0.02):
                    raise ValueError("stopped")
        finally:
            kill_tree(process)
        last_line = (log.read_text().strip().splitlines() or ["no output"])[-1]
        if process.returncode or kill_when:
            raise ValueError(f"ended with {process.returncode}: {last_line}")

    def notebooks(self, *options, kill_when=None):
        """Calls what `make reports PROFILE=l4` calls, with more options."""
        fields = [part for name, value in self.fields.items() for part in ("-p", name, str(value))]
        self.python("-m", "lib.headless.run_notebooks", "--profile", "l4", *fields, *options, kill_when=kill_when)


def pinned_revisions(configs):
    """The commits at which profiles want what they load from the Hub: {id: commit}."""
    names = {"base_model": "base_revision", "controlnet": "controlnet_revision",
             "captioner": "captioner_revision", "clip": "clip_revision", "segmenter": "segmenter_revision"}  # fmt: skip
    pairs = [(getattr(config, name), getattr(config, names[name])) for config in configs for name in names]
    return {name: revision for name, revision in pairs if revision}


def kill_tree(process):
    """Kills a process and its children at once, as a machine that is switched off does."""
    if process.is_running():
        for each in [process, *process.children(recursive=True)]:
            each.kill()
        process.wait()


def check_hub(stand_ins, place):
    """No decoy was fetched, what is pinned was asked for by its commit, and everything was published."""
    fetched = [line for line in stand_ins.hub.seen if line.startswith("GET") and "/resolve/" in line]
    sd = [line for line in fetched if "stable-diffusion" in line]
    decoys = [line for line in sd if line.endswith((".bin", ".ckpt", ".fp16.safetensors")) or "safety_checker" in line]
    assert not decoys, f"decoys fetched: {decoys}"
    wrong = [line for line in fetched for name in stand_ins.pinned if f"/{name}/resolve/main/" in line]
    assert not wrong, f"asked for without its revision: {wrong}"
    name = place.fields["hub_repo_id"]
    wanted = {("datasets", f"{name}-{source}") for source in ("coco", "flowers")}
    missing = (wanted | {("models", f"{name}-{run}") for run in RUNS}) - set(stand_ins.hub.repos)
    assert not missing, f"not published: {missing}"


def check_reports(place):
    """Each run has a report, and the comparison of the runs is there."""
    needed = [place.config(run).reports_dir / "report.md" for run in RUNS]
    needed += [place.config(RUNS[-1]).reports_home / name for name in ("runs.csv", "runs.md", "runs.png")]
    missing = [str(path) for path in needed if not path.exists()]
    assert not missing, f"not written: {missing}"
    tables = [pd.read_csv(place.config(run).reports_dir / "metrics.csv", dtype={"image_id": str}) for run in RUNS]
    assert set(tables[0]["image_id"]) == set(tables[1]["image_id"]), "the runs colorize different test photos"


def same_bytes(first, second):
    """Raises an AssertionError if two files differ."""
    assert first.read_bytes() == second.read_bytes(), f"{second} differs from {first}"


def check_pictures(whole, resumed):
    """All pictures of a resumed run are those of the run that was never killed, to the bit."""
    for name in ("images", "binding"):
        listings = [pd.read_csv(config.run_dir / f"images/{name}.csv") for config in (whole, resumed)]
        key = ["image_id", "prompt_condition", "seed", "prompt"]
        tables = [listing.set_index(key)[["before", "after"]] for listing in listings]
        assert len(tables[0]), f"no picture in {name}"
        assert tables[0].index.equals(tables[1].index), f"{name}: not the same pictures were made"
        for files in zip(*(table.to_numpy().ravel() for table in tables), strict=True):
            same_bytes(whole.run_dir / files[0], resumed.run_dir / files[1])


def make_study(place):
    """The whole study, undisturbed."""
    with stage(f"notebooks 01 to 06 of {' and '.join(RUNS)}"):
        place.notebooks("-p", "runs", ",".join(RUNS))
        check_reports(place)


def make_study_with_kills(place):
    """The last run up to its measurements, killed in 03 and in 04."""
    run, config = ("-p", "run", RUNS[-1], "--only"), place.config(RUNS[-1])
    pictures = lambda: len(list(config.run_dir.rglob("*.png")))  # noqa: E731
    with stage("elsewhere, 03 killed after a checkpoint"):
        place.notebooks(*run, "01", "03", kill_when=lambda: any(config.run_dir.glob("checkpoints/*.pt")))
    with stage("elsewhere, 03 resumed"):
        place.notebooks(*run, "03")
    with stage("elsewhere, 04 killed after some pictures"):
        before = pictures()
        place.notebooks(*run, "04", kill_when=lambda: pictures() >= before + 20)
    with stage("elsewhere, 04 resumed, and 05"):
        place.notebooks(*run, "04", "05")


def rehearse(folder):
    """Runs all stages: the study in one folder, while in another it is killed and resumed; both must agree."""
    with stage("stand-ins"):
        stand_ins, stopped = StandIns(folder), threading.Event()
    here, elsewhere = (Place(folder / name, stand_ins, stopped) for name in ("colors", "elsewhere"))
    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(make_study, here), pool.submit(make_study_with_kills, elsewhere)]
        try:
            for part in as_completed(parts):
                part.result()
        finally:
            stopped.set()
    with stage("what was asked of the Hub, and published"):
        check_hub(stand_ins, here)
    whole, resumed = (place.config(RUNS[-1]) for place in (here, elsewhere))
    with stage("the same weights, pictures and measurements after the kills"):
        weights = "diffusion_pytorch_model.safetensors"
        same_bytes(whole.run_dir / "controlnet" / weights, resumed.run_dir / "controlnet" / weights)
        check_pictures(whole, resumed)
        same_bytes(whole.reports_dir / "metrics.csv", resumed.reports_dir / "metrics.csv")


def main():
    """The command: exits with 0 and leaves no files, or with 1, one line and the files."""
    started, folder = time.time(), Path(tempfile.mkdtemp(prefix="rehearsal-"))
    try:
        rehearse(folder)
    except RuntimeError as error:
        sys.exit(f"error: {error} (all files: {folder})")
    shutil.rmtree(folder)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"rehearsed in {time.time() - started:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU time")


if __name__ == "__main__":
    main()
