"""What each tier of the sandbox stops, tried out, and what it costs.

    python -m benchmarks.sandbox [--starts 20] [--record]

Each probe is a small program that tries to do harm to something made for
it: a temporary folder, a listener on this machine, a process that sleeps,
64 children, 64 MB. The first column runs it without a sandbox, to show that
it gets through there. Then each tier tries to stop it. A dash means that
this machine does not let the probe through even without a sandbox, or
does not offer it. ``--record`` writes runs/sandbox.json.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.records import keep
from llmbook.evaluation.sandbox import (
    Limits,
    Stopped,
    available_tiers,
    start,
)
from llmbook.evaluation.sandbox.limits import MIB, MOST_FILES

RECORD = Path(__file__).resolve().parents[1] / "runs" / "sandbox.json"
SECRET = "the-answer-is-17"
VARIABLE = "LLMBOOK_PROBE"
CHILDREN = 64
PATIENCE = 15.0  # seconds for a probe's word
SOON = 0.6  # seconds after which a program should be over
FOREVER = 60.0
WORKERS = 4
LIMITS = Limits(wall_seconds=PATIENCE)
NO_LIMITS = Limits(wall_seconds=FOREVER, output_bytes=256 * MIB)
OUTSIDE = "192.0.2.1"  # an address of nobody's, RFC 5737
THROUGH, STOPPED, UNKNOWN = "gets through", "stopped", "-"


class NotHere(Exception):
    """This machine does not offer what the probe is aimed at."""


@dataclass
class Scene:
    """What a probe finds: a folder open to all, and what it needs there."""

    tier: str
    folder: Path

    def file(self, name: str, mode: int = 0o666) -> Path:
        """A file with the secret in it, outside the sandbox."""
        path = self.folder / name
        path.write_text(SECRET, encoding="utf-8")
        path.chmod(mode)
        return path

    def say(
        self,
        source: str,
        limits: Limits | None = None,
        wait: float | None = None,
        **names: Any,
    ) -> bytes:
        """What the program answers; nothing where it is stopped.

        ``names`` are constants that its source finds.
        """
        if self.tier == "none":
            limits = NO_LIMITS
        head = "".join(f"{key} = {value!r}\n" for key, value in names.items())
        with (
            start(head + source, self.tier, limits or LIMITS) as program,
            contextlib.suppress(Stopped),
        ):
            return program.receive(wait or PATIENCE)
        return b""


Probe = Callable[[Scene], bool]
PROBES: dict[str, Probe] = {}


def probe(name: str) -> Callable[[Probe], Probe]:
    """Enter a function into the list: True where it got through."""

    def enter(function: Probe) -> Probe:
        PROBES[name] = function
        return function

    return enter


# --- files ---------------------------------------------------------------


@probe("write a file outside")
def write_outside(scene: Scene) -> bool:
    path = scene.folder / "new.txt"
    scene.say("open(path, 'w').write('x')", path=str(path))
    return path.exists()


@probe("change a file outside")
def change_outside(scene: Scene) -> bool:
    path = scene.file("victim.txt")
    scene.say("open(path, 'r+').write('x')", path=str(path))
    return path.read_text("utf-8") != SECRET


@probe("empty a file outside by its path")
def truncate_outside(scene: Scene) -> bool:
    path = scene.file("victim.txt")
    scene.say("import os; os.truncate(path, 0)", path=str(path))
    return path.read_text("utf-8") != SECRET


@probe("delete a file outside")
def delete_outside(scene: Scene) -> bool:
    path = scene.file("victim.txt")
    scene.say("import os; os.remove(path)", path=str(path))
    return not path.exists()


@probe("make your file readable to all")
def change_mode(scene: Scene) -> bool:
    path = scene.file("victim.txt", 0o600)
    scene.say("import os; os.chmod(path, 0o644)", path=str(path))
    return path.stat().st_mode & 0o777 != 0o600


@probe("read a hidden file")
def read_hidden(scene: Scene) -> bool:
    path = scene.file("hidden.txt", 0o644)
    answer = scene.say("send(open(path, 'rb').read())", path=str(path))
    return answer == SECRET.encode()


@probe("read a file that is yours alone")
def read_private(scene: Scene) -> bool:
    path = scene.file("private.txt", 0o600)
    answer = scene.say("send(open(path, 'rb').read())", path=str(path))
    return answer == SECRET.encode()


@probe("read the tests of this book")
def read_tests(scene: Scene) -> bool:
    # A copy in a folder open to all: a checkout's own may be closed.
    path = scene.folder / "tests" / "test_answers.py"
    path.parent.mkdir(mode=0o755)
    path.write_bytes(Path(__file__).read_bytes())
    answer = scene.say("send(open(path, 'rb').read())", path=str(path))
    return answer == path.read_bytes()


@probe("read through a symbolic link")
def read_through_link(scene: Scene) -> bool:
    path = scene.file("hidden.txt", 0o644)
    source = (
        "import os; os.symlink(path, 'link')\nsend(open('link','rb').read())"
    )
    return scene.say(source, path=str(path)) == SECRET.encode()


@probe("read through /proc/self/root")
def read_through_root(scene: Scene) -> bool:
    path = f"/proc/self/root{scene.file('hidden.txt', 0o644)}"
    answer = scene.say("send(open(path, 'rb').read())", path=path)
    return answer == SECRET.encode()


@probe("learn that a file exists")
def stat_hidden(scene: Scene) -> bool:
    path = scene.file("hidden.txt", 0o644)
    source = "import os; send(str(os.stat(path).st_size).encode())"
    return scene.say(source, path=str(path)) == b"%d" % len(SECRET)


@probe("list your home folder")
def list_home(scene: Scene) -> bool:
    source = "import os; send(str(len(os.listdir(path))).encode())"
    return scene.say(source, path=str(Path.home())).isdigit()


# --- what the judge holds ------------------------------------------------


@probe("read the environment it inherits")
def own_environment(scene: Scene) -> bool:
    source = "import os; send(os.environ[name].encode())"
    return scene.say(source, name=VARIABLE) == SECRET.encode()


@probe("read the judge's environment")
def judge_environment(scene: Scene) -> bool:
    path = f"/proc/{os.getpid()}/environ"
    answer = scene.say("send(open(path, 'rb').read())", path=path)
    return b"=" in answer


@probe("list the machine's processes")
def list_processes(scene: Scene) -> bool:
    source = "import os; send(' '.join(os.listdir('/proc')).encode())"
    return str(os.getpid()) in scene.say(source).decode().split()


@probe("read the judge's memory")
def judge_memory(scene: Scene) -> bool:
    text = ctypes.create_string_buffer(SECRET.encode())
    source = "file = open(path, 'rb', 0); file.seek(at); send(file.read(16))"
    path, at = f"/proc/{os.getpid()}/mem", ctypes.addressof(text)
    return scene.say(source, path=path, at=at) == SECRET.encode()


# --- other processes -----------------------------------------------------


@contextlib.contextmanager
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this user, which sleeps."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@probe("signal your process")
def signal_neighbour(scene: Scene) -> bool:
    with neighbour() as other:
        scene.say("import os; os.kill(pid, 9)", pid=other.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            other.wait(0.3)
        return other.returncode is not None


@probe("let the kernel signal your process")
def signal_by_owner(scene: Scene) -> bool:
    source = (
        "import fcntl, os\n"
        "reader, writer = os.pipe()\n"
        "fcntl.fcntl(reader, fcntl.F_SETOWN, pid)\n"
        "fcntl.fcntl(reader, 10, 9)\n"  # F_SETSIG, SIGKILL
        "fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)\n"
        "os.write(writer, b'x')\n"
    )
    with neighbour() as other:
        scene.say(source, pid=other.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            other.wait(0.3)
        return other.returncode is not None


@probe("trace your process")
def trace_neighbour(scene: Scene) -> bool:
    source = (
        "import ctypes\n"
        "done = ctypes.CDLL(None).ptrace(0x4206, pid, 0, 0)\n"  # SEIZE
        "send(str(done).encode())\n"
    )
    with neighbour() as other:
        return scene.say(source, pid=other.pid) == b"0"


@probe("lower your process's limits")
def limit_neighbour(scene: Scene) -> bool:
    source = (
        "import resource as r\n"
        "r.prlimit(pid, r.RLIMIT_NOFILE, (7, 7))\nsend(b'done')\n"
    )
    with neighbour() as other:
        return scene.say(source, pid=other.pid) == b"done"


@probe("be root again")
def be_root(scene: Scene) -> bool:
    source = "import os; os.setresuid(0, 0, 0); send(b'%d' % os.geteuid())"
    return scene.say(source) == b"0"


@probe("make a namespace, as root in it")
def user_namespace(scene: Scene) -> bool:
    source = (
        "import ctypes\n"
        "send(str(ctypes.CDLL(None).unshare(0x10000000)).encode())\n"
    )
    return scene.say(source) == b"0"


# --- network -------------------------------------------------------------


def own_address() -> str:
    """This machine's address on a network, no packet being sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect((OUTSIDE, 9))
        except OSError as error:
            raise NotHere(str(error)) from None
        return one.getsockname()[0]


