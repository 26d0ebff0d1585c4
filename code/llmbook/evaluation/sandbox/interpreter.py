"""Which files a bare Python needs: the interpreter and system libraries."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/usr")
LIBRARIES = ("/lib", "/usr/lib")  # by kind of machine, where Debian is
LIBRARIES_64 = ("/lib64", "/usr/lib64")
LOADER_CACHE = "/etc/ld.so.cache"
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
# Isolated, no site-packages, no files beside the library's, UTF-8.
FLAGS = ("-I", "-S", "-B", "-X", "utf8", "-c")
PACKAGES = ("site-packages", "dist-packages")  # not needed, so not shown


@dataclass(frozen=True)
class Interpreter:
    """A Python by its place; the other paths are relative to ``prefix``.

    Attributes:
        prefix: Where it is installed: not the virtual environment.
        executable: The program, as ``bin/python3.11``.
        standard: The standard library, as ``lib/python3.11``.
        packages: Folders with other packages beside or in that library.
    """

    prefix: Path
    executable: Path
    standard: Path
    packages: tuple[Path, ...]

    @property
    def libraries(self) -> tuple[Path, ...]:
        """Folders with its shared libraries and modules, as ``lib``.

        The system's own Python has its libraries among the system's.
        """
        if self.prefix == SYSTEM:
            return (self.standard,)
        return tuple(dict.fromkeys([Path("lib"), self.standard.parent]))


@functools.cache
def interpreter() -> Interpreter:
    """This process's interpreter, without its virtual environment.

    >>> found = interpreter()
    >>> (found.prefix / found.standard / "os.py").is_file()
    True
    """
    program = getattr(sys, "_base_executable", None) or sys.executable
    executable = Path(os.path.realpath(program))
    prefix = Path(os.path.realpath(sys.base_prefix))
    standard = Path(os.__file__).resolve().parent.relative_to(prefix)
    packages = (
        path.relative_to(prefix)
        for name in PACKAGES
        for path in (prefix / standard.parent).glob(f"python3*/{name}")
    )
    return Interpreter(
        prefix,
        executable.relative_to(prefix),
        standard,
        tuple(sorted(packages)),
    )


def readable_files(prefix: str) -> list[str]:
    """What a bare Python reads under ``prefix``: no other packages.

    It also lists the standard library's folder, to find modules there.
    """
    python = interpreter()
    hidden = {path.name for path in python.packages}
    standard = [
        f"{prefix}/{python.standard}/{name}"
        for name in os.listdir(python.prefix / python.standard)
        if name not in hidden
    ]
    shared = [
        f"{prefix}/{library}/{path.name}"
        for library in python.libraries
        for path in (python.prefix / library).glob("*.so*")
    ]
    return [*standard, *shared, LOADER_CACHE]


def system_libraries() -> list[str]:
    """The folders in which the loader finds libraries, see ld.so(8)."""
    machine = sysconfig.get_config_var("MULTIARCH") or ""
    own = [f"{folder}/{machine}" for folder in LIBRARIES]
    here = [folder for folder in own if machine and Path(folder).is_dir()]
    return [*(here or LIBRARIES), *LIBRARIES_64]


@functools.cache
def source_of(module: str) -> str:
    """The source of a neighbour of this module, to be run at once."""
    path = Path(__file__).with_name(f"{module}.py")
    return path.read_text("utf-8") + "\n\nmain()\n"


def python_command(python: str, module: str, *words: str) -> list[str]:
    """The command that runs a neighbour's ``main`` in a bare Python.

    Its source travels in the command, so that its file need not be seen.
    """
    return [python, *FLAGS, source_of(module), *words]
