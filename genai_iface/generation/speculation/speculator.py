# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding: drafts are guessed cheaply, and one step of the model checks several of them.

The model's logits at every drafted position choose a token exactly as plain decoding would, with the random
number of that position. A draft is accepted as long as it is that token. So the output is not only drawn from
the law of plain decoding, it is the same tokens. A draft model draws with the same random numbers: where
its law is close to the model's, both choose the same token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.generation.rows.cached_rows import DEFAULT_PREFILL_CHUNK_SIZE, CachedRows
from genai_iface.generation.rows.token_sequence import TokenSequence
from genai_iface.protocols import Model

__all__ = ["DraftModel", "DraftRequest", "Drafter", "PromptLookup", "Speculation", "Speculator"]

# Tokens that may run beside drafts. With more to run again a step has none, so that the next begins after it.
_MOST_PENDING = 5

Chooser: TypeAlias = Callable[[int, NDArray[np.float32], NDArray[np.int64], int], int]
"""Chooses as the generator would: (sequence, logits (V,), tokens (T,), how many of them are new) to a token."""


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """What a drafter is asked for.

    Attributes:
        index: The index of the sequence, from 0.
        tokens: (T,) its tokens.
        num_new: How many of the last were generated.
        limit: Most drafts, at least 1.
    """

    index: int
    tokens: NDArray[np.int64]
    num_new: int
    limit: int


