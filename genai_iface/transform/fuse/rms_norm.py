# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""RMSNormalization for root-mean-square norms that an exporter has written out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from genai_iface.graph._edit import Editor, constant_array, copy_type, only_user, replace_value
from genai_iface.graph._walk import attribute, input_at, is_op, rank, static_dim
from genai_iface.transform.fuse._last_axis import scalar
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["FuseRmsNorm"]

_FIRST_OPSET = 23
_STASH = {ir.DataType.FLOAT: 1, ir.DataType.DOUBLE: 11}


@dataclass(frozen=True, slots=True)
class _Norm:
    """A norm as it was found.

    Attributes:
        node: The node that gives the result.
        x: What is normalized.
        scale: A weight (D,), None if there is none.
        epsilon: What is added to the mean square.
    """

    node: ir.Node
    x: ir.Value
    scale: ir.Value | None
    epsilon: float


class FuseRmsNorm(Rewrite):
    """Replaces ``x * (mean(x ** 2) + epsilon) ** -0.5``, and a weight after it, by RMSNormalization.

    The power may be a Pow, or a Sqrt with a Reciprocal or a division; the square a Pow or a product. Without a
    weight the scale is ones.

    Precondition: opset 23; the last axis, of known size, in float32 or float64, as a norm of a float16 model computes
    too. Exact. A sum without epsilon is left alone: it means that something has dropped it.
    """

    name = "fuse-rms-norm"

    def rewrite(self, model: ir.Model) -> Note:
        """Fuses every norm."""
        opset = model.opset_imports.get("", 0)
        if opset < _FIRST_OPSET:
            return self.said(0, f"opset {opset} has no RMSNormalization")
        edit = Editor(model.graph, "fuse_rms_norm")
        ones: dict[tuple[int, ir.DataType], ir.Value] = {}
        count = 0
        for node in list(model.graph):
            norm = _norm(node)
            if norm is None:
                continue
            _replace(edit, norm, ones)
            count += 1
        if not count:
            return self.said(0, "no written-out norm in float32 over a last axis of known size")
        return self.said(count, f"{count} norms became RMSNormalization")


def _norm(node: ir.Node) -> _Norm | None:
    if not is_op(node, "Mul", "Div"):
        return None
    for x, other in (tuple(node.inputs), tuple(node.inputs)[::-1])[: 2 if is_op(node, "Mul") else 1]:
        mean = _root(other) if is_op(node, "Mul") else _square_root(other)
        found = None if mean is None else _mean_of_squares(mean)
        if x is None or found is None or found[0] is not x or x.dtype not in _STASH or static_dim(x, -1) is None:
            continue
        weighted = _weight(node, x)
        if weighted is not None:
            return _Norm(weighted[0], x, weighted[1], found[1])
        return _Norm(node, x, None, found[1])
    return None


def _weight(node: ir.Node, x: ir.Value) -> tuple[ir.Node, ir.Value] | None:
    """The product with a weight that follows, and the weight."""
    after = only_user(node.outputs[0])
    if after is None or not is_op(after, "Mul"):
        return None
    other = after.inputs[1] if after.inputs[0] is node.outputs[0] else after.inputs[0]
    fits = other is not None and rank(other) == 1 and static_dim(other, 0) == static_dim(x, -1)
    return (after, other) if fits and other is not None and other.dtype == x.dtype else None


def _root(value: ir.Value | None) -> ir.Value | None:
    """What is under the root where a value is one over a square root."""
    node = None if value is None else value.producer()
    if node is None:
        return None
    if is_op(node, "Pow"):
        return node.inputs[0] if scalar(node.inputs[1]) == -0.5 else None
    if is_op(node, "Reciprocal"):
        return _square_root(node.inputs[0])
    if is_op(node, "Div") and scalar(node.inputs[0]) == 1.0:
        return _square_root(node.inputs[1])
    return None


def _square_root(value: ir.Value | None) -> ir.Value | None:
    node = None if value is None else value.producer()
    if node is None:
        return None
    if is_op(node, "Sqrt"):
        return node.inputs[0]
    return node.inputs[0] if is_op(node, "Pow") and scalar(node.inputs[1]) == 0.5 else None


def _mean_of_squares(value: ir.Value) -> tuple[ir.Value, float] | None:
    """(x, epsilon) where a value is the mean of squares plus epsilon."""
    node = value.producer()
    if node is None or not is_op(node, "Add"):
        return None
    for mean, constant in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        epsilon, reduce = scalar(constant), None if mean is None else mean.producer()
        if epsilon is None or epsilon <= 0 or reduce is None or not is_op(reduce, "ReduceMean"):
            continue
        axes = constant_array(input_at(reduce, 1))
        squared = None if reduce.inputs[0] is None else reduce.inputs[0].producer()
        if squared is None or axes is None or not attribute(reduce, "keepdims", 1) or axes.size != 1:
            continue
        x = squared.inputs[0]
        square = is_op(squared, "Pow") and scalar(squared.inputs[1]) == 2.0
        square = square or (is_op(squared, "Mul") and squared.inputs[0] is squared.inputs[1])
        if square and x is not None and rank(x) is not None and int(axes.reshape(-1)[0]) in (-1, (rank(x) or 0) - 1):
            return x, epsilon
    return None


def _replace(edit: Editor, norm: _Norm, ones: dict[tuple[int, ir.DataType], ir.Value]) -> None:
    old, scale = norm.node.outputs[0], norm.scale
    dtype, size = norm.x.dtype or ir.DataType.FLOAT, static_dim(norm.x, -1) or 0
    if scale is None:
        if (size, dtype) not in ones:
            ones[size, dtype] = edit.weight("ones", ir.Tensor(np.ones(size, dtype.numpy())))
        scale = ones[size, dtype]
    attributes = {"axis": -1, "epsilon": norm.epsilon, "stash_type": _STASH[dtype]}
    (new,) = edit.before(norm.node, "RMSNormalization", [norm.x, scale], attributes)
    copy_type(old, new)
    new.shape = old.shape
    replace_value(old, new)
