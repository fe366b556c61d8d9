# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Where a network's own positions begin: at 0, or behind those of its padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["first_position", "padding_token"]

_PROMPT = 4


def first_position(network: Any) -> int:
    """The position that a network gives to the first token of a row when it is not told any.

    RoBERTa and its kin count from the row behind the padding's in their table of positions. Seen by what the table is
    asked for, with positions from 0 on and without.
    """
    tables = [
        part
        for name, part in network.named_modules()
        if isinstance(part, torch.nn.Embedding) and "position" in name.rpartition(".")[2]
    ]
    if not tables:
        return 0
    told, alone = (_looked_up(network, tables, is_told=is_told) for is_told in (True, False))
    shifts = {int(own - given) for given, own in zip(told, alone, strict=False)}
    shift = shifts.pop() if len(shifts) == 1 and len(told) == len(alone) else 0
    return max(shift, 0)


def padding_token(network: Any) -> int | None:
    """The token that has no position of its own; None where every token has one."""
    if first_position(network) == 0:
        return None
    token = getattr(network.config.get_text_config(), "pad_token_id", None)
    return None if token is None else int(token)


def _looked_up(network: Any, tables: Sequence[torch.nn.Module], *, is_told: bool) -> list[int]:
    """The first index into each table of positions in a run of a few tokens."""
    padding = getattr(network.config.get_text_config(), "pad_token_id", None) or 0
    ids = torch.full((1, _PROMPT), padding + 1, dtype=torch.int64)
    found: list[int] = []
    with torch.no_grad(), _watched(tables, found):
        try:
            network(input_ids=ids, **({"position_ids": torch.arange(_PROMPT)[None]} if is_told else {}))
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError):
            return []  # whatever is wrong with it, a run that is not a probe will say
    return found


@contextmanager
def _watched(tables: Sequence[torch.nn.Module], found: list[int]) -> Iterator[None]:
    hooks = [table.register_forward_pre_hook(lambda _, given: found.append(int(given[0].min()))) for table in tables]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
