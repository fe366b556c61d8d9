# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``genai-iface``: finds the subcommand, runs it and turns errors into one line.

A subcommand is a module of ``commands`` with ``add_parser(commands)`` and ``run(arguments) -> int``. What it
imports beyond the interface it imports in ``run``, so that ``--help`` stays quick.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import logging
import os
import pkgutil
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import genai_iface
from genai_iface.cli import commands as command_modules
from genai_iface.errors import BackendError, GenAIError, OutputError, did_you_mean

__all__ = ["build_parser", "main"]

# As argparse words it, with quotes or without.
_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
_WORD = re.compile(r"[\w-]+")


def build_parser() -> argparse.ArgumentParser:
    """The whole parser; the command-line reference is made from it too."""
    parser = _Parser(prog="genai-iface", description="Run, inspect and check generative ONNX models on any runtime.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    parser.add_argument("--debug", action="store_true", help="print a traceback when something fails")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for found in pkgutil.iter_modules(command_modules.__path__, f"{command_modules.__name__}."):
        command = importlib.import_module(found.name)
        subparser = command.add_parser(commands)
        subparser.set_defaults(run=command.run, parser=subparser)
        # Also legal after the command; SUPPRESS leaves the value that was given before it.
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0 on success, 1 if a run failed, 2 for bad input, 130 after Ctrl-C.
    """
    _open_closed_streams()
    arguments = _parsed(argv)
    _tolerate_narrow_encodings()
    try:
        with _own_warnings_only(arguments.debug):
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
        if _is_closed_output(error):
            return _lost_output(error)
        where = f" ({error.filename!r})" if error.filename is not None else ""
        _complain(f"The run failed: {error.strerror or error}{where}.")
        _drop_output()
        return 1
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser whose help is not lost in silence, and that knows what was mistyped.

    argparse's own ignores an output that cannot be written.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Formatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and what may have been meant; ends the program with 2.

        Args:
            message: What is wrong.
        """
        choice = _CHOICE.search(message)
        if choice is not None:
            message += did_you_mean(choice[1], _WORD.findall(choice[2]))
        super().error(message)

    def refuse_unknown(self, given: Sequence[str]) -> NoReturn:
        """Ends the program with 2 for arguments that this command does not take.

        Args:
            given: The arguments.
        """
        options = [name for action in self._actions for name in action.option_strings]
        near = did_you_mean(given[0].partition("=")[0], options) if given[0].startswith("-") else ""
        self.error(f"unrecognized arguments: {' '.join(given)}.{near}")

    def print_help(self, file: Any = None) -> None:
        """Prints the help, on the standard output unless said otherwise.

        Args:
            file: Where to.

        Raises:
            OSError: It cannot be written.
        """
        print(self.format_help(), end="", file=file)


class _Formatter(argparse.HelpFormatter):
    """Wraps descriptions, leaves lists of examples as they are, and shows defaults."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text.strip():
            return "".join(indent + line for line in text.splitlines(keepends=True))
        # An example is broken between words only.
        return textwrap.fill(
            text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        has_value = action.nargs != 0 and action.default not in (None, argparse.SUPPRESS) and action.default != []
        if text and has_value and "default" not in text:
            text += " (default: %(default)s)"
        return text


class _Version(argparse.Action):
    """--version, with the same care."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"genai-iface {genai_iface.__version__}")
        parser.exit()


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; ends the program where they are wrong, or where --help or --version has printed something."""
    try:
        arguments, unknown = build_parser().parse_known_args(argv)
        if unknown:
            arguments.parser.refuse_unknown(unknown)
        return arguments
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 2
    except OSError as error:
        code = _lost_output(error)
    raise SystemExit(_flushed(code))


@contextmanager
def _own_warnings_only(debug: bool) -> Iterator[None]:
    """Shows warnings of this project as one line each, and those of libraries with --debug alone."""
    if debug:
        yield
        return

    def show(message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> None:
        if any(part.startswith("genai_iface") for part in Path(filename).parts):
            _complain(str(message))

    before = warnings.showwarning
    warnings.showwarning = show
    # Their loggers, which print to standard error where nobody has set them up.
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        warnings.showwarning = before
        logging.getLogger().removeHandler(handler)


def _flushed(code: int) -> int:
    """The exit code, or 1 if what was printed cannot be written. At Python's own end it would be a traceback."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return _lost_output(error)
    return code


def _lost_output(error: OSError) -> int:
    """Says why the standard output cannot be written, unless its reader has gone; 1, for the exit code."""
    if not isinstance(error, BrokenPipeError):
        why = "it is closed" if _is_closed_output(error) else error.strerror or error
        _complain(f"The standard output cannot be written: {why}.")
    _drop_output()
    return 1


def _is_closed_output(error: OSError) -> bool:
    """Whether it comes from what stands in for a standard output that was closed at the start."""
    return error.errno == errno.EBADF and error.filename is None


def _complain(text: str) -> None:
    # Standard error may be full or closed as well.
    with suppress(OSError, ValueError):
        print(f"genai-iface: {text}", file=sys.stderr, flush=True)


def _drop_output() -> None:
    """Points the standard output elsewhere, so that the flush at the end is quiet."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Gives a stream that was closed at the start a descriptor again; the standard output's cannot be written.

    Python has None in its place, and the next file that is opened would take its number: what native code prints
    would land there.
    """
    # In this order each gets its own number, the lowest that is free.
    for name, mode, flags in (
        ("stdin", "r", os.O_RDONLY),
        # A result that nobody gets is an error; what is said on the way there is not.
        ("stdout", "w", os.O_RDONLY),
        ("stderr", "w", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:
            with suppress(OSError):
                setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


def _tolerate_narrow_encodings() -> None:
    """A terminal that cannot show a character shows a question mark, instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
