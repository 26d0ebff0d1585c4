"""The ``llmbook`` command; each subcommand has a module or shares one.

A subcommand is a dataclass whose fields are its options. A folder that
``train`` or ``align`` fills holds ``model.safetensors``, ``tokenizer.json``
and ``run.json``; the others read it.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from llmbook import parallel
from llmbook.evaluation.sandbox import InfrastructureError
from llmbook.train import Stopped

from .aligning import AlignCommand
from .chatting import Chat
from .evaluating import Evaluate
from .notes import note, visible
from .texts import CorpusCommand, Tokenize
from .training import Generate, Train, configured

EXIT_BAD_INPUT = 1  # what was asked cannot be done; the message says why
EXIT_USAGE = 2  # argparse's and tyro's own, for a wrong command line
SIGNALLED = 128  # the shell's convention: this and the signal's number
EXIT_INTERRUPTED = SIGNALLED + signal.SIGINT
CANNOT_BE_DONE = (
    ValueError,
    OSError,
    ArithmeticError,
    ImportError,
    InfrastructureError,
    RecursionError,  # of a file whose brackets are nested too deeply
)

Command = (
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[
        tyro.conf.OmitSubcommandPrefixes[AlignCommand],
        tyro.conf.subcommand("align"),
    ]
    | Annotated[Chat, tyro.conf.subcommand("chat")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Tokenize, tyro.conf.subcommand("tokenize")]
    | Annotated[
        tyro.conf.OmitArgPrefixes[
            tyro.conf.OmitSubcommandPrefixes[CorpusCommand]
        ],
        tyro.conf.subcommand("corpus"),
    ]
)


def train_command(arguments: Sequence[str]) -> Any:
    """``llmbook train`` with the defaults that its ``--config`` asks for."""
    of_train = arguments if arguments[:1] == ["train"] else []
    default = configured(of_train)
    return Annotated[Train, tyro.conf.subcommand("train", default=default)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code says how it went.

    0 it worked, 1 it could not be done (one line on stderr says why), 2 the
    command line was wrong, 130 interrupted (143 by SIGTERM).
    """
    try:
        given = sys.argv[1:] if arguments is None else arguments
        kind = Union[train_command(given), Command]  # noqa: UP007
        command = tyro.cli(kind, args=given, prog="llmbook")
        with warnings.catch_warnings():
            warnings.showwarning = _on_one_line
            check_alone(command)
            if said := command.run():
                print(visible(said))
    except BrokenPipeError:  # whoever read the output has left: no words
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BAD_INPUT
    except CANNOT_BE_DONE as error:
        parallel.report(error)
        say(error)
        return EXIT_BAD_INPUT
    except Stopped as stopped:  # a training run, which saved itself first
        say(stopped)
        return SIGNALLED + stopped.signal
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    return 0


def check_alone(command: Command) -> None:
    """Refuse torchrun where processes would not share the work.

    Raises:
        ValueError: it started several, and the command is not ``train``.
    """
    size = parallel.team().size
    if size > 1 and not isinstance(command, Train):
        raise ValueError(
            f"torchrun started {size} processes, and only train shares its "
            "work among them. Run this command without torchrun."
        )


def say(text: object) -> None:
    """Say why a command ends: once, however many processes run it.

    What befell another process than the first, torchrun reports.
    """
    if speaks() and not isinstance(text, parallel.LostProcessError):
        note(text)  # of a lost process, the first has heard and spoken


def speaks() -> bool:
    """Whether this process is the one that speaks for all."""
    try:
        return parallel.team().speaks
    except ValueError:  # too few GPUs for so many: let it be said
        return True


def _on_one_line(message: Warning | str, *_: object, **__: object) -> None:
    if speaks():
        note(message)
