"""How each tier starts the interpreter: command, user, folder, rules."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llmbook.evaluation.sandbox.bubblewrap import (
    HOME,
    SCRATCH,
    bubblewrap_command,
)
from llmbook.evaluation.sandbox.interpreter import (
    DEVICES,
    interpreter,
    python_command,
    readable_files,
    system_libraries,
)
from llmbook.evaluation.sandbox.limits import (
    MOST_FILES,
    InfrastructureError,
    Limits,
    SandboxUnavailable,
)
from llmbook.evaluation.sandbox.seccomp import filter_program

TIERS = ("bubblewrap", "landlock", "limits", "none")
BLOCK = 512  # bytes of st_blocks, stat(2)
NOBODY = 65534  # who owns nothing, where few users can be had
FIRST_SPARE = 1 << 30  # above the numbers that a system gives to people


@dataclass(frozen=True)
class Launch:
    """How a tier starts the interpreter: what Popen gets."""

    before: list[str]  # the command in front of the interpreter
    python: str
    variables: dict[str, str] | None
    folder: str
    keep: tuple[int, ...] = ()
    user: int | None = None  # whom Popen makes it
    user_inside: int | None = None  # whom it makes itself, see inside.become
    limits: tuple[str, ...] = ()
    fine: Callable[[], bool] | None = None  # see pipes.Pipes


def plan(tier: str, limits: Limits, stack: contextlib.ExitStack) -> Launch:
    """How ``tier`` starts; ``stack`` closes what it needs until the end.

    Raises:
        InfrastructureError: this machine does not have what it needs.
        ValueError: ``tier`` is none of :data:`TIERS`.
    """
    if os.name != "posix":
        raise SandboxUnavailable(
            "there is no sandbox for Windows; use its subsystem for Linux"
        )
    plans = {
        "bubblewrap": plan_bubblewrap,
        "landlock": plan_landlock,
        "limits": plan_limits,
        "none": plan_none,
    }
    if tier not in plans:
        raise ValueError(f"no tier {tier!r}; there are {', '.join(TIERS)}")
    try:
        return plans[tier](limits, stack)
    except OSError as error:
        raise InfrastructureError(f"no sandbox is made: {error}") from error


def plan_bubblewrap(limits: Limits, stack: contextlib.ExitStack) -> Launch:
    """Namespaces; see :mod:`.bubblewrap`."""
    bwrap, root = shutil.which("bwrap"), os.geteuid() == 0
    if bwrap is None:
        raise SandboxUnavailable("bwrap is not installed, or not in PATH")
    calls = filter_file(stack)
    said, say = os.pipe()
    stack.callback(os.close, said)
    stack.callback(os.close, say)
    # In a user namespace of its own bwrap counts as one more process.
    processes = limits.processes + (not root and limits.processes > 1)
    return Launch(
        before=bubblewrap_command(
            bwrap, limits.scratch_bytes, root, calls, say
        ),
        python=f"{HOME}/{interpreter().executable}",
        variables={},
        folder="/",
        keep=(say,) if calls is None else (say, calls),
        user_inside=spare_user() if root else None,
        limits=limits.words(processes),
        fine=Inside(said).has_few_files,
    )


def filter_file(stack: contextlib.ExitStack) -> int | None:
    """A descriptor from which bwrap reads the filter of system calls."""
    rules = filter_program(os.uname().machine)
    if rules is None:
        return None
    reader, writer = os.pipe()  # holds more than the filter has
    stack.callback(os.close, reader)
    with open(writer, "wb") as file:
        file.write(rules)
    return reader


class Inside:
    """What can be seen of bubblewrap's inside: how many files it has.

    A size limits what is in the files, but nothing how many there are, and
    each costs a kilobyte of the kernel's memory. ``said`` is where bwrap
    tells the number of its process (``--info-fd``).
    """

    def __init__(self, said: int) -> None:
        os.set_blocking(said, False)
        self.said, self.text = said, b""

    def has_few_files(self) -> bool:
        """Whether the scratch folder keeps to :data:`MOST_FILES`."""
        with contextlib.suppress(BlockingIOError):
            self.text += os.read(self.said, 4096)
        try:
            process = json.loads(self.text)["child-pid"]
            disk = os.statvfs(f"/proc/{process}/root{SCRATCH}")
        except (ValueError, OSError):  # not said yet, or over
            return True
        return disk.f_files - disk.f_ffree <= MOST_FILES


def plan_landlock(limits: Limits, stack: contextlib.ExitStack) -> Launch:
    """Rules for files and system calls; see :mod:`.landlock`."""
    calls = filter_program(os.uname().machine)
    if calls is None:
        raise SandboxUnavailable(
            f"no filter of system calls for {os.uname().machine}"
        )
    shut = plan_limits(limits, stack)
    prefix = Path(shut.python).parents[1]
    rules = {
        "execute": [shut.python, *system_libraries()],
        "list": [f"{prefix}/{interpreter().standard}"],
        "read": readable_files(str(prefix)),
        # Its folder, to which the way may be closed to another user.
        "write": [".", *DEVICES],
    }
    pairs = [(kind, path) for kind in rules for path in rules[kind]]
    wrapper = python_command(shut.python, "landlock", calls.hex())
    words = itertools.chain.from_iterable(pairs)
    return replace(shut, before=[*wrapper, *words, "--"])


def plan_limits(limits: Limits, stack: contextlib.ExitStack) -> Launch:
    """Limits, no variables, and as root another user."""
    python, prefix = interpreter(), str(interpreter().prefix)
    keep: tuple[int, ...] = ()
    user = None
    folder = scratch_folder(stack)
    if os.geteuid() == 0:
        user = spare_user()
        os.chown(folder, user, user)
        if os.path.isdir("/proc/self/fd"):
            # Whoever it becomes, it finds Python, though it be in /root.
            prefix_fd = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, prefix_fd)
            prefix, keep = f"/proc/self/fd/{prefix_fd}", (prefix_fd,)
    return Launch(
        before=[],
        python=f"{prefix}/{python.executable}",
        variables={
            "HOME": folder,
            "LD_LIBRARY_PATH": f"{prefix}/lib",
            "TMPDIR": folder,
        },
        folder=folder,
        keep=keep,
        user=user,
        limits=limits.words(processes=1),
        fine=lambda: holds(folder, limits.scratch_bytes),
    )


def scratch_folder(stack: contextlib.ExitStack) -> str:
    """A new folder, gone with ``stack``, whatever a program made of it."""

    folder = tempfile.mkdtemp(prefix="llmbook-")
    # Folders may go deeper than shutil.rmtree has calls and descriptors.
    remove = ["rm", "-rf", "--", folder]

    def clear() -> None:
        with contextlib.suppress(OSError):  # most are empty: no process
            os.rmdir(folder)
            return
        with contextlib.suppress(OSError):  # no process left for it
            subprocess.run(remove, stderr=subprocess.DEVNULL)

    stack.callback(clear)
    return folder


def holds(folder: str, most: int) -> bool:
    """Whether a folder's files are few and take ``most`` bytes of disk."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            with contextlib.suppress(FileNotFoundError):  # just removed
                total += entry.stat(follow_symlinks=False).st_blocks * BLOCK
            if total > most or count >= MOST_FILES:
                return False
    return True


def plan_none(limits: Limits, stack: contextlib.ExitStack) -> Launch:
    """Nothing at all: for showing what gets through."""
    folder = scratch_folder(stack)
    python = interpreter()
    return Launch(
        before=[],
        python=str(python.prefix / python.executable),
        variables=None,
        folder=folder,
    )


_counter = itertools.count()


def spare_user() -> int:
    """The number of a user that nobody is, another for each program.

    So the kernel counts the processes of each alone, and no two can meet.
    Where a container knows few numbers, see user_namespaces(7), it is
    nobody's.
    """
    number = FIRST_SPARE + (os.getpid() << 8 | next(_counter) % 256)
    try:
        lines = Path("/proc/self/uid_map").read_text("ascii").splitlines()
    except OSError:
        return NOBODY
    for line in lines:
        first, _, count = map(int, line.split())
        if first <= number < first + count:
            return number
    return NOBODY
