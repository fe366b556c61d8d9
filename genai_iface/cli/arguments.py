# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What several commands read from their arguments."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from genai_iface.errors import InvalidInputError
from genai_iface.models import EMBEDDED

__all__ = [
    "SOURCE",
    "add_model_arguments",
    "add_source_arguments",
    "add_source_options",
    "add_template_argument",
    "chat_template_of",
    "named_source",
    "not_negative",
    "parse_options",
    "positive",
    "read_text",
    "source_of",
]

SOURCE = f"a folder that holds a model, a .onnx file, an id ORG/NAME[:VARIANT] of the Hugging Face Hub, or {EMBEDDED}"
"""What a command takes as a model, for its help."""


def add_model_arguments(parser: argparse.ArgumentParser, /) -> None:
    """Adds what says which model to run, and where: --model and its variant, --backend, --device, --option."""
    where = parser.add_argument_group("model")
    where.add_argument("--model", metavar="SOURCE", help=f"{SOURCE} (default: the embedded model)")
    add_source_options(where)
    where.add_argument("--backend", default="numpy", metavar="NAME", help="a registered backend (default: numpy)")
    where.add_argument("--device", metavar="D", help='one of the devices of "genai-iface devices"')
    where.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the backend; may be repeated"
    )


def add_template_argument(parser: argparse.ArgumentParser, /, *, implied: str = "") -> None:
    """Adds --chat-template."""
    parser.add_argument(
        "--chat-template",
        metavar="NAME|FILE|TEXT",
        help="the chat template: the name of one of the model's, such as tool_use, a file, or the Jinja template "
        f"itself{implied}",
    )


def chat_template_of(arguments: argparse.Namespace, /) -> str | None:
    """What --chat-template says: a name or a template; a file's content.

    Raises:
        InvalidInputError: The file is not UTF-8 or cannot be read.
    """
    given: str | None = arguments.chat_template
    if given is None or "{" in given or not Path(given).is_file():
        return given
    return read_text(given, "--chat-template")


def read_text(name: str, option: str, /) -> str:
    """The content of a file that an option names.

    Raises:
        InvalidInputError: It is not UTF-8 or cannot be read.
    """
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{option} {name!r} cannot be read: {error}", remedy="Give a readable file in UTF-8."
        ) from error


def add_source_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup, /) -> None:
    """Adds what tells several models of one source apart: --variant, --revision."""
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="one of several models, as inspect lists them (default: the fullest precision)",
    )
    parser.add_argument("--revision", metavar="REV", help="a branch, tag or commit of a repository of the hub")


def add_source_arguments(parser: argparse.ArgumentParser, /) -> None:
    """Adds --model and what tells its variants apart; the model may stand without the option too."""
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="the same as --model SOURCE")
    parser.add_argument("--model", metavar="SOURCE", help=f"{SOURCE} (default: the embedded model)")
    add_source_options(parser)


def named_source(arguments: argparse.Namespace, /) -> str | None:
    """The model that was named, either way; None for the embedded one.

    Raises:
        InvalidInputError: Two were named.
    """
    if arguments.source is not None and arguments.model is not None:
        raise InvalidInputError(
            f"Two models are named, {arguments.source!r} and --model {arguments.model!r}", remedy="Name one."
        )
    source: str | None = arguments.model if arguments.source is None else arguments.source
    return source


def source_of(arguments: argparse.Namespace, source: str | None, /) -> str | PathLike[str]:
    """The path of the model that was named; it is downloaded if need be. The embedded model's if none was named.

    Raises:
        GenAIError: There is no such model.
    """
    from genai_iface.models import default_folder  # noqa: PLC0415

    if source is None and (arguments.variant or arguments.revision):
        raise InvalidInputError("--variant and --revision need a model", remedy="Name one.")
    if source is None:
        return default_folder()
    from genai_iface.folder.resolve import as_path  # noqa: PLC0415 - onnx loads slowly, --help must not

    return as_path(source, variant=arguments.variant, revision=arguments.revision)


def positive(text: str, /) -> int:
    """An integer of at least 1, for argparse.

    Raises:
        argparse.ArgumentTypeError: It is something else.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return value


def not_negative(text: str, /) -> float:
    """A number of at least 0, for argparse.

    Raises:
        argparse.ArgumentTypeError: It is something else.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def parse_options(pairs: Sequence[str], /) -> dict[str, Any]:
    """Backend options by name; a value that is JSON is read as such, any other is text.

    Raises:
        InvalidInputError: An item is not KEY=VALUE.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InvalidInputError(f"--option {pair!r} is not KEY=VALUE", remedy="For example: --option threads=2")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options
