# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The node that is being replaced, and what its mapping needs to replace it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from genai_iface.errors import UnsupportedModelError
from genai_iface.graph._edit import Editor, constant_tensor, copy_type, replace_value
from genai_iface.graph._walk import attribute, describe, input_at, output_at, rank, static_dim, unsupported
from genai_iface.transform.contrib.types import type_outputs

__all__ = ["KEEP", "Scope", "Site"]

KEEP = "The ONNX Runtime backend runs this model as it is."
_FLOATS = {
    ir.DataType.FLOAT: np.float32,
    ir.DataType.FLOAT16: np.float16,
    ir.DataType.BFLOAT16: ml_dtypes.bfloat16,
    ir.DataType.DOUBLE: np.float64,
}


@dataclass
class Scope:
    """What the mappings of one graph share.

    Attributes:
        edit: Adds nodes and weights.
        opset: The version of the default domain that the graph will declare.
        made: Values that several nodes need, made once, by a key.
        readers: Nodes that read a packed table, by the name of its constant.
    """

    edit: Editor
    opset: int
    made: dict[tuple[object, ...], Any] = field(default_factory=dict)
    readers: dict[str, list[ir.Node]] = field(default_factory=dict)


class Site:
    """One contrib node; new nodes go before it.

    Args:
        node: The contrib node that is replaced.
        scope: What it shares with others.
    """

    def __init__(self, node: ir.Node, scope: Scope) -> None:
        self.node, self.scope, self.edit = node, scope, scope.edit

    def refuse(self, reason: str) -> UnsupportedModelError:
        """The error for a node that standard operators cannot express; the reason follows its name."""
        return unsupported(f"The {describe(self.node)} {reason}", KEEP)

    def input(self, index: int) -> ir.Value | None:
        """An input, None where it is absent."""
        return input_at(self.node, index)

    def required(self, index: int) -> ir.Value:
        """An input that must be there."""
        value = input_at(self.node, index)
        if value is None:
            raise self.refuse(f"has no input {index}")
        return value

    def output(self, index: int) -> ir.Value | None:
        """An output that something may read, None otherwise."""
        value = output_at(self.node, index)
        return value if value is not None and (value.uses() or value.is_graph_output()) else None

    def integer(self, name: str, default: int = 0) -> int:
        """An attribute."""
        return attribute(self.node, name, default)

    def real(self, name: str, default: float = 0.0) -> float:
        """An attribute."""
        return attribute(self.node, name, default)

    def text(self, name: str, default: str = "") -> str:
        """An attribute."""
        return attribute(self.node, name, default)

    def constant(self, index: int) -> ir.TensorProtocol:
        """An input that must be a constant."""
        tensor = constant_tensor(self.required(index))
        if tensor is None:
            raise self.refuse(f"computes its input {index} in each step, expected a constant")
        return tensor

    def no_output(self, *indices: int, what: str) -> None:
        """Refuses a node whose extra outputs are read."""
        if any(self.output(index) is not None for index in indices):
            raise self.refuse(f"gives {what} to others, which no standard operator does")

    def add(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node with one output."""
        return self.several(kind, 1, *inputs, **attributes)[0]

    def several(self, kind: str, outputs: int, *inputs: ir.Value | None, **attributes: Any) -> list[ir.Value]:
        """A node with several outputs."""
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        values = self.edit.before(self.node, kind, given, attributes, outputs=outputs)
        producer = values[0].producer()
        if producer is not None:
            type_outputs(producer, self.scope.opset)
        for value in values:
            # Shape inference needs every input's type; the first one's is right for all that mappings add.
            if value.dtype is None and given and given[0] is not None:
                copy_type(given[0], value)
        return values

    def ints(self, *values: int) -> ir.Value:
        """A constant int64 vector."""
        return self.edit.ints(*values)

    def index(self, value: int) -> ir.Value:
        """A constant int64 scalar."""
        key = ("index", value)
        if key not in self.scope.made:
            self.scope.made[key] = self.edit.weight("index", ir.Tensor(np.array(value, np.int64)))
        made: ir.Value = self.scope.made[key]
        return made

    def scalar(self, value: float, like: ir.Value) -> ir.Value:
        """A constant scalar of another value's element type."""
        dtype = self.float_type(like)
        key = ("scalar", value, dtype)
        if key not in self.scope.made:
            tensor = ir.Tensor(np.array(value).astype(_FLOATS[dtype]), dtype=dtype)
            self.scope.made[key] = self.edit.weight("scalar", tensor)
        made: ir.Value = self.scope.made[key]
        return made

    def float_type(self, value: ir.Value) -> ir.DataType:
        """The element type of a value that must have a floating-point one."""
        if value.dtype not in _FLOATS:
            found = "no known" if value.dtype is None else f"the {value.dtype.name}"
            raise self.refuse(f"reads {value.name!r}, which has {found} element type, expected a floating-point one")
        return value.dtype

    def rank(self, value: ir.Value) -> int:
        """The rank of a value that must be known."""
        found = rank(value)
        if found is None:
            raise self.refuse(f"reads {value.name!r}, whose rank is not in the graph")
        return found

    def last(self, value: ir.Value) -> int | None:
        """The size of the last axis, None if the graph does not say."""
        return static_dim(value, -1)

    def length(self, value: ir.Value, axis: int) -> ir.Value:
        """The size of an axis, int64 (1,)."""
        return self.add("Shape", value, start=axis, end=axis + 1)

    def give(self, value: ir.Value, index: int = 0) -> None:
        """Everything that read an output of the node reads this value; it takes over what was known of it."""
        old = self.node.outputs[index]
        if value.dtype is None:
            copy_type(old, value)
        if value.shape is None:
            value.shape = old.shape
        replace_value(old, value)
