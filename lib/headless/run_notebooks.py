"""Run the numbered notebooks headless through papermill, e.g. `python -m lib.headless.run_notebooks -p n_images 12`."""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import sys
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
from lib.files import exit_with_one_line, explained, hash_of, new_file, write_text
from lib.l4 import hub, set_metrics
from lib.profiles import PROFILE_FIELDS, add_field_option, get_profile, profiles_to_run

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
UNFINISHED = "unfinished_reports"  # below a run's folder: what the notebooks wrote that passed before another failed
PUBLISHED = "reports"  # where reports go that git tracks
STAMP = "finished.json"  # below a run's folder: what its published reports were made from


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
    unknown = [number for number in numbers if number not in known]
    if unknown:
        raise ValueError(f"no notebook {unknown[0]!r}: known are {', '.join(known)}")
    return [path for number, path in known.items() if not numbers or number in numbers]


def split_parameters(profile_name, given, notebooks):
    """Check parameters before anything runs: ({notebook: its own parameters}, {profile field: value}).

    A name that is neither a parameter of a notebook nor a profile field is a ValueError that lists the known ones.
    """
    of_profile = {"profile_name", "overrides", "run"}
    inspected = {path: papermill.inspect_notebook(str(path)) for path in notebooks}
    known = {path: set(found) - of_profile for path, found in inspected.items()}
    names = sorted(set().union(*known.values()))
    kinds = {name: of_one[name]["inferred_type_name"] for of_one in inspected.values() for name in of_one}
    values = {name: read_value(name, text, kinds[name]) if name in names else text for name, text in given.items()}
    for name in values:
        if name not in names and name not in PROFILE_FIELDS:
            known_names = f"notebooks take {', '.join(names)}; the profile has {', '.join(PROFILE_FIELDS)}"
            raise ValueError(f"unknown parameter {name!r}: {known_names}")
    overrides = {name: value for name, value in values.items() if name not in names}
    profile = get_profile(profile_name, **overrides)
    overrides = profile.values(*overrides) if overrides else {}
    overrides = {name: list(value) if isinstance(value, tuple) else value for name, value in overrides.items()}
    for path in notebooks:
        known[path] = {name: value for name, value in values.items() if name in known[path]}
    return known, overrides


def read_value(name, text, kind):
    """The value of a notebook's parameter of a kind ("str", "list", ...), read from a text as YAML; else ValueError."""
    with explained(f"parameter {name!r} can't be read as YAML", "correct it", yaml.YAMLError):
        value = text if kind == "str" else yaml.safe_load(text)
    if type(value).__name__ != kind:
        raise ValueError(f"parameter {name!r} takes {kind}, not {text!r}")
    return value


@contextmanager
def locked(build_dir):
    """Hold a build folder until the block or the process ends; one that another process holds is a ValueError."""
    path = build_dir / ".lock"
    holder = f"process {os.getpid()}, {shlex.join(sys.orig_argv)}, since {datetime.now():%Y-%m-%d %H:%M:%S}"

    def sign(descriptor):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, holder.encode())

    lock = FileLock(path, blocking=False, on_acquired=sign)
    try:
        build_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        who = " ".join(path.read_text().split())
        raise ValueError(f"{build_dir} is in use by {who}: wait for it, or pass -p build FOLDER") from None
    except OSError as error:
        raise _not_writable(error) from None
    try:
        yield
    finally:
        lock.release()


def _not_writable(error):
    return ValueError(f"can't write: {error}: free it, or pass -p reports FOLDER or -p build FOLDER")


