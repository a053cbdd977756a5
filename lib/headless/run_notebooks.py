"""Run the numbered notebooks headless through papermill, e.g. `python -m lib.headless.run_notebooks -p n_images 12`."""

import argparse
import os
import re
import shutil
import signal
import sys
import threading
import time
from base64 import b64decode, b64encode
from contextlib import ExitStack, contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace

import nbformat
import papermill
import psutil
import yaml
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from lib import ROOT, cache
from lib.cache import exit_with_one_line, explained, one_line
from lib.config import FIELDS, Config, add_field_option, configs_to_run, get_config, require_known
from lib.l4 import hub, set_metrics
from lib.models import require_precision

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PUBLISHED = "reports"  # where reports go that git tracks
FIGURES_BYTES = 1.5e6  # of a published notebook
ENCODINGS = (("png", {}), ("jpeg", {"quality": 85}), ("jpeg", {"quality": 60}), ("jpeg", {"quality": 30}))
PROGRESS = {  # of tqdm in kernels: a plain line a minute of what takes longer than a minute
    "TQDM_BAR_FORMAT": "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}{postfix}, {remaining} left",
    **{"TQDM_DELAY": "60", "TQDM_MININTERVAL": "60", "TQDM_MINITERS": "1"},
}
stopping = threading.Event()  # set by SIGTERM


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line: profile, pairs of parameter and text, and which notebooks to run."""
    parser = argparse.ArgumentParser(prog="python -m lib.headless.run_notebooks", description=__doc__)
    parser.add_argument("--profile", default="pocket", help="a profile's name (default: pocket)")
    add_field_option(parser, "a notebook's parameter or any field of the configuration, e.g. -p n_images 12")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="only these notebooks, e.g. --only 05 06")
    return parser.parse_args(arguments)


def split_parameters(profile: str, given: dict[str, str], notebooks: list[Path]) -> tuple[dict, dict]:
    """Checks parameters before anything runs: ({notebook: its own parameters}, {field: value}).

    Raises:
        ValueError: if a name is neither a parameter of a notebook nor a field, or a value has the wrong type.
    """
    inspected = {path: papermill.inspect_notebook(str(path)) for path in notebooks}
    kinds = {name: info["inferred_type_name"] for parameters in inspected.values() for name, info in parameters.items()}
    kinds = {name: kind for name, kind in kinds.items() if name not in ("profile_name", "overrides", "run")}
    require_known("parameter", given, (*kinds, *FIELDS))
    values = {name: text for name, text in given.items() if name in kinds}
    for name, text in values.items():
        if kinds[name] != "str":
            with explained(f"parameter {name!r} can't be read as YAML", "correct it", yaml.YAMLError):
                values[name] = yaml.safe_load(text)
            if type(values[name]).__name__ != kinds[name]:
                raise ValueError(f"parameter {name!r} takes {kinds[name]}, not {text!r}")
    fields = {name: text for name, text in given.items() if name not in kinds}
    overrides = get_config(profile, **fields).model_dump(mode="json", include=set(fields))
    return {path: {name: values[name] for name in values if name in inspected[path]} for path in notebooks}, overrides


@contextmanager
def locked(config: Config):
    """Holds a build folder until the block or the process ends; raises a ValueError if another process holds it."""
    path, home = config.build_dir / ".lock", config.reports_home
    with explained("can't write", "free it, or pass -p reports FOLDER or -p build FOLDER", OSError):
        for folder in (path.parent, home.parent):
            folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=home if home.exists() else home.parent).close()  # better refused now than after hours
    try:
        with FileLock(path, blocking=False):
            yield
    except Timeout:
        raise ValueError(f"{path.parent} is in use by another process: wait, or pass -p build FOLDER") from None


def run_notebook(path: Path, output: Path, parameters: dict) -> None:
    """Executes one notebook; the executed copy stays at `output`. Raises a RuntimeError of one line if a cell fails."""

    def print_lines(text):
        for line in filter(None, map(str.strip, text.splitlines())):
            print(f"{path.stem} {datetime.now():%H:%M:%S} {line}")

    options = {"cwd": str(path.parent), "kernel_name": "python3", "progress_bar": False}
    options["stderr_file"] = SimpleNamespace(write=print_lines, flush=sys.stdout.flush)
    options["extra_arguments"] = ["--IPKernelApp.log_level=50"]  # no word of its sockets and of what interrupts it
    os.environ.pop("MPLBACKEND", None)  # with another backend than its own, a kernel shows no charts
    os.environ.update(PROGRESS)
    started = time.time()
    print(f"{path.stem} started {datetime.now():%H:%M:%S}", flush=True)
    try:
        papermill.execute_notebook(str(path), str(output), parameters, **options)
    except DeadKernelError:
        raise RuntimeError(f"{path.stem}: its kernel was stopped, or had too little memory: run it again") from None
    except PapermillExecutionError as error:
        trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
        failed_line = re.findall(r"^-+> *\d+ (.*)$", trace, re.M)
        reason = ((error.evalue or "").splitlines()[:1] or failed_line[-1:] or ["no message"])[0]
        raise RuntimeError(f"{path.stem}: {error.ename}: {reason} (executed copy: {output})") from None
    print(f"{path.stem} passed after {time.time() - started:.0f} s", flush=True)


def publish_notebook(source: Path, target: Path) -> None:
    """Writes an executed notebook without progress and this machine's paths; figures take at most `FIGURES_BYTES`."""
    notebook = nbformat.read(source, 4)
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    figures = [output.data for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    pictures = [Image.open(BytesIO(b64decode(data["image/png"]))).convert("RGB") for data in figures]
    for kind, options in ENCODINGS:  # from the best to the smallest
        if sum(len(data.get("image/png") or data["image/jpeg"]) for data in figures) * 3 / 4 <= FIGURES_BYTES:
            break
        for data, picture in zip(figures, pictures, strict=True):
            (picture.quantize() if kind == "png" else picture).save(file := BytesIO(), kind, optimize=True, **options)
            data.pop("image/png", None)
            data[f"image/{kind}"] = b64encode(file.getvalue()).decode()
    cache.write_text(nbformat.writes(notebook).replace(f"{ROOT}/", "").replace(str(ROOT), "."), target)


def copy_newer(source: Path, target: Path) -> None:
    """Copies the files that a folder lacks or has older; renames them once all are copied: a full disk changes none."""
    with ExitStack() as copies:
        for path in (path for path in sorted(source.rglob("*")) if path.is_file() and path.suffix != ".part"):
            copy = target / path.relative_to(source)
            if not copy.exists() or copy.stat().st_mtime_ns < path.stat().st_mtime_ns:
                shutil.copy2(path, copies.enter_context(cache.new_file(copy)))


def run_notebooks(config: Config, notebooks: list[Path], parameters: dict, overrides: dict) -> None:
    """The notebooks of one run; what they wrote goes to the reports when all have passed, and is kept until then."""
    home, unfinished, folder = config.reports_home, config.run_dir / "unfinished_reports", config.run_dir / "notebooks"
    if notebooks == NOTEBOOKS:
        shutil.rmtree(unfinished, ignore_errors=True)  # what a failed notebook wrote; the others write again
    draft = unfinished / home.name
    folder.mkdir(parents=True, exist_ok=True)
    copy_newer(home, draft)
    shared = {"profile_name": config.profile, "overrides": overrides | {"run": config.run, "reports": str(unfinished)}}
    for number, path in enumerate(notebooks):
        try:
            run_notebook(path, folder / path.name, {**shared, **parameters[path]})
        except RuntimeError:
            rest = " ".join(path.stem[:2] for path in notebooks[number:])
            print(f"what passed is kept; to go on from here: -p run {config.run} --only {rest}", flush=True)
            raise
        if config.run == config.own_run:
            publish_notebook(folder / path.name, draft / "notebooks" / path.name)
    copy_newer(draft, home)
    shutil.rmtree(unfinished)
    if config.reports == PUBLISHED:  # notebooks in JupyterLab read elsewhere, and can go on from there
        copy_newer(home, get_config(config.profile).reports_home)


def run(arguments: list[str] | None = None) -> None:
    """The notebooks in order, for one run of the profile after another; a run that fails doesn't stop the others.

    Of several runs, those that finished with the same settings and notebooks are skipped.

    Raises:
        ValueError: before anything runs, if a parameter, precision, token, package or folder can't be used.
        RuntimeError: at the end, if runs failed; names them.
    """
    options, failed = parse_arguments(arguments), []
    known = {path.stem[:2]: path for path in NOTEBOOKS}
    require_known("notebook", options.only, known)
    notebooks = [path for number, path in known.items() if not options.only or number in options.only]
    given = {"reports": PUBLISHED, **dict(options.overrides)}
    parameters, overrides = split_parameters(options.profile, given, notebooks)
    configs = configs_to_run(options.profile, **overrides)
    for config in configs:
        require_precision(config.mixed_precision)
        set_metrics.require_packages(config)
    if plan := hub.describe_plan(configs[0]):
        print(plan, flush=True)
    with locked(configs[0]):
        for config in configs:
            folder, several = config.run_dir / "notebooks", len(configs) > 1
            key = {"config": config.model_dump(mode="json", exclude={"runs"}), "notebooks": cache.hash_of(NOTEBOOKS)}
            key["parameters"] = {path.name: values for path, values in parameters.items() if values}
            finished = cache.is_current(folder, key)
            if several and finished and not options.only:
                print(f"run {config.run}: finished with these settings; again: -p run {config.run}", flush=True)
                continue
            if not finished:
                (folder / "key.json").unlink(missing_ok=True)
            print(f"run {config.run}", flush=True)
            try:
                run_notebooks(config, notebooks, parameters, overrides)
            except (RuntimeError, ValueError, OSError) as error:
                if not several or stopping.is_set():
                    raise
                failed.append(f"run {config.run} failed: {one_line(error, None)}")
                print(failed[-1], flush=True)
                continue
            if notebooks == NOTEBOOKS:
                cache.mark_current(folder, key)
            print(f"charts and tables: {config.reports_dir}; notebooks: {folder}", flush=True)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(configs)} runs failed: {'; '.join(failed)}")


def pass_on_sigterm(*_) -> None:
    """Stops the kernels and waits for them: a training saves a checkpoint, and would be lost without its parent."""
    stopping.set()
    for child in psutil.Process().children(recursive=True):
        child.terminate()


def main() -> None:
    """The command: exit 0 when every notebook passed, 1 with one line otherwise."""
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    signal.signal(signal.SIGTERM, pass_on_sigterm)
    with exit_with_one_line(RuntimeError):
        run()


if __name__ == "__main__":
    main()
