# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reads attention that is written as MatMul, Softmax and MatMul: its scale, its softcap and what it hides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._attention import AttentionUse
from genai_iface.graph._walk import attribute, describe, input_at, is_op, rank, static_dim, unsupported
from genai_iface.transform._graph_probe import GraphProbe
from genai_iface.transform.convert._mask_probe import HIDDEN

__all__ = ["Decomposed", "read_decomposed"]

_EXPORT = (
    "Export the model again with Transformers' 'sdpa' attention at opset 23 or later, or keep the past/present model."
)
_FLOAT = 1


@dataclass(frozen=True, slots=True)
class Decomposed:
    """What stands around a Softmax.

    Attributes:
        query: (B, H, S, D), constant factors taken off.
        num_heads: H, the query heads.
        scale: All constant factors on queries and scores.
        softcap: 0 for none.
        softmax_precision: ONNX element type, 0 for that of the query.
        scores_in: What goes into the Softmax.
        product: Queries times keys.
        visible: Evaluates the mask; see ``mask_probe``.
    """

    query: ir.Value
    num_heads: int
    scale: float
    softcap: float
    softmax_precision: int
    scores_in: ir.Value
    product: ir.Value
    visible: Callable[[int, int, int], NDArray[Any]]


def read_decomposed(probe: GraphProbe, key: AttentionUse, value: AttentionUse) -> Decomposed:
    """Reads the attention between two uses of a cache.

    Raises:
        UnsupportedModelError: It is not scale, softcap, mask, softmax; the message names the node.
    """
    softmax, product = key.anchor, key.reader
    scores_in = softmax.inputs[0]
    query = input_at(product, 0)
    if not is_op(product, "MatMul") or not is_op(value.reader, "MatMul") or query is None or scores_in is None:
        raise unsupported(f"The {describe(product)} is not MatMul(queries, keys)", _EXPORT)
    if query.producer() in key.path or attribute(softmax, "axis", -1) not in (-1, 3):
        raise unsupported(f"The {describe(product)} is not MatMul(queries, keys) with Softmax over the keys", _EXPORT)
    query, on_query = _without_factors(probe, query)
    heads = static_dim(query, 1) or static_dim(product.outputs[0], 1)
    if rank(query) != 4 or heads is None:
        raise unsupported(
            f"The queries of the {describe(product)} have rank {rank(query)} and {heads} heads, expected (B, H, S, D)",
            _EXPORT,
        )
    before, softcap = _read_scores(probe, product, softmax)
    _check_weights(probe, softmax, value, heads)

    def visible(past: int, new: int, batch: int) -> NDArray[Any]:
        shape = (batch, heads, new, past + new)
        dtype = np.float32 if product.outputs[0].dtype is None else product.outputs[0].dtype.numpy()
        scores = np.random.default_rng(past).uniform(-1, 1, shape).astype(dtype)
        (got,) = probe.run([scores_in], past, new, batch=batch, given={product.outputs[0]: scores})
        wanted = scores.astype(np.float64) * before
        if softcap:
            wanted = np.tanh(wanted / softcap) * softcap
        return _compare(got, wanted, softmax)

    half = query.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    precision = _FLOAT if half and scores_in.dtype == ir.DataType.FLOAT else 0
    return Decomposed(query, heads, before * on_query, softcap, precision, scores_in, product.outputs[0], visible)


def _compare(got: NDArray[Any], wanted: NDArray[np.float64], softmax: ir.Node) -> NDArray[Any]:
    """Which scores are left; those must be what scale and softcap make of them."""
    if got.shape != wanted.shape:
        raise unsupported(
            f"The {describe(softmax)} sees scores of shape {got.shape}, the keys and queries give {wanted.shape}: a "
            "learned sink or another extra column, which the standard Attention cannot express",
            _EXPORT,
        )
    numbers = got.astype(np.float64)
    allowed: NDArray[Any] = numbers > HIDDEN
    tolerance = 1e-4 if got.dtype.itemsize >= 4 else 2e-2
    wrong = np.argwhere(allowed & (np.abs(numbers - wanted) > tolerance * (1 + np.abs(wanted))))
    if len(wrong):
        place = tuple(int(index) for index in wrong[0])
        raise unsupported(
            f"Before the {describe(softmax)} the score of query {place[2]}, key {place[3]}, head {place[1]} is off by "
            f"{numbers[place] - wanted[place]:.4g} from scale, softcap and mask: a bias by position (ALiBi) or another "
            "term, which the standard Attention cannot express",
            _EXPORT,
        )
    return allowed


