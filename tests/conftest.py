"""What all tests share: which of them can run here, and where things lie."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def switched_off(variable: str) -> bool:
    """Whether BROWSER or PDF is left out by choice."""
    return os.environ.get(variable, "").strip().lower() == "none"


def pytest_collection_modifyitems(config, items) -> None:
    """Mark by folder, skip what was left out by choice or has no data."""
    for item in items:
        if ROOT / "tests" / "browser" in item.path.parents:
            item.add_marker(pytest.mark.browser)
    reasons = {}
    if switched_off("BROWSER"):
        reasons["browser"] = "left out by BROWSER=none"
    if switched_off("PDF"):
        reasons["pdf"] = "left out by PDF=none"
    if not os.environ.get("LLMBOOK_DATA"):
        reasons["data"] = "LLMBOOK_DATA names no folder of real texts"
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_configure(config) -> None:
    """Hear Ctrl-C, though a shell that started us in the background does not.

    What is ignored here would be ignored in every process of the tests.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def site() -> Path:
    """The built site's folder."""
    folder = ROOT / "_build" / "html"
    if not (folder / "index.html").is_file():
        pytest.fail("there is no built site: run `make html` first")
    return folder


@pytest.fixture(scope="session")
def pdf() -> Path:
    """The built PDF."""
    path = ROOT / "_build" / "pdf" / "llmbook.pdf"
    if not path.is_file():
        pytest.fail("there is no PDF: run `make pdf` first")
    return path
