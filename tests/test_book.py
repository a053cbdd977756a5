"""`make book`: the executed notebooks as web pages, opened in Chromium without a network."""

import re
import shutil

import nbformat
import pytest

from lib import ROOT
from lib.headless import book as book_pages
from lib.headless import run_notebooks
from lib.profiles import get_profile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIGURE = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAADCAIAAAA2iEnWAAAAE0lEQVR4nGM8wcDAwMDAxIBMAQAP9ADOEjHWXgAAAABJRU5ErkJggg=="  # 2 x 3 px
ELSEWHERE = "/home/somebody/colors"  # where the notebooks ran


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The folder of the book of the six notebooks, with outputs and a link as a run may leave them."""
    build = tmp_path_factory.mktemp("build")
    profile = get_profile("pocket", build=str(build))
    (profile.folders.run_dir / "notebooks").mkdir(parents=True)
    for path in run_notebooks.NOTEBOOKS:
        notebook = nbformat.read(path, 4)
        notebook.metadata["papermill"] = {"input_path": f"{ELSEWHERE}/notebooks/{path.name}"}
        links = "[six](06_prompt_study.ipynb) [card](../data_cards/pocket_photos/README.md) [guide](L4.md)"
        notebook.cells.append(nbformat.v4.new_markdown_cell(links))
        widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": f"Box({ELSEWHERE}/x)"}
        outputs = [
            nbformat.v4.new_output("stream", name="stderr", text="colorizing:  10%"),
            nbformat.v4.new_output("stream", name="stdout", text=f"in {ELSEWHERE}/reports and {build}/pocket/default"),
            nbformat.v4.new_output("display_data", {"image/png": FIGURE, "text/plain": "<Figure>"}),
            nbformat.v4.new_output("display_data", widget),
            nbformat.v4.new_output("display_data", {"text/markdown": f"All columns: [all.csv]({ELSEWHERE}/all.csv)"}),
        ]
        notebook.cells.append(nbformat.v4.new_code_cell("show()", outputs=outputs))
        nbformat.write(notebook, profile.folders.run_dir / "notebooks" / path.name)
    index = book_pages.make_book(profile)
    assert index == build / "book/index.html"
    return index.parent


def test_pages_have_outputs_but_no_progress_bars_scripts_or_paths(book):
    pages = {path.stem: path.read_text() for path in book.glob("*.html")}
    assert set(pages) == {"index", *(path.stem for path in run_notebooks.NOTEBOOKS)}
    for name, page in pages.items():
        assert "<script" not in page
        assert "http-equiv" not in page
        for private in (ELSEWHERE, str(book.parent), str(ROOT), "colorizing:", "widget-view"):
            assert private not in page, name
        assert (
            "card (<code>data_cards/pocket_photos/README.md</code>) guide (<code>notebooks/L4.md</code>)" in page
        ) == (name != "index")
        assert ("in reports and build/pocket/default" in page) == (name != "index")
        assert ("All columns: <code>all.csv</code>" in page) == (name != "index")


def test_links_lead_to_what_is_there(book):
    for path in book.glob("*.html"):
        targets = re.findall(r'<a [^>]*href="([^"#]+)"', path.read_text())
        assert len(targets) > 6
        assert [target for target in targets if "://" not in target and not (book / target).exists()] == []


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")
def test_a_reader_without_a_network_sees_the_figures(book):
    from playwright.sync_api import sync_playwright

    requests = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context()
        context.set_offline(True)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{book}/index.html")
        page.get_by_role("listitem").get_by_role("link").nth(2).click()
        assert page.get_by_role("heading", level=1).inner_text().startswith("3. Train the ControlNet")
        assert page.evaluate("[...document.images].map(image => image.naturalWidth)") == [2]
        page.get_by_role("link", name="six").click()
        assert page.title().startswith("6. ")
        browser.close()
    assert [url[:80] for url in requests if not url.startswith(("file:", "data:"))] == []


def test_a_failed_notebook_has_a_page_too(tmp_path):
    profile = get_profile("pocket", build=str(tmp_path))
    (profile.folders.run_dir / "notebooks").mkdir(parents=True)
    notebook = nbformat.read(run_notebooks.NOTEBOOKS[0], 4)
    notebook.metadata["papermill"] = {"input_path": f"{ELSEWHERE}/notebooks/{run_notebooks.NOTEBOOKS[0].name}"}
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("<span>An Exception was encountered</span>"))
    nbformat.write(notebook, profile.folders.run_dir / "notebooks" / run_notebooks.NOTEBOOKS[0].name)
    assert "1. Build the data set" in book_pages.make_book(profile).read_text()


def test_a_run_that_is_missing_says_what_to_type(tmp_path):
    with pytest.raises(
        SystemExit, match="no executed notebooks in .*study_1/notebooks: run make reports with the same"
    ):
        book_pages.main(["-p", "run", "study_1", "-p", "build", str(tmp_path)])
    assert not (tmp_path / "book").exists()
