# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse attention with an index: an indexer with keys of its own says which tokens a query may see.

The indexer's keys are one more layer of the cache, read by an Attention whose scores are what counts. It has values of
size 1 that nothing reads, for the operator wants some.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from genai_iface.build.methods.standard_cache import OPSET
from genai_iface.types import CacheLayout

__all__ = ["IndexKeys", "chosen", "symbolic_minimum"]

# Of qk_matmul_output_mode: the products of queries and keys, before anything is done to them.
_PRODUCTS = 0


class IndexKeys:
    """The keys of an indexer, of the whole buffer, which a network multiplies with its queries.

    Args:
        keys: The buffer after the write, (B, 1, C, D), or (B, C, D) in the layout "bsh".
        values: Its values, (B, 1, C, 1) or (B, C, 1).
        lengths: int64 (B,), the valid positions of each row.
        layout: Of the buffers.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor, layout: CacheLayout) -> None:
        self._keys, self._values, self._lengths, self._layout = keys, values, lengths, layout

    def _same(self, *_: Any) -> IndexKeys:
        """What is to be a factor is one already."""
        return self

    transpose = unsqueeze = float = to = _same

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__) and isinstance(args[1], cls):
            return args[1]._products(args[0])
        return NotImplemented

    def _products(self, queries: torch.Tensor) -> torch.Tensor:
        """Float32 products of queries (B, S, H, D) with every position, (B, S, H, C)."""
        queries = queries.transpose(1, 2).to(self._keys.dtype)
        batch, heads, length, size = queries.shape
        capacity = self._keys.shape[2 if self._layout == "bnsh" else 1]
        attributes: dict[str, Any] = {"scale": 1.0, "qk_matmul_output_mode": _PRODUCTS}
        result: tuple[Any, ...] = (batch, heads, length, 1)
        if self._layout == "bsh":
            attributes |= {"q_num_heads": heads, "kv_num_heads": 1}
            queries = queries.transpose(1, 2).reshape(batch, length, heads * size)
            result = (batch, length, heads)
        dtype = self._keys.dtype
        products: torch.Tensor = torch.onnx.ops.symbolic_multi_out(
            "Attention",
            (queries, self._keys, self._values, None, None, None, self._lengths),
            attributes,
            dtypes=(dtype,) * 4,
            shapes=(result, self._keys.shape, self._values.shape, (batch, heads, length, capacity)),
            version=OPSET,
        )[3]
        return products.transpose(1, 2).float()


def chosen(indices: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A mask (B, 1, S, C) of what may be seen, without the keys that an indexer has not chosen for a query.

    Args:
        indices: (B, S, K), positions.
        mask: Boolean (B, 1, S, C).
    """
    kept = torch.zeros_like(mask[:, 0]).scatter(-1, indices.long(), True)
    return mask & kept[:, None]


@contextmanager
def symbolic_minimum(network: Any) -> Iterator[None]:
    """Lets modelling files of indexers take the lesser of a number and a size that the graph is to keep free."""
    names = {type(part).__module__ for part in network.modules() if hasattr(part, "indexer")}
    changed = [sys.modules[name] for name in sorted(names) if "min" not in vars(sys.modules[name])]
    for module in changed:
        vars(module)["min"] = _minimum
    try:
        yield
    finally:
        for module in changed:
            del vars(module)["min"]


def _minimum(*numbers: Any, **rest: Any) -> Any:
    if len(numbers) == 2 and any(isinstance(number, torch.SymInt) for number in numbers):
        return torch.sym_min(*numbers)
    return builtins.min(*numbers, **rest)
