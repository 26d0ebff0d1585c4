"""Start a program that is not trusted, as well shut in as the machine can.

Three tiers, strongest first:

* ``bubblewrap``: namespaces of its own (bwrap(1)) and a filter of system
  calls (seccomp(2)). It sees no file of yours, no process, no network.
* ``landlock``: rules for files, landlock(7), and the same filter. It reads
  Python and the system's libraries, writes one empty folder, opens no
  socket, signals nobody.
* ``limits``: only limits, setrlimit(2), an empty environment, and another
  user where we are root. It reads and deletes what that user may.

``none`` is for the tests that show what gets through without any. In all
of them the same limits are set on the program, inside, before it begins; as
root it runs as another user, since those of processes do not bind root.

A program is Python source, run by ``python -I -S`` (:mod:`.inside`). It
finds two functions in its names, ``receive()``, the judge's next message as
bytes, None where there will be no more, and ``send(message)``:

>>> source = "send(receive().upper())"
>>> if available_tiers():  # doctest: +SKIP
...     with start(source, best_tier()) as program:
...         program.send(b"hello")
...         print(program.receive())
b'HELLO'

What it prints (standard output and error) is its ``log``. A sandbox that
does not start is an :class:`InfrastructureError`, never a verdict about the
program. Limits follow Chen et al. 2021, section 2.3, in their purpose.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmbook.evaluation.sandbox.bubblewrap import HOME, bubblewrap_command
from llmbook.evaluation.sandbox.interpreter import (
    DEVICES,
    SYSTEM_LIBRARIES,
    interpreter,
    readable_files,
)
from llmbook.evaluation.sandbox.pipes import Pipes, Stopped
from llmbook.evaluation.sandbox.seccomp import filter_program

TIERS = ("bubblewrap", "landlock", "limits", "none")
STRONG = ("bubblewrap", "landlock")
READY = b"ready"
START_SECONDS = 20.0  # a busy machine may be slow; it is no verdict
END_SECONDS = 1.0
MOST_FILES = 1000
BLOCK = 512  # bytes of st_blocks, stat(2)
# Isolated, no site-packages, no files beside the library's, UTF-8.
FLAGS = ("-I", "-S", "-B", "-X", "utf8", "-c")
NOBODY = 65534  # who owns nothing, where few users can be had
FIRST_SPARE = 1 << 30  # above the numbers that a system gives to people
MIB = 1 << 20


class InfrastructureError(RuntimeError):
    """The sandbox failed, which says nothing about the program."""


class SandboxUnavailable(InfrastructureError):
    """This machine cannot give the isolation that was asked for."""


@dataclass(frozen=True)
class Limits:
    """What one program may use; each is set inside, but the last three.

    Attributes:
        memory_bytes: Address space of a process; not enforced by macOS.
        processes: Processes and threads at once, itself among them. Only
            ``bubblewrap`` gives more than one: it alone can end them all.
        file_bytes: The size of a file.
        open_files: Descriptors at once.
        cpu_seconds: Processor time, whole seconds.
        scratch_bytes: All files together, 1,000 of them at most; ``limits``
            keeps that in one folder only.
        wall_seconds: Time on the clock, once it began.
        output_bytes: All its answers and its log together.
    """

    memory_bytes: int = 512 * MIB
    processes: int = 1
    file_bytes: int = 16 * MIB
    open_files: int = 64
    cpu_seconds: int = 10
    scratch_bytes: int = 16 * MIB
    wall_seconds: float = 15.0
    output_bytes: int = MIB

    def words(self, processes: int) -> tuple[str, ...]:
        """The limits as :func:`.inside.set_limits` takes them.

        >>> Limits(cpu_seconds=2).words(1)[-4]
        'FSIZE=16777216'
        """
        named = {
            "AS": self.memory_bytes,
            "CORE": 0,
            "CPU": self.cpu_seconds,
            "FSIZE": self.file_bytes,
            "NOFILE": self.open_files,
            "NPROC": processes,
            "STACK": 8 * MIB,  # the usual size, so that recursion ends alike
        }
        if sys.platform == "darwin":
            del named["AS"]  # refused there
        return tuple(f"{name}={value}" for name, value in named.items())


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


class Started:
    """A program that runs, shut in; :func:`start` gives it.

    Attributes:
        outcome: None while nothing is wrong, then why there is no answer:
            "ended", "timeout" or "output".
        returncode: As subprocess gives it, once it is over.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], pipes: Pipes, seconds: float
    ) -> None:
        self._process, self._pipes = process, pipes
        self._last = time.monotonic() + seconds
        self.outcome: str | None = None

    def _until(self, seconds: float | None) -> float:
        """The sooner of ``seconds`` from now and the program's own end."""
        if seconds is None:
            return self._last
        return min(self._last, time.monotonic() + seconds)

    def send(self, message: bytes, seconds: float | None = None) -> None:
        """Hand over one message.

        Raises:
            Stopped: the program ended, or did not read it in time.
        """
        with self._noted():
            self._pipes.send(message, self._until(seconds))

    def receive(self, seconds: float | None = None) -> bytes:
        """Its next message, any bytes at all: take care how they are read.

        Raises:
            Stopped: it ended, is out of time, or said too much.
        """
        with self._noted():
            return self._pipes.receive(self._until(seconds))

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """End the program that gives no answer, and keep the reason."""
        try:
            yield
        except Stopped as stopped:
            if stopped.outcome == "ended":  # let it say how
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_SECONDS)
            self.kill()
            if self.returncode in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
                stopped = Stopped("timeout")  # bwrap adds 128, bwrap(1)
            self.outcome = self.outcome or stopped.outcome
            raise stopped from None

    def kill(self) -> None:
        """End it and all that it started, as far as its tier can."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait(END_SECONDS)
        self._pipes.finish(time.monotonic() + END_SECONDS)

    def begin(self, program: str) -> None:
        """Wait for the sandbox to stand, then hand the program over.

        Raises:
            InfrastructureError: it does not stand.
        """
        clock = time.monotonic()
        try:
            first = self._pipes.receive(clock + START_SECONDS)
            if first != READY:
                raise Stopped("ended")
            self._pipes.send(program.encode(), clock + START_SECONDS)
        except Stopped as stopped:
            self.kill()
            raise InfrastructureError(
                f"the sandbox did not start ({stopped.outcome}): "
                f"{self.log.strip() or self.returncode}"
            ) from None
        self._last += time.monotonic() - clock

    @property
    def returncode(self) -> int | None:
        """How it ended, as subprocess says it; None while it runs."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """What it printed so far, for a reader; it is no evidence."""
        return self._pipes.logged.decode("utf-8", "replace")


@contextlib.contextmanager
def start(
    program: str, tier: str, limits: Limits | None = None
) -> Iterator[Started]:
    """Run Python source inside ``tier`` while the block lasts.

    Raises:
        InfrastructureError: the sandbox did not start.
        ValueError: ``tier`` is none of :data:`TIERS`.
    """
    limits = limits or Limits()
    with contextlib.ExitStack() as stack:
        launch = plan(tier, limits, stack)
        started = spawn(launch, limits, stack)
        try:
            started.begin(program)
            yield started
        finally:
            started.kill()


def spawn(
    launch: Launch, limits: Limits, stack: contextlib.ExitStack
) -> Started:
    """Start the interpreter with its three pipes, not the program yet."""
    ours: list[int] = []
    theirs: list[int] = []
    for reader_is_theirs in (True, False, False):
        pair = os.pipe()
        ours.append(pair[1 if reader_is_theirs else 0])
        theirs.append(pair[0 if reader_is_theirs else 1])
    pipes = Pipes(*ours, limits.output_bytes, launch.fine)
    stack.callback(pipes.close)
    try:
        process = subprocess.Popen(
            inside_command(launch, theirs[0], theirs[1]),
            stdin=subprocess.DEVNULL,
            stdout=theirs[2],
            stderr=theirs[2],
            env=launch.variables,
            cwd=launch.folder,
            pass_fds=(*theirs[:2], *launch.keep),
            start_new_session=True,
            **as_user(launch.user),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise InfrastructureError(f"nothing starts: {error}") from error
    finally:
        for fd in theirs:
            os.close(fd)
    return Started(process, pipes, limits.wall_seconds)


def inside_command(launch: Launch, requests: int, answers: int) -> list[str]:
    """The whole command: what isolates, Python, and what it runs first."""
    user = "-" if launch.user_inside is None else str(launch.user_inside)
    python = [launch.python, *FLAGS, source_of("inside")]
    words = [str(requests), str(answers), user, *launch.limits]
    return [*launch.before, *python, *words]


@functools.cache
def source_of(module: str) -> str:
    """The source of a neighbour, to be run by ``python -c``."""
    path = Path(__file__).with_name(f"{module}.py")
    return path.read_text("utf-8") + "\n\nmain()\n"


def as_user(user: int | None) -> dict[str, object]:
    """Popen's arguments for another user: nobody, in no group."""
    if user is None:
        return {}
    return {"user": user, "group": user, "extra_groups": []}


