# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a network computes anew in each step from constants alone, computed once and kept as a tensor.

ONNX has no operator for some functions of torch, as the inverse of the error function. Where one is used on
constants only, as for the cutoff of a sparse activation, its value is all that a graph needs.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

__all__ = ["fold_constants"]

# More would make the file larger, where the function that makes it is short.
_MOST_ELEMENTS = 1 << 16


def fold_constants(program: ExportedProgram) -> ExportedProgram | None:
    """A traced program that reads the values of its constant functions.

    Args:
        program: What torch.export gave. It is left as it was.

    Returns:
        The same program with tensors of at most 65536 elements in the place of functions of constants; None if it
        has no such function. Parameters and buffers are no constants: they are the checkpoint's.
    """
    program = program.run_decompositions({})  # so that nothing is written into a tensor that another name has
    known = _known(program)
    kept = [
        node
        for node, value in known.items()
        if node.op == "call_function"
        and isinstance(value, torch.Tensor)
        and value.numel() <= _MOST_ELEMENTS
        and any(user not in known for user in node.users)
    ]
    for number, node in enumerate(kept):
        _keep(program, node, known[node], f"folded_{number}")
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program if kept else None


def _known(program: ExportedProgram) -> dict[torch.fx.Node, Any]:
    """The value of each node that reads constants only, by the node."""
    signature = program.graph_signature
    targets = {spec.arg.name: spec.target for spec in signature.input_specs if spec.kind is InputKind.CONSTANT_TENSOR}
    known: dict[torch.fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in targets:
            known[node] = program.constants[targets[node.name]]
        elif _is_function(node) and all(each in known for each in node.all_input_nodes):
            arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*arguments, **keywords)
    return known


def _is_function(node: torch.fx.Node) -> bool:
    """Whether a node's value depends on nothing but its arguments, and is of use to another one."""
    if node.op != "call_function" or not node.users:
        return False
    if node.target is operator.getitem:
        return True
    return (
        isinstance(node.target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded not in node.target.tags
        and not node.target._schema.is_mutable
    )


def _keep(program: ExportedProgram, node: torch.fx.Node, value: torch.Tensor, name: str) -> None:
    """A tensor of the program in the place of a node; inputs of the program stay behind its tensors."""
    first = next(each for each in program.graph.nodes if each.op == "placeholder")
    with program.graph.inserting_before(first):
        read = program.graph.placeholder(name)
    read.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(read)
    program.constants[name] = value.clone()
    spec = InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(read.name), name)
    program.graph_signature.input_specs.insert(0, spec)
