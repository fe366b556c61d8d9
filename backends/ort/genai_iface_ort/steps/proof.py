# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Proof that a step wrote into the cache's own buffers, by value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface_ort.buffers import HostBuffer

__all__ = ["Probe"]

# A finite number in every element type that no model computes by chance in all elements of a position.
_PATTERN = 0x5A


class Probe:
    """Marks two positions of a row before a step: the first that it must write and one that it must not.

    Args:
        buffers: All buffers of the cache.
        row: A row with at least one new token.
        start: Its length.
        width: Columns of the step, padding included.
    """

    def __init__(self, buffers: list[HostBuffer], row: int, start: int, width: int) -> None:
        self._marks: list[tuple[HostBuffer, int, NDArray[np.int64], NDArray[Any]]] = []
        for buffer in buffers:
            positions = np.array([start, start + width])
            positions = positions[positions < buffer.num_positions]
            if start + width > buffer.num_positions:
                continue
            spec = buffer.spec
            mark = np.full((spec.num_heads, len(positions), spec.head_dim * spec.storage.itemsize), _PATTERN, np.uint8)
            self._marks.append((buffer, row, positions, mark.view(spec.storage)))
            buffer.write(row, positions, mark.view(spec.storage))

    def passed(self) -> bool:
        """Whether every buffer has the new token and kept the other mark; removes the marks."""
        passed = True
        for buffer, row, positions, mark in self._marks:
            now = buffer.read(row, positions)
            passed &= not np.array_equal(now[:, 0], mark[:, 0])
            if len(positions) == 2:
                passed &= np.array_equal(now[:, 1], mark[:, 1])
                buffer.write(row, positions[1:], np.zeros_like(mark[:, 1:]))
        return passed
