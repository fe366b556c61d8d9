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

import genai_iface
from genai_iface.cli import commands as command_modules
from genai_iface.errors import BackendError, GenAIError

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
    arguments = build_parser().parse_args(argv)
    _tolerate_narrow_encodings()
    try:
        return int(arguments.run(arguments))
    except GenAIError as error:
        if arguments.debug:
            raise
        print(f"genai-iface: {error}", file=sys.stderr)
        return 1 if isinstance(error, BackendError) else 2
    except BrokenPipeError:
        # The reader (head, less) has gone. Point stdout elsewhere so that the exit flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _tolerate_narrow_encodings() -> None:
    """A terminal that cannot show a character shows a question mark, instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
