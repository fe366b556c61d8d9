# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a built model computes what the torch network computes: logits and greedy tokens of a ragged batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genai_iface._tolerance import LOGIT_TOLERANCES, relative_difference
from genai_iface.build._network_cache import cache_keyword, cache_of
from genai_iface.protocols import Model

__all__ = ["Comparison", "Reference", "compare", "torch_reference"]


_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Reference:
    """What torch computes, each row alone, with Transformers' own attention and cache.

    Attributes:
        prompts: Token ids of each row; the rows have different lengths.
        logits: float32 (B, steps + 1, V): after the prompt, then after each token.
        tokens: int64 (B, steps), the greedy continuation.
    """

    prompts: tuple[NDArray[np.int64], ...]
    logits: NDArray[np.float32]
    tokens: NDArray[np.int64]


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
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Reference:
    """Decodes greedily with torch.

    Args:
        network: The Transformers network, with its own attention.
        steps: Tokens to decode.
        prompt_tokens: Tokens of the longest prompt; row b's is 3 * b shorter, but not empty.
        rows: Rows of the batch.
        seed: Of the random prompts.
        progress: Called with (rows done, all rows).
    """
    vocabulary = network.config.get_text_config().vocab_size
    draw = np.random.default_rng(seed)
    prompts = tuple(
        draw.integers(0, vocabulary, max(prompt_tokens - 3 * row, 1), dtype=np.int64) for row in range(rows)
    )
    logits = np.zeros((rows, steps + 1, vocabulary), np.float32)
    tokens = np.zeros((rows, steps), np.int64)
    with torch.no_grad(), _quickest_threads(network, prompts[-1]):
        for row, prompt in enumerate(prompts):
            ids, cache = torch.from_numpy(prompt)[None], None
            for step in range(steps + 1):
                output = network(input_ids=ids, **cache_keyword(network, cache), use_cache=True)
                cache = cache_of(output)
                logits[row, step] = output.logits[0, -1].float().numpy()[:vocabulary]
                if step < steps:
                    tokens[row, step] = logits[row, step].argmax()
                    ids = torch.from_numpy(tokens[row : row + 1, step : step + 1])
            progress(row + 1, rows)
    return Reference(prompts, logits, tokens)


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
    """Runs the same prompts as one ragged batch, then the reference's tokens.

    Args:
        model: A loaded model of any backend.
        reference: Prompts, tokens and logits that torch gave.
        progress: Called with (steps done, all steps).
    """
    rows, steps = reference.tokens.shape
    counts = np.array([len(prompt) for prompt in reference.prompts])
    ids = np.zeros((rows, counts.max()), np.int64)
    for row, prompt in enumerate(reference.prompts):
        ids[row, : len(prompt)] = prompt
    differences = np.zeros((rows, steps + 1))
    flips = np.zeros((rows, steps + 1))
    equal = 0
    with_room = int(counts.max()) + steps
    cache = model.create_cache(batch_size=rows, capacity=with_room)
    try:
        for step in range(steps + 1):
            got = model.forward(ids, cache, counts=counts if step == 0 else None)[:, 0]
            for row in range(rows):
                expected = reference.logits[row, step]
                differences[row, step], flips[row, step] = _difference(got[row, : expected.size], expected)
                equal += flips[row, step] == 0
            progress(step + 1, steps + 1)
            if step < steps:
                ids = reference.tokens[:, step : step + 1]
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


def _difference(got: NDArray[np.float32], expected: NDArray[np.float32]) -> tuple[float, float]:
    """The relative difference, and how badly it changes the likeliest token (0 if it does not)."""
    difference = relative_difference(got, expected)
    if int(got.argmax()) == int(expected.argmax()) and np.isfinite(difference):
        return difference, 0.0
    second, first = np.partition(expected, -2)[-2:]
    margin = float(first - second) / max(float(np.abs(expected).max()), 1e-30)
    return difference, max(margin / max(2 * difference, 1e-30), 1e-9)
