"""The strongest tier: namespaces of the program's own, by bubblewrap.

bwrap(1) starts a program with a file system, a process table, a network, a
host name and message queues of its own. What it does not see it cannot
harm: here it sees Python, the system's libraries, three devices and one
empty folder, whose size is limited (``--size``, which older versions lack:
they count as missing). See namespaces(7).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from llmbook.evaluation.sandbox.interpreter import (
    DEVICES,
    LIBRARIES,
    LIBRARIES_64,
    LOADER_CACHE,
    interpreter,
    system_libraries,
)

HOME = "/python"  # where the interpreter appears inside
SCRATCH = "/tmp"
NOBODY = 65534  # the number inside, where we are not root outside
NAMESPACES = (
    "--unshare-pid",
    "--unshare-net",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
)
# Die with the judge; no terminal to type into; no inherited variable.
CARE = ("--die-with-parent", "--new-session", "--clearenv")
VARIABLES = {
    "HOME": SCRATCH,
    "LD_LIBRARY_PATH": f"{HOME}/lib",
    "TMPDIR": SCRATCH,
}


def bubblewrap_command(
    bwrap: str,
    scratch_bytes: int,
    as_root: bool,
    seccomp: int | None,
    info: int,
) -> list[str]:
    """The command that goes before the program's own.

    Args:
        bwrap: Where the program is.
        scratch_bytes: The size of the one folder that it may write.
        as_root: Whether we are root. Then the program becomes another user
            itself, for good (:func:`inside.become`), and keeps the two
            capabilities for that until then. Otherwise a user namespace
            gives it nothing but a number.
        seccomp: A descriptor with the system calls' filter, see seccomp(2).
        info: A descriptor where bwrap says which process it made.
    """
    command = [bwrap, *NAMESPACES, *CARE, "--cap-drop", "ALL"]
    command += ["--info-fd", str(info)]
    if as_root:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        number = str(NOBODY)
        command += ["--unshare-user", "--uid", number, "--gid", number]
    for name, value in VARIABLES.items():
        command += ["--setenv", name, value]
    command += files(scratch_bytes)
    if seccomp is not None:
        command += ["--seccomp", str(seccomp)]
    return command


def files(scratch_bytes: int) -> list[str]:
    """The arguments that build the program's file system, read-only."""
    python = interpreter()
    shown = {f"{HOME}/{python.executable}": python.prefix / python.executable}
    for library in python.libraries:
        shown[f"{HOME}/{library}"] = python.prefix / library
    for name in (*system_libraries(), LOADER_CACHE):
        real = os.path.realpath(name)
        shown[real] = Path(real)
    built = folders_above([*shown, *DEVICES])
    for place, source in shown.items():
        built += ["--ro-bind-try", str(source), place]
    for device in DEVICES:
        built += ["--dev-bind", device, device]
    for folder in python.packages:
        empty = f"{HOME}/{folder}"
        built += ["--tmpfs", empty, "--remount-ro", empty]
    for name in map(Path, (*LIBRARIES, *LIBRARIES_64)):
        if name.is_symlink():
            built += ["--symlink", str(name.readlink()), str(name)]
    size = ["--perms", "1777", "--size", str(scratch_bytes)]
    built += [*size, "--tmpfs", SCRATCH, "--chdir", SCRATCH]
    return [*built, "--remount-ro", "/"]


def folders_above(paths: Iterable[str]) -> list[str]:
    """Make the folders that lead to ``paths``, open to every user.

    >>> folders_above(["/usr/lib", "/usr/lib64"])
    ['--perms', '0755', '--dir', '/usr']
    """
    above = {str(one) for path in paths for one in Path(path).parents}
    made = sorted(above - {"/"})
    return [w for one in made for w in ("--perms", "0755", "--dir", one)]
