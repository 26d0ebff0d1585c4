"""The sandbox's walls: each probe gets through without, and is stopped."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import os
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip(
        "the walls and the probes are Linux's", allow_module_level=True
    )

from benchmarks import sandbox as probes
from llmbook.evaluation.sandbox import (
    InfrastructureError,
    Limits,
    SandboxUnavailable,
    Stopped,
    available_tiers,
    best_tier,
    landlock,
    plans,
    seccomp,
    start,
    started,
    tiers,
)
from llmbook.evaluation.sandbox.limits import MIB
from llmbook.evaluation.sandbox.pipes import Pipes

ROOT = os.geteuid() == 0
STRONG = ("bubblewrap", "landlock")
# What a tier does not stop; all else it must. Landlock says nothing about
# what is known of a file that is not opened, see landlock(7).
LANDLOCK_LETS = {"learn that a file exists"}
LIMITS_STOP = {
    "64 MB in many files",
    "5,000 empty files",
    "2 GB of memory",
    "64 children",
    "64 threads",
    "a 64 MB file",
    "a child that outlives it",
    "answer with 64 MB",
    "be root again",
    "compute forever",
    "print 64 MB",
    "read the environment it inherits",
    "sleep forever",
}
# Limits alone keep these only from another user, which root makes of it.
LIMITS_STOP_AS_ROOT = {
    "lower your process's limits",
    "let the kernel signal your process",
    "list your home folder",
    "make your file readable to all",
    "read a file that is yours alone",
    "read the judge's environment",
    "read the judge's memory",
    "signal your process",
    "trace your process",
}
# What a machine may forbid, or lack, without any sandbox.
MAY_BE_MISSING = {
    "TCP to a network's address",
    "UDP to a network's address",
    "a child that outlives it",
    "a way out of this machine",
    "be root again",
    "let the kernel signal your process",
    "make a namespace, as root in it",
    "read the judge's memory",
    "trace your process",
}


def needs(tier: str) -> None:
    """Skip where a tier does not start."""
    if tier not in available_tiers():
        pytest.skip(f"{tier} does not start here: {tiers.problem(tier)}")


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, str]]:
    """All probes in all tiers, once."""
    return probes.table()


@pytest.mark.parametrize("name", list(probes.PROBES))
def test_a_probe_gets_through_without_a_sandbox(table, name):
    found = table[name]["none"]
    if found == probes.UNKNOWN and name in MAY_BE_MISSING:
        pytest.skip("this machine does not let it through at all")
    assert found == probes.THROUGH


@pytest.mark.parametrize("name", list(probes.PROBES))
@pytest.mark.parametrize("tier", ["bubblewrap", "landlock", "limits"])
def test_a_tier_stops_what_it_promises_and_no_more(table, tier, name):
    needs(tier)
    found = table[name][tier]
    if found == probes.UNKNOWN:
        pytest.skip("this machine does not let it through at all")
    stops = name in LIMITS_STOP or (ROOT and name in LIMITS_STOP_AS_ROOT)
    if tier != "limits":
        stops = tier == "bubblewrap" or name not in LANDLOCK_LETS
    assert found == (probes.STOPPED if stops else probes.THROUGH)


def test_every_promise_is_about_a_probe():
    named = LANDLOCK_LETS | LIMITS_STOP | LIMITS_STOP_AS_ROOT | MAY_BE_MISSING
    assert named <= set(probes.PROBES)


# --- each wall alone -------------------------------------------------------

NETWORK = (
    "TCP to this machine",
    "UDP to this machine",
    "a Unix socket without a file",
    "signal your process",
    "read the judge's environment",
    "a child that outlives it",
    "shared memory that stays",
    "make your file readable to all",
)


@pytest.mark.parametrize("name", NETWORK)
def test_namespaces_hold_where_no_filter_is_known(name, monkeypatch):
    needs("bubblewrap")
    monkeypatch.setattr(plans, "filter_program", lambda machine: None)
    assert probes.try_probe(name, "bubblewrap") == probes.STOPPED


def test_landlock_alone_lets_udp_through_and_so_needs_the_filter(monkeypatch):
    needs("landlock")
    everything = struct.pack("=HBBI", seccomp.RETURN, 0, 0, seccomp.ALLOW)
    monkeypatch.setattr(plans, "filter_program", lambda machine: everything)
    assert probes.try_probe("UDP to this machine", "landlock") == (
        probes.THROUGH
    )
    assert probes.try_probe("read a hidden file", "landlock") == (
        probes.STOPPED
    )


def test_landlock_is_not_offered_where_no_filter_is_known(monkeypatch):
    monkeypatch.setattr(plans, "filter_program", lambda machine: None)
    with (
        pytest.raises(SandboxUnavailable, match="no filter"),
        start("pass", "landlock"),
    ):
        pass


def answer(source: str, tier: str, limits: Limits | None = None) -> bytes:
    """The first message of a program."""
    with start(textwrap.dedent(source), tier, limits) as program:
        return program.receive()


@pytest.mark.parametrize("tier", STRONG)
def test_a_program_has_no_privileges_and_can_get_none(tier):
    needs(tier)
    source = """
        import ctypes, os
        library = ctypes.CDLL(None)
        head = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        assert library.capget(head, sets) == 0
        privileges = library.prctl(39, 0, 0, 0, 0)  # PR_GET_NO_NEW_PRIVS
        ids = {*os.getresuid(), *os.getresgid(), *os.getgroups()}
        held = [*sets[0:2], *sets[3:5]]  # effective and permitted
        send(repr((held, privileges, 0 in ids)).encode())
    """
    assert answer(source, tier) == b"([0, 0, 0, 0], 1, False)"


@pytest.mark.skipif(not ROOT, reason="only root becomes another user")
@pytest.mark.parametrize("tier", ["bubblewrap", "landlock", "limits"])
def test_as_root_each_program_is_a_user_of_its_own(tier):
    needs(tier)
    source = "import os; send(str(os.getuid()).encode())"
    first, second = int(answer(source, tier)), int(answer(source, tier))
    assert first != second
    assert min(first, second) >= 1000


@pytest.mark.parametrize("tier", STRONG)
def test_all_that_a_bare_python_imports_is_there(tier):
    needs(tier)
    # So no probe is stopped because its tools are missing.
    source = """
        import sys
        found = []
        for name in sorted(sys.stdlib_module_names):
            if name in ("antigravity", "idlelib", "this", "turtledemo"):
                continue  # they open a browser or a window, or print
            try:
                __import__(name)
                found.append(name)
            except ImportError:
                pass
        send(" ".join(found).encode())
    """
    there = answer(source, "none").split()
    assert len(there) > 200
    assert answer(source, tier).split() == there


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock", "limits"])
def test_only_its_own_pipes_are_open_to_a_program(tier):
    needs(tier)
    source = """
        import os, stat
        kinds = []
        for fd in range(3, 4096):
            try:
                kinds.append(stat.S_IFMT(os.fstat(fd).st_mode))
            except OSError:
                pass
        # As root the interpreter's folder is one more, see plans.
        pipes = kinds.count(stat.S_IFIFO)
        rest = set(kinds) - {stat.S_IFIFO, stat.S_IFDIR}
        send(repr((pipes, rest)).encode())
    """
    with tempfile.TemporaryFile() as secret, contextlib.ExitStack() as held:
        os.set_inheritable(secret.fileno(), True)
        # Whoever starts it may hold many files: its pipes' numbers are high.
        for _ in range(64):
            held.callback(os.close, os.dup(secret.fileno()))
        assert answer(source, tier) == b"(2, set())"


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock", "limits"])
def test_limits_are_set_for_good(tier):
    needs(tier)
    source = """
        import resource
        caught = []
        for name in ("AS", "CPU", "FSIZE", "NOFILE", "NPROC", "CORE"):
            kind = getattr(resource, "RLIMIT_" + name)
            soft, hard = resource.getrlimit(kind)
            try:
                resource.setrlimit(kind, (soft, hard + 1))
                caught.append(name)
            except ValueError:
                pass
        send(repr(caught).encode())
    """
    assert answer(source, tier) == b"[]"


def test_bubblewrap_hides_packages_and_the_name_of_the_user():
    needs("bubblewrap")
    source = """
        import os
        found = []
        for folder, folders, files in os.walk("/"):
            found += [os.path.join(folder, name) for name in files + folders]
        send(str(len(found)).encode())
        send("\\n".join(found).encode())
    """
    limits = Limits(output_bytes=16 * MIB)
    with start(textwrap.dedent(source), "bubblewrap", limits) as program:
        assert int(program.receive()) > 100  # so it did look
        seen = program.receive().decode()
    assert "site-packages/" not in seen
    assert "dist-packages/" not in seen
    assert "llmbook" not in seen
    tops = {line.split("/")[1] for line in seen.splitlines()}
    assert tops <= {
        *("dev", "etc", "lib", "lib64", "python", "tmp", "usr"),
    }


@pytest.mark.parametrize("tier", STRONG)
def test_one_folder_can_be_written_and_nothing_else(tier):
    needs(tier)
    source = """
        import os
        found = []
        for top in ("/", "/tmp", "/var", "/home", "/dev/shm", os.getcwd()):
            for folder, folders, files in os.walk(top):
                for place in [folder] + [f"{folder}/{one}" for one in files]:
                    try:
                        new = os.path.isdir(place) and f"{place}/new" or place
                        os.close(os.open(new, os.O_CREAT | os.O_WRONLY))
                        found.append(place)
                    except OSError:
                        pass
        here = os.getcwd()
        rest = {one for one in found if not one.startswith(here)}
        send(repr((here in found, sorted(rest))).encode())
    """
    said = ast.literal_eval(answer(source, tier).decode())
    # Of devices one may write the null and the zero, as everyone may.
    assert said[0]
    assert {one for one in said[1] if not one.startswith("/dev/")} == set()


def test_more_processes_live_and_die_inside_bubblewrap(monkeypatch):
    needs("bubblewrap")
    source = """
        import os, time
        made = 0
        try:
            for _ in range(8):
                if os.fork() == 0:
                    time.sleep(60)
                made += 1
        except BlockingIOError:
            send(str(made).encode())
    """
    limits = Limits(processes=4)
    assert answer(source, "bubblewrap", limits) == b"3"
    # and one that left its session dies with the namespace
    scene = probes.Scene("bubblewrap", Path("/"))
    name = f"kept{os.getpid()}"
    said = scene.say(probes.DETACH, limits=Limits(processes=8), name=name)
    assert said == b"left behind"
    assert probes.named(name) == []


JUDGE = """
import sys
from llmbook.evaluation.sandbox.tiers import start
source = '''
import ctypes, time
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
ctypes.CDLL(None).prctl(15, name, 0, 0, 0)
send(b"named")
time.sleep(60)
'''
with start(f"name = {sys.argv[2].encode()!r}" + source, sys.argv[1]) as one:
    print(one.receive().decode(), flush=True)
    input()
