# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A model, a cache and tokenizers without a runtime, for tests of everything above ``Model.forward``.

Nothing here inherits from the interface: the classes satisfy the protocols by their shape alone. The
logits of the fake model are a hash of a row's whole visible history, so a cache that holds a wrong token,
a shifted position or a neighbour's row changes what is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface import (
    CacheOverflowError,
    CacheRewindError,
    CacheSpec,
    Capability,
    Device,
    InvalidInputError,
    LayerCacheSpec,
    ModelSpec,
    UnsupportedCapabilityError,
)
from genai_iface.types import LogitsMode, UpdateMode

ALL_CAPABILITIES = frozenset(
    {
        Capability.BATCH,
        Capability.RAGGED,
        Capability.CHUNKED_PREFILL,
        Capability.LOGITS_ALL,
        Capability.REWIND,
        Capability.REORDER,
        Capability.IN_PLACE,
    }
)


class FakeCache:
    """Remembers the tokens themselves. ``window`` makes it circular."""

    def __init__(self, batch_size: int, capacity: int, window: int | None) -> None:
        self.rows: list[list[int]] = [[] for _ in range(batch_size)]
        self.window = window
        self.is_closed = False
        self._capacity = capacity

    @property
    def batch_size(self) -> int:
        return len(self.rows)

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(row) for row in self.rows], dtype=np.int64)

    @property
    def nbytes(self) -> int:
        return 0 if self.is_closed else self.batch_size * self._capacity * self.bytes_per_token

    @property
    def bytes_per_token(self) -> int:
        return 8

    @property
    def update_mode(self) -> UpdateMode:
        return "in_place"

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        return self._first_stuck(self._wanted(lengths)) is None

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        wanted = self._wanted(lengths)
        stuck = self._first_stuck(wanted)
        if stuck is not None:
            raise CacheRewindError(stuck, int(wanted[stuck]), len(self.rows[stuck]), "positions were overwritten")
        self.rows = [row[:length] for row, length in zip(self.rows, wanted.tolist(), strict=True)]

    def reorder(self, indices: ArrayLike, /) -> None:
        self.rows = [list(self.rows[index]) for index in np.asarray(indices).tolist()]

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        for row in range(self.batch_size) if rows is None else np.asarray(rows).tolist():
            self.rows[row] = []

    def close(self) -> None:
        self.is_closed = True

    def _wanted(self, lengths: ArrayLike) -> NDArray[np.int64]:
        wanted = np.broadcast_to(np.asarray(lengths, dtype=np.int64), (self.batch_size,))
        if (wanted < 0).any() or (wanted > self.lengths).any():
            raise InvalidInputError(f"cannot rewind {self.lengths} to {wanted}")
        return wanted

    def _first_stuck(self, wanted: NDArray[np.int64]) -> int | None:
        if self.window is None:
            return None
        for row, length in enumerate(wanted.tolist()):
            if length != len(self.rows[row]) and len(self.rows[row]) > self.window:
                return row
        return None


