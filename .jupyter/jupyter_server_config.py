"""How `make lab` runs JupyterLab: uploads of photos, and notebooks that git sees no change in when they are run."""

import os
from pathlib import Path

import nbformat
from nbstripout import strip_output

from lib import ROOT
from lib.cache import write_text


def set_outputs_aside(model, path, **_):
    """Takes the outputs out of a notebook of the repository before Jupyter saves it, and keeps it in `build/lab`."""
    if model["type"] == "notebook" and Path(path).parent.name == "notebooks":
        notebook = nbformat.from_dict(model["content"])
        write_text(nbformat.writes(notebook), ROOT / "build/lab" / Path(path).name)
        model["content"] = strip_output(notebook, keep_output=False, keep_count=False, keep_id=True)
        model["content"].metadata["language_info"] = {"name": "python"}  # not which version ran it


os.environ.pop("MPLBACKEND", None)  # with another backend than its own, a kernel shows no charts
c = get_config()  # noqa: F821
c.FileContentsManager.pre_save_hook = set_outputs_aside
c.ServerApp.tornado_settings = {"websocket_max_message_size": 512 * 2**20}  # of an upload; Jupyter's own limit is 10 MB
