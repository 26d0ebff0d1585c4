"""The second tier: rules for files that a program puts on itself.

Landlock, see landlock(7) and the kernel's "Landlock: unprivileged access
control", lets any process say which files it will open from now on, for
good, for its children too. This file's source runs first, by ``python -I -S
-c``; it makes the rules and the filter of :mod:`.seccomp` hold, and then
becomes the command that follows on the command line.

Landlock does not guard what is known of a file without opening it (its
size, its owner), nor a disk's space, nor signals before its sixth version:
the filter refuses those that do harm.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import sys
from collections.abc import Iterable
from typing import Any

# Numbers of prctl(2) and of the three calls, the same on every machine.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION, PATH_BENEATH = 1, 1
SET_DEATH_SIGNAL, SET_NO_NEW_PRIVILEGES, SET_SECCOMP = 1, 38, 22
FILTER_MODE = 2
# linux/landlock.h: rights over files, one bit each, by version.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REMOVE_FILE, MAKE_FILE, TRUNCATE = 1 << 5, 1 << 8, 1 << 14
FILE_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE  # not for folders
NET_RIGHTS, NET_SINCE = 3, 4  # to bind and to connect TCP
SCOPES, SCOPES_SINCE = 3, 6  # abstract Unix sockets, signals
READ = READ_FILE | READ_DIR
SCRATCH = READ | WRITE_FILE | REMOVE_FILE | MAKE_FILE | TRUNCATE


class Ruleset(ctypes.Structure):
    """``struct landlock_ruleset_attr``: what is forbidden but for rules."""

    _fields_ = (
        ("files", ctypes.c_uint64),
        ("net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class PathBeneath(ctypes.Structure):
    """``struct landlock_path_beneath_attr``: rights below one path."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class Program(ctypes.Structure):
    """``struct sock_fprog``: a filter and its number of instructions."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def library() -> ctypes.CDLL:
    """The C library, which remembers why a call failed."""
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:
    """A function of the C library; a negative answer is an error.

    Raises:
        OSError: with the system's reason.
    """
    words = [
        ctypes.c_ulong(one) if isinstance(one, int) else one
        for one in arguments
    ]
    answer = getattr(library(), name)(*words)
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return answer


def version() -> int:
    """The kernel's version of Landlock, from 1 on.

    Raises:
        OSError: it has none, or it is switched off.
    """
    return call("syscall", CREATE_RULESET, None, 0, ASK_VERSION)


def file_rights(found: int) -> int:
    """All the rights over files that this version of Landlock knows.

    >>> hex(file_rights(1)), hex(file_rights(4)), hex(file_rights(7))
    ('0x1fff', '0x7fff', '0xffff')
    """
    return sum(bits for since, bits in FILE_RIGHTS.items() if since <= found)


def allow(ruleset: int, rights: int, paths: Iterable[str]) -> None:
    """Add rights below each of ``paths`` that is there."""
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        rule = PathBeneath(rights if folder else rights & ON_FILES, fd)
        call("syscall", ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
        os.close(fd)


def restrict(settings: dict[str, Any]) -> None:
    """Make Landlock hold: only the paths of ``settings``, nothing else."""
    found = version()
    rights = file_rights(found)
    rules = Ruleset(
        rights,
        NET_RIGHTS if found >= NET_SINCE else 0,
        SCOPES if found >= SCOPES_SINCE else 0,
    )
    # Older kernels take fewer fields, newer ones only zeros beyond theirs.
    size = ctypes.sizeof(rules)
    ruleset = call("syscall", CREATE_RULESET, ctypes.byref(rules), size, 0)
    allow(ruleset, (EXECUTE | READ) & rights, settings["execute"])
    allow(ruleset, READ & rights, settings["read"])
    allow(ruleset, READ_DIR & rights, settings["list"])
    allow(ruleset, SCRATCH & rights, settings["write"])
    call("syscall", RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def filter_calls(rules: bytes) -> None:
    """Make the filter of :mod:`.seccomp` hold."""
    program = Program(len(rules) // 8, rules)
    call("prctl", SET_SECCOMP, FILTER_MODE, ctypes.byref(program), 0, 0)


def main() -> None:
    """Shut this process in, then become the command."""
    settings = json.loads(sys.argv[1])
    call("prctl", SET_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    call("prctl", SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    restrict(settings)
    filter_calls(bytes.fromhex(settings["filter"]))
    os.execv(sys.argv[2], sys.argv[2:])