"""


@pytest.mark.parametrize("tier", STRONG)
def test_a_program_dies_with_a_judge_that_is_killed(tier):
    needs(tier)
    name = f"orphan{time.monotonic_ns() % 10**8}"
    with tempfile.TemporaryDirectory() as folder:  # the killed leave theirs
        os.chmod(folder, 0o755)
        judge = subprocess.Popen(
            [sys.executable, "-c", JUDGE, tier, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TMPDIR": folder},
        )
        with judge:
            assert judge.stdout.readline() == b"named\n"
            assert len(probes.named(name)) == 1
            judge.kill()
        for _ in range(200):
            if not probes.named(name):
                break
            time.sleep(0.02)
        assert probes.named(name) == []


# --- the filter ------------------------------------------------------------


def verdict(program: bytes, machine: int, number: int, *arguments) -> int:
    """What a filter says of one call, by the rules of linux/filter.h."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, machine, 0, *values)
    lines = list(struct.iter_unpack("=HBBI", program))
    at, word = 0, 0
    while True:
        code, yes, no, k = lines[at]
        at += 1
        if code == seccomp.RETURN:
            return k
        if code == seccomp.LOAD:
            (word,) = struct.unpack_from("=I", data, k)
            continue
        test = {
            seccomp.EQUAL: word == k,
            seccomp.AT_LEAST: word >= k,
            seccomp.ANY_BIT: bool(word & k),
        }[code]
        at += yes if test else no


