# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Shapes are inferred with the elements of short vectors, and in little time whatever numbers stand in a graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from genai_iface.folder import open_folder
from genai_iface.graph import infer_shapes
from genai_iface.models import default_folder
from tests.models import write_folder

BIG = 2**31


def model_of(*nodes: onnx.NodeProto, **constants: list[int]) -> ir.Model:
    last = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.INT64, None)
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["a", "b"])
    weights = [helper.make_tensor(name, TensorProto.INT64, [len(list_)], list_) for name, list_ in constants.items()]
    graph = helper.make_graph(list(nodes), "graph", [x], [last], weights)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)]))


def filled(shape: str, name: str = "v") -> onnx.NodeProto:
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    return helper.make_node("ConstantOfShape", [shape], [name], value=one)


def readers(name: str = "v") -> list[onnx.NodeProto]:
    """Every operator that ONNX follows elements through."""
    return [
        helper.make_node("Concat", [name, name], ["c"], axis=0),
        *(helper.make_node(op, [name, name], [op]) for op in ("Add", "Sub", "Mul", "Gather")),
        helper.make_node("Unsqueeze", [name, "zero"], ["u"]),
        helper.make_node("Size", [name], ["s"]),
        helper.make_node("Squeeze", ["u", "zero"], ["q"]),
    ]


def by_a_constant() -> ir.Model:
    return model_of(filled("big"), *readers(), big=[BIG], zero=[0])


def by_elements() -> ir.Model:
    times = helper.make_node("Mul", ["half", "half"], ["n"])
    return model_of(times, filled("n"), *readers(), half=[2**16], zero=[0])


def by_doubling() -> ir.Model:
    doubled = [helper.make_node("Concat", [f"d{i}"] * 2, [f"d{i + 1}"], axis=0) for i in range(31)]
    return model_of(*doubled, *readers("d31"), d0=[1], zero=[0])


def by_doubling_of_elements() -> ir.Model:
    """The first length, 4096, is known from elements only."""
    start = helper.make_node("Mul", ["n", "n"], ["m"])
    doubled = [helper.make_node("Concat", [f"d{i}"] * 2, [f"d{i + 1}"], axis=0) for i in range(20)]
    return model_of(start, filled("m", "d0"), *doubled, *readers("d20"), n=[64], zero=[0])


def by_a_matrix() -> ir.Model:
    nodes = [
        helper.make_node("Mul", ["half", "half"], ["n"]),
        helper.make_node("Concat", ["one", "n"], ["sizes"], axis=0),
        filled("sizes", "matrix"),
        helper.make_node("Squeeze", ["matrix", "zero"], ["v"]),
    ]
    return model_of(*nodes, *readers(), half=[2**16], one=[1], zero=[0])


def by_an_unknown_rank() -> ir.Model:
    nodes = [
        helper.make_node("Mul", ["half", "half"], ["n"]),
        helper.make_node("Sub", ["half", "less"], ["end"]),
        helper.make_node("Slice", ["n", "zero", "end"], ["shape"]),
        filled("shape"),
    ]
    return model_of(*nodes, *readers(), half=[2**16], less=[2**16 - 1], zero=[0])


def by_number() -> ir.Model:
    """Each is short enough; there are many."""
    nodes = [helper.make_node("Add", ["v", "v"], [f"a{i}"]) for i in range(5000)]
    return model_of(filled("size"), *nodes, size=[2**16 - 1])


ATTACKS = [
    by_a_constant,
    by_elements,
    by_doubling,
    by_doubling_of_elements,
    by_a_matrix,
    by_an_unknown_rank,
    by_number,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_no_long_vector_is_followed(attack: Callable[[], ir.Model]) -> None:
    model = attack()
    domains = [node.domain for node in model.graph]
    started = time.process_time()
    infer_shapes(model)
    assert time.process_time() - started < 3
    assert [node.domain for node in model.graph] == domains and set(model.opset_imports) == {""}


def test_the_target_of_an_expand() -> None:
    """As exporters write it: ones of a length that is the rank of something, times -1, where the size is to stay."""
    nodes = [
        helper.make_node("Concat", ["one", "rows", "columns"], ["target"], axis=0),
        helper.make_node("Shape", ["target"], ["rank"]),
        filled("rank", "ones"),
        helper.make_node("Mul", ["ones", "minus"], ["kept"]),
        helper.make_node("Equal", ["target", "kept"], ["is_kept"]),
        helper.make_node("Where", ["is_kept", "ones", "target"], ["sizes"]),
        helper.make_node("Expand", ["x", "sizes"], ["y"]),
    ]
    model = model_of(*nodes, one=[1], rows=[5], columns=[7], minus=[-1])
    infer_shapes(model)
    (expanded,) = [node.outputs[0] for node in model.graph if node.op_type == "Expand"]
    assert expanded.shape is not None and len(expanded.shape) == 3


def shapes(model: ir.Model) -> dict[str, str]:
    return {str(value.name): str(value.shape) for node in model.graph.all_nodes() for value in node.outputs}


@pytest.mark.parametrize("kind", ["embedded", "tiny"])
def test_as_much_as_onnx_finds(kind: str, tmp_path: Path) -> None:
    """On a model without long vectors no shape is lost to the caution."""
    folder = default_folder() if kind == "embedded" else write_folder(tmp_path / "model", layers=2)
    proto = open_folder(folder).load_onnx()
    del proto.graph.value_info[:]
    model = ir.from_proto(proto)
    infer_shapes(model)
    whole = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    ours, theirs = shapes(model), {value.name: value for value in whole.graph.value_info}
    assert len(ours) > 20
    for name, value in theirs.items():
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert ours[name].count(",") + 1 == max(len(dims), 1), name
        assert all(str(size) in ours[name] for size in dims if size), (name, ours[name], dims)


def test_elements_are_followed() -> None:
    """A Reshape to (first size of x, 6): its target is known element by element."""
    nodes = [
        helper.make_node("Shape", ["x"], ["whole"]),
        helper.make_node("Gather", ["whole", "zero"], ["rows"]),
        helper.make_node("Concat", ["rows", "six"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    model = model_of(*nodes, zero=[0], six=[6])
    infer_shapes(model)
    (reshaped,) = [node.outputs[0] for node in model.graph if node.op_type == "Reshape"]
    assert reshaped.shape is not None and reshaped.shape[1] == 6 and str(reshaped.shape[0]) == "a"