class FakeModel:
    """Gives logits that depend on every token a row can see.

    Args:
        vocab_size: V.
        context_length: As in ``ModelSpec``.
        capabilities: What it declares; what it does not declare it refuses.
        window: Makes the cache circular with so many positions.
        script: Gives the next token from the tokens so far, instead of the hash.
        on_step: Called in every step with the number of the step.
    """

    def __init__(
        self,
        vocab_size: int = 300,
        *,
        context_length: int | None = 256,
        capabilities: frozenset[str] = ALL_CAPABILITIES,
        window: int | None = None,
        script: Callable[[Sequence[int]], int] | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self._capabilities = capabilities
        self._script = script
        self._on_step = on_step
        self._window = window
        layer = LayerCacheSpec(1, 1, 1, "float32", "linear" if window is None else "circular", window)
        self._spec = ModelSpec(vocab_size, context_length, CacheSpec("scatter", "bnsh", (layer,)))
        self.caches: list[FakeCache] = []
        self.steps: list[tuple[tuple[int, ...], LogitsMode]] = []
        self.is_closed = False

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def device(self) -> Device:
        return Device("cpu", "cpu")

    @property
    def capabilities(self) -> frozenset[str]:
        return self._capabilities

    @property
    def open_caches(self) -> list[FakeCache]:
        """The caches that nobody closed."""
        return [cache for cache in self.caches if not cache.is_closed]

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> FakeCache:
        if batch_size > 1:
            self._need(Capability.BATCH)
        cache = FakeCache(batch_size, capacity or self._spec.context_length or 4096, self._window)
        self.caches.append(cache)
        return cache

    def forward(
        self,
        input_ids: ArrayLike,
        cache: FakeCache,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        ids = np.asarray(input_ids)
        if cache.is_closed or ids.ndim != 2 or len(ids) != cache.batch_size or ids.dtype != np.int64:
            raise InvalidInputError("the cache is closed, or the shapes do not fit")
        width = ids.shape[1]
        real = np.full(len(ids), width) if counts is None else np.asarray(counts)
        if (real != width).any():
            self._need(Capability.RAGGED)
            if self._window is not None:
                raise UnsupportedCapabilityError("a circular cache takes no padding")
        if width > 1 and (cache.lengths[real > 0] > 0).any():
            self._need(Capability.CHUNKED_PREFILL)
        for row, count in enumerate(real.tolist()):
            needed = len(cache.rows[row]) + count
            if needed > cache.capacity:
                raise CacheOverflowError(row, needed, cache.capacity)
        self.steps.append((tuple(real.tolist()), logits))
        if self._on_step is not None:
            self._on_step(len(self.steps))
        for row, count in enumerate(real.tolist()):
            cache.rows[row].extend(ids[row, :count].tolist())
        if logits == "none":
            return np.empty((len(ids), 0, self._spec.vocab_size), np.float32)
        if logits == "all":
            self._need(Capability.LOGITS_ALL)
            every = np.full((len(ids), width, self._spec.vocab_size), np.nan, np.float32)
            for row, count in enumerate(real.tolist()):
                tokens = cache.rows[row]
                for position in range(count):
                    every[row, position] = self.logits_after(tokens[: len(tokens) - count + position + 1])
            return every
        # Rows without a real token hold unspecified values: NaN shows whoever reads them.
        result = np.full((len(ids), 1, self._spec.vocab_size), np.nan, np.float32)
        for row, count in enumerate(real.tolist()):
            if count:
                result[row, 0] = self.logits_after(cache.rows[row])
        return result

    def logits_after(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The logits (V,) that follow a sequence, straight from the tokens: what every step must give."""
        if self._script is not None:
            logits = np.zeros(self._spec.vocab_size, np.float32)
            logits[self._script(tokens)] = 20
            return logits
        visible = tokens if self._window is None else tokens[-self._window :]
        state = 0
        for position, token in enumerate(visible, start=len(tokens) - len(visible)):
            state = (state * 6364136223846793005 + token * 1442695040888963407 + position + 1) % 2**64
        return np.random.Generator(np.random.Philox(state)).normal(0, 3, self._spec.vocab_size).astype(np.float32)

    def close(self) -> None:
        self.is_closed = True

    def _need(self, capability: Capability) -> None:
        if capability not in self._capabilities:
            raise UnsupportedCapabilityError("the fake model does not declare it", capability=capability)


class ByteTokenizer:
    """One token per byte of UTF-8, then BOS and EOS, which have no text."""

    bos_token_id = 256
    eos_token_id = 257
    vocab_size = 258

    def __init__(self, *, adds_bos: bool = False) -> None:
        self._adds_bos = adds_bos

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
        return [self.bos_token_id] * (self._adds_bos and add_special_tokens) + list(text.encode())

    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = True) -> str:
        if any(not 0 <= token < self.vocab_size for token in token_ids):
            raise InvalidInputError("a token id is out of range")
        return bytes(token for token in token_ids if token < 256).decode(errors="replace")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_kwargs: Any,
    ) -> str:
        text = "".join(f"<{message['role']}>{message['content']}\n" for message in messages)
        return text + "<assistant>" * add_generation_prompt


def speaks(text: str, *, end: int | None = ByteTokenizer.eos_token_id) -> Callable[[Sequence[int]], int]:
    """A script that says a text, byte by byte, after a prompt that does not hold its first byte; then ``end``."""
    data = list(text.encode())

    def next_token(tokens: Sequence[int]) -> int:
        for said in range(len(data), -1, -1):
            if _ends_with(tokens, data[:said]):
                if said < len(data):
                    return data[said]
                return data[0] if end is None else end
        return data[0]

    return next_token


def _ends_with(tokens: Sequence[int], tail: Sequence[int]) -> bool:
    return list(tokens[len(tokens) - len(tail) :]) == list(tail)