class Drafter(Protocol):
    """Guesses the next tokens of the sequences of one call."""

    def propose(self, requests: Sequence[DraftRequest], choose: Chooser, /) -> list[list[int]]:
        """Gives up to ``limit`` tokens for each request, possibly none."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class Speculation(Protocol):
    """A way to guess; ``start`` makes a drafter for each call."""

    def start(self, model: Model[Any], num_sequences: int, capacity: int, /) -> Drafter:
        """Makes a drafter for the sequences of a call on ``model``."""
        ...


class PromptLookup:
    """Guesses that what followed the last few tokens before follows them again: for texts that copy.

    Args:
        num_drafts: Most drafts in a step.
        max_ngram: How many of the last tokens are looked up; fewer if they do not occur, down to one.

    Raises:
        InvalidInputError: A number is below 1.
    """

    def __init__(self, num_drafts: int = 8, max_ngram: int = 3) -> None:
        self._num_drafts = _positive("num_drafts", num_drafts)
        self._max_ngram = _positive("max_ngram", max_ngram)

    def start(self, model: Model[Any], num_sequences: int, capacity: int, /) -> Drafter:
        """Needs nothing of the model."""
        return self

    def propose(self, requests: Sequence[DraftRequest], choose: Chooser, /) -> list[list[int]]:
        """What follows the latest earlier occurrence of the last tokens."""
        return [self._look_up(request.tokens, min(request.limit, self._num_drafts)) for request in requests]

    def close(self) -> None:
        """Holds nothing."""

    def _look_up(self, tokens: NDArray[np.int64], limit: int) -> list[int]:
        for size in range(min(self._max_ngram, len(tokens) - 1), 0, -1):
            windows = sliding_window_view(tokens[:-1], size)
            found = np.flatnonzero((windows == tokens[len(tokens) - size :]).all(axis=1))
            if len(found):
                # The latest one that has enough after it, or else the one with the most.
                enough = found[found + size + limit <= len(tokens)]
                start = int(enough[-1] if len(enough) else found[0]) + size
                drafts: list[int] = tokens[start : start + limit].tolist()
                return drafts
        return []


class DraftModel:
    """Guesses with a smaller model that has the same tokens.

    Args:
        model: The smaller model. It stays open; closing it is the caller's business.
        num_drafts: Most drafts in a step.

    Raises:
        InvalidInputError: ``num_drafts`` is below 1.
    """

    def __init__(self, model: Model[Any], num_drafts: int = 4) -> None:
        self._model = model
        self._num_drafts = _positive("num_drafts", num_drafts)

    def start(self, model: Model[Any], num_sequences: int, capacity: int, /) -> Drafter:
        """Makes a cache for the sequences.

        Raises:
            InvalidInputError: The two models have vocabularies of different sizes.
            UnsupportedCapabilityError: The smaller model cannot go back by the drafts that were refused.
        """
        if self._model.spec.cache.states and Capability.CHECKPOINT not in self._model.capabilities:
            raise UnsupportedCapabilityError(
                "A draft model has to forget several tokens that it ran one by one; one that keeps states needs "
                "checkpoints for that, which this one does not declare",
                capability=Capability.CHECKPOINT,
                remedy="Use a draft model of attention alone, or PromptLookup.",
            )
        if self._model.spec.vocab_size != model.spec.vocab_size:
            raise InvalidInputError(
                f"The draft model has {self._model.spec.vocab_size} tokens and the model {model.spec.vocab_size}",
                remedy="Use a draft model with the same tokenizer.",
            )
        bounds = [capacity, self._model.spec.context_length, self._model.spec.cache.fixed_capacity]
        room = min(bound for bound in bounds if bound is not None)
        return _ModelDrafter(self._model, num_sequences, room, self._num_drafts)


class _ModelDrafter:
    """The drafts of one call: the smaller model's own sequences follow the real ones.

    One with states keeps them where its drafts begin. When some are refused it goes back there and runs the accepted
    ones again, at most ``num_drafts`` of them.
    """

    def __init__(self, model: Model[Any], num_sequences: int, capacity: int, num_drafts: int) -> None:
        self._num_drafts = num_drafts
        self._capacity = capacity
        self._sequences = [TokenSequence() for _ in range(num_sequences)]
        self._rows = CachedRows(model, num_sequences, capacity, DEFAULT_PREFILL_CHUNK_SIZE)

    def propose(self, requests: Sequence[DraftRequest], choose: Chooser, /) -> list[list[int]]:
        drafts: list[list[int]] = [[] for _ in requests]
        limits = [min(request.limit, self._num_drafts, self._capacity - len(request.tokens)) for request in requests]
        for request, limit in zip(requests, limits, strict=True):
            if limit > 0:
                self._follow(self._sequences[request.index], request.tokens)
        self._rows.rewind(self._sequences)
        for step in range(max(limits, default=0)):
            active = [False] * len(self._sequences)
            going = [at for at, limit in enumerate(limits) if step < limit]
            for at in going:
                active[requests[at].index] = True
            self._rows.run(self._sequences, active, is_interrupted=lambda: False)
            if step == 0:
                # All that has run so far is certain. States go back here when drafts are refused.
                self._rows.keep_here(active)
            for at in going:
                index = requests[at].index
                sequence = self._sequences[index]
                logits = sequence.logits
                if logits is not None:
                    token = choose(index, logits, sequence.tokens, requests[at].num_new + step)
                    sequence.append_new(token)
                    drafts[at].append(token)
        return drafts

    def close(self) -> None:
        self._rows.close()

    def _follow(self, sequence: TokenSequence, tokens: NDArray[np.int64]) -> None:
        known = sequence.tokens
        size = min(len(known), len(tokens))
        differ = np.flatnonzero(known[:size] != tokens[:size])
        common = int(differ[0]) if len(differ) else size
        # What was drafted and refused goes; the last token is pending in any case.
        sequence.truncate(common)
        sequence.append_input(tokens[common:])


class Speculator:
    """Runs the steps of a generator with drafts.

    Between two steps a sequence holds the logits for its next token, and *ahead* of it the drafts with the
    logits that follow them. Each token that is chosen and equals the next draft uses up one of these; any
    other drops the rest. The cache is rewound before the next step: to the end of the sequence, or, where the model
    keeps states, to where the last step began, and what was accepted runs once more with the next drafts.

    Args:
        model: The model that verifies drafts.
        rows: The caches of the sequences.
        sequences: The generator's sequences.
        speculation: Makes a drafter, which guesses.
        choose: As the generator chooses.

    Attributes:
        num_drafted: Drafts that the model has checked.
        num_accepted: Drafts that became tokens.

    Raises:
        UnsupportedCapabilityError: The model cannot check drafts.
    """

    def __init__(
        self,
        model: Model[Any],
        rows: CachedRows[Any],
        sequences: Sequence[TokenSequence],
        speculation: Speculation,
        choose: Chooser,
    ) -> None:
        goes_back = Capability.REWIND_STEP if model.spec.cache.states else Capability.REWIND
        for capability in (Capability.LOGITS_ALL, Capability.CHUNKED_PREFILL, goes_back):
            if capability not in model.capabilities:
                raise UnsupportedCapabilityError(
                    f"Speculation needs the capability {str(capability)!r}, which this model does not declare",
                    capability=capability,
                    remedy="Leave speculation alone.",
                )
        if model.spec.cache.is_circular:
            raise UnsupportedCapabilityError(
                "Speculation needs a cache that can be rewound, and this model's wraps around",
                capability=Capability.REWIND,
                remedy="Leave speculation alone.",
            )
        self._rows = rows
        self._sequences = sequences
        self._drafter = speculation.start(model, len(sequences), rows.capacity)
        self._choose = choose
        self._ahead: list[list[tuple[int, NDArray[np.float32]]]] = [[] for _ in sequences]
        self.num_drafted = 0
        self.num_accepted = 0

    def draft(self, active: Sequence[bool], limits: Sequence[int]) -> list[int]:
        """Appends drafts to the sequences for the next step; returns their true lengths.

        Args:
            active: Which sequences run.
            limits: Most drafts of each.
        """
        # Drafts that were refused are still in the cache.
        self._rows.rewind(self._sequences)
        lengths = [len(sequence) for sequence in self._sequences]
        pending = self._rows.num_pending(self._sequences)
        requests = [
            DraftRequest(index, sequence.tokens.copy(), sequence.num_new, limits[index])
            for index, sequence in enumerate(self._sequences)
            if active[index] and limits[index] > 0 and sequence.num_new > 0 and pending[index] <= _MOST_PENDING
        ]
        for request, drafts in zip(requests, self._drafter.propose(requests, self._choose), strict=True):
            self._sequences[request.index].append_drafts(drafts[: request.limit])
        return lengths

    def settle(self, lengths: Sequence[int], logits: Sequence[dict[int, NDArray[np.float32]]]) -> None:
        """Takes the drafts off again and keeps what the model says to them.

        Args:
            lengths: What ``draft`` gave.
            logits: For each sequence, the logits (V,) that follow a position.
        """
        for index, (sequence, length) in enumerate(zip(self._sequences, lengths, strict=True)):
            drafts = sequence.tokens[length:].tolist()
            if not drafts:
                # One that has ended may still have drafts ahead of it, in the cache too.
                continue
            found = logits[index]
            sequence.take_drafts(length, found.get(length - 1))
            self._ahead[index] = [
                (draft, found[length + at]) for at, draft in enumerate(drafts) if length + at in found
            ]
            self.num_drafted += len(self._ahead[index])

    def chosen(self, index: int, token: int) -> None:
        """Takes note of a token that was appended: the logits after it may be known already."""
        ahead = self._ahead[index]
        if not ahead:
            return
        draft, logits = ahead.pop(0)
        if draft == token:
            self._sequences[index].logits = logits
            self.num_accepted += 1
        else:
            ahead.clear()

    def drop(self) -> None:
        """Forgets all drafts, so that each row of the cache holds a prefix of its sequence again."""
        for sequence, ahead in zip(self._sequences, self._ahead, strict=True):
            if ahead:
                sequence.logits = None
                ahead.clear()
        self._rows.rewind(self._sequences)

    def close(self) -> None:
        """Frees what the drafter holds."""
        self._drafter.close()


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise InvalidInputError(f"{name}={value} is not legal", remedy="Legal: an integer of at least 1.")
    return value
