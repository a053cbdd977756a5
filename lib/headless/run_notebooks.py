"""Run the numbered notebooks headless through papermill, e.g. `python -m lib.headless.run_notebooks -p n_images 12`."""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import datetime
from tempfile import TemporaryFile

import papermill
import psutil
import yaml
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from lib import ROOT
from lib.config import FIELDS, add_field_option, configs_to_run, get_config, require_known
from lib.files import PROGRESS_LOG, exit_with_one_line, explained, hash_of, new_file, one_line, write_text
from lib.l4 import hub, set_metrics
from lib.models import require_precision

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PUBLISHED = "reports"  # where reports go that git tracks
UNFINISHED = "unfinished_reports"  # below a run's folder: where its notebooks write until all have passed
STAMP = "finished.json"  # below a run's folder: what its published reports were made from
stopping = threading.Event()  # set by SIGTERM


def parse_arguments(arguments=None):
    """The command line: profile, parameters {name: text}, and which notebooks to run."""
    parser = argparse.ArgumentParser(prog="python -m lib.headless.run_notebooks", description=__doc__)
    parser.add_argument("--profile", default="pocket", help="a profile's name (default: pocket)")
    add_field_option(parser, "a notebook's parameter or any profile field, e.g. -p n_images 12")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="only these notebooks, e.g. --only 05 06")
    return parser.parse_args(arguments)


def pick_notebooks(numbers):
    """The notebooks with these numbers, in order; none: all. An unknown number is a ValueError."""
    known = {path.stem[:2]: path for path in NOTEBOOKS}
    for number in numbers:
        if number not in known:
            raise ValueError(f"no notebook {number!r}: known are {', '.join(known)}")
    return [path for number, path in known.items() if not numbers or number in numbers]


def split_parameters(profile_name, given, notebooks):
    """Check parameters before anything runs: ({notebook: its own parameters}, {profile field: value}).

    A name that is neither a parameter of a notebook nor a profile field raises a ValueError with similar names.
    """
    inspected = {path: papermill.inspect_notebook(str(path)) for path in notebooks}
    kinds = {name: facts["inferred_type_name"] for found in inspected.values() for name, facts in found.items()}
    kinds = {name: kinds[name] for name in sorted(set(kinds) - {"profile_name", "overrides", "run"})}
    require_known("parameter", given, (*kinds, *FIELDS))
    values = {name: read_value(name, text, kinds[name]) for name, text in given.items() if name in kinds}
    fields = {name: text for name, text in given.items() if name not in kinds}
    overrides = get_config(profile_name, **fields).values(*fields) if fields else {}
    overrides = {name: list(value) if isinstance(value, tuple) else value for name, value in overrides.items()}
    return {path: {n: v for n, v in values.items() if n in inspected[path]} for path in notebooks}, overrides


def read_value(name, text, kind):
    """The value of a notebook's parameter of a kind ("str", "list", ...), read from a text as YAML; else ValueError."""
    with explained(f"parameter {name!r} can't be read as YAML", "correct it", yaml.YAMLError):
        value = text if kind == "str" else yaml.safe_load(text)
    if type(value).__name__ != kind:
        raise ValueError(f"parameter {name!r} takes {kind}, not {text!r}")
    return value


@contextmanager
def locked(config):
    """Hold a build folder until the block or the process ends; one that another process holds is a ValueError."""
    path, home = config.build_dir / ".lock", config.reports_home
    holder = f"process {os.getpid()}, {shlex.join(sys.orig_argv)}, since {datetime.now():%Y-%m-%d %H:%M:%S}"

    def sign(descriptor):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, holder.encode())

    lock = FileLock(path, blocking=False, on_acquired=sign)
    with explained("can't write", "free it, or pass -p reports FOLDER or -p build FOLDER", OSError):
        for folder in (path.parent, home.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=home if home.exists() else home.parent):
            pass  # better refused now than after hours
        try:
            lock.acquire()
        except Timeout:
            who = " ".join(path.read_text().split())
            raise ValueError(f"{path.parent} is in use by {who}: wait for it, or pass -p build FOLDER") from None
    try:
        yield
    finally:
        lock.release()


def copy_newer(source, target):
    """Copy the files that a folder lacks or has older; all get temporary names first: a full disk changes none."""
    with ExitStack() as copies:
        for path in sorted(source.rglob("*")):
            there = target / path.relative_to(source)
            if not path.is_file() or path.suffix == ".part":  # of another build that is publishing
                continue
            if not there.exists() or there.stat().st_mtime_ns < path.stat().st_mtime_ns:
                shutil.copy2(path, copies.enter_context(new_file(there)))


@contextmanager
def relayed_progress(path, prefix):
    """Have a kernel's progress bars write plain lines to a file (`lib.files.progress`); print them as they come."""
    path.unlink(missing_ok=True)
    path.touch()
    os.environ[PROGRESS_LOG], done = str(path), threading.Event()

    def relay():
        with path.open() as lines:
            while True:
                last = done.wait(1)
                print(*(f"{prefix} {line}" for line in lines), sep="", end="", flush=True)
                if last:
                    return

    thread = threading.Thread(target=relay)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        del os.environ[PROGRESS_LOG]
        path.unlink()


