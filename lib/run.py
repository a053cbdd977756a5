"""Run the numbered notebooks headless through papermill: `python -m lib.run --profile pocket -p n_images 12`."""

import argparse
import os
import re
import shutil
import sys
import time

import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

from lib import ROOT, hub, networks
from lib.profiles import PROFILE_FIELDS, add_field_option, get_profile, profiles_to_run

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def parse_arguments(arguments=None):
    """The command line: profile, parameters as (name, text) pairs, and which notebooks to run."""
    parser = argparse.ArgumentParser(prog="python -m lib.run", description=__doc__)
    parser.add_argument("--profile", default="pocket", help="a profile's name (default: pocket)")
    add_field_option(parser, "a notebook's parameter or any profile field, e.g. -p n_images 12")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NN", help="run these notebooks only, e.g. --only 05 06"
    )
    return parser.parse_args(arguments)


def pick_notebooks(numbers):
    """The notebooks with these numbers, in order; none: all. An unknown number is a ValueError."""
    known = {path.stem[:2]: path for path in NOTEBOOKS}
    unknown = [number for number in numbers if number not in known]
    if unknown:
        raise ValueError(f"no notebook {unknown[0]!r}: known are {', '.join(known)}")
    return [path for number, path in known.items() if not numbers or number in numbers]


def split_parameters(profile_name, pairs, notebooks):
    """Check parameters before anything runs: ({notebook: its own parameters}, {profile field: value}).

    A name that is neither a parameter of a notebook nor a profile field is a ValueError that lists the known ones.
    """
    of_profile = {"profile_name", "overrides", "run"}
    known = {path: set(papermill.inspect_notebook(str(path))) - of_profile for path in notebooks}
    names = sorted(set().union(*known.values()))
    values = {name: yaml.safe_load(text) if name in names else text for name, text in pairs}
    for name in values:
        if name not in names and name not in PROFILE_FIELDS:
            raise ValueError(f"unknown parameter {name!r}: notebooks take {', '.join(names)}; "
                             f"the profile has {', '.join(PROFILE_FIELDS)}")  # fmt: skip
    overrides = {name: value for name, value in values.items() if name not in names}
    profile = get_profile(profile_name, **overrides)
    overrides = {name: getattr(profile, name) for name in overrides}
    overrides = {name: list(value) if isinstance(value, tuple) else value for name, value in overrides.items()}
    return {path: {n: v for n, v in values.items() if n in known[path]} for path in notebooks}, overrides


def stage_reports(profile):
    """A copy of the reports folder to write into, so that a failed run leaves the old reports as they were.

    A reports or build folder that can't be written is a ValueError.
    """
    home, staging = profile.reports_home, profile.reports_home.with_name(f".{profile.name}.part")
    try:
        (profile.run_dir / "notebooks").mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        if home.exists():
            (home / ".writable").touch()
            (home / ".writable").unlink()
            shutil.copytree(home, staging / home.name)
        else:
            (staging / home.name).mkdir()
    except OSError as error:
        raise ValueError(f"can't write: {error}: free it, or pass -p reports FOLDER or -p build FOLDER") from None
    return staging


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
    except PapermillExecutionError as error:
        print(f"failed after {time.time() - started:.0f} s", flush=True)
        raise RuntimeError(f"{path.stem}: {reason_of(error)} (executed copy: {output})") from None
    print(f"{time.time() - started:5.0f} s", flush=True)


def run(arguments=None):
    """The notebooks in order, for one run of the profile after another.

    A run's reports appear in `reports/<profile>` when all its notebooks have passed.
    """
    options = parse_arguments(arguments)
    notebooks = pick_notebooks(options.only)
    parameters, overrides = split_parameters(options.profile, options.overrides, notebooks)
    profiles = profiles_to_run(options.profile, **overrides)
    for profile in profiles:
        hub.check(profile)
        networks.check(profile)
    for profile in profiles:
        if len(profiles) > 1:
            print(f"run {profile.run}", flush=True)
        run_notebooks(profile, notebooks, parameters, overrides)
        print(f"charts and tables: {profile.reports_dir}")


def run_notebooks(profile, notebooks, parameters, overrides):
    """The notebooks of one run, with parameters for each, on a copy of the reports that takes their place at the end."""
    staging, home = stage_reports(profile), profile.reports_home
    shared = {"profile_name": profile.name, "overrides": {**overrides, "run": profile.run, "reports": str(staging)}}
    try:
        for path in notebooks:
            run_notebook(path, profile.run_dir / "notebooks" / path.name, {**shared, **parameters[path]})
        if home.exists():
            os.replace(home, staging / "old")
        os.replace(staging / home.name, home)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def main():
    """The command: exit 0 when every notebook passed, 1 with one line otherwise."""
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    try:
        run()
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
