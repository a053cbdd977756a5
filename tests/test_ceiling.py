"""The notebook on what colour words could give at best: a small run."""

import pandas as pd
import papermill

from lib import ROOT


def test_a_small_run_paints_words_and_writes_its_tables(tmp_path):
    parameters = {"out": str(tmp_path), "limit": 4}
    papermill.execute_notebook(ROOT / "notebooks/ceiling.ipynb", tmp_path / "run.ipynb", parameters, cwd=str(ROOT))
    ceiling = pd.read_csv(tmp_path / "ceiling.csv").query("photos == 'all'").set_index("picture")["over_vague"]
    assert ceiling["true colours"] < ceiling["true mean"] < 0 < ceiling["palette, other word"]
    vividness = pd.read_csv(tmp_path / "vividness.csv")
    assert (vividness.groupby("prompt")["chroma_ratio"].diff().dropna() > 0).all()
    assert {"ceiling.png", "pictures.png", "words.csv", "counts.csv"} <= {path.name for path in tmp_path.iterdir()}
