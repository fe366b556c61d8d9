# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Adding nodes and constants to a graph, and reading what a rewrite has to know about a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import IdentityEliminationPass

from genai_iface.graph._walk import is_op, trace_back

__all__ = [
    "Editor",
    "Lazy",
    "constant_array",
    "constant_tensor",
    "copy_type",
    "drop_identities",
    "is_transpose",
    "only_user",
    "replace_value",
    "same_dims",
]

_BRANCHING = frozenset({"If", "Loop", "Scan"})


class Lazy(ir.LazyTensor):
    """A weight that is computed each time it is read, so that it takes no memory in between."""

    def __init__(self, make: Callable[[], NDArray[Any]], dtype: ir.DataType, shape: Sequence[int]) -> None:
        super().__init__(lambda: ir.Tensor(make(), dtype=dtype), dtype, ir.Shape(shape), cache=False)


class Editor:
    """Adds to a graph under names that are not in use.

    Args:
        graph: The graph that is changed in place.
        prefix: What new names begin with.
    """

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self._graph = graph
        self._prefix = prefix
        self._ints: dict[tuple[int, ...], ir.Value] = {}
        self._names = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
        for node in graph:
            self._names.add(str(node.name))
            self._names.update(str(output.name) for output in node.outputs)

    def name(self, stem: str) -> str:
        """A free name."""
        name, count = f"{self._prefix}.{stem}", 0
        while name in self._names:
            count += 1
            name = f"{self._prefix}.{stem}.{count}"
        self._names.add(name)
        return name

    def before(
        self,
        place: ir.Node,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        outputs: int = 1,
    ) -> list[ir.Value]:
        """Inserts a node before another one and returns its outputs."""
        node = ir.node(kind, list(inputs), dict(attributes or {}), domain=domain, num_outputs=outputs)
        node.name = self.name(kind)
        for index, output in enumerate(node.outputs):
            output.name = self.name(f"{kind}.{index}")
        self._graph.insert_before(place, node)
        return list(node.outputs)

    def after(
        self,
        place: ir.Node,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
    ) -> list[ir.Value]:
        """Inserts a node behind another one and returns its outputs."""
        node = ir.node(kind, list(inputs), dict(attributes or {}), name=self.name(kind))
        for index, output in enumerate(node.outputs):
            output.name = self.name(f"{kind}.{index}")
        self._graph.insert_after(place, node)
        return list(node.outputs)

    def first(
        self, kind: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        """Inserts a node before all others and returns its output."""
        return self.before(self._graph[0], kind, inputs, attributes)[0]

    def ints(self, *values: int) -> ir.Value:
        """A constant int64 vector; equal ones are one."""
        if values not in self._ints:
            self._ints[values] = self.weight("ints", ir.Tensor(np.array(values, np.int64)))
        return self._ints[values]

    def weight(self, stem: str, tensor: ir.TensorProtocol) -> ir.Value:
        """An initializer."""
        name = self.name(stem)
        tensor.name = name
        sizes = [size for size in tensor.shape if isinstance(size, int)]
        value = ir.Value(name=name, shape=ir.Shape(sizes), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """A graph input; the name gets a suffix if it is taken."""
        free = name if name not in self._names else self.name(name)
        self._names.add(free)
        value = ir.Value(name=free, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self._graph.inputs.append(value)
        return value


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or a Constant node, None for anything else."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor


def constant_array(value: ir.Value | None) -> NDArray[Any] | None:
    """A small constant as an array."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that alone reads the value, once; None if it is a graph output or read elsewhere."""
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def copy_type(source: ir.Value, target: ir.Value) -> None:
    """Gives a value the element type of another, if that is known."""
    if source.dtype is not None:
        target.dtype = source.dtype


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Everything that read one value reads the other; a graph output keeps its name."""
    if old.is_graph_output():
        name, old.name = old.name, f"{old.name}.replaced"
        new.name = name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def same_dims(one: ir.Value, other: ir.Value, *, axes: Sequence[int] | None = None) -> bool:
    """Whether two values are known to have equal dimensions: the same numbers or the same symbols.

    Args:
        one: The first value.
        other: The value that it is compared with.
        axes: Compare these only; all of them, and the rank, if None.
    """
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return False
    for axis in range(len(one.shape)) if axes is None else axes:
        mine, its = one.shape[axis], other.shape[axis]
        if isinstance(mine, int) or isinstance(its, int):
            if mine != its:
                return False
        elif mine.value is None or mine.value != its.value:
            return False
    return True


def drop_identities(model: ir.Model) -> None:
    """Takes out Identity nodes, unless a branch of the graph does nothing but hand a value of the outer graph on."""
    for graph in model.graph.subgraphs() if any(node.op_type in _BRANCHING for node in model.graph) else ():
        # The pass would make a value of the outer graph an output of the inner one.
        if graph is not model.graph and any(_forwards(output, graph) for output in graph.outputs):
            return
    IdentityEliminationPass()(model)


def _forwards(output: ir.Value, graph: ir.Graph) -> bool:
    """Whether a chain of Identity nodes ends in an output and begins outside the graph."""
    source = trace_back(output, ("Identity",))
    return source is not output and (source is None or source.graph is not graph)


def is_transpose(node: ir.Node | None, order: Sequence[int]) -> bool:
    """Whether a node is a Transpose with this order of axes."""
    if node is None or not is_op(node, "Transpose"):
        return False
    given = node.attributes.get("perm")
    perm = list(given.as_ints()) if given is not None else list(range(len(order)))[::-1]
    return perm == list(order)
