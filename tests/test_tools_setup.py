"""Set-up: what is missing is said with the line that mends it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tools import make, setup_env
from tools.common import ROOT, Steps, Stop, run, write_json


def test_versions_that_fit_are_those_that_are_promised():
    assert setup_env.fits((3, 11, 5))
    assert setup_env.fits((3, 13, 0))
    assert not setup_env.fits((3, 10, 13))
    assert not setup_env.fits((3, 14, 0))
    assert not setup_env.fits(())


def test_a_python_that_does_not_fit_is_named(monkeypatch):
    monkeypatch.setattr(setup_env, "fits", lambda version: False)
    with pytest.raises(Stop, match=r"the book needs 3\.11\.5 to 3\.13"):
        setup_env.find_python()


def test_the_version_of_an_interpreter_is_asked_of_itself():
    assert setup_env.version_of(sys.executable) == sys.version_info[:3]


@pytest.fixture
def no_tex(monkeypatch):
    missing = ["texlive-luatex", "latexmk"]
    monkeypatch.setattr(setup_env, "missing_debs", lambda names: missing)
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)


def test_missing_tex_is_told_with_the_exact_line(no_tex, monkeypatch):
    monkeypatch.setattr(setup_env, "apt_prefix", lambda: None)
    problem = setup_env.tex()
    assert (
        "apt-get install --no-install-recommends texlive-luatex latexmk"
        in problem
    )
    assert "PDF=none" in problem


def test_missing_tex_is_installed_by_whoever_may(no_tex, monkeypatch):
    installed = []
    monkeypatch.setattr(setup_env, "apt_prefix", lambda: ["sudo", "-n"])
    monkeypatch.setattr(setup_env, "apt_install", installed.extend)
    assert setup_env.tex() is None
    assert installed == ["texlive-luatex", "latexmk"]


@pytest.fixture
def no_bubblewrap(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "platform", "linux")
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)


def test_missing_bubblewrap_is_told_with_the_exact_line(
    no_bubblewrap, monkeypatch
):
    monkeypatch.setattr(setup_env, "apt_prefix", lambda: None)
    line = "apt-get install --no-install-recommends bubblewrap"
    assert line in setup_env.sandbox()


def test_missing_bubblewrap_is_installed_by_whoever_may(
    no_bubblewrap, monkeypatch
):
    installed = []
    monkeypatch.setattr(setup_env, "apt_prefix", lambda: [])
    monkeypatch.setattr(setup_env, "apt_install", installed.extend)
    assert setup_env.sandbox() is None
    assert installed == ["bubblewrap"]


def test_a_failing_apt_leaves_the_book_to_be_built(
    no_bubblewrap, monkeypatch, capsys
):
    def fail(packages):
        raise Stop("no network")

    monkeypatch.setattr(setup_env, "apt_prefix", lambda: [])
    monkeypatch.setattr(setup_env, "apt_install", fail)
    assert "Landlock" in setup_env.sandbox()
    assert "no network" in capsys.readouterr().out


def test_bubblewrap_is_not_asked_for_where_it_cannot_be(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "platform", "darwin")
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)
    assert setup_env.sandbox() is None


def test_an_old_node_is_replaced_by_the_registry_s(monkeypatch):
    monkeypatch.setattr(setup_env, "node_version", lambda node: 18)
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: f"/x/{name}")
    asked = []

    def fake_run(*command, **options):
        asked.extend(command)
        raise Stop("enough")

    monkeypatch.setattr(setup_env, "run", fake_run)
    with pytest.raises(Stop, match="enough"):
        setup_env.find_npm()
    assert setup_env.NODE_PACKAGE in asked


def test_the_book_without_tex_builds_the_site_and_ends_non_zero(
    monkeypatch, capsys
):
    done = []
    monkeypatch.setattr(make.setup_env, "setup", lambda: done.append("setup"))
    monkeypatch.setattr(make.setup_env, "tex", lambda: "Install it with X.")
    monkeypatch.setattr(make, "tool", lambda *words, **_: done.append(words))
    monkeypatch.delenv("PDF", raising=False)
    monkeypatch.setattr(sys, "argv", ["make.py", "book"])
    assert make.main() == 1
    models = [("llmbook.running",), ("llmbook.aligned",)]
    assert done[1:4] == [*models, ("tools.execute",)]
    assert ("tools.build_site", "html") in done
    assert ("tools.build_site", "pdf") not in done
    said = capsys.readouterr()
    assert said.err.strip() == "The PDF is missing. Install it with X."


def test_the_book_ends_with_both_paths_and_the_times(monkeypatch, capsys):
    monkeypatch.setattr(make.setup_env, "setup", lambda: None)
    monkeypatch.setattr(make.setup_env, "tex", lambda: None)
    monkeypatch.setattr(make, "tool", lambda *words, **_: None)
    monkeypatch.delenv("PDF", raising=False)
    monkeypatch.setattr(sys, "argv", ["make.py", "book"])
    assert make.main() == 0
    said = capsys.readouterr().out
    for word in ("llmbook.pdf", "index.html", "chapters", "make serve"):
        assert word in said.split("== PDF")[1]


@pytest.mark.parametrize(
    ("executed_at", "budget"), [(None, "smoke"), ("smoke", "smoke"), ("q", "")]
)
def test_tests_take_the_book_as_built_or_a_small_one(
    monkeypatch, tmp_path, executed_at, budget
):
    if executed_at:
        kept = {"01-guessing": {"budget": executed_at}}
        write_json(tmp_path / "chapters.json", kept)
    seen = []
    monkeypatch.setattr(make, "BUILD", tmp_path)
    monkeypatch.setattr(
        make, "build", lambda *_: seen.append(dict(os.environ))
    )
    monkeypatch.setattr(make, "tool", lambda *_, env: seen.append(env))
    monkeypatch.setenv("BROWSER", "none")
    monkeypatch.setenv("LLMBOOK_BUDGET", "")  # put back afterwards
    monkeypatch.delenv("LLMBOOK_BUDGET")
    monkeypatch.setattr(sys, "argv", ["make.py", "test"])
    assert make.main() == 0
    built, tested = seen
    assert built.get("LLMBOOK_BUDGET", "") == budget
    assert tested["LLMBOOK_BUDGET"] == "smoke"


def test_a_failing_tool_has_the_last_word(capsys, monkeypatch):
    def fails():
        run(sys.executable, "-c", "raise SystemExit(3)", speaks=True)

    monkeypatch.setattr(make, "book", fails)
    monkeypatch.setattr(sys, "argv", ["make.py", "book"])
    assert make.main() == 1
    assert capsys.readouterr().err == ""


def test_a_quiet_program_that_fails_shows_what_it_said(capfd):
    code = "print('the reason'); raise SystemExit(2)"
    with pytest.raises(Stop, match="ended with 2"):
        run(sys.executable, "-c", code, quiet=True)
    assert "the reason" in capfd.readouterr().out


def test_every_target_of_the_makefile_is_one_of_the_script():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = makefile.split("TARGETS := ")[1].splitlines()[0].split()
    for name in targets:
        assert f"  {name} " in f"{make.__doc__}", name


def test_an_unknown_target_is_refused():
    command = [sys.executable, str(ROOT / "tools" / "make.py"), "bok"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "There is no target 'bok'." in done.stderr


def test_steps_remember_how_long_they_took():
    steps = Steps()
    assert steps.run("one", lambda x: x + 1, 2) == 3
    assert "one" in steps.table()
    assert "together" in steps.table()
