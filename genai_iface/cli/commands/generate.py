# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface generate``: continues a text, or answers a message."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from genai_iface.cli.arguments import add_model_arguments, add_template_argument, chat_template_of, read_text
from genai_iface.cli.generation import (
    add_generation_arguments,
    add_speculation_arguments,
    cancel_on_interrupt,
    load_pipeline,
    overrides_of,
    speculation_of,
)
from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.cli.progress import Progress
from genai_iface.errors import InvalidInputError
from genai_iface.protocols import Prompt
from genai_iface.results import Chunk, GenerationResult, PerfMetrics

__all__ = ["add_parser", "run"]

_CANCELLED = 130
_FORMS = frozenset({"json_schema", "regex", "lark_grammar"})
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continues a text, streamed to stdout. Without --model it runs the model that comes with the "
        "package. On a terminal the prompt is shown before its continuation; in a pipe only the continuation is "
        "printed. Ctrl-C stops and keeps what there is.",
    )
    parser.add_argument("prompt", metavar="PROMPT", help='the text; "-" reads it from stdin')
    parser.add_argument("--chat", action="store_true", help="send the prompt as a user's message, by the chat template")
    parser.add_argument("--system", metavar="TEXT", help="a system message before it; implies --chat")
    add_template_argument(parser, implied="; implies --chat")

    add_model_arguments(parser)

    add_generation_arguments(parser)
    add_speculation_arguments(parser)
    form = parser.add_argument_group(
        "form of the output",
        'At most one of these; they need "genai-iface[grammar]" to be installed.',
    )
    form.add_argument("--json-schema", metavar="FILE|JSON", help="JSON that this schema allows")
    form.add_argument("--regex", metavar="REGEX", help="the whole output matches this regular expression")
    form.add_argument(
        "--grammar", dest="lark_grammar", metavar="FILE", help="the output follows the Lark grammar in this file"
    )

    output = parser.add_argument_group("output")
    add_json_argument(output, "print one JSON object at the end")
    output.add_argument("--no-stream", action="store_true", help="print the text when it is complete")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        0, or 130 if Ctrl-C ended it.
    """
    text = _read_prompt(arguments.prompt)
    template = chat_template_of(arguments)
    chosen: dict[str, Any] = {} if template is None else {"chat_template": template}
    is_chat = arguments.chat or arguments.system is not None or template is not None
    prompt: Prompt = _as_messages(text, arguments.system) if is_chat else text
    overrides = _overrides(arguments)
    progress = Progress()
    with load_pipeline(arguments, progress) as pipeline, speculation_of(arguments, progress) as speculation:
        # A reader sees what is continued; a program gets the continuation alone.
        head = f"{_DIM}{text}{_PLAIN}" if isinstance(prompt, str) and sys.stdout.isatty() else ""
        printer = None if arguments.json else _Printer(progress, head, waits=arguments.no_stream)
        with cancel_on_interrupt(pipeline.cancel):
            try:
                result = pipeline.generate(prompt, on_chunk=printer, speculation=speculation, **chosen, **overrides)
            finally:
                progress.stop()
                if printer is not None:
                    printer.finish()
    if arguments.json:
        print_json("generate", _as_json(arguments, text, result))
    if _FORMS & overrides.keys() and result.finish_reasons[0] != "stop":
        print(f"The output is not complete; it ended by {result.finish_reasons[0]!r}.", file=sys.stderr)
    if sys.stderr.isatty():
        print(_measurements(result.perf_metrics), file=sys.stderr)
    return _CANCELLED if "cancelled" in result.finish_reasons else 0


class _Printer:
    """Prints chunks to stdout, at once or at the end.

    Args:
        progress: Is stopped before anything is printed, as it may share the terminal.
        head: Printed before the first chunk.
        waits: Whether the text is printed at the end.
    """

    def __init__(self, progress: Progress, head: str, *, waits: bool) -> None:
        self._progress = progress
        self._pending = [head]
        self._waits = waits
        self._has_begun = False

    def __call__(self, chunk: Chunk) -> None:
        self._has_begun = True
        self._pending.append(chunk.text)
        if not self._waits:
            self._flush()

    def finish(self) -> None:
        """Prints what is left and ends the line; prints nothing if no chunk came."""
        if self._has_begun:
            self._pending.append("\n")
            self._flush()

    def _flush(self) -> None:
        self._progress.stop()
        print("".join(self._pending), end="", flush=True)
        self._pending.clear()


def _read_prompt(argument: str) -> str:
    text = argument
    if argument == "-":
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"stdin is not UTF-8: {error}", remedy="Convert the text to UTF-8.") from error
        # As in the shell's $(...): the last line's end belongs to the file, not to the text.
        text = text.removesuffix("\n")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"The prompt is not UTF-8: {error}", remedy="Convert the text to UTF-8.") from error
    return text


def _as_messages(text: str, system: str | None) -> list[dict[str, str]]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    return [*messages, {"role": "user", "content": text}]


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The generation parameters that were given."""
    given = overrides_of(arguments)
    if "json_schema" in given and not given["json_schema"].lstrip().startswith("{"):
        given["json_schema"] = read_text(given["json_schema"], "--json-schema")
    if "lark_grammar" in given:
        given["lark_grammar"] = read_text(given["lark_grammar"], "--grammar")
    return given


def _as_json(arguments: argparse.Namespace, prompt: str, result: GenerationResult) -> dict[str, Any]:
    metrics = result.perf_metrics
    return {
        "model": arguments.model,
        "backend": arguments.backend,
        "prompt": prompt,
        "text": result.text,
        "token_ids": result.token_ids[0],
        "finish_reason": result.finish_reasons[0],
        "seed": result.seed,
        "perf_metrics": {
            **dataclasses.asdict(metrics),
            "prefill_tokens_per_second": metrics.prefill_tokens_per_second,
            "decode_tokens_per_second": metrics.decode_tokens_per_second,
            "time_per_output_token": metrics.time_per_output_token,
        },
    }


def _measurements(metrics: PerfMetrics) -> str:
    return (
        f"prompt: {metrics.num_prompt_tokens} tokens, {metrics.prefill_tokens_per_second:.1f} tokens/s; "
        f"output: {metrics.num_generated_tokens} tokens, {metrics.decode_tokens_per_second:.1f} tokens/s; "
        f"first token after {metrics.time_to_first_token:.2f} s; cache: {metrics.cache_bytes / 1e6:.1f} MB"
    )