def _without_factors(probe: GraphProbe, query: ir.Value) -> tuple[ir.Value, float]:
    """The queries before constant factors, and their product."""
    factor = 1.0
    while (node := query.producer()) is not None and is_op(node, "Mul", "Div"):
        found = _factor(probe, node, query)
        if found is None:
            break
        query, number = found
        factor *= number
    return query, factor


def _factor(probe: GraphProbe, node: ir.Node, result: ir.Value | None = None) -> tuple[ir.Value, float] | None:
    """The other operand and the constant of a Mul or Div."""
    for side in (1, 0) if is_op(node, "Mul") else (1,):
        number, rest = probe.constant_scalar(node.inputs[side]), node.inputs[1 - side]
        if number is not None and rest is not None and number != 0:
            return rest, (number if is_op(node, "Mul") else 1 / number)
    return None


def _read_scores(probe: GraphProbe, product: ir.Node, softmax: ir.Node) -> tuple[float, float]:
    """Scale and softcap on the way from the product to the Softmax; the numbers are checked later by running it."""
    between = _between(product, softmax)
    current, scale, capped, cap = product, 1.0, False, 1.0
    while current is not softmax:
        users = {use.node for output in current.outputs for use in output.uses()} & between
        users = {user for user in users if not is_op(user, "Shape")}
        if len(users) != 1:
            raise unsupported(f"The scores of the {describe(current)} go {len(users)} ways, expected one", _EXPORT)
        previous, current = current, users.pop()
        if is_op(current, "Concat"):
            raise unsupported(
                f"The {describe(current)} puts another column beside the scores: a learned sink, which the standard "
                "Attention cannot express",
                _EXPORT,
            )
        if is_op(current, "Tanh"):
            capped = True
        elif is_op(current, "Mul", "Div"):
            found = _factor(probe, current)
            if found is not None and found[0] in previous.outputs:
                if capped:
                    cap *= found[1]
                else:
                    scale *= found[1]
    return (scale * cap, cap) if capped else (scale, 0.0)


def _between(product: ir.Node, softmax: ir.Node) -> set[ir.Node]:
    """The nodes that the Softmax follows from and that follow from the product."""
    after: set[ir.Node] = set()
    pending = [product]
    while pending:
        for output in pending.pop().outputs:
            for use in output.uses():
                if use.node not in after and use.node is not softmax:
                    after.add(use.node)
                    if len(after) < 128:
                        pending.append(use.node)
    before: set[ir.Node] = {softmax}
    pending = [softmax]
    while pending:
        for source in pending.pop().inputs:
            node = None if source is None else source.producer()
            if node is not None and node in after and node not in before:
                before.add(node)
                pending.append(node)
    return before


def _check_weights(probe: GraphProbe, softmax: ir.Node, value: AttentionUse, heads: int) -> None:
    """Nothing but guards and casts may stand between the Softmax and the values."""
    entry = input_at(value.reader, 0)
    if entry is None or entry is softmax.outputs[0]:
        return
    dtype = np.float32 if softmax.outputs[0].dtype is None else softmax.outputs[0].dtype.numpy()
    weights = np.random.default_rng(0).uniform(0.1, 1, (2, heads, 3, 7)).astype(dtype)
    (got,) = probe.run([entry], 4, 3, given={softmax.outputs[0]: weights})
    if got.shape != weights.shape or not np.allclose(got.astype(np.float64), weights.astype(np.float64), rtol=2e-2):
        raise unsupported(
            f"The {describe(value.reader)} does not read what the {describe(softmax)} gives, but {got.shape} "
            "numbers made of it",
            _EXPORT,
        )
