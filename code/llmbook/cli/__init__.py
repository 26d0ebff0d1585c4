"""The ``llmbook`` command; each subcommand has a module or shares one.

A subcommand is a dataclass whose fields are its options. A folder that
``train`` or ``align`` fills holds ``model.safetensors``, ``tokenizer.json``
and ``run.json``; the others read it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import tyro

from llmbook.evaluation.sandbox import InfrastructureError

from .aligning import AlignCommand
from .chatting import Chat
from .evaluating import Evaluate
from .notes import note, visible
from .texts import CorpusCommand, Tokenize
from .training import Generate, Train

EXIT_BAD_INPUT = 1  # what was asked cannot be done; the message says why
EXIT_USAGE = 2  # argparse's and tyro's own, for a wrong command line
EXIT_INTERRUPTED = 130  # the shell's convention for Ctrl-C
CANNOT_BE_DONE = (
    ValueError,
    OSError,
    ArithmeticError,
    ImportError,
    InfrastructureError,
    RecursionError,  # of a file whose brackets are nested too deeply
)

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code says how it went.

    0 it worked, 1 it could not be done (one line on stderr says why), 2 the
    command line was wrong, 130 interrupted.
    """
    try:
        command = tyro.cli(Command, args=arguments, prog="llmbook")
        with warnings.catch_warnings():
            warnings.showwarning = _on_one_line
            if said := command.run():
                print(visible(said))
    except BrokenPipeError:  # whoever read the output has left: no words
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BAD_INPUT
    except CANNOT_BE_DONE as error:
        note(error)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        note("interrupted")
        return EXIT_INTERRUPTED
    return 0


def _on_one_line(message: Warning | str, *_: object, **__: object) -> None:
    note(message)
