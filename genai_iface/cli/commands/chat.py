# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface chat``: a conversation, on a terminal or through a pipe."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from genai_iface._new_files import new_file
from genai_iface.cli.arguments import add_model_arguments, add_template_argument, chat_template_of
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
from genai_iface.errors import GenAIError, InvalidInputError
from genai_iface.generation.chat.session import ChatSession
from genai_iface.results import Chunk

__all__ = ["add_parser", "run"]

_HELP = """\
/reset         forget the conversation
/system TEXT   set the system message; without TEXT remove it
/again         answer the last message again
/history       show the conversation
/save FILE     write the conversation to a JSON file
/stats         show the measurements of the last answer
/help          show this
/exit          end (as the end of the input does)"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "chat",
        help="talk with a model",
        description="A conversation by the model's chat template; each line is a message. Lines that begin with a "
        "slash are commands: /help lists them. Ctrl-C stops an answer and keeps what there is; at the prompt it ends. "
        "In a pipe only the answers are printed.",
    )
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    add_template_argument(parser)
    add_model_arguments(parser)
    add_generation_arguments(parser, of=" of an answer")
    add_speculation_arguments(parser)
    add_json_argument(parser, "print one JSON object for each answer, on a line of its own")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        0.
    """
    template = chat_template_of(arguments)
    progress = Progress()
    with (
        load_pipeline(arguments, progress) as pipeline,
        speculation_of(arguments, progress) as speculation,
        pipeline.chat(
            system=arguments.system, chat_template=template, speculation=speculation, **overrides_of(arguments)
        ) as session,
    ):
        _Loop(session, pipeline.cancel, progress, as_json=arguments.json).run()
    return 0


class _Loop:
    """Reads lines and answers them."""

    def __init__(self, session: ChatSession, cancel: Callable[[], None], progress: Progress, *, as_json: bool) -> None:
        self._session = session
        self._cancel = cancel
        self._progress = progress
        self._as_json = as_json
        self._is_terminal = sys.stdin.isatty()
        # Each takes what follows its name.
        self._commands: dict[str, Callable[[str], None]] = {
            "/reset": lambda _: session.reset(),
            "/system": self._set_system,
            "/again": lambda _: self._print(session.stream_again),
            "/history": lambda _: self._show_history(),
            "/save": self._save,
            "/stats": lambda _: self._show_measurements(),
            "/help": lambda _: print(_HELP),
        }

    def run(self) -> None:
        """Goes on until the input ends."""
        if self._is_terminal:
            # Lets input() edit lines and remember them, where the platform has it.
            with suppress(ImportError):
                import readline  # noqa: F401, PLC0415
        while True:
            try:
                line = input("> " if self._is_terminal else "")
            except (EOFError, KeyboardInterrupt):
                return
            except UnicodeDecodeError as error:
                raise InvalidInputError(f"stdin is not UTF-8: {error}", remedy="Convert the text to UTF-8.") from error
            if line.strip() in ("/exit", "/quit"):
                return
            try:
                self._handle(line)
            except GenAIError as error:
                # On a terminal the conversation goes on; a script must learn that something failed.
                if not self._is_terminal:
                    raise
                print(f"genai-iface: {error}", file=sys.stderr)

    def _handle(self, line: str) -> None:
        if not line.strip():
            return
        if not line.startswith("/"):
            self._print(lambda: self._session.stream(line))
            return
        name, _, argument = line.partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise InvalidInputError(f"{name} is not a command", remedy="/help lists them.")
        command(argument.strip())

    def _set_system(self, text: str) -> None:
        self._session.system = text or None

    def _show_history(self) -> None:
        for message in self._session.messages:
            print(f"{message['role']}: {message['content']}")

    def _print(self, start: Callable[[], Iterator[Chunk]]) -> None:
        has_begun = False
        try:
            with cancel_on_interrupt(self._cancel):
                chunks = start()
                if self._as_json:
                    print_json("chat", _as_json(list(chunks)))
                    return
                for chunk in chunks:
                    has_begun = True
                    self._progress.stop()
                    print(chunk.text, end="", flush=True)
        finally:
            self._progress.stop()
            if has_begun:
                print(flush=True)

    def _save(self, argument: str) -> None:
        if not argument:
            raise InvalidInputError("/save needs a file", remedy="For example: /save conversation.json")
        with new_file(argument) as place:
            text = json.dumps(self._session.messages, ensure_ascii=False, indent=2) + "\n"
            place.write_text(text, encoding="utf-8")

    def _show_measurements(self) -> None:
        metrics = self._session.perf_metrics
        print(
            f"prompt: {metrics.num_prompt_tokens} tokens, {metrics.num_reused_tokens} of them reused; "
            f"output: {metrics.num_generated_tokens} tokens, {metrics.decode_tokens_per_second:.1f} tokens/s; "
            f"first token after {metrics.time_to_first_token:.2f} s; cache: {metrics.cache_bytes / 1e6:.1f} MB"
        )


def _as_json(chunks: Sequence[Chunk]) -> dict[str, Any]:
    reasons = [chunk.finish_reason for chunk in chunks if chunk.finish_reason is not None]
    return {
        "text": "".join(chunk.text for chunk in chunks),
        "token_ids": [token for chunk in chunks for token in chunk.token_ids],
        "finish_reason": reasons[-1] if reasons else None,
    }
