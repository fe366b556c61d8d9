# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Text from tokens while they come: whole characters only, nothing that must be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from genai_iface.generation.text.special import Marks, SpecialTexts
from genai_iface.generation.text.stopping import StopStrings
from genai_iface.protocols import Tokenizer

__all__ = ["Detokenizer", "TextStream", "context_tail"]

_BROKEN = "\ufffd"
# Tokens of the prompt that are decoded along, so that the first new token gets its leading space.
_CONTEXT = 32
# Byte tokens have low ids in all vocabularies in use.
_PROBE_LIMIT = 1024
_PROBES: WeakKeyDictionary[Tokenizer, int | None] = WeakKeyDictionary()
# A character has four bytes at most; after this many broken tokens in a row something else is going on.
_PATIENCE = 8


class Detokenizer:
    """Decodes a growing sequence in a window, at a cost that does not grow with the sequence.

    The text of all ``push`` calls and ``finish`` together is what the tokens add to the decoded
    context: for an empty context exactly ``tokenizer.decode(tokens)``.

    Text is *settled* once no later token can change it. Two things are not settled: a character at
    the end whose bytes are incomplete (it decodes to U+FFFD), and, for tokenizers with byte fallback,
    a run of byte tokens, since one bad byte turns the whole run into U+FFFD.

    Args:
        tokenizer: The tokenizer that decodes the tokens.
        context: Tokens before the first one, whose text is not given out.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._num_ids = tokenizer.vocab_size
        self._probe = _byte_token(tokenizer)
        self._window: list[int] = context_tail(tokenizer, context)
        # The window may start anew at this index once more text has settled.
        self._next_start = len(self._window)
        # The reader has the context's text, except for a character that it leaves incomplete.
        self._num_given = len(self._decode(self._window).rstrip(_BROKEN))
        self._rest = ""
        self._num_broken = 0
        self._look_at = 0

    def push(self, token: int) -> tuple[str, str]:
        """Takes one token.

        Returns:
            Text that has settled with this token, and the text after it that may still change. The
            second is final if no token follows.
        """
        if token >= self._num_ids:
            # Models pad their vocabulary; such an id has no text.
            return "", self._rest
        self._window.append(token)
        if len(self._window) < self._look_at:
            return "", self._rest
        text = self._decode(self._window)
        self._num_broken = self._num_broken + 1 if text.endswith(_BROKEN) else 0
        # Bytes that make no character for so long are looked at ever more rarely, to bound the cost.
        self._look_at = len(self._window) * 17 // 16 if self._num_broken > _PATIENCE else 0
        settled = self._settled(text)
        new = settled[self._num_given :]
        self._num_given = max(self._num_given, len(settled))
        self._rest = text[self._num_given :]
        if not self._rest:
            self._advance(text)
        return new, self._rest

    def finish(self) -> str:
        """The text that was still held back."""
        rest = self._decode(self._window)[self._num_given :]
        self._num_given += len(rest)
        self._rest = ""
        return rest

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids)

    def _settled(self, text: str) -> str:
        if self._probe is not None and text:
            # What a bad byte after it would change has not settled.
            text = _common_prefix(text, self._decode([*self._window, self._probe]))
        return text.rstrip(_BROKEN)

    def _advance(self, text: str) -> None:
        """Drops tokens from the front of the window if what is left decodes to the same end."""
        if self._next_start:
            shorter = self._decode(self._window[self._next_start :])
            # Without a visible token in front, the next token would lose its leading space.
            if shorter and text.endswith(shorter):
                del self._window[: self._next_start]
                self._num_given = len(shorter)
        self._next_start = len(self._window)


class TextStream:
    """The text of one sequence: a detokenizer, and stop strings that end it.

    A stop string may be, or hold, the text of special tokens, although that text is not given out.

    Args:
        tokenizer: The tokenizer that decodes the tokens.
        stop: The stop strings.
        context: Tokens before the first one, whose text is neither given out nor searched.
    """

    def __init__(self, tokenizer: Tokenizer, stop: StopStrings, context: Sequence[int] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer, context)
        self._stop = stop
        self._specials = SpecialTexts(tokenizer)
        self._marks = Marks()
        self._held = ""
        self._is_over = False

    def push(self, token: int) -> tuple[str, bool]:
        """Takes one token.

        Returns:
            Text that can be given out now, and whether a stop string has ended the sequence.
        """
        settled, rest = self._detokenizer.push(token)
        self._held += settled
        if not self._stop:
            text, self._held = self._held, ""
            return text, False
        # If the sequence ends here, the unsettled text is final too: it may complete a stop string.
        whole = self._held + rest
        self._marks.add(len(whole), self._specials.of(token))
        end = self._marks.find_end(whole, self._stop)
        if end is not None:
            self._is_over = True
            return end, True
        settled_to = self._marks.settled(self._held, self._stop)
        text, self._held = self._held[:settled_to], self._held[settled_to:]
        return text, False

    def finish(self) -> str:
        """All text that was held back, for a sequence that ends without a stop string."""
        if self._is_over:
            return ""
        self._is_over = True
        return self._held + self._detokenizer.finish()


def context_tail(tokenizer: Tokenizer, context: Sequence[int]) -> list[int]:
    """The end of a context, as much as it takes to decode what follows."""
    known = [int(token) for token in context if token < tokenizer.vocab_size]
    tail = known[-_CONTEXT:]
    text = tokenizer.decode(tail)
    # A tail that starts within a character, or shows nothing, is of no use as context.
    return tail if text and _BROKEN not in text else known


def _byte_token(tokenizer: Tokenizer) -> int | None:
    """A token that stands for a byte which is not a character of its own, or None; looked for once."""
    try:
        return _PROBES[tokenizer]
    except KeyError:
        _PROBES[tokenizer] = found = _find_byte_token(tokenizer)
        return found
    except TypeError:
        # Neither every class has hashes nor every object weak references.
        return _find_byte_token(tokenizer)


def _find_byte_token(tokenizer: Tokenizer) -> int | None:
    for token in range(min(tokenizer.vocab_size, _PROBE_LIMIT)):
        if tokenizer.decode([token]) == _BROKEN:
            return token
    return None


def _common_prefix(text: str, other: str) -> str:
    if other.startswith(text):
        return text
    length = next((at for at, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), len(other))
    return text[:length]
