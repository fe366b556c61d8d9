# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a sequence has given since the last time, as a chunk."""

from __future__ import annotations

from genai_iface.generation.running import RunningSequence
from genai_iface.generation.text.prompts import decode_prompt
from genai_iface.protocols import Tokenizer
from genai_iface.results import Chunk

__all__ = ["ChunkSource"]


class ChunkSource:
    """Cuts the output of one sequence, which generates one turn, into chunks.

    Tokens without text yet wait for the chunk that has it; the last chunk has the reason of the end. A prompt
    that is echoed stands before the first text.

    Args:
        running: The sequence.
        tokenizer: Decodes the prompt.
        index: What the chunks say which sequence it is.
    """

    def __init__(self, running: RunningSequence, tokenizer: Tokenizer, index: int = 0) -> None:
        self._running = running
        self._tokenizer = tokenizer
        self._index = index
        self._owes_echo = running.plan.config.echo
        self._num_tokens = 0
        self._num_logprobs = 0
        self._has_ended = False

    @property
    def has_ended(self) -> bool:
        """Whether the last chunk was taken."""
        return self._has_ended

    def take(self) -> Chunk | None:
        """The next chunk, or None while there is no text for one."""
        if self._has_ended:
            return None
        running, state = self._running, self._running.state
        reason, text = state.finish_reason, running.take_text()
        if not text and reason is None:
            return None
        self._has_ended = reason is not None
        tokens = state.new_tokens[self._num_tokens :].tolist()
        logprobs = state.logprobs[self._num_logprobs :]
        self._num_tokens += len(tokens)
        self._num_logprobs += len(logprobs)
        if self._owes_echo:
            self._owes_echo = False
            prompt = state.tokens[: state.num_prompt].tolist()
            text = decode_prompt(self._tokenizer, prompt) + text
            tokens = [*prompt, *tokens]
            logprobs = [*running.prompt_logprobs(), *logprobs]
        asks = running.plan.config.logprobs is not None
        return Chunk(text, tuple(tokens), tuple(logprobs) if asks else None, self._index, reason)