def reached(scene: Scene, kind: int, family: int, address: Any) -> bool:
    """Whether a message of the program arrives at a listener here."""
    with socket.socket(family, kind) as listener:
        listener.bind(address)
        if isinstance(address, str) and not address.startswith("\0"):
            os.chmod(address, 0o777)
        listener.settimeout(0.3)
        if kind == socket.SOCK_STREAM:
            listener.listen(1)
        source = (
            "import socket\n"
            "one = socket.socket(family, kind)\n"
            "one.connect(address)\none.send(b'hello')\nsend(b'sent')\n"
        )
        where = listener.getsockname()
        where = address if family == socket.AF_UNIX else where
        scene.say(source, family=int(family), kind=int(kind), address=where)
        try:
            if kind == socket.SOCK_DGRAM:
                return listener.recv(16) == b"hello"
            connection, _ = listener.accept()
        except TimeoutError:
            return False
        with connection:
            return connection.recv(16) == b"hello"


@probe("TCP to this machine")
def loopback_tcp(scene: Scene) -> bool:
    to = ("127.0.0.1", 0)
    return reached(scene, socket.SOCK_STREAM, socket.AF_INET, to)


@probe("UDP to this machine")
def loopback_udp(scene: Scene) -> bool:
    to = ("127.0.0.1", 0)
    return reached(scene, socket.SOCK_DGRAM, socket.AF_INET, to)