def reason_of(error):
    """One line on a failed cell: the error's first line, or the failed source line if it has no message."""
    message = (error.evalue or "").splitlines()
    trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
    failed_line = re.findall(r"^-+> *\d+ (.*)$", trace, re.M)
    return f"{error.ename}: {(message[:1] or failed_line[-1:] or ['no message'])[0]}"


def run_notebook(path, output, parameters):
    """Execute one notebook; the executed copy stays at `output`. A failed cell is a RuntimeError of one line."""
    started, options = time.time(), {"cwd": str(path.parent), "kernel_name": "python3", "progress_bar": False}
    options["extra_arguments"] = ["--IPKernelApp.log_level=50"]  # no word of its sockets and of what interrupts it
    print(f"{path.stem} started {datetime.now():%H:%M:%S}", flush=True)
    try:
        with relayed_progress(output.with_suffix(".log"), path.stem):
            papermill.execute_notebook(str(path), str(output), parameters, **options)
    except DeadKernelError:
        raise RuntimeError(f"{path.stem}: its kernel was stopped, or had too little memory: run it again") from None
    except PapermillExecutionError as error:
        raise RuntimeError(f"{path.stem}: {reason_of(error)} (executed copy: {output})") from None
    print(f"{path.stem} passed after {time.time() - started:.0f} s", flush=True)


def run_notebooks(config, notebooks, parameters, overrides, made_from):
    """The notebooks of one run; what they wrote goes to the reports when all have passed, and is kept until then."""
    passed = 0
    home, unfinished, stamp = config.reports_home, config.run_dir / UNFINISHED, config.run_dir / STAMP
    (config.run_dir / "notebooks").mkdir(parents=True, exist_ok=True)
    if notebooks == NOTEBOOKS:
        shutil.rmtree(unfinished, ignore_errors=True)  # what a failed notebook wrote; the others write again
    copy_newer(home, unfinished / home.name)
    overrides = {**overrides, "run": config.run, "reports": str(unfinished)}
    shared = {"profile_name": config.profile, "overrides": overrides}
    try:
        for path in notebooks:
            run_notebook(path, config.run_dir / "notebooks" / path.name, {**shared, **parameters[path]})
            passed += 1
    except RuntimeError:
        rest = " ".join(path.stem[:2] for path in notebooks[passed:])
        print(f"what passed is kept; to go on from here: -p run {config.run} --only {rest}", flush=True)
        raise
    copy_newer(unfinished / home.name, home)
    shutil.rmtree(unfinished)
    if config.reports == PUBLISHED:  # notebooks in JupyterLab read elsewhere, and can go on from there
        copy_newer(home, get_config(config.profile).reports_home)
    if notebooks == NOTEBOOKS:
        write_text(json.dumps({"made_from": made_from, "finished": f"{datetime.now():%Y-%m-%d %H:%M}"}), stamp)


def run(arguments=None):
    """The notebooks in order, for one run of the profile after another; a run that fails doesn't stop the others.

    Of several runs, those that are finished are skipped. A precision, token, package or folder that can't be used is a
    ValueError before anything runs. If a run failed, a RuntimeError at the end names all that did.
    """
    options = parse_arguments(arguments)
    notebooks = pick_notebooks(options.only)
    given = {"reports": PUBLISHED, **dict(options.overrides)}
    parameters, overrides = split_parameters(options.profile, given, notebooks)
    configs, failed = configs_to_run(options.profile, **overrides), []
    for config in configs:
        require_precision(config.mixed_precision)
        hub.require_token(config)
        set_metrics.require_packages(config)
    if plan := hub.describe_plan(configs[0]):
        print(plan, flush=True)
    with locked(configs[0]):
        for config in configs:
            name, several = config.run, len(configs) > 1
            fields = {field: value for field, value in config.values().items() if field != "runs"}
            own = {notebook.name: sorted(values.items()) for notebook, values in parameters.items() if values}
            made_from = hash_of([fields, own, *NOTEBOOKS])
            path = config.run_dir / STAMP
            stamp = json.loads(path.read_text()) if path.exists() else {}
            finished = stamp.get("finished") if stamp.get("made_from") == made_from else ""
            if several and finished and not options.only:
                print(f"run {name}: finished {finished} with these settings; again: -p run {name}", flush=True)
                continue
            if not finished:
                path.unlink(missing_ok=True)
            print(f"run {name}", flush=True)
            try:
                run_notebooks(config, notebooks, parameters, overrides, made_from)
                print(f"charts and tables: {config.reports_dir}; notebooks: make book", flush=True)
            except (RuntimeError, ValueError, OSError) as error:
                if not several or stopping.is_set():
                    raise
                failed.append(f"run {name} failed: {one_line(error, None)}")
                print(failed[-1], flush=True)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(configs)} runs failed: {'; '.join(failed)}")


def pass_on_sigterm(*_):
    """Stop the kernels and wait for them: a training saves a checkpoint first, and would be lost without its parent."""
    stopping.set()
    for child in psutil.Process().children(recursive=True):
        child.terminate()


def main():
    """The command: exit 0 when every notebook passed, 1 with one line otherwise."""
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    signal.signal(signal.SIGTERM, pass_on_sigterm)
    with exit_with_one_line(RuntimeError):
        run()


if __name__ == "__main__":
    main()
