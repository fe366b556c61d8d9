# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Attention sinks as a standard graph writes them: a factor on the result, from the logarithm of the scores' sum.

softmax over the scores and one more column, without that column, is softmax over the scores times
sigmoid(logsumexp(scores) - sink). GroupQueryAttention takes the sinks themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph import attribute, constant_array, describe, input_at, is_op, is_transpose, output_at

__all__ = ["NotASink", "Sink", "sink_of"]

# Of qk_matmul_output_mode: the scores that the softmax takes.
_MASKED_SCORES = 2
_SCORES = 3


class NotASink(Exception):  # noqa: N818 - it is an answer, not an error
    """What is made of the scores is something else; the message says which node."""


@dataclass(frozen=True, slots=True)
class Sink:
    """The sinks of one attention.

    Attributes:
        values: One logit for each query head.
        factor: The Mul that applies them.
        untouched: Its input that is the result without them.
    """

    values: NDArray[Any]
    factor: ir.Node
    untouched: ir.Value


def sink_of(attention: ir.Node, num_heads: int) -> Sink | None:
    """The sinks of an attention whose scores are read; None if nothing reads them.

    Raises:
        NotASink: They are read by something that is not a sink.
    """
    scores = output_at(attention, _SCORES)
    if scores is None or not scores.uses():
        return None
    if attribute(attention, "qk_matmul_output_mode", 0) != _MASKED_SCORES or attribute(attention, "softcap", 0.0):
        raise NotASink(f"the {describe(attention)} gives scores that are not those of its softmax")
    total = _next(scores, "ReduceLogSumExp")
    if constant_list(input_at(total, 1)) not in ([3], [-1]) or attribute(total, "keepdims", 1):
        raise NotASink(f"the {describe(total)} does not sum over the keys alone")
    difference = _next(total.outputs[0], "Sub")
    values = constant_array(input_at(difference, 1))
    if values is None or values.shape != (1, num_heads, 1):
        raise NotASink(f"the {describe(difference)} does not take one constant of each head away")
    turned = _next(_next(difference.outputs[0], "Sigmoid").outputs[0], "Transpose")
    widened = _next(turned.outputs[0], "Unsqueeze")
    if not is_transpose(turned, (0, 2, 1)) or constant_list(input_at(widened, 1)) not in ([3], [-1]):
        raise NotASink(f"the {describe(widened)} does not stand beside the heads of the result")
    factor = _next(widened.outputs[0], "Mul")
    untouched = next(value for value in factor.inputs if value is not None and not _comes_from(value, widened))
    if not _is_result(untouched, attention):
        raise NotASink(f"the {describe(factor)} changes something else than the result of the {describe(attention)}")
    return Sink(values.reshape(-1), factor, untouched)


def constant_list(value: ir.Value | None) -> list[int] | None:
    """Constant integers as a list."""
    array = constant_array(value)
    return None if array is None else [int(number) for number in array.reshape(-1)]


def _next(value: ir.Value, kind: str) -> ir.Node:
    """The only reader of a value, perhaps behind a Cast."""
    readers = [node for node, _ in value.uses()]
    if len(readers) == 1 and is_op(readers[0], "Cast"):
        return _next(readers[0].outputs[0], kind)
    if len(readers) != 1 or not is_op(readers[0], kind):
        raise NotASink(f"{value.name!r} is not read by one {kind} alone, as a sink would")
    return readers[0]


def _comes_from(value: ir.Value, node: ir.Node) -> bool:
    producer = value.producer()
    if is_op(producer, "Cast") and producer is not None and producer.inputs[0] is not None:
        return _comes_from(producer.inputs[0], node)
    return producer is node


def _is_result(value: ir.Value, attention: ir.Node) -> bool:
    """Whether a value (B, S, H, D) is an attention's result with nothing but its axes changed."""
    node = value.producer()
    if node is None or node.inputs[0] is not attention.outputs[0] or len(tuple(attention.outputs[0].uses())) != 1:
        return False
    return is_transpose(node, (0, 2, 1, 3)) or is_op(node, "Reshape")