X86, ARM = seccomp.ARCHITECTURES.values()
CASES = [  # by seccomp(2) and asm/unistd_64.h: machine, number, arguments
    ("x86_64", X86, (0,), "read", True),
    ("x86_64", X86, (41, 2, 1, 0), "socket", False),
    ("x86_64", X86, (62, 1, 9), "kill", False),
    ("x86_64", X86, (56, 0x01200011), "clone, as fork does", True),
    ("x86_64", X86, (56, 0x10000011), "clone, a new user namespace", False),
    ("x86_64", X86, (72, 3, 8, 1), "fcntl, F_SETOWN", False),
    ("x86_64", X86, (72, 3, 3, 1), "fcntl, F_GETFL", True),
    ("x86_64", X86, (302, 0, 7), "prlimit, of itself", True),
    ("x86_64", X86, (302, 1, 7), "prlimit, of another", False),
    ("x86_64", X86, (157, 1, 0), "prctl, its death signal", False),
    ("x86_64", X86, (157, 15, 0), "prctl, its name", True),
    ("x86_64", X86, (2, 0, 0x410002), "open, O_TMPFILE", False),
    ("x86_64", X86, (257, 0, 0, 0x410002), "openat, O_TMPFILE", False),
    ("x86_64", X86, (257, 0, 0, 0x90000), "openat, O_DIRECTORY", True),
    ("x86_64", X86, (437,), "openat2, whose flags it cannot see", False),
    ("x86_64", X86, (16, 3, 0x40305828), "ioctl, FS_IOC_RESVSP", False),
    ("x86_64", X86, (16, 3, 0x5401), "ioctl, TCGETS", True),
    ("x86_64", X86, (0x40000000 | 41,), "socket in the second table", False),
    ("x86_64", 0x40000003, (0,), "a 32-bit call", False),
    ("aarch64", ARM, (198, 2, 1, 0), "socket", False),
    ("aarch64", ARM, (41,), "pivot_root, x86's socket", False),
    ("aarch64", ARM, (63,), "read", True),
    ("aarch64", ARM, (56, 0, 0, 0x404002), "openat, O_TMPFILE", False),
    ("aarch64", ARM, (2, 0, 0x410002), "io_submit, x86's open", True),
    ("aarch64", X86, (0,), "a call of another machine", False),
]


