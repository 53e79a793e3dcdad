"""Notebook 07 in a real browser: JupyterLab here, a headless Chromium, the slider moved, the box seen to follow.

`python tests/test_browser.py` writes the README's screenshot, docs/explorer.png.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
NOTEBOOK = "notebooks/07_your_own_images.ipynb"
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), "")
FLAGS = (  # root has no sandbox, and nothing is asked of the network
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE = 600_000  # milliseconds: what hangs is given up, what is slow is not

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or name one in CHROMIUM")


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """JupyterLab on a copy of what notebook 07 needs, with settings of its own; its address, with the token."""
    ignored = shutil.ignore_patterns("__pycache__", "*.csv", "*.md", "*.png", "*.npz")
    for name in ("wsol_utils", "results/reference/sample/birds", "data/published"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "data/photographs.csv", folder / "data")
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # what is seen later is of this run
            cell.outputs, cell.execution_count = [], None
    (folder / NOTEBOOK).parent.mkdir()
    nbformat.write(notebook, folder / NOTEBOOK)
    lab = folder / ".jupyter/JUPYTER_CONFIG_DIR/labconfig/page_config.json"
    lab.parent.mkdir(parents=True)
    lab.write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}', encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port, token = free.getsockname()[1], secrets.token_hex(16)
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    places = {name: str(folder / ".jupyter" / name) for name in own}
    places |= {f"JUPYTERLAB_{name}_DIR": str(folder / ".jupyter" / name) for name in ("SETTINGS", "WORKSPACES")}
    environment = os.environ | places | {"PYTHONPATH": str(folder), "JUPYTER_TOKEN": token}
    environment = {key: value for key, value in environment.items() if key not in ("WSOL_RESULTS", "TQDM_DISABLE")}
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    with open(folder / "jupyter.log", "wb") as log:
        server = psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(6000):  # ten minutes
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "jupyter.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK}?token={token}"
    finally:
        started = [server, *server.children(recursive=True)] if server.is_running() else []
        for end in (psutil.Process.terminate, psutil.Process.kill):
            for process in psutil.wait_procs(started, timeout=0)[1]:
                end(process)
            psutil.wait_procs(started, timeout=10)


@contextmanager
def browser_page() -> Iterator[Page]:
    """An empty page of a Chromium with a profile of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1300, "height": 900})
            page.set_default_timeout(PATIENCE)
            expect.set_options(timeout=PATIENCE)
            yield page
        finally:
            browser.close()


def run_all(page: Page, address: str) -> None:
    """Open the notebook, run it to its end and bring the explorer into view."""
    page.goto(address, timeout=PATIENCE)
    expect(page.get_by_text("| Idle")).to_be_visible(timeout=PATIENCE)
    page.locator(".jp-Notebook-cell").first.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Run All( Cells)?$")).click()
    expect(page.locator(".wsol-box")).to_be_attached(timeout=PATIENCE)  # not before it has run
    prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt")
    expect(prompts.last).to_have_text(f"[{prompts.count()}]:", timeout=PATIENCE)
    page.locator(".wsol-box").evaluate("box => box.scrollIntoView({block: 'center'})")


def threshold_and_box(page: Page) -> tuple[float, str]:
    """What the explorer says."""
    said = page.locator(".wsol-box").inner_text()
    eta, box = re.match(r"η = ([\d.]+) .*: (box x .+ pixels|no box)", said).groups()
    return float(eta), box


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What JupyterLab shows."""
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def page(folder):
    """The notebook, run."""
    with jupyter_lab(folder) as address, browser_page() as opened:
        run_all(opened, address)
        yield opened


@needs_chromium
def test_the_notebook_runs(page, folder):
    assert page.locator(".jp-Notebook [data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator(".jp-Notebook [data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    expect(page.locator(".jp-CodeCell").last.locator(".jp-OutputArea")).to_contain_text("boxes.json")
    assert {file.suffix for file in (folder / "results/own_images").iterdir()} >= {".json", ".csv"}


@needs_chromium
def test_the_box_follows_the_slider(page):
    eta, box = threshold_and_box(page)
    picture = page.locator(".jp-OutputArea-output:has(.wsol-box) img")
    before = picture.get_attribute("src")
    handle = page.locator(".jp-OutputArea-output:has(.wsol-box) .noUi-handle")
    handle.focus()
    for _ in range(20):
        handle.press("ArrowRight")
    expect(page.locator(".wsol-box")).to_contain_text(f"η = {eta + 0.2:.2f} (slider)")
    assert threshold_and_box(page)[1] != box
    assert picture.get_attribute("src") != before
    expect(page.locator(".jp-OutputArea-output:has(.wsol-box) select").nth(3)).to_have_value("slider")


@needs_chromium
def test_another_picture_and_rule(page):
    controls = page.locator(".jp-OutputArea-output:has(.wsol-box) select")
    controls.nth(0).select_option(index=1)
    controls.nth(3).select_option("otsu")
    expect(page.locator(".wsol-box")).to_contain_text("(otsu)")
    expect(page.locator(".wsol-box")).to_contain_text("espresso")


def screenshot(path: Path) -> None:
    """The explorer as the notebook opens it."""
    with tempfile.TemporaryDirectory() as folder, jupyter_lab(Path(folder)) as address, browser_page() as page:
        run_all(page, address)
        page.locator(".jp-OutputArea-output:has(.wsol-box)").screenshot(path=path)


if __name__ == "__main__":
    screenshot(ROOT / "docs" / "explorer.png")
