# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the commands share that generate: arguments, the parameters that were given, the pipeline, Ctrl-C."""

from __future__ import annotations

import argparse
import dataclasses
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from genai_iface.cli.arguments import parse_options, positive
from genai_iface.cli.progress import Progress
from genai_iface.config import DEFAULT_MAX_NEW_TOKENS, GenerationConfig
from genai_iface.generation.speculation.speculator import DraftModel, PromptLookup, Speculation
from genai_iface.pipeline import TextGenerationPipeline
from genai_iface.registry import load_model

__all__ = [
    "add_generation_arguments",
    "add_speculation_arguments",
    "cancel_on_interrupt",
    "load_pipeline",
    "overrides_of",
    "speculation_of",
]

_DRAFTS = 8


def add_generation_arguments(parser: argparse.ArgumentParser, /, *, of: str = "") -> None:
    """Adds --max-new-tokens, --temperature and the like.

    Args:
        parser: The command's.
        of: What is bounded, for the help: " of an answer".
    """
    how = parser.add_argument_group(
        "generation", "What is not given here comes from the model's generation_config.json."
    )
    how.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help=f"most tokens{of} (default: the model's own number, else {DEFAULT_MAX_NEW_TOKENS})",
    )
    how.add_argument("--temperature", type=float, metavar="T", help="draw at this temperature; 0 takes the likeliest")
    how.add_argument("--top-k", type=int, metavar="K", help="draw among the K likeliest tokens")
    how.add_argument("--top-p", type=float, metavar="P", help="draw among the likeliest tokens that reach P together")
    how.add_argument("--min-p", type=float, metavar="P", help="drop tokens below P times the likeliest")
    how.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1 discourages tokens that occurred")
    how.add_argument("--seed", type=int, metavar="N", help="draw with this seed")
    how.add_argument("--num-beams", type=int, metavar="N", help="search with so many beams, in place of one path")
    how.add_argument(
        "--stop", action="append", dest="stop_strings", metavar="TEXT", help="end before this text; may be repeated"
    )


def add_speculation_arguments(parser: argparse.ArgumentParser, /) -> None:
    """Adds --prompt-lookup and --draft-model."""
    how = parser.add_argument_group("speculation", "Guessed tokens are checked together; the text is the same, sooner.")
    which = how.add_mutually_exclusive_group()
    which.add_argument(
        "--prompt-lookup",
        nargs="?",
        type=positive,
        const=_DRAFTS,
        metavar="N",
        help=f"guess up to N tokens from what followed the same words before (N: {_DRAFTS})",
    )
    which.add_argument("--draft-model", metavar="SOURCE", help="guess with a smaller model that has the same tokens")


@contextmanager
def speculation_of(arguments: argparse.Namespace, progress: Progress, /) -> Iterator[Speculation | None]:
    """What --prompt-lookup or --draft-model asks for, None for neither.

    Args:
        arguments: Those of the command.
        progress: Shows that the smaller model is being loaded.

    Yields:
        For the keyword ``speculation`` of ``generate`` and ``chat``.

    Raises:
        GenAIError: The smaller model cannot be loaded.
    """
    if arguments.prompt_lookup is not None:
        yield PromptLookup(arguments.prompt_lookup)
    elif arguments.draft_model is not None:
        from genai_iface.folder.resolve import as_path  # noqa: PLC0415 - onnx loads slowly, --help must not

        with progress.loading():
            draft = load_model(as_path(arguments.draft_model), backend=arguments.backend)
        try:
            yield DraftModel(draft)
        finally:
            draft.close()
    else:
        yield None


def overrides_of(arguments: argparse.Namespace, /) -> dict[str, Any]:
    """The generation parameters that were given, by their names in ``GenerationConfig``."""
    names = {field.name for field in dataclasses.fields(GenerationConfig)}
    return {name: value for name, value in vars(arguments).items() if name in names and value is not None}


def load_pipeline(arguments: argparse.Namespace, progress: Progress, /) -> TextGenerationPipeline:
    """The pipeline that the arguments of ``add_model_arguments`` ask for.

    Args:
        arguments: Those of the command.
        progress: Shows that a model is being loaded, and later how much of a prompt is done.

    Raises:
        GenAIError: The model or the backend cannot be loaded.
    """
    options = parse_options(arguments.option)
    with progress.loading():
        return TextGenerationPipeline(
            arguments.model,
            backend=arguments.backend,
            device=arguments.device,
            options=options,
            variant=arguments.variant,
            revision=arguments.revision,
            on_prefill=progress.prefill,
        )


@contextmanager
def cancel_on_interrupt(cancel: Callable[[], None]) -> Iterator[None]:
    """Makes the first Ctrl-C cancel, so that what was generated is kept; the second one interrupts."""
    previous = signal.getsignal(signal.SIGINT)

    def first(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        cancel()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
