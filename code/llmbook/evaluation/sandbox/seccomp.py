"""A filter of system calls, written by hand: seccomp(2).

Landlock guards files; it lets UDP, other sockets and much else through. So
the kernel gets a small program in the language of packet filters, which it
runs before each system call: a call on the list below fails with EPERM.
What is not on the list goes on as ever. The layout of such a program, and
of the data that it reads, is in linux/filter.h and linux/seccomp.h.

The numbers are those of asm/unistd_64.h (x86_64) and asm-generic/unistd.h
(aarch64); from 424 on they are the same everywhere.
"""

from __future__ import annotations

import struct

ARCHITECTURES = {  # linux/audit.h: what the filter finds as its machine
    "x86_64": 0xC000003E,
    "aarch64": 0xC00000B7,
}
X32 = 0x40000000  # x86_64's second table of calls, in one bit
# The number on x86_64, then on aarch64; None where it has none.
Numbers = tuple[int | None, int | None]
FORBIDDEN: dict[str, Numbers] = {
    # Sockets of every kind: TCP, UDP, raw, Unix, netlink.
    "socket": (41, 198),
    "socketpair": (53, 199),
    # Other processes: signals, their memory, their priority.
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # Memory that outlives the program, or that no limit counts.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "io_setup": (206, 0),  # of which the whole machine has so many
    # The user's own shared memory, semaphores and queues, by number.
    "shmctl": (31, 195),
    "semctl": (66, 191),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "msgctl": (71, 187),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "mq_unlink": (241, 181),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # Whose a file is and who may use it: Landlock does not guard these.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "truncate": (76, 45),
    "open_by_handle_at": (304, 265),
    # A disk filled at once, before anybody looks.
    "fallocate": (285, 47),
    # Other views of the machine, and doors into the kernel.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "syslog": (103, 116),
}
CLONE, CLONE3 = (56, 220), (435, 435)
NEW_NAMESPACE = 0x7E020080  # the CLONE_NEW* of linux/sched.h, in one mask
FCNTL, SET_OWNER = (72, 25), (8, 15)  # F_SETOWN, F_SETOWN_EX: signals too
PRCTL, DEATH_SIGNAL = (157, 167), 1  # so it dies with the judge for sure
PRLIMIT = (302, 261)  # of another process; its own it may lower
# A file without a name takes disk that nobody counts.
OPEN, OPENAT, OPENAT2 = (2, None), (257, 56), (437, 437)
NAMELESS = 0x400000  # of O_TMPFILE
IOCTL = (16, 29)
RESERVE = (0x40305828, 0x4030582A, 0x40305839)  # fallocate, under old names

# linux/filter.h: load a word of the data; compare; return a verdict.
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, MACHINE_AT, ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data
ALLOW, KILL = 0x7FFF0000, 0x80000000  # linux/seccomp.h
EPERM, ENOSYS = 0x00050000 | 1, 0x00050000 | 38
Instruction = tuple[int, int, int, int]


def filter_program(machine: str) -> bytes | None:
    """The filter for a machine as os.uname() names it; None if unknown.

    >>> len(filter_program("x86_64")) % 8, filter_program("pdp11")
    (0, None)
    """
    if machine not in ARCHITECTURES:
        return None
    column = list(ARCHITECTURES).index(machine)
    program: list[Instruction] = [
        (LOAD, 0, 0, MACHINE_AT),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),  # a table of other numbers: an old trick
        (LOAD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, EPERM),
    ]
    for numbers in FORBIDDEN.values():
        if (number := numbers[column]) is not None:
            program += when(number, [(RETURN, 0, 0, EPERM)])
    # These hide their flags in memory; told ENOSYS, libraries take others.
    for numbers in (CLONE3, OPENAT2):
        program += when(numbers[column], [(RETURN, 0, 0, ENOSYS)])
    for numbers, index, test in refused_by_argument():
        if (number := numbers[column]) is not None:
            program += when(number, argument(index, [test]))
    program.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in program)


def refused_by_argument() -> list[tuple[Numbers, int, Instruction]]:
    """Calls refused for an argument: numbers, which one, and its test."""
    return [
        (CLONE, 0, (ANY_BIT, 0, 1, NEW_NAMESPACE)),
        (OPEN, 1, (ANY_BIT, 0, 1, NAMELESS)),
        (OPENAT, 2, (ANY_BIT, 0, 1, NAMELESS)),
        *((FCNTL, 1, (EQUAL, 0, 1, command)) for command in SET_OWNER),
        *((IOCTL, 1, (EQUAL, 0, 1, command)) for command in RESERVE),
        (PRCTL, 0, (EQUAL, 0, 1, DEATH_SIGNAL)),
        (PRLIMIT, 0, (EQUAL, 1, 0, 0)),
    ]


def when(number: int, lines: list[Instruction]) -> list[Instruction]:
    """``lines``, run only for one system call."""
    return [(EQUAL, 0, len(lines), number), *lines]


def argument(index: int, test: list[Instruction]) -> list[Instruction]:
    """Refuse by a test of the low half of an argument.

    The test is one line that goes on where the call is to be refused and
    skips one otherwise. Then the call's number is loaded again.
    """
    low_half = ARGUMENTS_AT + 8 * index  # both machines: low byte first
    return [
        (LOAD, 0, 0, low_half),
        *test,
        (RETURN, 0, 0, EPERM),
        (LOAD, 0, 0, NUMBER_AT),
    ]
