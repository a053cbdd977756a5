"""Run the numbered notebooks headless through papermill, e.g. `python -m lib.headless.run_notebooks -p n_images 12`."""

import argparse
import os
import re
import shutil
import signal
import sys
import time
from base64 import b64decode, b64encode
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import psutil
import yaml
from filelock import FileLock, Timeout
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from lib import ROOT, cache
from lib.config import FIELDS, Config, add_field_option, configs_to_run, get_config, require_known
from lib.l4 import hub, set_metrics
from lib.models import require_precision

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
TRACKED = "reports"  # the folder of reports that git has
LINK = re.compile(r"\[([^\[\]]*)\]\((?!https?:|#|\d\d_)([^()\s]+)\)")  # but those to the web and to a numbered notebook
FIGURES_BYTES = 1.5e6  # of a published notebook, at most
KERNEL = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "TQDM_DELAY": "60", "TQDM_MININTERVAL": "60", "TQDM_MINITERS": "1"}
KERNEL["TQDM_BAR_FORMAT"] = "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}{postfix}, {remaining} left"  # a line a minute


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line: profile, pairs of parameter and text, and which notebooks to run."""
    parser = argparse.ArgumentParser(prog="python -m lib.headless.run_notebooks", description=__doc__)
    parser.add_argument("--profile", default="pocket", help="a profile's name (default: pocket)")
    parser.add_argument("--only", nargs="+", choices=[path.stem[:2] for path in NOTEBOOKS], help="notebooks: 05 06")
    add_field_option(parser, "a notebook's parameter or any field of the configuration, e.g. -p n_images 12")
    return parser.parse_args(arguments)


def split_parameters(profile: str, given: dict[str, str], notebooks: list[Path]) -> tuple[dict, dict]:
    """Returns {notebook parameter: value} and {field: value}; raises ValueError if a name or a value is wrong."""
    inspected = [parameter for path in notebooks for parameter in papermill.inspect_notebook(str(path)).values()]
    kinds = {parameter["name"]: parameter["inferred_type_name"] for parameter in inspected}
    require_known("parameter", given, sorted({*kinds, *FIELDS} - {"profile_name", "overrides"}))
    fields = {name: text for name, text in given.items() if name in FIELDS}
    values = {name: text for name, text in given.items() if name not in FIELDS}
    for name, text in values.items():
        values[name] = text if kinds[name] == "str" else yaml.safe_load(text)
        if type(values[name]).__name__ != kinds[name]:
            raise ValueError(f"parameter {name!r} takes {kinds[name]}, not {text!r}")
    return values, get_config(profile, **fields).model_dump(mode="json", include=set(fields))


def run_notebook(path: Path, output: Path, parameters: dict) -> None:
    """Executes one notebook; the executed copy stays at `output`. Raises a RuntimeError of one line if a cell fails."""
    progress = SimpleNamespace(write=lambda text: text.strip() and print(text.strip()), flush=sys.stdout.flush)
    quiet = {"progress_bar": False, "extra_arguments": ["--IPKernelApp.log_level=50"]}  # no word of its sockets
    parameters = {name: parameters[name] for name in papermill.inspect_notebook(str(path)) if name in parameters}
    os.environ.pop("MPLBACKEND", None)  # with another backend than its own, a kernel shows no charts
    os.environ.update(KERNEL)
    print(f"{path.stem} started {time.strftime('%H:%M:%S')}", flush=True)
    try:
        papermill.execute_notebook(path, output, parameters, cwd=str(path.parent), stderr_file=progress, **quiet)
    except PapermillExecutionError as error:
        raise RuntimeError(f"{path.stem} [{error.exec_count}]: {error.ename}: {error.evalue} (see {output})") from None


def moved_link(link: re.Match) -> str:
    """A link of a notebook as it must be in `reports/<profile>/notebooks`; only its text if git lacks the file."""
    text, place = link.groups()
    if "/unfinished_reports/" in place:
        return f"[{text}](../{Path(place).name})"
    return text if place.startswith("../build/") else f"[{text}](../../../notebooks/{place})"


def publish_notebook(source: Path, target: Path) -> None:
    """Copies an executed notebook: links moved; no progress, paths of this machine or pictures of other reports."""
    notebook = nbformat.read(source, 4)
    notebook.metadata = {key: value for key, value in notebook.metadata.items() if key not in ("papermill", "widgets")}
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("![")]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(moved_link, cell.source)
        else:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    for data in shown:
        if "text/markdown" in data:
            data["text/markdown"] = LINK.sub(moved_link, data["text/markdown"])
    figures = [data for data in shown if "image/png" in data]
    for data in figures:
        if len(data["image/png"]) * 3 / 4 > FIGURES_BYTES / len(figures):
            picture = Image.open(BytesIO(b64decode(data.pop("image/png"))))
            picture.convert("RGB").save(file := BytesIO(), "jpeg", quality=85)
            data["image/jpeg"] = b64encode(file.getvalue()).decode()
    cache.write_text(nbformat.writes(notebook).replace(f"{ROOT}/", "").replace(str(ROOT), "."), target)


def copy_newer(source: Path, target: Path) -> None:
    """Copies the files that a folder lacks or has older; renames them once all are copied: a full disk changes none."""
    with ExitStack() as copies:
        for path in (path for path in sorted(source.rglob("*")) if path.is_file() and path.suffix != ".part"):
            copy = target / path.relative_to(source)
            if not copy.exists() or copy.stat().st_mtime_ns < path.stat().st_mtime_ns:
                shutil.copy2(path, copies.enter_context(cache.new_file(copy)))


def run_notebooks(config: Config, notebooks: list[Path], parameters: dict, overrides: dict) -> None:
    """Runs notebooks on a copy of the reports, which replaces them when all have passed, and is kept until then."""
    home, unfinished, folder = config.reports_home, config.run_dir / "unfinished_reports", config.run_dir / "notebooks"
    if notebooks == NOTEBOOKS:
        shutil.rmtree(unfinished, ignore_errors=True)  # what a failed notebook wrote; the others write again
    draft = unfinished / home.name
    folder.mkdir(parents=True, exist_ok=True)
    copy_newer(home, draft)
    overrides = overrides | {"run": config.run, "reports": str(unfinished)}
    for path in notebooks:
        run_notebook(path, folder / path.name, {**parameters, "profile_name": config.profile, "overrides": overrides})
        if config.run == config.own_run:
            publish_notebook(folder / path.name, draft / "notebooks" / path.name)
    copy_newer(draft, home)
    shutil.rmtree(unfinished)
    if config.reports == TRACKED:  # notebooks in JupyterLab read elsewhere, and can go on from there
        copy_newer(home, get_config(config.profile).reports_home)


@cache.exit_with_one_line(RuntimeError, yaml.YAMLError)
def main(arguments: list[str] | None = None) -> None:
    """Runs the notebooks for each run; of several, finished ones are skipped, and one that fails stops no other."""
    options, failed = parse_arguments(arguments), []
    notebooks = [path for path in NOTEBOOKS if not options.only or path.stem[:2] in options.only]
    parameters, overrides = split_parameters(options.profile, {"reports": TRACKED} | dict(options.overrides), notebooks)
    configs = configs_to_run(options.profile, **overrides)
    for config in configs:
        require_precision(config.mixed_precision)
        set_metrics.require_packages(config)
    if plan := hub.describe_plan(configs[0]):
        print(plan, flush=True)
    in_use = cache.explained("another process uses this build folder", "wait, or pass -p build FOLDER", Timeout)
    with in_use, FileLock(configs[0].build_dir / ".lock", blocking=False):
        for config in configs:
            folder, settings = config.run_dir / "notebooks", config.model_dump(mode="json", exclude={"runs"})
            key = {"config": settings, "notebooks": cache.hash_of(NOTEBOOKS), "parameters": parameters}
            if not cache.is_current(folder, key):
                (folder / "key.json").unlink(missing_ok=True)
            elif len(configs) > 1 and not options.only:
                print(f"run {config.run}: finished with these settings; again: -p run {config.run}", flush=True)
                continue
            try:
                run_notebooks(config, notebooks, parameters, overrides)
            except (RuntimeError, ValueError, OSError) as error:
                failed.append(f"run {config.run} failed: {cache.one_line(error, None)}")
                continue
            if notebooks == NOTEBOOKS:
                cache.mark_current(folder, key)
            print(f"run {config.run}: charts and tables: {config.reports_dir}; notebooks: {folder}", flush=True)
    if failed:
        raise RuntimeError("; ".join(failed))


def stop(*_) -> None:
    """Stops the kernels and waits for them: a training saves a checkpoint, and would be lost without its parent."""
    for child in (children := psutil.Process().children(recursive=True)):
        child.terminate()
    psutil.wait_procs(children)
    sys.exit("stopped: the same command goes on from the last checkpoint")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    main()