def stage_reports(profile):
    """A copy of the reports to write into, below the run's own folder; the old reports stay as they are until the end.

    It also has what an earlier call left in `UNFINISHED`. A folder that can't be written is a ValueError.
    """
    home, staging = profile.folders.reports_home, profile.folders.run_dir / "reports.part"
    try:
        (profile.folders.run_dir / "notebooks").mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        (staging / home.name).mkdir(parents=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=home if home.exists() else home.parent):
            pass  # better refused now than after hours
        for source in (home, profile.folders.run_dir / UNFINISHED):
            if source.exists():
                ignore = shutil.ignore_patterns("*.part")  # of another build that is publishing
                shutil.copytree(source, staging / home.name, ignore=ignore, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise _not_writable(error) from None
    return staging


def state_of(folder):
    """{path below a folder: when and how large it was written} of its files."""
    facts = {path.relative_to(folder): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (fact.st_mtime_ns, fact.st_size) for path, fact in facts.items()}


def copy_files(paths, source, target):
    """Copy files to another folder by their paths; all get temporary names first, so that a full disk changes none."""
    with ExitStack() as copies:
        for path in paths:
            shutil.copy2(source / path, copies.enter_context(new_file(target / path)))


def hash_of_run(profile, parameters):
    """A short text that changes with a run's fields, notebooks and parameters, and with the code in `lib`."""
    fields = {
        name: value for name, value in profile.values().items() if name != "runs"
    }  # what else is run is no matter
    given = {path.name: sorted(values.items()) for path, values in parameters.items() if values}
    code = sorted([*(ROOT / "lib").rglob("*.py"), *(ROOT / "lib").rglob("*.j2")])
    return hash_of([fields, given, *NOTEBOOKS, *code])


def finished_since(profile, mark):
    """When a run was finished that has this hash and whose reports are still there; "" for none."""
    path = profile.folders.run_dir / STAMP
    if not path.exists():
        return ""
    stamp = json.loads(path.read_text())
    there = all((profile.folders.reports_home / name).exists() for name in stamp["reports"])
    return stamp["finished"] if there and stamp.get("hash") == mark else ""


def reason_of(error):
    """One line on a failed cell: the error's first line, or the failed source line where it says nothing."""
    said = (error.evalue or "").splitlines()
    trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
    failed_line = re.findall(r"^-+> *\d+ (.*)$", trace, re.M)
    return f"{error.ename}: {(said[:1] or failed_line[-1:] or ['no message'])[0]}"


def run_notebook(path, output, parameters):
    """Execute one notebook; the executed copy stays at `output`. A failed cell is a RuntimeError of one line."""
    print(f"{path.stem:<22}", end=" ", flush=True)
    started = time.time()
    try:
        papermill.execute_notebook(
            str(path),
            str(output),
            parameters,
            cwd=str(path.parent),
            kernel_name="python3",
            progress_bar=sys.stderr.isatty(),
            extra_arguments=["--IPKernelApp.log_level=50"],  # no word of its sockets, or of the interrupt that ends it
        )
    except DeadKernelError:
        print(f"stopped after {time.time() - started:.0f} s", flush=True)
        raise RuntimeError(f"{path.stem}: its kernel was stopped, or had too little memory: run it again") from None
    except PapermillExecutionError as error:
        print(f"failed after {time.time() - started:.0f} s", flush=True)
        raise RuntimeError(f"{path.stem}: {reason_of(error)} (executed copy: {output})") from None
    print(f"{time.time() - started:5.0f} s", flush=True)


def run(arguments=None):
    """The notebooks in order, for one run of the profile after another.

    A run's reports appear in `reports/<profile>` when all its notebooks have passed. Of several runs, those that are
    finished are skipped. A build folder that another process uses is a ValueError.
    """
    options = parse_arguments(arguments)
    notebooks = pick_notebooks(options.only)
    given = {"reports": PUBLISHED, **options.overrides}
    parameters, overrides = split_parameters(options.profile, given, notebooks)
    profiles = profiles_to_run(options.profile, **overrides)
    for profile in profiles:
        hub.require_token(profile.study)
        set_metrics.require_packages(profile.study)
    if published := hub.describe_plan(profiles[0].study):
        print(published, flush=True)
    with locked(profiles[0].folders.build_dir):
        for profile in profiles:
            mark, several = hash_of_run(profile, parameters), len(profiles) > 1
            since = finished_since(profile, mark)
            if several and since and not options.only:
                again = f"to run it again: -p run {profile.folders.run}"
                print(
                    f"run {profile.folders.run}: finished {since} with these settings and this code; {again}",
                    flush=True,
                )
                continue
            if several:
                print(f"run {profile.folders.run}", flush=True)
            if not since:
                (profile.folders.run_dir / STAMP).unlink(missing_ok=True)
            run_notebooks(profile, notebooks, parameters, overrides, mark)
            print(f"charts and tables: {profile.folders.reports_dir}")
    print(f"executed notebooks: {profiles[-1].folders.run_dir / 'notebooks'}")


def run_notebooks(profile, notebooks, parameters, overrides, mark):
    """The notebooks of one run, with parameters for each; at the end, what they wrote goes to the reports.

    When one fails, what those before it wrote is kept in `UNFINISHED` for the next call.
    """
    staging, folders = stage_reports(profile), profile.folders
    home, unfinished = folders.reports_home, folders.run_dir / UNFINISHED
    overrides = {**overrides, "run": folders.run, "reports": str(staging)}
    shared = {"profile_name": profile.name, "overrides": overrides}
    before, passed = state_of(staging / home.name), 0
    try:
        for path in notebooks:
            run_notebook(path, profile.folders.run_dir / "notebooks" / path.name, {**shared, **parameters[path]})
            now = state_of(staging / home.name)
            copy_files([name for name in now if now[name] != before.get(name)], staging / home.name, unfinished)
            passed += 1
    except RuntimeError:
        if passed:
            rest = " ".join(path.stem[:2] for path in notebooks[passed:])
            print(f"what passed is kept; to go on from here: -p run {profile.folders.run} --only {rest}", flush=True)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    publish(profile, notebooks, mark)


def publish(profile, notebooks, mark):
    """Move what a run's notebooks wrote to the reports; a stamp says what it was made from, if all notebooks ran.

    Reports that git tracks are also copied to where notebooks in JupyterLab read and write, so that each can go on from
    there.
    """
    unfinished, home = profile.folders.run_dir / UNFINISHED, profile.folders.reports_home
    names = sorted(state_of(unfinished))
    copy_files(names, unfinished, home)
    shutil.rmtree(unfinished, ignore_errors=True)
    if profile.folders.reports == PUBLISHED:
        copy_files(sorted(state_of(home)), home, get_profile(profile.name).folders.reports_home)
    if notebooks == NOTEBOOKS:
        now = f"{datetime.now():%Y-%m-%d %H:%M}"
        stamp = {"hash": mark, "finished": now, "reports": [str(name) for name in names]}
        write_text(json.dumps(stamp, indent=1), profile.folders.run_dir / STAMP)


def pass_on_sigterm(*_):
    """Tell the kernels to stop, and wait for them: a training saves a checkpoint before it obeys.

    Without this they would be lost at once, because a kernel ends as soon as its parent is gone.
    """
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