@probe("TCP to a network's address")
def network_tcp(scene: Scene) -> bool:
    to = (own_address(), 0)
    return reached(scene, socket.SOCK_STREAM, socket.AF_INET, to)


@probe("UDP to a network's address")
def network_udp(scene: Scene) -> bool:
    to = (own_address(), 0)
    return reached(scene, socket.SOCK_DGRAM, socket.AF_INET, to)


@probe("a way out of this machine")
def way_out(scene: Scene) -> bool:
    own_address()
    source = (
        "import socket\n"
        "one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "one.connect((outside, 9))\nsend(b'routed')\n"
    )
    return scene.say(source, outside=OUTSIDE) == b"routed"


@probe("a Unix socket")
def unix_socket(scene: Scene) -> bool:
    path = str(scene.folder / "socket")
    return reached(scene, socket.SOCK_STREAM, socket.AF_UNIX, path)


@probe("a Unix socket without a file")
def abstract_socket(scene: Scene) -> bool:
    name = f"\0llmbook-{os.getpid()}-{time.monotonic_ns()}"
    return reached(scene, socket.SOCK_STREAM, socket.AF_UNIX, name)


# --- resources -----------------------------------------------------------


@probe("64 children")
def fork_bomb(scene: Scene) -> bool:
    source = (
        "import os, time\n"
        "made = []\n"
        "try:\n"
        "    for _ in range(children):\n"
        "        pid = os.fork()\n"
        "        if pid == 0:\n"
        "            time.sleep(0.3); os._exit(0)\n"
        "        made.append(pid)\n"
        "finally:\n"
        "    send(str(len(made)).encode())\n"
    )
    return scene.say(source, children=CHILDREN) == b"%d" % CHILDREN


