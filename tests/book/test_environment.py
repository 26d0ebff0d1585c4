"""The files that say what is installed agree with one another."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import setup_env
from tools.common import ROOT
from tools.readme_table import repository_address

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    found = [Requirement(x) for x in lines if x and not x.startswith("#")]
    return {canonicalize_name(one.name): one for one in found}


def version_of(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    return specifier.version


def asked_for() -> list[Requirement]:
    lists = [PROJECT["dependencies"], *EXTRAS.values()]
    needs = [Requirement(line) for lines in lists for line in lines]
    return [need for need in needs if need.name != PROJECT["name"]]


def test_requirements_are_exact_versions_in_order():
    found = pins()
    for name, pin in found.items():
        (specifier,) = pin.specifier
        assert specifier.operator == "==", name
        assert Version(specifier.version).local is None, name
        assert not pin.url, name
    assert list(found) == sorted(found)
    assert version_of(found["torch"]) == "2.13.0"


@pytest.mark.parametrize("need", asked_for(), ids=lambda need: need.name)
def test_what_pyproject_asks_for_is_pinned_within_its_range(need):
    pin = pins()[canonicalize_name(need.name)]
    assert need.specifier.contains(version_of(pin))
    assert pin.marker is None, "a package of ours is for every platform"


def test_pins_are_what_is_installed():
    for name, pin in pins().items():
        if pin.marker and not pin.marker.evaluate():
            continue
        installed = Version(importlib.metadata.version(name)).public
        assert installed == version_of(pin), name


def test_everything_installed_asks_for_only_what_is_pinned():
    """The list is closed: pip finds nothing to add by itself."""
    found = pins()
    for name, pin in found.items():
        if pin.marker and not pin.marker.evaluate():
            continue
        for line in importlib.metadata.requires(name) or ():
            need = Requirement(line)
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            other = canonicalize_name(need.name)
            if other.startswith(("nvidia-", "cuda-", "triton")):
                continue  # come with the registry's torch on Linux alone
            assert other in found, f"{name} needs {other}"
            assert need.specifier.contains(
                version_of(found[other]), prereleases=True
            ), f"{name} needs {need}"


def test_conda_installs_the_same_list_with_a_python_that_fits():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    *packages, with_pip = environment["dependencies"]
    chosen = dict(p.split("=") for p in packages if "=" in p)
    assert set(chosen) == {"python", "nodejs"}
    minor = tuple(int(part) for part in chosen["python"].split("."))
    assert (3, 11) <= minor <= setup_env.NEWEST
    assert int(chosen["nodejs"]) >= setup_env.OLDEST_NODE
    assert with_pip["pip"] == [
        f"--extra-index-url {TORCH_INDEX}",
        "-r requirements.txt",
        "-e .",
    ]


def test_one_range_of_pythons_stands_everywhere():
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert setup_env.OLDEST[:2] == (3, 11)
    assert setup_env.NEWEST == (3, 13)
    text = (ROOT / ".github/workflows/tests.yml").read_text("utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    matrix = jobs["package"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]


def test_the_address_of_torch_s_cpu_wheels_is_one():
    for name in (
        "Makefile",
        "README.md",
        "environment.yml",
        ".github/workflows/tests.yml",
        ".github/workflows/site.yml",
    ):
        text = (ROOT / name).read_text("utf-8")
        assert TORCH_INDEX in text, name
        found = set(re.findall(r"https://download\.pytorch\.org\S*\w", text))
        assert found == {TORCH_INDEX}, name


def test_hooks_use_the_pinned_versions():
    text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    for repo in yaml.safe_load(text)["repos"]:
        for hook in repo["hooks"]:
            for line in hook["additional_dependencies"]:
                need = Requirement(line)
                pinned = version_of(pins()[canonicalize_name(need.name)])
                assert str(need.specifier) == f"=={pinned}", hook["id"]


def test_the_web_parts_are_locked_and_match_python_s():
    package = json.loads((ROOT / "package.json").read_text("utf-8"))
    lock = json.loads((ROOT / "package-lock.json").read_text("utf-8"))
    top = lock["packages"][""]
    for kind in ("dependencies", "devDependencies"):
        assert top.get(kind, {}) == package.get(kind, {})
        for name, version in package.get(kind, {}).items():
            assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
            locked = lock["packages"][f"node_modules/{name}"]["version"]
            assert locked == version
    anywidget = package["dependencies"]["anywidget"]
    assert anywidget == version_of(pins()["anywidget"])


def test_the_version_stands_in_one_way_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    package = json.loads((ROOT / "package.json").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"] == package["version"]
    assert importlib.metadata.version("llmbook") == PROJECT["version"]


def test_the_repository_s_address_stands_in_one_way_everywhere():
    address = repository_address()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["repository-code"] == address
    assert PROJECT["urls"]["Repository"] == address