def plan(tier: str, limits: Limits, stack: contextlib.ExitStack) -> Launch:
    """How ``tier`` starts; ``stack`` closes what it needs until the end."""
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
    return plans[tier](limits, stack)


def plan_bubblewrap(limits: Limits, stack: contextlib.ExitStack) -> Launch:
    """Namespaces; see :mod:`.bubblewrap`."""
    root = os.geteuid() == 0
    rules = filter_file(stack)
    before = bubblewrap_command(limits.scratch_bytes, root, rules)
    # In a user namespace of its own bwrap counts as one more process.
    processes = limits.processes + (not root and limits.processes > 1)
    return Launch(
        before=before,
        python=f"{HOME}/{interpreter().executable}",
        variables={},
        folder="/",
        keep=() if rules is None else (rules,),
        user_inside=spare_user() if root else None,
        limits=limits.words(processes),
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
        "execute": [shut.python, *SYSTEM_LIBRARIES],
        "list": [f"{prefix}/{interpreter().standard}"],
        "read": readable_files(str(prefix)),
        "write": [shut.folder, *DEVICES],
    }
    words = [
        w for kind, all_ in rules.items() for p in all_ for w in (kind, p)
    ]
    wrapper = [shut.python, *FLAGS, source_of("landlock"), calls.hex()]
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

    def remove() -> None:
        with contextlib.suppress(RecursionError):  # folders without end
            shutil.rmtree(folder, ignore_errors=True)

    folder = tempfile.mkdtemp(prefix="llmbook-")
    stack.callback(remove)
    return folder


