# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Proof that a step wrote into the cache's own buffers, by value."""

from __future__ import annotations

import numpy as np

from genai_iface_ort.buffers import HostBuffer

__all__ = ["Probe"]

# A finite number in every element type that no model computes by chance in all elements of a slot.
_PATTERN = 0x5A


class Probe:
    """Marks two slots of a row before a step: the first that it must write and one that it must not.

    Args:
        buffers: All buffers of the cache.
        row: A row with at least one new token.
        start: Its length.
        width: Columns of the step, padding included.
    """

    def __init__(self, buffers: list[HostBuffer], row: int, start: int, width: int) -> None:
        self._marks = []
        for buffer in buffers:
            blocks = buffer.blocks[row]
            if start + width <= buffer.slots:
                written = blocks[:, start]
                spared = blocks[:, start + width] if start + width < buffer.slots else None
                for slot in (written, spared):
                    if slot is not None:
                        slot[...] = np.full(slot.nbytes, _PATTERN, np.uint8).view(slot.dtype).reshape(slot.shape)
                self._marks.append((written, spared))

    def passed(self) -> bool:
        """Whether every buffer has the new token and kept the other mark; removes the marks."""
        passed = True
        for written, spared in self._marks:
            mark = np.full(written.nbytes, _PATTERN, np.uint8).view(written.dtype).reshape(written.shape)
            passed &= not np.array_equal(written, mark)
            if spared is not None:
                passed &= np.array_equal(spared, mark)
                spared[...] = 0
        return passed
