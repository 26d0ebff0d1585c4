"""The strongest tier: namespaces of the program's own, by bubblewrap.

bwrap(1) starts a program with a file system, a process table, a network, a
host name and message queues of its own. What it does not see it cannot
harm: here it sees Python, the system's libraries, three devices and one
empty folder, whose size is limited. See namespaces(7).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from llmbook.evaluation.sandbox.interpreter import (
    DEVICES,
    LOADER_CACHE,
    SYSTEM_LIBRARIES,
    interpreter,
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
    scratch_bytes: int, as_root: bool, seccomp: int | None, info: int
) -> list[str]:
    """The command that goes before the program's own.

    Args:
        scratch_bytes: The size of the one folder that it may write.
        as_root: Whether we are root. Then the program becomes another user
            itself, for good (:func:`inside.become`), and keeps the two
            capabilities for that until then. Otherwise a user namespace
            gives it nothing but a number.
        seccomp: A descriptor with the system calls' filter, see seccomp(2).
        info: A descriptor where bwrap says which process it made.
    """
    bwrap = shutil.which("bwrap") or "bwrap"
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
    tops = [HOME, f"{HOME}/bin", "/usr", "/etc", "/dev"]
    built = [
        word for top in tops for word in ("--perms", "0755", "--dir", top)
    ]
    program = f"{HOME}/{python.executable}"
    built += ["--ro-bind", str(python.prefix / python.executable), program]
    for library in python.libraries:
        source = str(python.prefix / library)
        built += ["--ro-bind", source, f"{HOME}/{library}"]
    for folder in python.packages:
        empty = f"{HOME}/{folder}"
        built += ["--tmpfs", empty, "--remount-ro", empty]
    for name in SYSTEM_LIBRARIES:
        if Path(name).is_symlink():
            built += ["--symlink", str(Path(name).readlink()), name]
        else:
            built += ["--ro-bind-try", name, name]
    built += ["--ro-bind-try", LOADER_CACHE, LOADER_CACHE]
    for device in DEVICES:
        built += ["--dev-bind", device, device]
    size = ["--perms", "1777", "--size", str(scratch_bytes)]
    built += [*size, "--tmpfs", SCRATCH, "--chdir", SCRATCH]
    return [*built, "--remount-ro", "/"]
