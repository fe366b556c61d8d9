# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``genai-iface``: finds the subcommand, runs it and turns errors into one line.

A subcommand is a module of ``commands`` with ``add_parser(commands)`` and ``run(arguments) -> int``. What it
imports beyond the interface it imports in ``run``, so that ``--help`` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import pkgutil
import sys
from collections.abc import Sequence
from contextlib import suppress

import genai_iface
from genai_iface.cli import commands as command_modules
from genai_iface.errors import BackendError, GenAIError, OutputError

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The whole parser; the command-line reference is made from it too."""
    parser = argparse.ArgumentParser(
        prog="genai-iface", description="Run, inspect and check generative ONNX models on any runtime."
    )
    parser.add_argument("--version", action="version", version=f"genai-iface {genai_iface.__version__}")
    parser.add_argument("--debug", action="store_true", help="print a traceback when something fails")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for found in pkgutil.iter_modules(command_modules.__path__, f"{command_modules.__name__}."):
        command = importlib.import_module(found.name)
        subparser = command.add_parser(commands)
        subparser.set_defaults(run=command.run)
        # Also legal after the command; SUPPRESS leaves the value that was given before it.
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0 on success, 1 if a run failed, 2 for bad input, 130 after Ctrl-C.
    """
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as end:
        # --help and --version have printed something.
        raise SystemExit(_flushed(end.code if isinstance(end.code, int) else 2)) from None
    _tolerate_narrow_encodings()
    try:
        return _flushed(int(arguments.run(arguments)))
    except GenAIError as error:
        if arguments.debug:
            raise
        _complain(str(error))
        return _flushed(1 if isinstance(error, (BackendError, OutputError)) else 2)
    except BrokenPipeError:
        # The reader (head, less) has gone.
        _drop_output()
        return 1
    except OSError as error:
        if arguments.debug:
            raise
        where = f" ({error.filename!r})" if error.filename is not None else ""
        _complain(f"The run failed: {error.strerror or error}{where}.")
        _drop_output()
        return 1
    except KeyboardInterrupt:
        return 130


def _flushed(code: int) -> int:
    """The exit code, or 1 if what was printed cannot be written. At Python's own end it would be a traceback."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:
        _complain(f"The standard output cannot be written: {error.strerror or error}.")
        _drop_output()
        return 1
    return code


def _complain(text: str) -> None:
    # Standard error may be full or closed as well.
    with suppress(OSError, ValueError):
        print(f"genai-iface: {text}", file=sys.stderr, flush=True)


def _drop_output() -> None:
    """Points the standard output elsewhere, so that the flush at the end is quiet."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tolerate_narrow_encodings() -> None:
    """A terminal that cannot show a character shows a question mark, instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
