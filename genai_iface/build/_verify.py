# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a built model computes what the torch network computes: logits and greedy tokens of a ragged batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from genai_iface._tolerance import LOGIT_TOLERANCES, relative_difference
from genai_iface.build._network_cache import cache_keyword, cache_of
from genai_iface.build.methods.step.positions import padding_token
from genai_iface.errors import UnsupportedModelError
from genai_iface.protocols import Model

__all__ = ["MORE_TOKENS", "Comparison", "Reference", "compare", "torch_reference"]

_Ids: TypeAlias = NDArray[np.int64]

_MORE_TOKENS = (2, 7, 4)
MORE_TOKENS = max(_MORE_TOKENS)
"""The most tokens that a row of a reference without cache has after its greedy ones."""

# Timed runs of torch with many threads and with one.
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Reference:
    """What torch computes, each row alone, with Transformers' own attention.

    Attributes:
        prompts: Token ids of each row; the rows have different lengths.
        logits: float32 (B, steps + 1, V): after the prompt, then after each token; (B, steps + 2, V) with more of the
            prompt at the end.
        tokens: int64 (B, steps), the greedy continuation.
        more: Token ids that follow it in one step, of different lengths; empty if nothing does.
    """

    prompts: tuple[NDArray[np.int64], ...]
    logits: NDArray[np.float32]
    tokens: NDArray[np.int64]
    more: tuple[NDArray[np.int64], ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a model is from the reference.

    Attributes:
        difference: Largest difference of a logit, as a part of the largest logit of its step.
        row, step: Where it is; step 0 is the prompt.
        equal_tokens: Steps, of all rows, with the same likeliest token.
        steps: All of them.
        worst_flip: Of steps with another token, the largest ratio of the reference's margin to twice the
            difference of the step: above 1 the difference cannot explain it.
    """

    difference: float
    row: int
    step: int
    equal_tokens: int
    steps: int
    worst_flip: float

    @property
    def tokens_equal(self) -> bool:
        """Whether every step has the same likeliest token."""
        return self.equal_tokens == self.steps

    def agrees(self, dtype: str) -> bool:
        """Whether the difference is rounding: within the tolerance, and other tokens at near ties only."""
        return self.difference <= LOGIT_TOLERANCES[dtype] and self.worst_flip <= 1.0

    def __str__(self) -> str:
        tokens = f"{self.equal_tokens} of {self.steps} greedy tokens equal"
        place = f"row {self.row}, step {self.step}"
        return f"largest difference {self.difference:.1e} of the largest logit ({place}), {tokens}"


def torch_reference(
    network: Any,
    *,
    steps: int = 32,
    prompt_tokens: int = 16,
    rows: int = 3,
    seed: int = 0,
    use_cache: bool = True,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Reference:
    """Decodes greedily with torch.

    Args:
        network: The Transformers network, with its own attention.
        steps: Tokens to decode.
        prompt_tokens: Tokens of the longest prompt; row b's is 3 * b shorter, but not empty.
        rows: Rows of the batch.
        seed: Of the random prompts.
        use_cache: Whether logits may come from Transformers' cache. Without it whole rows are run, which is right where
            continuing from a cache is not, and more tokens follow the greedy ones in one step.
        progress: Called with (rows done, all rows).
    """
    vocabulary = network.config.get_text_config().vocab_size
    draw = np.random.default_rng(seed)
    # Where padding has no position, a token that is padding moves those after it.
    padding = padding_token(network)
    first = 0 if padding is None else padding + 1
    prompts = tuple(
        draw.integers(first, vocabulary, max(prompt_tokens - 3 * row, 1), dtype=np.int64) for row in range(rows)
    )
    decoded = []
    with torch.no_grad(), _quickest_threads(network, prompts[-1]):
        for row, prompt in enumerate(prompts):
            decoded.append(_greedy(network, prompt, steps, padding))
            progress(row + 1, rows)
        more: tuple[_Ids, ...] = ()
        if not use_cache:
            sizes = [_MORE_TOKENS[row % len(_MORE_TOKENS)] for row in range(rows)]
            more = tuple(draw.integers(0, vocabulary, size, dtype=np.int64) for size in sizes)
            decoded = [
                _without_cache(network, prompt, tokens, after)
                for prompt, (_, tokens), after in zip(prompts, decoded, more, strict=True)
            ]
    logits, tokens = (np.stack(parts) for parts in zip(*decoded, strict=True))
    return Reference(prompts, logits, tokens, more)


def _greedy(network: Any, prompt: _Ids, steps: int, padding: int | None) -> tuple[NDArray[np.float32], _Ids]:
    """The logits (steps + 1, V) and greedy tokens (steps,) of one row, with Transformers' cache.

    Zeros from the first step on in which the network gives none back.
    """
    vocabulary = network.config.get_text_config().vocab_size
    logits, tokens = np.zeros((steps + 1, vocabulary), np.float32), np.zeros(steps, np.int64)
    ids, cache = torch.from_numpy(prompt)[None], None
    for step in range(steps + 1):
        output = network(input_ids=ids, **cache_keyword(network, cache), use_cache=True)
        cache = cache_of(output)
        if cache is None:
            break
        logits[step] = output.logits[0, -1].float().numpy()[:vocabulary]
        if step < steps:
            tokens[step] = (logits[step] if padding is None else np.delete(logits[step], padding)).argmax()
            tokens[step] += padding is not None and tokens[step] >= padding
            ids = torch.from_numpy(tokens[None, step : step + 1])
    return logits, tokens


def _without_cache(network: Any, prompt: _Ids, tokens: _Ids, more: _Ids) -> tuple[NDArray[np.float32], _Ids]:
    """As ``_greedy``, and the logits after ``more``, from runs of the whole row.

    Args:
        network: The Transformers network.
        prompt: Ids of the row.
        tokens: Greedy tokens by way of the cache, if there is one; a run shows the first that is wrong.
        more: Ids that follow them.

    Raises:
        UnsupportedModelError: The network is random.
    """
    vocabulary = network.config.get_text_config().vocab_size
    tokens = tokens.copy()
    for _ in range(len(tokens) + 1):  # each run makes one more token right
        row = torch.from_numpy(np.concatenate((prompt, tokens, more)))[None]
        every = network(input_ids=row, use_cache=False).logits[0].float().numpy()[:, :vocabulary]
        after = np.append(np.arange(len(prompt) - 1, len(prompt) + len(tokens)), -1)
        logits: NDArray[np.float32] = every[after]
        greedy = logits[: len(tokens)].argmax(axis=1)
        wrong = np.flatnonzero(greedy != tokens)
        if wrong.size == 0:
            return logits, tokens
        tokens[wrong[0] :] = greedy[wrong[0] :]
    raise UnsupportedModelError(
        f"{type(network).__name__} computes other logits each time it is run, so nothing can be compared with it",
        remedy="Look for randomness in the checkpoint's configuration.",
    )


@contextmanager
def _quickest_threads(network: Any, prompt: NDArray[np.int64]) -> Iterator[None]:
    """One thread where that is faster: on a busy machine every operator waits for the thread that does not run."""
    most = torch.get_num_threads()

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        begin = time.perf_counter()
        network(input_ids=torch.from_numpy(prompt[:1])[None], use_cache=True)
        return time.perf_counter() - begin

    try:
        if most > 1:
            rounds = [(seconds(most), seconds(1)) for _ in range(_ROUNDS)]
            # The first one also fetches the weights.
            many, one = (statistics.median(times) for times in zip(*rounds, strict=True))
            torch.set_num_threads(most if many <= one else 1)
        yield
    finally:
        torch.set_num_threads(most)


def compare(
    model: Model[Any], reference: Reference, *, progress: Callable[[int, int], None] = lambda *_: None
) -> Comparison:
    """Runs the same prompts as one ragged batch, then the reference's tokens, then more of its prompts if it has any.

    Args:
        model: A loaded model of any backend.
        reference: Prompts, tokens and logits that torch gave.
        progress: Called with (steps done, all steps).
    """
    rows = len(reference.tokens)
    runs = list(_runs(reference))
    differences = np.zeros((rows, len(runs)))
    flips = np.zeros((rows, len(runs)))
    equal = 0
    with_room = int(np.sum([counts.max() for _, counts in runs]))
    cache = model.create_cache(batch_size=rows, capacity=with_room)
    try:
        for step, (ids, counts) in enumerate(runs):
            got = model.forward(ids, cache, counts=counts if ids.shape[1] > 1 else None)[:, 0]
            for row in range(rows):
                expected = reference.logits[row, step]
                differences[row, step], flips[row, step] = _difference(got[row, : expected.size], expected)
                equal += flips[row, step] == 0
            progress(step + 1, len(runs))
    finally:
        cache.close()
    worst_row, worst_step = np.unravel_index(int(differences.argmax()), differences.shape)
    return Comparison(
        difference=float(differences.max()),
        row=int(worst_row),
        step=int(worst_step),
        equal_tokens=int(equal),
        steps=differences.size,
        worst_flip=float(flips.max()),
    )


def _runs(reference: Reference) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Ids (B, S) and counts (B,) of each step: prompts, tokens one by one, what follows."""
    yield _padded(reference.prompts)
    for token in reference.tokens.T:
        yield token[:, None], np.ones(len(token), np.int64)
    if reference.more:
        yield _padded(reference.more)


def _padded(rows: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    counts = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), counts.max()), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return ids, counts


def _difference(got: NDArray[np.float32], expected: NDArray[np.float32]) -> tuple[float, float]:
    """The relative difference, and how badly it changes the likeliest token (0 if it does not)."""
    difference = relative_difference(got, expected)
    if int(got.argmax()) == int(expected.argmax()) and np.isfinite(difference):
        return difference, 0.0
    second, first = np.partition(expected, -2)[-2:]
    margin = float(first - second) / max(float(np.abs(expected).max()), 1e-30)
    return difference, max(margin / max(2 * difference, 1e-30), 1e-9)
