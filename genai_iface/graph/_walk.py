# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Walking an ONNX graph: what every pattern needs, and nothing about any pattern.

All functions read. Symbolic dimensions are never evaluated: they are text from a file.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TypeVar

import onnx_ir as ir

from genai_iface.errors import UnsupportedModelError

__all__ = [
    "LONGEST_PATH",
    "REBUILD",
    "SAME_ELEMENTS",
    "attribute",
    "constant_ints",
    "constant_shape",
    "describe",
    "dim",
    "dtype_name",
    "graph_input",
    "graph_output",
    "input_at",
    "is_constant",
    "is_op",
    "listed",
    "op",
    "output_at",
    "rank",
    "static_dim",
    "trace_back",
    "unsupported",
    "width",
]

_DTYPE_NAMES = {dtype: dtype.name.lower() for dtype in ir.DataType} | {
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
}
_IDENTITY = frozenset({"Identity"})
_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32})
T = TypeVar("T", int, float, str)

SAME_ELEMENTS = frozenset({"Identity", "Cast", "CastLike", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten"})
"""Operators whose output has the elements of input 0, perhaps in another order or type."""

LONGEST_PATH = 24
"""A walk through one kind of node gives up after so many: one walk may start at every node of a graph."""

_MOST_LISTED = 40
_CONSTANT_DEPTH = 8
_CONSTANT_VALUES = 64
_OF_INPUT_0 = SAME_ELEMENTS | {"Expand", "Tile", "Slice"}
_OF_ALL_INPUTS = frozenset(
    {"ConstantOfShape", "Range", "Add", "Sub", "Mul", "Div", "Neg", "Pow", "Reciprocal", "Cos", "Sin", "Concat"}
    | {"Gather", "Exp", "DequantizeLinear"}
)

REBUILD = (
    "Export the model again with one of the known patterns (docs/model-folder.md, 'The graph'), "
    "for example with mobius-onnx's static cache."
)
"""The remedy for a graph that is not understood."""


def unsupported(what: str, remedy: str = REBUILD) -> UnsupportedModelError:
    """The error for a well-formed graph that follows no known pattern."""
    return UnsupportedModelError(what, remedy=remedy)


def op(node: ir.Node) -> str:
    """The operator: its name, with the domain before it unless that is the default one."""
    domain = node.domain
    return node.op_type if not domain or domain == "ai.onnx" else f"{domain}.{node.op_type}"


def is_op(node: ir.Node | None, *names: str) -> bool:
    """Whether the node is one of these operators."""
    return node is not None and op(node) in names


def listed(values: Sequence[ir.Value]) -> str:
    """Names of values as an error message gives them: the first few."""
    more = f" and {len(values) - _MOST_LISTED} more" if len(values) > _MOST_LISTED else ""
    return (", ".join(repr(value.name) for value in values[:_MOST_LISTED]) or "none") + more


def describe(node: ir.Node) -> str:
    """The node as an error message names it."""
    return f"{op(node)} node {node.name!r}" if node.name else f"unnamed {op(node)} node"


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Input ``index``, None where it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def output_at(node: ir.Node, index: int) -> ir.Value | None:
    """Output ``index``, None where it is absent."""
    return node.outputs[index] if index < len(node.outputs) and node.outputs[index].name else None


def attribute(node: ir.Node, name: str, default: T) -> T:
    """An attribute's value, of the default's type.

    Raises:
        UnsupportedModelError: It has another type, or is a reference that was left unresolved.
    """
    found = node.attributes.get(name)
    if found is None:
        return default
    value = found.value
    if isinstance(value, bool) or not isinstance(value, type(default)):
        raise unsupported(
            f"The attribute {name!r} of the {describe(node)} is a {type(value).__name__}, "
            f"expected {type(default).__name__}"
        )
    return value


def rank(value: ir.Value) -> int | None:
    """The number of axes, None if the graph does not say."""
    return None if value.shape is None else len(value.shape)


def dim(value: ir.Value, axis: int) -> str:
    """A dimension as text, for messages."""
    if value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return "?"
    return str(value.shape[axis])


def static_dim(value: ir.Value, axis: int) -> int | None:
    """A dimension that the graph fixes, otherwise None."""
    if value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def dtype_name(value: ir.Value) -> str:
    """The element type in NumPy's spelling, "unknown" if the graph does not say."""
    return "unknown" if value.dtype is None else _DTYPE_NAMES[value.dtype]


def trace_back(value: ir.Value | None, through: Container[str] = SAME_ELEMENTS) -> ir.Value | None:
    """Follows input 0 of such operators back to where the elements come from; None if that is too far away."""
    for _ in range(LONGEST_PATH):
        node = None if value is None else value.producer()
        if node is None or op(node) not in through:
            return value
        value = node.inputs[0] if node.inputs else None
    return None


def graph_input(value: ir.Value | None) -> ir.Value | None:
    """The graph input that a value is, perhaps through Identity; None for anything else."""
    source = trace_back(value, _IDENTITY)
    return source if source is not None and source.is_graph_input() and not source.is_initializer() else None


def graph_output(value: ir.Value) -> ir.Value | None:
    """The graph output that carries the value, perhaps through Identity."""
    if value.is_graph_output():
        return value
    for node, _ in value.uses():
        if is_op(node, "Identity") and node.outputs[0].is_graph_output():
            return node.outputs[0]
    return None


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value follows from weights alone, in a few steps; shapes of it may follow from inputs."""
    if value is None:
        return False
    pending, seen = [(value, 0)], {value}
    while pending:
        current, depth = pending.pop()
        node = current.producer()
        if node is None:
            if current.is_graph_input() or not current.is_initializer():
                return False
        elif not is_op(node, "Constant"):
            sources = _constant_sources(node)
            if sources is None or depth == _CONSTANT_DEPTH or len(seen) + len(sources) > _CONSTANT_VALUES:
                return False
            fresh = [source for source in sources if source not in seen]
            seen.update(fresh)
            pending.extend((source, depth + 1) for source in fresh)
    return True


def _constant_sources(node: ir.Node) -> Sequence[ir.Value] | None:
    """What must be constant for the outputs of a node to be so; None if nothing makes them constant."""
    # What gives only the shape, the bounds or the axes does not count.
    if op(node) in _OF_INPUT_0:
        first = input_at(node, 0)
        return None if first is None else (first,)
    if op(node) in _OF_ALL_INPUTS:
        return tuple(dict.fromkeys(source for source in node.inputs if source is not None))
    return None


def constant_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The static shape of a weight: an initializer, a Constant, or either dequantized or cast."""
    turns: list[ir.Node] = []
    for _ in range(_CONSTANT_DEPTH):
        if value is None:
            return None
        node = value.producer()
        if node is None or is_op(node, "Constant"):
            shape = _tensor_shape(value, node) if is_constant(value) else None
            for turn in reversed(turns):
                shape = None if shape is None else _turned(shape, turn)
            return shape
        if is_op(node, "Transpose"):
            turns.append(node)
        elif not is_op(node, "Identity", "Cast", "DequantizeLinear"):
            return None
        value = input_at(node, 0)
    return None


def _turned(shape: tuple[int, ...], transpose: ir.Node) -> tuple[int, ...] | None:
    order = transpose.attributes.get("perm")
    axes = list(order.value) if order is not None else list(range(len(shape)))[::-1]
    return tuple(shape[axis] for axis in axes) if sorted(axes) == list(range(len(shape))) else None


def width(value: ir.Value | None) -> int | None:
    """The last axis of an activation, from its shape or from the weight that made it."""
    for _ in range(8):
        if value is None or (size := static_dim(value, -1)) is not None:
            return None if value is None else size
        node = value.producer()
        if node is None:
            return None
        if is_op(node, "MatMul"):
            shape = constant_shape(input_at(node, 1))
            return shape[-1] if shape else None
        if is_op(node, "com.microsoft.MatMulNBits"):
            return attribute(node, "N", 0) or None
        # A bias, a change of type, a rotation.
        if not is_op(node, "Add", "Identity", "Cast", "RotaryEmbedding", "com.microsoft.RotaryEmbedding"):
            return None
        value = input_at(node, 0)
    return None


def constant_ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """A small integer weight, flat; None for anything else."""
    if value is None or not is_constant(value):
        return None
    tensor = _tensor(value, value.producer())
    if tensor is None or isinstance(tensor, ir.ExternalTensor) or tensor.dtype not in _INTEGERS or tensor.size > 64:
        return None
    return tuple(int(number) for number in tensor.numpy().ravel())


def _tensor(value: ir.Value, constant: ir.Node | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or a Constant; other forms of Constant have none."""
    if constant is None:
        return value.const_value
    if not is_op(constant, "Constant"):
        return None
    for name in ("value", "value_ints", "value_int"):
        if name in constant.attributes:
            held = constant.attributes[name].value
            return held if isinstance(held, ir.TensorProtocol) else ir.tensor(held, dtype=ir.DataType.INT64)
    return None


def _tensor_shape(value: ir.Value, constant: ir.Node | None) -> tuple[int, ...] | None:
    tensor = _tensor(value, constant)
    sizes = [] if tensor is None else list(tensor.shape)
    fixed = tuple(size for size in sizes if isinstance(size, int))
    return None if tensor is None or len(fixed) != len(sizes) else fixed
