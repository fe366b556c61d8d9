# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a graph: onnx.reference's operators, our loop.

``ReferenceEvaluator`` finds the implementation of every node; this module folds what does not depend
on an input, runs the rest in order and forgets each value after its last use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops._op import OpRunBinary, OpRunBinaryNum, OpRunUnary, OpRunUnaryNum

from genai_iface.transform import GatherElements
from genai_iface_numpy.attention import Attention
from genai_iface_numpy.frequent import Reshape, RotaryEmbedding
from genai_iface_numpy.half_precision import WIDENED_OPERATORS, narrowed, widened
from genai_iface_numpy.normalization import LayerNormalization, RMSNormalization
from genai_iface_numpy.states import CausalConvWithState, LinearAttention
from genai_iface_numpy.tensor_scatter import TensorScatter

__all__ = ["Evaluator"]

_OWN_OPERATORS = [
    Attention,
    CausalConvWithState,
    GatherElements,
    LayerNormalization,
    LinearAttention,
    Reshape,
    RMSNormalization,
    RotaryEmbedding,
    TensorScatter,
]
# What they add to _run is a check of types, and those of a graph never change.
_TYPE_CHECKS = frozenset({OpRunBinary.run, OpRunBinaryNum.run, OpRunUnary.run, OpRunUnaryNum.run})
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


@dataclass(frozen=True, slots=True)
class _Instruction:
    """One node, ready to run.

    Attributes:
        operator: The onnx.reference kernel that computes it.
        inputs: Names of its inputs; "" where an optional one is absent.
        outputs: Names of its outputs.
        attributes: Keyword arguments of ``_run``, or None to go through ``run``.
        is_widened: Whether half precision is computed in float32.
        dead: Names whose last use this is.
    """

    operator: OpRun
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] | None
    is_widened: bool
    dead: tuple[str, ...] = ()

    def run(self, values: dict[str, Any]) -> None:
        """Adds the outputs to the values, and drops what nobody needs any more."""
        self.compute(values)
        for name in self.dead:
            del values[name]

    def compute(self, values: dict[str, Any]) -> None:
        """Adds the outputs to the values."""
        arguments = [values[name] for name in self.inputs]
        dtype = None
        if self.is_widened:
            arguments, dtype = widened(arguments)
        if self.attributes is not None:
            results = self.operator._run(*arguments, **self.attributes)  # type: ignore[no-untyped-call]
        elif self.operator.need_context():
            results = self.operator.run(*arguments, context=values)  # type: ignore[no-untyped-call]
        else:
            results = self.operator.run(*arguments)  # type: ignore[no-untyped-call]
        for name, result in zip(self.outputs, narrowed(results, dtype), strict=False):
            # An output that is left out has the name of an input that is.
            if name:
                # NumPy reductions give scalars where ONNX has tensors of rank 0.
                values[name] = result if type(result) is np.ndarray else _as_tensor(result)


def _as_tensor(result: Any) -> Any:
    return np.asarray(result) if np.isscalar(result) else result