def holds(folder: str, most: int) -> bool:
    """Whether the files of a folder take ``most`` bytes of disk at most.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "file").write_bytes(bytes(5000))
    ...     holds(folder, 10_000), holds(folder, 1_000)
    (True, False)
    """
    total = 0
    with os.scandir(folder) as entries:
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


@functools.cache
def available_tiers() -> tuple[str, ...]:
    """The tiers that start a program here, strongest first; none is one."""
    return tuple(tier for tier in TIERS[:-1] if problem(tier) is None)


@functools.cache
def problem(tier: str) -> str | None:
    """Why ``tier`` does not start a program here; None where it does."""
    try:
        with start("send(b'here')", tier) as program:
            program.receive(START_SECONDS)
    except (InfrastructureError, Stopped) as error:
        return str(error)
    return None


def best_tier(allow_weak: bool = False) -> str:
    """The strongest tier of this machine that is a sandbox.

    Args:
        allow_weak: Whether limits alone will do, with a warning.

    Raises:
        SandboxUnavailable: only limits are there, and nobody allowed them.
    """
    found = available_tiers()
    if found and found[0] in STRONG:
        return found[0]
    reasons = "; ".join(f"{tier}: {problem(tier)}" for tier in STRONG)
    if not (found and allow_weak):
        raise SandboxUnavailable(
            "No sandbox starts here, so no program of a model is run. "
            "Install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap) "
            "or use Linux 5.13 or later with Landlock. "
            f"What was tried: {reasons}"
        )
    warnings.warn(
        "Programs of a model run with limits only: they can read, change "
        "and delete your files, use the network and signal your processes. "
        f"Do this on a machine that you can lose. {reasons}",
        stacklevel=2,
    )
    return found[0]
