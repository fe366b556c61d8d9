# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""JSON schemas, regular expressions and Lark grammars, by way of llguidance.

What takes long is done once: the table of a tokenizer's tokens, and the compiled grammar.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from genai_iface.errors import BackendError, InvalidInputError, UnsupportedCapabilityError
from genai_iface.protocols import Tokenizer

if TYPE_CHECKING:
    import llguidance

__all__ = ["Guidance", "GuidanceKind", "SupportsTokenizerJson"]

GuidanceKind: TypeAlias = Literal["json_schema", "regex", "lark_grammar"]
"""What the text of a ``Guidance`` is; the names of ONNX Runtime GenAI's ``set_guidance``."""

# Compiled grammars that a tokenizer keeps; some take a second to compile.
_MAX_GRAMMARS = 64
# For one mask. Ambiguous grammars reach llguidance's own limit after most of a second in every step, while all wait.
_MAX_ITEMS = 10_000


@runtime_checkable
class SupportsTokenizerJson(Protocol):
    """A tokenizer that can be written as a ``tokenizer.json``, which says what the bytes of each token are."""

    def to_json(self) -> str:
        """The text of a ``tokenizer.json`` file."""
        ...


@dataclass(frozen=True, slots=True)
class Guidance:
    """A constraint that llguidance checks. Implements ``Constraint``.

    Attributes:
        kind: What the text is.
        source: A JSON schema as JSON, a regular expression in Rust's syntax that the whole output matches, or a
            grammar in llguidance's variant of Lark whose rule "start" the output follows.
    """

    kind: GuidanceKind
    source: str

    def start(self, tokenizer: Tokenizer | None, vocab_size: int, /) -> GuidedTokens:
        """Begins an output.

        Raises:
            InvalidInputError: The text is not legal, or there is no tokenizer.
            UnsupportedCapabilityError: llguidance is not installed, or does not understand the tokenizer.
        """
        if tokenizer is None:
            raise InvalidInputError(
                f"{self.kind} needs text, and there is no tokenizer", remedy="Give one, or use constraint=."
            )
        with _LOCK:
            engine = _engine_of(tokenizer)
            return GuidedTokens(engine.matcher(self).deep_copy(), engine.eos_tokens, vocab_size)


class GuidedTokens:
    """One sequence under a grammar. Implements ``TokenConstraint``.

    Args:
        matcher: llguidance's state, which is ours alone.
        eos_tokens: What llguidance takes for stop tokens.
        vocab_size: V. Ids that the tokenizer does not know are never allowed.
    """

    def __init__(self, matcher: llguidance.LLMatcher, eos_tokens: list[int], vocab_size: int) -> None:
        self._matcher = matcher
        self._eos_tokens = [token for token in eos_tokens if token < vocab_size]
        self._vocab_size = vocab_size

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, (V,)."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)
        if self._matcher.is_accepting():
            # llguidance adds its own stop tokens here; a grammar may also name one where it does not end.
            mask[self._eos_tokens] = False
        return mask

    def commit(self, token: int, /) -> None:
        """Takes note of the next token."""
        self._matcher.consume_token(token)
        self._check()

    def rollback(self, count: int, /) -> None:
        """Forgets the last ``count`` tokens."""
        self._matcher.rollback(count)
        self._check()

    def is_accepting(self) -> bool:
        """Whether the output may end here."""
        return bool(self._matcher.is_accepting())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise BackendError(
                f"llguidance cannot go on: {_short(self._matcher.get_error())}", remedy="Simplify the grammar."
            )


class _Engine:
    """What is kept for a tokenizer: its table of tokens, and grammars."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        library = _llguidance()
        if not isinstance(tokenizer, SupportsTokenizerJson):
            raise UnsupportedCapabilityError(
                f"The tokenizer {type(tokenizer).__name__} does not say what bytes its tokens stand for",
                remedy="Give it a method to_json() that returns a tokenizer.json, or use constraint=.",
            )
        try:
            self._table = library.LLTokenizer(tokenizer.to_json(), eos_token=tokenizer.eos_token_id)
        except ValueError as error:
            raise UnsupportedCapabilityError(
                f"llguidance does not understand this tokenizer: {_short(str(error))}",
                remedy="Use a byte-level BPE or SentencePiece tokenizer, or constraint=.",
            ) from error
        self.eos_tokens = list(self._table.eos_tokens)
        self._matchers: OrderedDict[Guidance, llguidance.LLMatcher] = OrderedDict()

    def matcher(self, guidance: Guidance) -> llguidance.LLMatcher:
        """A fresh state of a grammar, to be copied."""
        matcher = self._matchers.get(guidance)
        if matcher is None:
            matcher = self._matchers[guidance] = self._compile(guidance)
        self._matchers.move_to_end(guidance)
        if len(self._matchers) > _MAX_GRAMMARS:
            self._matchers.popitem(last=False)
        return matcher

    def _compile(self, guidance: Guidance) -> llguidance.LLMatcher:
        library = _llguidance()
        kinds, limits = library.LLMatcher, library.LLParserLimits(step_max_items=_MAX_ITEMS)
        make = {
            "json_schema": kinds.grammar_from_json_schema,
            "regex": kinds.grammar_from_regex,
            "lark_grammar": kinds.grammar_from_lark,
        }[guidance.kind]
        try:
            matcher: llguidance.LLMatcher = kinds(self._table, make(guidance.source), log_level=0, limits=limits)
            message = matcher.get_error()
        except ValueError as error:
            message = str(error)
        if message:
            raise InvalidInputError(
                f"{guidance.kind} is not legal: {_short(message)}", remedy=f"Correct it; {_HELP[guidance.kind]}."
            )
        return matcher


_HELP = {
    "json_schema": "the keywords that llguidance knows are in its documentation",
    "regex": "the syntax is that of Rust's regex crate, without look-around and back references",
    "lark_grammar": "the syntax is llguidance's variant of Lark, and the first rule is called start",
}
_ENGINES: WeakKeyDictionary[Tokenizer, _Engine] = WeakKeyDictionary()
_LOCK = threading.Lock()


def _engine_of(tokenizer: Tokenizer) -> _Engine:
    """The engine of a tokenizer, kept as long as the tokenizer lives."""
    try:
        known = _ENGINES.get(tokenizer)
    except TypeError:
        # It cannot be hashed or referred to weakly, so nothing can be kept for it.
        return _Engine(tokenizer)
    if known is None:
        known = _ENGINES[tokenizer] = _Engine(tokenizer)
    return known


def _llguidance() -> Any:
    try:
        import llguidance  # noqa: PLC0415
    except ImportError as error:
        raise UnsupportedCapabilityError(
            "json_schema, regex and lark_grammar need the package llguidance, which is not installed",
            remedy="Install it: pip install 'genai-iface[grammar]'",
        ) from error
    return llguidance


def _short(message: str) -> str:
    """The first part of a message that spans many lines, on one line."""
    return " ".join(message.split("<state>", maxsplit=1)[0].split())[:500]