@pytest.mark.parametrize(
    ("name", "machine", "call", "what", "passes"),
    CASES,
    ids=[f"{case[0]}: {case[3]}" for case in CASES],
)
def test_the_filter_refuses_by_number_and_argument(
    name, machine, call, what, passes
):
    program = seccomp.filter_program(name)
    assert (verdict(program, machine, *call) == seccomp.ALLOW) == passes


def test_clone3_is_unknown_so_that_libraries_fall_back():
    program = seccomp.filter_program("x86_64")
    assert verdict(program, X86, 435) == seccomp.ENOSYS


@pytest.mark.parametrize(
    ("header", "column", "pattern"),
    [
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0, r"__NR_"),
        ("/usr/include/asm-generic/unistd.h", 1, r"__NR(?:3264)?_"),
    ],
)
def test_numbers_of_calls_are_those_of_the_kernels_headers(
    header, column, pattern
):
    import re

    if not Path(header).is_file():
        pytest.skip(f"{header} is not here (linux-libc-dev)")
    text = Path(header).read_text("utf-8")
    lines = re.finditer(rf"#define {pattern}(\w+)\s+(\d+)", text)
    known = {line[1]: int(line[2]) for line in lines}
    named = seccomp.FORBIDDEN | {
        "clone": seccomp.CLONE,
        "clone3": seccomp.CLONE3,
        "fcntl": seccomp.FCNTL,
        "prctl": seccomp.PRCTL,
        "ioctl": seccomp.IOCTL,
        "open": seccomp.OPEN,
        "openat": seccomp.OPENAT,
        "openat2": seccomp.OPENAT2,
        "prlimit64": seccomp.PRLIMIT,
    }
    there = {name: n[column] for name, n in named.items() if name in known}
    assert len(there) > 70  # headers may be older than a call, no more
    assert there == {name: known[name] for name in there}


