# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What several commands read from their arguments."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genai_iface.errors import InvalidInputError

__all__ = [
    "add_model_arguments",
    "add_template_argument",
    "chat_template_of",
    "folder_or_default",
    "parse_options",
    "positive",
]


def add_model_arguments(parser: argparse.ArgumentParser, /) -> None:
    """Adds what says which model to run, and where: --model, --backend, --device, --option."""
    where = parser.add_argument_group("model")
    where.add_argument("--model", metavar="FOLDER", help="the model folder")
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
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"--chat-template {given!r} cannot be read: {error}", remedy="Give a readable file in UTF-8."
        ) from error


def folder_or_default(folder: str | None, /) -> Path:
    """The folder that was given, or that of the embedded model."""
    from genai_iface.models import default_folder  # noqa: PLC0415

    return default_folder() if folder is None else Path(folder)


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
