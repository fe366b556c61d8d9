# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Conversations that keep their cache from turn to turn."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol, Self, Unpack

from genai_iface.config import GenerationOverrides
from genai_iface.display import ShownStream
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.generation._own_process import OwnProcess
from genai_iface.generation.engine import Engine
from genai_iface.generation.hooks import GenerationHooks
from genai_iface.protocols import Message, Tokenizer
from genai_iface.results import Chunk, PerfMetrics

__all__ = ["ChatSession", "Kept"]


class Kept(Protocol):
    """What lives from turn to turn: the cache, and which tokens ran in it."""

    def open_answer(self, token_ids: list[int], hooks: GenerationHooks, overrides: Mapping[str, Any], /) -> Engine:
        """The engine that answers a conversation, given as tokens. It leaves the cache open."""
        ...

    def close(self) -> None:
        """Frees the cache. A second call does nothing."""
        ...


class ChatSession:
    """A conversation. Made by ``TextGenerationPipeline.chat``.

    Every turn renders the whole conversation with the chat template and runs only what the cache does not
    hold already: what follows the longest common prefix. So a message may also be edited or an answer
    generated anew, and what stands before it is not run again. Not thread safe, apart from the pipeline's
    ``cancel``, which ends a running answer and keeps what there is of it.

    Args:
        tokenizer: Renders and encodes.
        kept: Lives from turn to turn, and makes the engine of each.
        run: Gives the chunks of an engine.
        hooks: The caller's own functions and rules, for answers that bring none of their own.
        system: The system message, None for none.
        tools: What the template is told about tools.
        chat_template: Which template: a name, or a template itself; None for the tokenizer's choice.
        template_kwargs: Further variables of the template.

    Raises:
        UnsupportedCapabilityError: The tokenizer has no template, and none is given.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        kept: Kept,
        run: Callable[[Engine], Generator[Chunk, None, None]],
        hooks: GenerationHooks,
        *,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if chat_template is None and not getattr(tokenizer, "has_chat_template", True):
            kept.close()
            raise UnsupportedCapabilityError(
                "This model has no chat template: it continues texts, and was not made for conversations",
                remedy="Pass chat_template (--chat-template), or use generate.",
            )
        self._tokenizer = tokenizer
        self._kept = kept
        self._run_engine = run
        self._hooks = hooks
        self._system = system
        self._tools = tools
        self._template_kwargs = dict(template_kwargs or {})
        if chat_template is not None:
            self._template_kwargs["chat_template"] = chat_template
        self._messages: list[Message] = []
        self._metrics = PerfMetrics()
        self._is_closed = False
        self._process = OwnProcess("conversation")
        self._num_turns = 0

    @property
    def messages(self) -> list[Message]:
        """The conversation, the system message included; a copy."""
        head: list[Message] = [] if self._system is None else [{"role": "system", "content": self._system}]
        return [*head, *self._messages]

    @property
    def system(self) -> str | None:
        """The system message. A new one counts from the next answer on."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        self._system = text

    @property
    def perf_metrics(self) -> PerfMetrics:
        """Measurements of the last answer; ``num_reused_tokens`` did not run again."""
        return self._metrics

    def send(
        self,
        message: str | Message,
        /,
        *,
        hooks: GenerationHooks | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> str:
        """Adds a message and returns the answer.

        Args:
            message: A text of the user, or any message, for example the result of a tool.
            hooks: Functions and rules for this answer, in place of the conversation's.
            **overrides: Fields of ``GenerationConfig``.

        Raises:
            CacheOverflowError: The conversation is longer than the model's context. It is as before.
            GenAIError: As ``TextGenerationPipeline.generate``.
        """
        return "".join(chunk.text for chunk in self.stream(message, hooks=hooks, **overrides))

    def stream(
        self,
        message: str | Message,
        /,
        *,
        hooks: GenerationHooks | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> ShownStream:
        """As ``send``, piece by piece. Closing the iterator ends the answer and keeps what there is of it.

        As the last line of a notebook's cell it prints the answer while it comes.
        """
        added: Message = {"role": "user", "content": message} if isinstance(message, str) else dict(message)
        return self._answer([*self._messages, added], hooks, overrides)

    def regenerate(self, *, hooks: GenerationHooks | None = None, **overrides: Unpack[GenerationOverrides]) -> str:
        """Gives another answer to the last message and forgets the one that there was."""
        return "".join(chunk.text for chunk in self.stream_again(hooks=hooks, **overrides))

    def stream_again(
        self, *, hooks: GenerationHooks | None = None, **overrides: Unpack[GenerationOverrides]
    ) -> ShownStream:
        """As ``regenerate``, piece by piece.

        Raises:
            InvalidInputError: No message was sent yet.
        """
        kept = list(self._messages)
        while kept and kept[-1]["role"] == "assistant":
            kept.pop()
        if not kept:
            raise InvalidInputError("There is no message to answer", remedy="Send one first.")
        return self._answer(kept, hooks, overrides)

    def edit(
        self,
        index: int,
        content: str,
        /,
        *,
        hooks: GenerationHooks | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> str:
        """Replaces the text of a message, forgets what follows it and returns a new answer.

        Args:
            index: Which one, counted without the system message; negative ones count from the end.
            content: Its new text.
            hooks: Functions and rules for this answer, in place of the conversation's.
            **overrides: Fields of ``GenerationConfig``.

        Raises:
            InvalidInputError: There is no such message, or it is an answer.
        """
        if not -len(self._messages) <= index < len(self._messages):
            raise InvalidInputError(
                f"There is no message {index}", remedy=f"The conversation has {len(self._messages)} messages."
            )
        place = index % len(self._messages)
        old = self._messages[place]
        if old["role"] == "assistant":
            raise InvalidInputError(f"Message {index} is an answer", remedy="Edit the message before it.")
        changed = [*self._messages[:place], {**old, "content": content}]
        return "".join(chunk.text for chunk in self._answer(changed, hooks, overrides))

    def reset(self) -> None:
        """Forgets all messages but the system message. The cache stays, for what it still is worth."""
        self._messages = []

    def close(self) -> None:
        """Frees the cache. A second call does nothing."""
        self._is_closed = True
        self._kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _answer(
        self, messages: list[Message], hooks: GenerationHooks | None, overrides: Mapping[str, Any]
    ) -> ShownStream:
        self._process.check()
        if self._is_closed:
            raise InvalidInputError("The conversation is closed", remedy="Start a new one.")
        head = self.messages[: len(self.messages) - len(self._messages)]
        text = self._tokenizer.apply_chat_template([*head, *messages], tools=self._tools, **self._template_kwargs)
        # The template writes the special tokens itself.
        token_ids = self._tokenizer.encode(text, add_special_tokens=False)
        engine = self._kept.open_answer(token_ids, self._hooks if hooks is None else hooks, overrides)
        self._num_turns += 1
        return ShownStream(self._run(engine, messages, self._num_turns))

    def _run(self, engine: Engine, messages: list[Message], number: int) -> Generator[Chunk, None, None]:
        if number != self._num_turns:
            # The cache is the later answer's by now.
            raise InvalidInputError(
                "Another answer was begun before this one was read", remedy="Read each answer before the next."
            )
        pieces: list[str] = []
        is_kept = False
        try:
            with closing(self._run_engine(engine)) as chunks:
                for chunk in chunks:
                    pieces.append(chunk.text)
                    is_kept = True
                    yield chunk
        except Exception:
            is_kept = False
            raise
        finally:
            self._metrics = engine.metrics
            if is_kept:
                self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]
