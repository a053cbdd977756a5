"""The night on a VM: lib/l4/night.sh in a shell with stand-ins for Python, gcloud and sudo; its systemd unit."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from lib import ROOT

STUDY = """#!/bin/sh
echo "study $*" >> calls.txt
trap 'kill $!; echo saved >> calls.txt; exit 1' TERM
if [ "$SECONDS_TO_RUN" ]; then touch started; sleep "$SECONDS_TO_RUN" >/dev/null 2>&1 & wait $!; fi
exit "${STUDY_STATUS:-0}"
"""
COMMAND = '#!/bin/sh\necho "{name} $*" >> {folder}/calls.txt\nexit ${{{status}:-0}}\n'


@pytest.fixture
def vm(tmp_path):
    """A repository with the script, a run's results, and stand-ins that note how they are called."""
    run = "build/l4/study_3"
    for folder in ("lib/l4", "bin", ".venv/bin", "reports/l4", f"{run}/controlnet", f"{run}/images"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "lib/l4/night.sh", tmp_path / "lib/l4")
    scripts = {".venv/bin/python": STUDY}
    for name in ("gcloud", "sudo"):
        scripts[f"bin/{name}"] = COMMAND.format(name=name, folder=tmp_path, status=f"{name.upper()}_STATUS")
    for path, text in scripts.items():
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    return tmp_path


def start(vm, **variables):
    environment = {"PATH": f"{vm}/bin:{os.environ['PATH']}", **variables}
    return subprocess.Popen(["sh", vm / "lib/l4/night.sh"], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


def calls(vm):
    path = vm / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("status", ["0", "1"])
def test_the_night_copies_what_was_made_and_turns_the_machine_off_whatever_happened(vm, status):
    night = start(vm, BUCKET="gs://mine", ARGS="-p n_images 300", STUDY_STATUS=status)
    said, _ = night.communicate(timeout=60)
    assert night.returncode == int(status)
    assert f"ended with status {status}" in said
    assert calls(vm) == [
        "study -m lib.headless.run_notebooks --profile l4 -p n_images 300",
        "gcloud storage rsync --recursive reports/l4 gs://mine/reports/l4",
        "gcloud storage rsync --recursive build/l4/study_3/controlnet gs://mine/build/l4/study_3/controlnet",
        "gcloud storage cp l4.log gs://mine/l4.log",
        "sudo systemctl disable colors.service",
        "sudo poweroff",
    ]


def test_a_bucket_that_refuses_keeps_no_machine_running_and_a_group_of_one_is_emptied(vm):
    said, _ = start(vm, BUCKET="gs://mine", GCLOUD_STATUS="1").communicate(timeout=60)
    assert "reports/l4 was NOT copied to gs://mine; it stays on this disk" in said
    assert calls(vm)[-1] == "sudo poweroff"
    (vm / "calls.txt").unlink()
    start(vm, BUCKET="gs://mine", GROUP="colors", ZONE="us-central1-a").communicate(timeout=60)
    assert calls(vm)[-1] == "gcloud compute instance-groups managed resize colors --zone us-central1-a --size 0"
    assert "sudo poweroff" not in calls(vm)


def test_a_vm_that_is_stopped_waits_for_the_checkpoint_and_copies_nothing(vm):
    night, deadline = start(vm, BUCKET="gs://mine", SECONDS_TO_RUN="60"), time.time() + 30
    while not (vm / "started").exists():
        assert time.time() < deadline
        time.sleep(0.05)
    night.send_signal(signal.SIGTERM)
    said, _ = night.communicate(timeout=30)
    assert night.returncode == 143
    assert "the next boot goes on from the last checkpoint" in said
    assert calls(vm) == ["study -m lib.headless.run_notebooks --profile l4", "saved"]


def test_without_a_bucket_nothing_starts(vm):
    night = start(vm)
    said, _ = night.communicate(timeout=60)
    assert night.returncode != 0
    assert "BUCKET: is not set: write BUCKET=gs://YOUR_BUCKET to build/night.env" in said
    assert calls(vm) == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd")
def test_systemd_accepts_the_unit(vm):
    unit = (ROOT / "lib/l4/colors.service").read_text().replace("FOLDER", str(vm)).replace("YOU", "root")
    (vm / "colors.service").write_text(unit)
    command = ["systemd-analyze", "verify", "--man=no", vm / "colors.service"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in (result.stdout + result.stderr).splitlines() if "colors.service" in line]
    assert complaints == []
