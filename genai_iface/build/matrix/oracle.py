# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What torch computes for a checkpoint, kept in a file; and what a model or a generator computes, beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genai_iface._tolerance import relative_difference
from genai_iface.build.matrix.judge import StepSeen
from genai_iface.config import GenerationConfig
from genai_iface.errors import UnsupportedCapabilityError
from genai_iface.protocols import Generator, Model

if TYPE_CHECKING:
    from genai_iface.build._verify import Reference

__all__ = ["GREEDY", "Oracle", "by_generator", "by_model", "make_oracle", "seen"]

GREEDY = GenerationConfig(do_sample=False, ignore_eos=True)
"""How runtimes with a loop of their own decode."""


class Oracle:
    """Prompts, and what torch makes of each row alone, without a cache.

    Args:
        prompts: Token ids of each row; the rows have different lengths.
        logits: float32 (B, steps + 1, V).
        tokens: int64 (B, steps), the greedy continuation.
    """

    def __init__(
        self, prompts: tuple[NDArray[np.int64], ...], logits: NDArray[np.float32], tokens: NDArray[np.int64]
    ) -> None:
        self.prompts, self.logits, self.tokens = prompts, logits, tokens

    @classmethod
    def of(cls, reference: Reference) -> Oracle:
        """Without what follows the greedy tokens, which a generator of one token at a time is not asked for."""
        steps = reference.tokens.shape[1]
        return cls(reference.prompts, reference.logits[:, : steps + 1], reference.tokens)

    def save(self, path: Path, /) -> None:
        """Writes it under another name first."""
        unfinished = path.with_suffix(".part")
        rows: dict[str, Any] = {f"prompt{row}": prompt for row, prompt in enumerate(self.prompts)}
        with unfinished.open("wb") as stream:
            np.savez(stream, logits=self.logits, tokens=self.tokens, **rows)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path, /) -> Oracle:
        """What ``save`` wrote."""
        with np.load(path) as found:
            rows = tuple(found[f"prompt{row}"] for row in range(len(found["tokens"])))
            return cls(rows, found["logits"], found["tokens"])

    @property
    def longest(self) -> int:
        """Tokens of the longest row, with all that follow its prompt."""
        return max(len(prompt) for prompt in self.prompts) + int(self.tokens.shape[1]) + 1


def make_oracle(checkpoint: Path, path: Path) -> None:
    """Decodes with torch, in single precision, and writes what came.

    Raises:
        GenAIError: The checkpoint is broken, or Transformers does not run it.
    """
    from genai_iface.build._reference import reference_of
    from genai_iface.build.checkpoint import load_network, open_checkpoint, quiet_transformers

    with quiet_transformers():
        network = load_network(open_checkpoint(checkpoint), "float32").network
        Oracle.of(reference_of(network, None, lambda *_: None, use_cache=False)).save(path)


def seen(oracle: Oracle, row: int, step: int, got: NDArray[np.float32] | None, token: int) -> StepSeen:
    """One step beside torch's.

    Args:
        oracle: What torch computes.
        row: Of the batch.
        step: 0 after the prompt.
        got: Logits (V,), or with more columns, which are padding; None if the runtime shows none.
        token: What was chosen.
    """
    expected = oracle.logits[row, step]
    second, first = np.partition(expected, -2)[-2:]
    margin = float(first - second) / max(float(np.abs(expected).max()), 1e-30)
    # Where a padding token is never chosen, torch's choice is not the largest logit.
    chosen = int(oracle.tokens[row, step] if step < oracle.tokens.shape[1] else expected.argmax())
    difference = None if got is None else relative_difference(got[: expected.size], expected)
    return StepSeen(row, step, difference, token, chosen, margin)


def by_model(model: Model[Any], oracle: Oracle) -> Iterator[StepSeen]:
    """The prompts as one ragged batch, then torch's tokens one by one."""
    rows, size = len(oracle.prompts), oracle.logits.shape[2]
    counts = np.array([len(prompt) for prompt in oracle.prompts])
    ids = np.zeros((rows, counts.max()), np.int64)
    for row, prompt in enumerate(oracle.prompts):
        ids[row, : len(prompt)] = prompt
    cache = model.create_cache(batch_size=rows, capacity=oracle.longest)
    try:
        for step in range(oracle.logits.shape[1]):
            got = model.forward(ids, cache, counts=counts if step == 0 else None)[:, 0]
            for row in range(rows):
                yield seen(oracle, row, step, got[row], int(got[row, :size].argmax()))
            ids = oracle.tokens[:, step : step + 1]
    finally:
        cache.close()


def by_generator(generator: Generator, oracle: Oracle, row: int) -> Iterator[StepSeen]:
    """One row in a runtime's own loop, up to the first token that is another."""
    generator.append_tokens(oracle.prompts[row].tolist())
    for step in range(oracle.tokens.shape[1]):
        try:
            got = np.array(generator.get_logits(), np.float32)[0]
        except UnsupportedCapabilityError:
            got = None
        generator.generate_next_token()
        found = seen(oracle, row, step, got, int(generator.get_next_tokens()[0] or 0))
        yield found
        if found.token != found.expected:
            return
