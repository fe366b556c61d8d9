# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The two protocols of constrained output, and the processor that applies them to a sequence."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError
from genai_iface.generation.constraints.guidance import Guidance
from genai_iface.protocols import Tokenizer

__all__ = ["Constraint", "ConstraintProcessor", "TokenConstraint", "constraint_of"]


class TokenConstraint(Protocol):
    """What one sequence may say next. Stop tokens are the loop's business: it adds and never commits them."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, (V,) bool; the caller does not change it. All False: nothing may follow."""
        ...

    def commit(self, token: int, /) -> None:
        """Takes note of the next token, which is one of those allowed."""
        ...

    def rollback(self, count: int, /) -> None:
        """Forgets the last ``count`` committed tokens, as if they had never been there."""
        ...

    def is_accepting(self) -> bool:
        """Whether the output may end here."""
        ...


class Constraint(Protocol):
    """A rule for the whole output of a turn; ``start`` makes the state of one sequence."""

    def start(self, tokenizer: Tokenizer | None, vocab_size: int, /) -> TokenConstraint:
        """Begins an output.

        Args:
            tokenizer: Of the pipeline; None if there is none.
            vocab_size: V, the last axis of the logits; it may be larger than the tokenizer's.

        Raises:
            GenAIError: The rule is not legal, or cannot be applied to this tokenizer.
        """
        ...


def constraint_of(config: GenerationConfig, /) -> Guidance | None:
    """The constraint that a configuration asks for."""
    if config.json_schema is not None:
        # The configuration holds it as text, whatever it was made from.
        return Guidance("json_schema", str(config.json_schema))
    if config.regex is not None:
        return Guidance("regex", config.regex)
    if config.lark_grammar is not None:
        return Guidance("lark_grammar", config.lark_grammar)
    return None


class ConstraintProcessor:
    """Rules out what a constraint does not allow.

    It follows the new tokens that it is shown: those that differ from the last time are rolled back. So drafts,
    rewinds and beams need no word of it.

    Args:
        state: Of one sequence.
        stop_ids: The tokens that end the sequence. They are allowed where the output may end, or where the
            constraint itself allows them.
        vocab_size: V, the columns of the logits.

    Raises:
        InvalidInputError: ``allowed`` gives another shape than (V,), or a function of the caller let a token
            through that is not allowed.
    """

    def __init__(self, state: TokenConstraint, /, *, stop_ids: frozenset[int], vocab_size: int) -> None:
        self._state = state
        self._stop_ids = stop_ids
        self._stops = np.array(sorted(token for token in stop_ids if token < vocab_size), dtype=np.int64)
        self._vocab_size = vocab_size
        self._followed: list[int] = []
        self._blocked: NDArray[np.bool_] | None = None
        self._is_over = False

    def __call__(self, scores: NDArray[np.float64], tokens: NDArray[np.int64], num_new: int) -> None:
        """Processes the scores (V,) of the next token of a sequence."""
        if self._follow(tokens[len(tokens) - num_new :]):
            blocked = self._look()
            # A draft model may ask for tokens behind the end; nobody will use them.
            if not self._is_over or len(self._stops) or not num_new:
                np.copyto(scores, -np.inf, where=blocked)

    def is_over(self, new_tokens: ArrayLike, /) -> bool:
        """Whether nothing may follow these tokens and the output may end with them."""
        if not self._follow(np.asarray(new_tokens, dtype=np.int64)):
            return False
        self._look()
        return self._is_over

    def _follow(self, new_tokens: NDArray[np.int64]) -> bool:
        """Brings the state up to date; False if a stop token is among the tokens: behind it all is allowed."""
        wanted = new_tokens.tolist()
        followed = self._followed
        common = len(followed)
        if wanted[:common] != followed:
            pairs = zip(followed, wanted, strict=False)
            common = next((at for at, (old, new) in enumerate(pairs) if old != new), min(common, len(wanted)))
            self._state.rollback(len(followed) - common)
            del followed[common:]
            self._blocked = None
        for token in wanted[common:]:
            if token in self._stop_ids:
                return False
            if self._blocked is not None and self._blocked[token]:
                raise InvalidInputError(
                    f"The token {token} is not allowed by the constraint",
                    remedy="Leave -inf scores alone in logits_processors.",
                )
            self._state.commit(token)
            followed.append(token)
            self._blocked = None
        return True

    def _look(self) -> NDArray[np.bool_]:
        """The tokens that are ruled out next, (V,)."""
        if self._blocked is None:
            allowed = self._state.allowed()
            if allowed.shape != (self._vocab_size,):
                raise InvalidInputError(
                    f"The constraint's allowed() gave the shape {allowed.shape}",
                    remedy=f"Return bool ({self._vocab_size},), one for each token of the model.",
                )
            accepting = self._state.is_accepting()
            self._is_over = accepting and not allowed.any()
            self._blocked = ~allowed
            if accepting:
                self._blocked[self._stops] = False
        return self._blocked
