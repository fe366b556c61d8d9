# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which matrices get 8 bits: those whose products lose most at 4, as far as a share of all weights goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genai_iface.transform.quantize._blocks import dequantize_blocks
from genai_iface.transform.quantize._compensate import output_error
from genai_iface.transform.quantize._source import Job, MatrixSource, round_slice

__all__ = ["Candidate", "most_sensitive"]


class Candidate(NamedTuple):
    """A matrix that may get 8 bits.

    Attributes:
        source: The matrix.
        block: Rows with one scale.
        given: Name of the value that it is multiplied with.
    """

    source: MatrixSource
    block: int
    given: str


def most_sensitive(
    candidates: Sequence[Candidate], moments: Mapping[str, NDArray[np.float32]], share: float
) -> frozenset[int]:
    """The matrices to give 8 bits.

    Args:
        candidates: Those that would get 4.
        moments: X'X by the name of what they are multiplied with.
        share: Of all weights of the candidates, what may get 8 bits.

    Returns:
        Places in ``candidates``.
    """
    errors = {
        place: _lost(candidate, moments[candidate.given])
        for place, candidate in enumerate(candidates)
        if candidate.given in moments
    }
    left = share * sum(candidate.source.rows * candidate.source.columns for candidate in candidates)
    chosen = set()
    for place in sorted(errors, key=lambda place: -errors[place]):
        source = candidates[place].source
        if source.rows * source.columns <= left:
            left -= source.rows * source.columns
            chosen.add(place)
    return frozenset(chosen)


def _lost(candidate: Candidate, moments: NDArray[np.float32]) -> float:
    """What a product loses on the text when its matrix is rounded to 4 bits."""
    source = candidate.source
    whole = np.empty((source.rows, source.columns), np.float32)
    rounded = np.empty_like(whole)
    job = Job(source, 4, candidate.block, symmetric=True)
    for rows, columns, content in source.slices(candidate.block):
        whole[rows, columns] = content
        rounded[rows, columns] = dequantize_blocks(round_slice(job, rows, content))
    return output_error(whole, rounded, moments)