@probe("64 threads")
def thread_bomb(scene: Scene) -> bool:
    source = (
        "import threading, time\n"
        "made = [threading.Thread(target=time.sleep, args=(0.2,))\n"
        "        for _ in range(children)]\n"
        "for one in made: one.start()\n"
        "send(str(len(made)).encode())\n"
    )
    return scene.say(source, children=CHILDREN) == b"%d" % CHILDREN


DETACH = (
    "import ctypes, os, time\n"
    "reader, writer = os.pipe()\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)\n"
    "        os.closerange(0, 3)\n"
    "        os.write(writer, b'x')\n"
    "        os.closerange(3, 4096)\n"
    "        time.sleep(4)\n"
    "    os._exit(0)\n"
    "os.close(writer)\n"
    "send(b'left behind' if os.read(reader, 1) else b'')\n"
)


def named(name: str) -> list[int]:
    """The processes of this machine that go by a name, as they chose it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text("utf-8", "replace").strip() == name:
                found.append(int(path.parent.name))
    return found


@probe("a child that outlives it")
def detached_child(scene: Scene, limits: Limits | None = None) -> bool:
    if not Path("/proc/self/comm").exists():
        raise NotHere("no /proc to find it in")
    name = f"left{time.monotonic_ns() % 10**9}"
    scene.say(DETACH, limits=limits, name=name)
    left = named(name)
    for pid in left:
        os.kill(pid, 9)
    return bool(left)


@probe("2 GB of memory")
def much_memory(scene: Scene) -> bool:
    # The kernel gives pages when they are touched: it costs nothing.
    source = "store = bytes(2 << 30); send(str(len(store)).encode())"
    return scene.say(source) == b"%d" % (2 << 30)


@probe("a 64 MB file")
def large_file(scene: Scene) -> bool:
    source = (
        "with open('large', 'wb') as file:\n"
        "    for _ in range(64): file.write(bytes(1 << 20))\n"
        "import os; send(str(os.stat('large').st_size).encode())\n"
    )
    return scene.say(source) == b"%d" % (64 * MIB)


@probe("64 MB in many files")
def many_files(scene: Scene) -> bool:
    source = (
        "import os\n"
        "for name in range(8):\n"
        "    with open(str(name), 'wb') as file:\n"
        "        for _ in range(8): file.write(bytes(1 << 20))\n"
        "sizes = [os.stat(str(name)).st_size for name in range(8)]\n"
        "send(str(sum(sizes)).encode())\n"
    )
    return scene.say(source) == b"%d" % (64 * MIB)


@probe("5,000 empty files")
def empty_files(scene: Scene) -> bool:
    # Slowly enough to be seen; on the fast way there it is a second's work.
    source = (
        "import time\n"
        "for name in range(count):\n"
        "    open(str(name), 'w').close()\n"
        "    if name % 100 == 0: time.sleep(0.01)\n"
        "send(b'made')\n"
    )
    return scene.say(source, count=5 * MOST_FILES) == b"made"


@probe("64 MB in memory files")
def memory_files(scene: Scene) -> bool:
    source = (
        "import os\n"
        "for _ in range(8):\n"
        "    fd = os.memfd_create('x')\n"
        "    for _ in range(8): os.write(fd, bytes(1 << 20))\n"
        "send(b'64')\n"
    )
    return scene.say(source) == b"64"


@probe("shared memory that stays")
def shared_memory(scene: Scene) -> bool:
    source = (
        "import ctypes\n"
        "ctypes.CDLL(None).shmget(key, 4096, 0o1666)\n"  # IPC_CREAT
    )
    key = time.monotonic_ns() % (1 << 30) + 1
    scene.say(source, key=key)
    library = ctypes.CDLL(None)
    left = library.shmget(key, 0, 0)
    if left < 0:
        return False
    library.shmctl(left, 0, None)  # IPC_RMID
    return True


def lasts(scene: Scene, source: str, limits: Limits) -> bool:
    """Whether a program still runs when it should be over.

    On a busy machine a second of the processor takes longer than that.
    """
    wait = 2 * SOON if scene.tier == "none" else FOREVER / 2
    began = time.monotonic()
    scene.say(source, limits=limits, wait=wait)
    return time.monotonic() - began >= wait


@probe("sleep forever")
def sleeps(scene: Scene) -> bool:
    source = "import time; time.sleep(60)"
    return lasts(scene, source, replace(LIMITS, wall_seconds=SOON))


@probe("compute forever")
def computes(scene: Scene) -> bool:
    source = (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True: pass"
    )
    return lasts(
        scene, source, replace(LIMITS, wall_seconds=FOREVER, cpu_seconds=1)
    )


@probe("print 64 MB")
def floods_log(scene: Scene) -> bool:
    source = "for _ in range(64): print('x' * (1 << 20))\nsend(b'done')"
    return scene.say(source) == b"done"


@probe("answer with 64 MB")
def floods_answer(scene: Scene) -> bool:
    return len(scene.say("send(bytes(64 << 20))")) == 64 * MIB


# --- the table -----------------------------------------------------------


def try_probe(name: str, tier: str) -> str:
    """Run one probe in one tier: what became of it."""
    with tempfile.TemporaryDirectory(prefix="llmbook-probe-") as folder:
        os.chmod(folder, 0o777)  # so that no rights of files stop a probe
        try:
            through = PROBES[name](Scene(tier, Path(folder)))
        except NotHere:
            return UNKNOWN
    return THROUGH if through else STOPPED


def row(name: str) -> dict[str, str]:
    """One probe without a sandbox, then in each tier if it got through."""
    found = dict.fromkeys(("none", *reversed(available_tiers())), UNKNOWN)
    if try_probe(name, "none") == THROUGH:
        found["none"] = THROUGH
        for tier in reversed(available_tiers()):
            found[tier] = try_probe(name, tier)
    return found


def table(names: Iterable[str] = PROBES) -> dict[str, dict[str, str]]:
    """The rows of several probes, some at a time: most of them wait."""
    names = list(names)
    os.environ[VARIABLE] = SECRET
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            return dict(zip(names, pool.map(row, names), strict=True))
    finally:
        del os.environ[VARIABLE]


def start_times(starts: int) -> dict[str, float]:
    """Median milliseconds from nothing to an answer and all cleared away."""
    times: dict[str, list[float]] = {}
    for _ in range(starts):
        for tier in (*available_tiers(), "none"):
            began = time.perf_counter()
            with start("send(b'here')", tier) as program:
                program.receive()
            took = time.perf_counter() - began
            times.setdefault(tier, []).append(1000 * took)
    return {tier: statistics.median(all_) for tier, all_ in times.items()}


def who() -> str:
    """Who runs this and on what, which decides what is stopped."""
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    kernel = platform.release().partition("-")[0]
    machine = f"{platform.machine()}, {os.cpu_count()} processors"
    return f"{user}, {platform.system()} {kernel}, {machine}"


def show(rows: Mapping[str, Mapping[str, str]]) -> None:
    """Print the table in Markdown."""
    columns = list(next(iter(rows.values())))
    print("| probe | " + " | ".join(columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(row[one] for one in columns) + " |")


def main() -> None:
    """Print the table and the times; with ``--record``, keep them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    print(f"{who()}\n")
    rows = table()
    show(rows)
    milliseconds = start_times(options.starts)
    print("\nOne program from start to end, milliseconds (median):")
    for tier, value in milliseconds.items():
        print(f"  {tier:<12}{value:6.1f}")
    if options.record:
        record = {
            "command": "python -m benchmarks.sandbox --record",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "who": who(),
            "probes": rows,
            "milliseconds": milliseconds,
        }
        keep(record, RECORD)


if __name__ == "__main__":
    main()
