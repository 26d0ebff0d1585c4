"""The interactive figures in a live JupyterLab: page and Python agree."""

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import torch
from playwright.sync_api import expect

from llmbook.widgets import SamplingExplorer
from tests.browser import trained

CONTEXTS = ("Ona lost the", "Ona lost the kite, but")
START_SECONDS = 120  # a slow machine's server; usually three
RUN_MILLISECONDS = 120_000  # a slow machine's kernel importing torch
PRESS_AGAIN = 2_000  # milliseconds

CELLS = [
    """import torch
from llmbook.widgets import AttentionExplorer, SamplingExplorer
stored = torch.load("stored.pt")
attention = AttentionExplorer(stored["weights"], stored["tokens"])
sampling = SamplingExplorer(
    stored["logits"], stored["vocabulary"], contexts=stored["contexts"])
attention""",
    "sampling",
    """print("seen", attention.layer, attention.head, attention.query,
      attention.key, repr(attention.weight))
print("chosen", sampling.temperature, sampling.top_k, sampling.choice,
      sampling.draws, sampling.counts() == dict(stored["counts"]))""",
    """attention.layer, attention.query, attention.key = 1, 5, 2
sampling.top_p, sampling.choice = 0.75, 0
print("set")""",
    """from llmbook.config import GPTConfig
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer
text = "Ona lost the kite, but Tam found it."
tokenizer = BPETokenizer.train(text * 3, 270)
config = GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2,
                   n_embd=16, init_std=0.4)
full = AttentionExplorer.from_model(GPT(config), tokenizer, text)
full""",
    """after = [row[2] for row in full.prediction]
print("off", full.off, full.opened, after)""",
]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def write_notebook(folder):
    """The notebook, and what its cells load; returns the figures' data."""
    weights, tokens = trained.weights()
    rows, vocabulary = trained.logits(*CONTEXTS)
    stored = {
        "weights": weights,
        "tokens": tokens,
        "logits": rows,
        "vocabulary": vocabulary,
        "contexts": list(CONTEXTS),
    }
    expected = SamplingExplorer(
        rows, vocabulary, temperature=1.5, top_k=3, choice=1, draws=100
    )
    stored["counts"] = expected.counts()
    torch.save(stored, folder / "stored.pt")
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(book, folder / "figures.ipynb")
    return weights


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own: on loopback, with a token, no settings."""
    home = tmp_path_factory.mktemp("home")
    folder = tmp_path_factory.mktemp("lab")
    weights = write_notebook(folder)
    port, token = free_port(), secrets.token_hex(16)
    environment = {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("LLMBOOK_LIVE", None)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    log = (folder / "server.log").open("w")
    server = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, cwd=folder
    )
    base = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{base}/api/status?token={token}", server, log.name)
        yield f"{base}/doc/tree/figures.ipynb?token={token}", weights
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def wait_for(address, server, log):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                json.load(answer)
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail("JupyterLab did not start:\n" + Path(log).read_text())


@pytest.fixture
def notebook(lab, browser):
    """The notebook open in the browser: its page, cells and weights."""
    address, weights = lab
    page = browser.new_page(viewport={"width": 900, "height": 3000})
    page.set_default_timeout(RUN_MILLISECONDS)
    errors = []  # the figures' own; what Lab throws is its own affair

    def note(error):
        if "blob:" in (error.stack or ""):  # where a widget's script lives
            errors.append(error.stack)

    page.on("pageerror", note)
    page.goto(address)
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    expect(cells).to_have_count(len(CELLS), timeout=RUN_MILLISECONDS)
    yield page, cells, weights
    page.close()
    assert errors == []


def run(page, cell):
    """Run one cell, as a reader does, and wait until it has its number.

    While Lab is still loading it does not hear the keys, so they are pressed
    until the prompt says that the cell waits or runs.
    """
    prompt = cell.locator(".jp-InputPrompt")
    for _ in range(RUN_MILLISECONDS // PRESS_AGAIN):
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        with contextlib.suppress(AssertionError):
            expect(prompt).not_to_have_text("[ ]:", timeout=PRESS_AGAIN)
            break
    numbered = re.compile(r"\[\d+\]")
    expect(prompt).to_have_text(numbered, timeout=RUN_MILLISECONDS)


def test_lab_and_python_see_the_same_values(notebook):
    page, cells, weights = notebook
    for i in range(2):
        run(page, cells.nth(i))
    one, other = (cells.nth(i).locator(".root") for i in range(2))
    expect(one.locator(".readout data")).to_be_visible()
    expect(one).to_have_attribute("data-theme", "light")

    one.get_by_role("combobox", name="Head").select_option("2")  # by hand
    one.locator('.cell[data-query="6"][data-key="4"]').hover()
    page.keyboard.press("Escape")
    one.locator('.cell[data-query="6"][data-key="4"]').click()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    other.get_by_label("Context").select_option("1")
    other.get_by_label("temperature").fill("1.5")
    other.get_by_label("top-k").fill("2")  # the third step is 3
    other.get_by_role("button", name="Draw 100").click()
    weight = weights[0, 0, 2, 7, 3].item()
    expect(one.locator(".readout")).to_contain_text(f"{weight:.6f}")

    run(page, cells.nth(2))  # Python sees it
    output = cells.nth(2).locator(".jp-OutputArea-output")
    expect(output).to_contain_text(f"seen 0 2 7 3 {weight!r}")
    expect(output).to_contain_text("chosen 1.5 3 1 100 True")

    run(page, cells.nth(3))  # Python moves it
    weight = weights[1, 0, 2, 5, 2].item()
    expect(one.locator(".readout data")).to_have_attribute(
        "value", re.compile(re.escape(f"{weight:.17f}"[:8]))
    )
    expect(one.get_by_role("combobox", name="Layer")).to_have_value("1")
    expect(other.get_by_label("top-p")).to_have_value("0.75")
    expect(other.get_by_label("Context")).to_have_value("0")


def test_lab_runs_the_model_with_any_heads_off(notebook):
    page, cells, _ = notebook
    run(page, cells.nth(0))
    run(page, cells.nth(4))
    root = cells.nth(4).locator(".root")
    said = root.locator(".said")
    for layer, head in ((0, 1), (1, 0)):
        small = f'.small[data-layer="{layer}"][data-head="{head}"]'
        root.locator(small).click()
        name = f"Switch layer {layer}, head {head} off"
        root.get_by_role("button", name=name).click()
    both = "Without layer 0, head 1 and layer 1, head 0: "
    expect(said).to_contain_text(both, timeout=RUN_MILLISECONDS)
    expect(root.locator(".small.off")).to_have_count(2)
    root.locator('.cell[data-query="3"][data-key="1"]').click()
    expect(root.locator(".result")).to_be_visible()
    after = root.locator(".guesses tbody tr:not(.rest) .amount:last-child")
    shown = [float(text) for text in after.all_inner_texts()]

    run(page, cells.nth(5))
    output = cells.nth(5).locator(".jp-OutputArea-output")
    expect(output).to_contain_text("off [[0, 1], [1, 0]] True")
    numbers = re.findall(r"\d\.\d+(?:e-\d+)?", output.inner_text())
    assert shown == pytest.approx(list(map(float, numbers)), abs=6e-5)
    assert "fig-attention-explorer=" not in page.url
