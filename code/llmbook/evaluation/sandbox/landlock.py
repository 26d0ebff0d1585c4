"""The second tier: rules for files that a program puts on itself.

Landlock, see landlock(7) and the kernel's "Landlock: unprivileged access
control", lets any process say which files it will open from now on, for
good, for its children too. This file's source runs first, by ``python -I -S
-c``; it makes the rules and the filter of :mod:`.seccomp` hold, and then
becomes the command that follows on the command line.

Landlock does not guard what is known of a file without opening it (its
size, its owner), nor a disk's space, nor signals before its sixth version:
the filter refuses those that do harm. Few modules are imported here, for
each costs every program milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys

Rules = dict[str, list[str]]  # by what is allowed: the paths
# Numbers of prctl(2) and of the three calls, the same on every machine.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION, PATH_BENEATH = 1, 1
SET_DEATH_SIGNAL, SET_NO_NEW_PRIVILEGES, SET_SECCOMP = 1, 38, 22
FILTER_MODE, KILLED = 2, 9
# linux/landlock.h: rights over files, one bit each, by version.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
MAKE_FILE, TRUNCATE = 1 << 8, 1 << 14
FILE_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE  # not for folders
NET_RIGHTS, NET_SINCE = 3, 4  # to bind and to connect TCP
SCOPES, SCOPES_SINCE = 3, 6  # abstract Unix sockets, signals
READ = READ_FILE | READ_DIR
ALLOWED = {
    "execute": EXECUTE | READ,
    "read": READ,
    "list": READ_DIR,
    # Not to remove: what is open or mapped would go on taking disk unseen.
    "write": READ | WRITE_FILE | MAKE_FILE | TRUNCATE,
}


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


def call(function: ctypes._CFuncPtr, *arguments: object) -> int:
    """Call a function of the C library; a negative answer is an error.

    Raises:
        OSError: with the system's reason.
    """
    words = [
        ctypes.c_ulong(one) if isinstance(one, int) else one
        for one in arguments
    ]
    answer = function(*words)
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{words}: {os.strerror(number)}")
    return answer


def file_rights(found: int) -> int:
    """All the rights over files that this version of Landlock knows.

    >>> hex(file_rights(1)), hex(file_rights(4)), hex(file_rights(7))
    ('0x1fff', '0x7fff', '0xffff')
    """
    return sum(bits for since, bits in FILE_RIGHTS.items() if since <= found)


def allow(
    library: ctypes.CDLL, ruleset: int, rights: int, paths: list[str]
) -> None:
    """Add rights below each of ``paths`` that is there."""
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        rule = PathBeneath(rights if folder else rights & ON_FILES, fd)
        where = (ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
        call(library.syscall, ADD_RULE, *where)
        os.close(fd)


def restrict(library: ctypes.CDLL, rules: Rules) -> None:
    """Make Landlock hold: only the paths of ``rules``, and no network.

    Raises:
        OSError: the kernel has no Landlock, or it is switched off.
    """
    version = call(library.syscall, CREATE_RULESET, None, 0, ASK_VERSION)
    rights = file_rights(version)
    forbidden = Ruleset(
        rights,
        NET_RIGHTS if version >= NET_SINCE else 0,
        SCOPES if version >= SCOPES_SINCE else 0,
    )
    # Older kernels know fewer fields, and take the others if they are zero.
    size = ctypes.sizeof(forbidden)
    made = (CREATE_RULESET, ctypes.byref(forbidden), size, 0)
    ruleset = call(library.syscall, *made)
    for kind, allowed in ALLOWED.items():
        allow(library, ruleset, allowed & rights, rules[kind])
    call(library.syscall, RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def filter_calls(library: ctypes.CDLL, rules: bytes) -> None:
    """Make the filter of :mod:`.seccomp` hold."""
    program = Program(len(rules) // 8, rules)
    how = (FILTER_MODE, ctypes.byref(program), 0, 0)
    call(library.prctl, SET_SECCOMP, *how)


def options(words: list[str]) -> tuple[Rules, list[str]]:
    """Sort the command line: ``KIND PATH ... -- COMMAND``.

    >>> options("read /usr read /lib -- python x".split())[1]
    ['python', 'x']
    >>> options("read /usr read /lib -- python x".split())[0]["read"]
    ['/usr', '/lib']
    """
    end = words.index("--")
    rules: Rules = {kind: [] for kind in ALLOWED}
    for kind, path in zip(words[:end:2], words[1:end:2], strict=True):
        rules[kind].append(path)
    return rules, words[end + 1 :]


def main() -> None:
    """Shut this process in, then become the command."""
    filter_of_calls = bytes.fromhex(sys.argv[1])
    rules, command = options(sys.argv[2:])
    library = ctypes.CDLL(None, use_errno=True)
    call(library.prctl, SET_DEATH_SIGNAL, KILLED, 0, 0, 0)
    call(library.prctl, SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    restrict(library, rules)
    filter_calls(library, filter_of_calls)
    os.execv(command[0], command)
