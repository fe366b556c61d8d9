# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface perplexity``: how well a model predicts a text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from genai_iface.cli.arguments import add_model_arguments, positive, read_text
from genai_iface.cli.generation import load_pipeline
from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.cli.progress import Progress
from genai_iface.errors import InvalidInputError

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "perplexity",
        help="measure how well a model predicts a text",
        description="Prints the exponential of the mean negative log-probability of a text's tokens, all but the "
        "first: of one model over another of the same tokens, lower is better. A text beyond the model's context is "
        "scored in windows of that length.",
        epilog="example: genai-iface perplexity README.md --model my-model-int4 --backend ort",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="texts in UTF-8; - for the standard input")
    parser.add_argument("--stride", type=positive, metavar="N", help="how much further each window begins (half of it)")
    add_json_argument(parser)
    add_model_arguments(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        0.

    Raises:
        GenAIError: A file cannot be read, is too short, or the model cannot be loaded.
    """
    texts = _read(arguments.files)
    with load_pipeline(arguments, Progress()) as pipeline:
        found = {name: pipeline.perplexity(text, stride=arguments.stride) for name, text in texts.items()}
    if arguments.json:
        print_json("perplexity", {"perplexity": found})
    else:
        for name, value in found.items():
            print(f"{value:.4f}  {name}")
    return 0


def _read(names: Sequence[str]) -> dict[str, str]:
    """The texts by name.

    Raises:
        InvalidInputError: One is a folder, missing, or not UTF-8.
    """
    texts = {}
    for name in names:
        if name == "-":
            try:
                texts[name] = sys.stdin.read()
            except UnicodeDecodeError as error:
                raise InvalidInputError(f"stdin is not UTF-8: {error}", remedy="Convert the text to UTF-8.") from error
        else:
            texts[name] = read_text(str(Path(name)), "FILE")
    return texts