# --- what is the sandbox's fault, and what the program's -------------------


def test_a_bubblewrap_that_fails_is_no_verdict(tmp_path, monkeypatch):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'No permissions' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(InfrastructureError, match="No permissions"),
        start("send(b'x')", "bubblewrap"),
    ):
        pass


def test_a_missing_bubblewrap_is_no_verdict(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(InfrastructureError, match="not installed"),
        start("send(b'x')", "bubblewrap"),
    ):
        pass


def test_no_process_left_for_the_judge_is_no_verdict(monkeypatch):
    def refuse(*words, **options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(started.subprocess, "Popen", refuse)
    with (
        pytest.raises(InfrastructureError, match="temporarily unavailable"),
        start("send(b'x')", "limits"),
    ):
        pass


def test_a_kernel_without_landlock_is_no_verdict():
    def refuse(*words):
        ctypes.set_errno(38)
        return -1

    with pytest.raises(OSError, match="not implemented"):
        landlock.call(refuse, landlock.CREATE_RULESET)


def test_a_user_that_cannot_be_had_is_no_verdict(monkeypatch):
    needs("bubblewrap")
    if not ROOT:
        pytest.skip("only root becomes another user")
    monkeypatch.setattr(plans, "spare_user", lambda: -7)
    with (
        pytest.raises(InfrastructureError, match="did not start"),
        start("send(b'x')", "bubblewrap"),
    ):
        pass


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        (("bubblewrap", "landlock", "limits"), "bubblewrap"),
        (("landlock", "limits"), "landlock"),
    ],
)
def test_the_strongest_tier_is_taken(found, chosen, monkeypatch):
    monkeypatch.setattr(tiers, "available_tiers", lambda: found)
    assert best_tier() == best_tier(allow_weak=True) == chosen


def test_limits_alone_must_be_allowed_and_warn(monkeypatch):
    monkeypatch.setattr(tiers, "available_tiers", lambda: ("limits",))
    monkeypatch.setattr(tiers, "problem", lambda tier: "not here")
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        best_tier()
    with pytest.warns(UserWarning, match="delete your files"):
        assert best_tier(allow_weak=True) == "limits"


def test_no_tier_at_all_is_an_error_though_weak_ones_are_allowed(monkeypatch):
    monkeypatch.setattr(tiers, "available_tiers", lambda: ())
    monkeypatch.setattr(tiers, "problem", lambda tier: "not here")
    with pytest.raises(SandboxUnavailable, match="not here"):
        best_tier(allow_weak=True)


def test_a_tier_whose_limits_do_not_bind_is_not_offered():
    assert tiers.problem.__wrapped__("none") == "its limits do not bind"


def test_a_disk_without_room_is_no_verdict(monkeypatch):
    def full(prefix):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plans.tempfile, "mkdtemp", full)
    with (
        pytest.raises(InfrastructureError, match="No space"),
        start("send(b'x')", "limits"),
    ):
        pass


def test_an_unknown_tier_is_an_error_that_names_those_there_are():
    with pytest.raises(ValueError, match="bubblewrap"), start("", "docker"):
        pass


# --- messages, limits and their ends ---------------------------------------

TIERS_HERE = ["bubblewrap", "landlock", "limits"]


@pytest.mark.parametrize("tier", TIERS_HERE)
def test_messages_go_both_ways_whatever_their_size(tier):
    needs(tier)
    source = "while (m := receive()) is not None: send(m[::-1])"
    limits = Limits(output_bytes=4 * MIB)
    with start(source, tier, limits) as program:
        for message in (b"", b"a", bytes(range(256)) * 4096):
            program.send(message)
            assert program.receive() == message[::-1]
        assert program.outcome is None


