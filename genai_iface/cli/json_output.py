# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What ``--json`` prints: one object on one line, which names its command. See docs/reference/json-output.md."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["add_json_argument", "print_json"]


def add_json_argument(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, /, what: str = "print one JSON object"
) -> None:
    """Adds --json.

    Args:
        parser: What it is added to.
        what: The help.
    """
    parser.add_argument("--json", action="store_true", help=what)


def print_json(command: str, found: Mapping[str, Any], /) -> None:
    """Prints what a command found.

    Args:
        command: The name of the command, as it is typed.
        found: The members of the object, without "command".
    """
    # A reader at the other end of a pipe gets each object as it comes.
    print(json.dumps({"command": command, **found}, ensure_ascii=False), flush=True)