class Evaluator:
    """A graph that can be run many times.

    Args:
        model: The model; it loses its initializers. Weights that lie in files of their own are mapped,
            not copied.
        keep: Names of the outputs that will be asked for.
    """

    def __init__(self, model: ir.Model, /, *, keep: Collection[str]) -> None:
        constants = {"": None, **_take_weights(model.graph)}
        reference = ReferenceEvaluator(ir.to_proto(model), new_ops=_OWN_OPERATORS)
        program: list[_Instruction] = []
        for operator in reference.rt_nodes_:
            instruction = _instruction(operator)
            if _is_constant(instruction, constants):
                instruction.run(constants)
            else:
                program.append(instruction)
        self._program = _with_last_uses(program, keep)
        self._has_run = False
        used = {""} | {name for instruction in program for name in _reads(instruction)}
        self._constants = {name: constants[name] for name in constants if name in used or name in keep}

    @property
    def num_instructions(self) -> int:
        """Nodes that run in every step."""
        return len(self._program)

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Collection[str], /) -> list[NDArray[Any]]:
        """Runs the graph.

        Args:
            feeds: A value for every graph input that is used.
            outputs: Names of the wanted outputs, among those kept.
        """
        values = {**self._constants, **feeds}
        # Masks are built from infinities, and exp() of far-away scores underflows as it should.
        with np.errstate(all="ignore"):
            for instruction in self._program:
                instruction.run(values)
        if not self._has_run:
            self._program = [_type_checked(instruction) for instruction in self._program]
            self._has_run = True
        return [values[name] for name in outputs]

    def trace(self, feeds: Mapping[str, NDArray[Any]], output: str, is_bad: Callable[[NDArray[Any]], bool], /) -> str:
        """Runs the graph once more and follows a bad value back to where it begins.

        Args:
            feeds: As for ``run``. Caches that a kernel writes to get the same content again.
            output: The name of a value that is bad.
            is_bad: Says whether a floating-point value is bad.

        Returns:
            The node that made the first bad value on the way to the output, in words.
        """
        values = {**self._constants, **feeds}
        makers: dict[str, _Instruction] = {}
        with np.errstate(all="ignore"):
            for instruction in self._program:
                instruction.compute(values)
                makers |= dict.fromkeys(filter(None, instruction.outputs), instruction)
        name = output
        while True:
            bad = (
                each
                for each in makers[name].inputs
                if each in makers and _is_floating(values[each]) and is_bad(values[each])
            )
            earlier = next(bad, None)
            if earlier is None:
                node = makers[name].operator.onnx_node
                return f"the {node.op_type} node {node.name!r}, which makes {name!r}"
            name = earlier


def _is_floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fV"


def _take_weights(graph: ir.Graph) -> dict[str, Any]:
    """Removes the initializers from a graph and returns them as arrays."""
    weights: dict[str, Any] = {}
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            # BLAS would copy a matrix that is not aligned in every call.
            weights[name] = np.require(value.const_value.numpy(), requirements="A")
    graph.initializers.clear()
    return weights


def _instruction(operator: OpRun) -> _Instruction:
    # run() gathers the attributes anew for each call; for plain operators that is done once, here.
    is_plain = type(operator).run is OpRun.run and not operator.has_linked_attribute and not operator.has_subgraph
    is_plain = is_plain and not operator.need_context()
    attributes = {name: getattr(operator, name) for name in operator.attributes_names_} if is_plain else None
    is_widened = operator.onnx_node.domain in ("", "ai.onnx") and operator.op_type in WIDENED_OPERATORS
    return _Instruction(operator, tuple(operator.input), tuple(operator.output), attributes, is_widened)


def _type_checked(instruction: _Instruction) -> _Instruction:
    """The node without the check of types that it has passed."""
    is_checked = type(instruction.operator).run in _TYPE_CHECKS and instruction.attributes is None
    return replace(instruction, attributes={}) if is_checked else instruction


def _reads(instruction: _Instruction) -> list[str]:
    """Every name that a node may read, those inside its subgraphs included."""
    return [*instruction.inputs, *_subgraph_reads(instruction.operator.onnx_node)]


def _subgraph_reads(node: onnx.NodeProto) -> list[str]:
    """Names read inside a node's subgraphs; names of their own among them do no harm here."""
    names: list[str] = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                names += [*inner.input, *_subgraph_reads(inner)]
            names += [output.name for output in attribute.g.output]
    return names


def _is_constant(instruction: _Instruction, constants: Mapping[str, Any]) -> bool:
    return (
        instruction.operator.op_type not in _RANDOM
        and not instruction.operator.need_context()
        and all(name in constants for name in instruction.inputs)
    )


def _with_last_uses(program: list[_Instruction], keep: Collection[str]) -> list[_Instruction]:
    """Marks, from the end, the node after which each value is not needed any more."""
    alive = set(keep)
    marked: list[_Instruction] = []
    produced = {name for instruction in program for name in instruction.outputs if name}
    for instruction in reversed(program):
        touched = {*_reads(instruction), *instruction.outputs}
        dead = tuple(sorted(name for name in touched if name in produced and name not in alive))
        alive |= touched
        marked.append(replace(instruction, dead=dead))
    return marked[::-1]