CLAIM = """
import os, time
for fd in range(3, 4096):
    try: os.write(fd, bytes([255] * 4))
    except OSError: pass
time.sleep(60)
"""
ENDS = [
    ("import os; os._exit(0)", "ended"),
    ("import os; os.abort()", "ended"),
    ("store = bytearray(2 << 30)", "ended"),
    ("import time; time.sleep(60)", "timeout"),
    ("send(bytes(2 << 20))", "output"),
]
ENDS_ANYWHERE = [
    ("pass", "ended"),
    ("raise SystemExit(0)", "ended"),
    ("import os; os.closerange(3, 4096)\nwhile True: pass", "ended"),
    ("print('x' * (2 << 20))", "output"),
    (CLAIM, "output"),
]


@pytest.mark.parametrize(
    ("tier", "source", "outcome"),
    [
        *((tier, *end) for tier in TIERS_HERE for end in ENDS),
        *(("limits", *end) for end in ENDS_ANYWHERE),
    ],
)
def test_a_program_that_gives_no_answer_ends_with_a_reason(
    tier, source, outcome
):
    needs(tier)
    with start(source, tier, Limits(wall_seconds=0.5)) as program:
        with pytest.raises(Stopped) as caught:
            program.receive()
        assert program.outcome == caught.value.outcome == outcome
        assert program.returncode is not None


@pytest.mark.parametrize("tier", ["bubblewrap", "limits"])
def test_time_on_the_processor_runs_out_as_time_does(tier):
    needs(tier)
    with start("while True: pass", tier, Limits(cpu_seconds=1)) as program:
        with pytest.raises(Stopped):
            program.receive()
        assert program.outcome == "timeout"
        assert abs(program.returncode) % 128 == signal.SIGXCPU


def test_a_program_that_does_not_read_cannot_hold_the_judge():
    needs("limits")
    limits = Limits(wall_seconds=0.5)
    with start("import time; time.sleep(60)", "limits", limits) as program:
        with pytest.raises(Stopped):
            program.send(bytes(MIB))
        assert program.outcome == "timeout"


def test_what_a_program_prints_is_its_log_and_no_answer():
    needs("limits")
    source = "print('printed'); send(b'answer'); raise ValueError('why')"
    with start(source, "limits") as program:
        assert program.receive() == b"answer"
        with pytest.raises(Stopped):
            program.receive()
    assert "printed" in program.log
    assert "ValueError: why" in program.log


def test_a_message_longer_than_all_output_may_be_is_not_waited_for():
    (a, b), (c, d), (e, f) = os.pipe(), os.pipe(), os.pipe()
    pipes = Pipes(b, c, e, most=100)
    os.write(d, (101).to_bytes(4, "big"))
    with pytest.raises(Stopped, match="output"):
        pipes.receive(time.monotonic() + 5)
    pipes.close()
    for fd in (a, d, f):
        os.close(fd)


def test_a_folder_holds_few_files_of_limited_size(tmp_path, monkeypatch):
    assert plans.holds(str(tmp_path), 1000)
    (tmp_path / "one").write_bytes(bytes(5000))
    assert plans.holds(str(tmp_path), 100_000)
    assert not plans.holds(str(tmp_path), 1000)
    monkeypatch.setattr(plans, "MOST_FILES", 3)
    for name in "abc":
        (tmp_path / name).touch()
    assert not plans.holds(str(tmp_path), 100_000)


HIDDEN_BYTES = {  # ways to take disk that a look at a folder does not show
    "removed": """
        fd = os.open("one", os.O_CREAT | os.O_RDWR)
        os.unlink("one")
        kept.append(fd)
        os.write(fd, bytes(1 << 20))
    """,
    "replaced": """
        for name in ("one", "two"):
            kept.append(os.open(name, os.O_CREAT | os.O_RDWR))
            os.write(kept[-1], bytes(1 << 20))
        os.rename("two", "one")
    """,
    "without a name": """
        kept.append(os.open(".", os.O_TMPFILE | os.O_RDWR))
        os.write(kept[-1], bytes(1 << 20))
    """,
}


