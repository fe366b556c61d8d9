# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Queries that Llama 4 scales by their position in layers without rotation, for rows of different lengths.

The network works the positions out from the length of its cache, one number for all rows; here they are those of the
step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["scaled_query", "without_own_scaling"]

_SWITCH, _MARK = "attn_temperature_tuning", "_scaled_by_step"


@contextmanager
def without_own_scaling(network: Any) -> Iterator[None]:
    """Leaves the scaling of a network's queries to ``scaled_query``; afterwards it does it by itself again."""
    parts = [
        part
        for part in network.modules()
        if getattr(part, _SWITCH, False) and hasattr(part, "floor_scale") and not getattr(part, "use_rope", False)
    ]
    before = [getattr(part, _SWITCH) for part in parts]
    for part in parts:
        setattr(part, _SWITCH, False)
        setattr(part, _MARK, True)
    try:
        yield
    finally:
        for part, switch in zip(parts, before, strict=True):
            setattr(part, _SWITCH, switch)
            delattr(part, _MARK)


def scaled_query(module: Any, query: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Queries (B, H, S, D) as the layer would have scaled them at these positions (B, S)."""
    if not getattr(module, _MARK, False):
        return query
    steps = torch.floor((positions.float() + 1.0) / module.floor_scale)
    scales = torch.log1p(steps) * module.attn_scale + 1.0
    return (query * scales[:, None, :, None]).to(query.dtype)
