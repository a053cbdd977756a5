"""`make book`: the executed notebooks of the last run as web pages, with an index, for reading without Jupyter."""

import argparse
import json
import re
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from lib import ROOT
from lib.files import exit_with_one_line, new_folder, write_text
from lib.headless.run_notebooks import NOTEBOOKS
from lib.profiles import add_field_option, profiles_to_run


def make_book(profile):
    """Make web pages of a run's executed notebooks, with an index, in `build/book`; the path of the index.

    A run without executed notebooks is a ValueError that says what to type.
    """
    executed, build = profile.folders.run_dir / "notebooks", profile.folders.build_dir.parent
    paths = [executed / path.name for path in NOTEBOOKS if (executed / path.name).exists()]
    if not paths:
        raise ValueError(f"no executed notebooks in {executed}: run make reports with the same PROFILE and ARGS first")
    pages = {path.stem: read_executed(path, build) for path in paths}
    openings = {name: opening_of(page) or (name, "") for name, page in pages.items()}
    titles = {"index": "Contents"} | {name: title for name, (title, _) in openings.items()}
    lines = [f"# Prompted colorization: run `{profile.folders.run}` of profile `{profile.name}`\n"]
    lines += [f"- [{title}]({name}.html): {question}" for name, (title, question) in openings.items()]
    pages["index"] = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("\n".join(lines))])
    exporter = HTMLExporter(template_file=str(ROOT / "lib/templates/book.html.j2"))
    with new_folder(build / "book") as folder:
        for name, page in pages.items():
            html, _ = exporter.from_notebook_node(page, {"titles": titles, "metadata": {"name": titles[name]}})
            write_text(html, folder / f"{name}.html")
    return build / "book/index.html"


def opening_of(page):
    """(title, question) of a notebook; None where it has none. Papermill puts a failed cell's error before them."""
    matches = (re.match("# (.*)\n\n> (.*)", cell.source) for cell in page.cells)
    return next((match.groups() for match in matches if match), None)


def read_executed(path, build):
    """An executed notebook as a page of the book: its links lead to pages; no progress bars, widgets or local paths."""
    text = path.read_text()
    repository = Path(json.loads(text)["metadata"]["papermill"]["input_path"]).parents[1]  # where it ran
    for folder, name in ((build, "build/"), (repository, "")):
        text = re.sub(rf"(?<![\w+/]){re.escape(str(folder))}/", name, text)  # never inside an image's base64
    notebook = nbformat.reads(text, 4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\((\d\d_\w+)\.ipynb", r"](\1.html", cell.source)
            cell.source = re.sub(r"\]\((\w+\.(?:md|ipynb))\)", r"](../notebooks/\1)", cell.source)
            cell.source = re.sub(r"\[([^]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", cell.source)  # not a page of the book
            continue
        widget = "application/vnd.jupyter.widget-view+json"
        shown = (output for output in cell.get("outputs", []) if output.get("name") != "stderr")
        cell.outputs = [output for output in shown if widget not in output.get("data", {})]
        for output in cell.outputs:
            if table := output.get("data", {}).get("text/markdown"):
                output.data["text/markdown"] = re.sub(r"\[([^]]+)\]\([^)]+\.csv\)", r"`\1`", table)
    return notebook


def main(arguments=None):
    """The command behind `make book`."""
    parser = argparse.ArgumentParser(prog="python -m lib.headless.book", description=__doc__)
    parser.add_argument("--profile", default="pocket", help="a profile's name (default: pocket)")
    add_field_option(parser, "a profile field, e.g. -p run study_1")
    options = parser.parse_args(arguments)
    with exit_with_one_line():
        print(f"book: {make_book(profiles_to_run(options.profile, **options.overrides)[-1])}")


if __name__ == "__main__":
    main()