@pytest.mark.parametrize("way", HIDDEN_BYTES)
@pytest.mark.parametrize("tier", STRONG)
def test_no_file_takes_disk_unseen(tier, way):
    needs(tier)
    source = f"""
import os
kept = []
try:
    for _ in range(12):
{textwrap.indent(textwrap.dedent(HIDDEN_BYTES[way]), " " * 8)}
    send(b"%d" % sum(os.fstat(fd).st_blocks * 512 for fd in kept))
except OSError:
    send(b"0")
"""
    with start(source, tier, Limits(scratch_bytes=4 * MIB)) as program:
        assert int(program.receive(9)) <= 4 * MIB


@pytest.mark.parametrize(
    "make",
    [
        "os.posix_fallocate(fd, 0, 1 << 20)",
        *(
            f"fcntl.ioctl(fd, {call:#x}, struct.pack("
            "'=hhxxxxqqiI16x', 0, 0, 0, 1 << 20, 0, 0))"
            for call in (0x40305828, 0x4030582A, 0x40305839)
        ),
    ],
)
def test_no_disk_is_taken_at_once(make):
    needs("landlock")
    source = f"""
import fcntl, os, struct
fd = os.open("one", os.O_CREAT | os.O_RDWR)
try:
    {make}
except OSError:
    pass
send(b"%d" % os.fstat(fd).st_blocks)
"""
    assert answer(source, "landlock") == b"0"


@pytest.mark.parametrize("tier", TIERS_HERE)
def test_a_temporary_folder_may_lie_where_only_the_judge_goes(
    tier, tmp_path, monkeypatch
):
    needs(tier)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = "open('one', 'w').write('x'); send(open('one', 'rb').read())"
    assert answer(source, tier) == b"x"


def test_folders_within_folders_are_cleared_up(tmp_path, monkeypatch):
    needs("limits")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = """
        import os
        for _ in range(3000):
            os.mkdir("within")
            os.chdir("within")
        send(b"deep")
    """
    assert answer(source, "limits") == b"deep"
    assert list(tmp_path.iterdir()) == []


def test_landlock_leaves_your_shared_memory_and_hears_of_no_file():
    needs("landlock")
    library = ctypes.CDLL(None)
    made = library.shmget(0, 4096, 0o1666)  # IPC_PRIVATE, IPC_CREAT
    source = f"""
        import ctypes
        library = ctypes.CDLL(None)
        library.shmctl({made}, 0, None)  # IPC_RMID, if it is the owner
        seen = ctypes.create_string_buffer(256)
        found = [
            library.shmctl({made}, 2, seen),  # IPC_STAT
            library.inotify_init(),
            library.inotify_init1(0),
        ]
        send(repr(found).encode())
    """
    try:
        assert answer(source, "landlock") == b"[-1, -1, -1]"
    finally:
        assert library.shmctl(made, 0, None) == 0


@pytest.mark.parametrize("tier", TIERS_HERE)
def test_nothing_is_left_of_many_programs_at_once(tier, monkeypatch):
    needs(tier)
    said, folders, make = [], [], tempfile.mkdtemp

    def note(*words, **options) -> str:
        folders.append(make(*words, **options))
        return folders[-1]

    def one(number: int) -> None:
        source = f"open('f', 'w').write('x'); send(b'{number}')"
        said.append(answer(source, tier))

    monkeypatch.setattr(plans.tempfile, "mkdtemp", note)
    before = len(os.listdir("/dev/fd"))
    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [b"%d" % n for n in range(8)]
    assert len(os.listdir("/dev/fd")) == before
    assert len(folders) == (0 if tier == "bubblewrap" else 8)
    assert not any(map(os.path.exists, folders))


def test_the_three_devices_and_the_loader_are_all_that_etc_and_dev_have():
    needs("bubblewrap")
    source = """
        import os
        send(repr((sorted(os.listdir("/dev")), os.listdir("/etc"))).encode())
    """
    devices, files = ast.literal_eval(answer(source, "bubblewrap").decode())
    assert devices == ["null", "urandom", "zero"]
    assert set(files) <= {"ld.so.cache"}
