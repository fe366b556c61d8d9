# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs that fuzzing found: each is refused with a typed error, or runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from genai_iface import (
    BackendError,
    GenAIError,
    InvalidInputError,
    TextGenerationPipeline,
    UnsupportedModelError,
    load_model,
)
from genai_iface.folder import open_folder
from tests.models import write_folder
from tools.robustness.sources import write_sources


def changed(folder: Path, change: Callable[[onnx.GraphProto], object]) -> Path:
    path = write_folder(folder / "model", layers=1) / "model.onnx"
    model = onnx.load(path)
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    return path.parent


def first(graph: onnx.GraphProto, operator: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == operator)


def no_inputs(graph: onnx.GraphProto) -> None:
    graph.node.insert(0, helper.make_node("Transpose", [], ["nothing"], perm=[1, 0]))
    first(graph, "MatMul").input[1] = "nothing"


BROKEN: dict[str, tuple[Callable[[onnx.GraphProto], object], str]] = {
    "a Transpose of nothing": (no_inputs, "Transpose node '' has 0 inputs, its operator takes 1 to 1"),
    "too many inputs": (lambda graph: first(graph, "MatMul").input.append("input_ids"), "has 3 inputs"),
    "no outputs": (lambda graph: graph.node.append(helper.make_node("Shape", ["input_ids"], [])), "has 0 outputs"),
    "an absent input": (lambda graph: first(graph, "MatMul").input.__setitem__(1, ""), "lacks its input 1"),
    "an attribute of another type": (
        lambda graph: first(graph, "TensorScatter").attribute.append(helper.make_attribute("mode", 1)),
        "is of type INT, expected STRING",
    ),
    "an attribute that must be there": (
        lambda graph: graph.node.append(helper.make_node("Concat", ["input_ids"], ["c"])),
        "lacks the attribute 'axis'",
    ),
    "too few inputs of a contrib operator": (
        lambda graph: graph.node.append(helper.make_node("MatMulNBits", ["input_ids"], ["c"], domain="com.microsoft")),
        "has 1 inputs",
    ),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_nodes_are_as_their_operators_ask(
    tmp_path: Path, change: Callable[[onnx.GraphProto], object], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        open_folder(changed(tmp_path, change))


def test_unknown_operators_and_attributes_stay_the_runtimes_matter(tmp_path: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        graph.node.append(helper.make_node("Unheard", ["input_ids"], ["a"], domain="x", of=1))
        graph.node.append(helper.make_node("Identity", ["input_ids"], ["b"], newer=1))

    assert open_folder(changed(tmp_path, change)).signature.vocab_size > 0


@pytest.mark.parametrize("backend", ["numpy", "ort"])
def test_branches_that_hand_a_value_on(tmp_path: Path, backend: str) -> None:
    """ONNX IR's elimination of Identity fails on them."""
    folder = write_sources(tmp_path)["branches"]
    plain = write_folder(tmp_path / "plain", layers=1)
    texts = []
    for path in (plain, folder):
        with TextGenerationPipeline(path, backend=backend) as pipe:
            texts.append(pipe.generate([[1, 2, 3]], max_new_tokens=4).token_ids)
    assert texts[0] == texts[1]


def test_logits_of_another_size_than_the_graph_says(tmp_path: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        logits = next(value for value in graph.output if value.name == "logits")
        logits.type.tensor_type.shape.dim[-1].dim_value += 3

    model = load_model(changed(tmp_path, change))
    with pytest.raises(BackendError, match="'logits' have the shape"):
        model.forward([[1, 2]], model.create_cache())


@pytest.mark.parametrize("kind", [AssertionError, IndexError, OverflowError, AttributeError])
def test_what_the_reference_raises_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    from onnx.reference.ops import op_identity

    def fail(*args: object, **options: object) -> None:
        raise kind("from within")

    def change(graph: onnx.GraphProto) -> None:
        maker = next(node for node in graph.node if "logits" in node.output)
        maker.output[0] = "before"
        graph.node.append(helper.make_node("Identity", ["before"], ["logits"]))

    folder = changed(tmp_path, change)
    monkeypatch.setattr(op_identity.Identity, "_run", fail)
    with pytest.raises(BackendError, match="from within"):
        model = load_model(folder)
        model.forward([[1, 2]], model.create_cache())


def test_what_a_rewrite_raises_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import genai_iface_ort.lowering.prepare

    def fail(*args: object, **options: object) -> None:
        raise IndexError("too many indices")

    monkeypatch.setattr(genai_iface_ort.lowering.prepare, "lower", fail)
    folder = write_folder(tmp_path / "model", layers=1)
    with pytest.raises(UnsupportedModelError, match="cannot be rewritten: IndexError: too many indices"):
        load_model(folder, backend="ort")
    assert load_model(folder, backend="ort", options={"optimize": "none"}) is not None


def long_vector(graph: onnx.GraphProto) -> None:
    value = next(value for value in graph.input if value.name == "write_indices")
    value.type.tensor_type.shape.dim[0].Clear()
    value.type.tensor_type.shape.dim[0].dim_value = 2**31


def long_vector_by_elements(graph: onnx.GraphProto) -> None:
    """Nothing says its length but a product of two numbers."""
    for name, number in (("half", 2**16), ("whole", 2**15)):
        graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [1], [number]))
    value = helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])
    graph.node.extend(
        [
            helper.make_node("Mul", ["half", "whole"], ["number"]),
            helper.make_node("ConstantOfShape", ["number"], ["long"], value=value),
            helper.make_node("Concat", ["long", "long"], ["longer"], axis=0),
        ]
    )


def logits_from_elsewhere(graph: onnx.GraphProto) -> None:
    maker = next(node for node in graph.node if "logits" in node.output)
    behind = next(node for node in graph.node if first(graph, "Attention").output[0] in node.input)
    maker.CopyFrom(helper.make_node("Identity", [behind.output[0]], ["logits"]))


@pytest.mark.parametrize(
    "change", [long_vector, long_vector_by_elements, logits_from_elsewhere], ids=lambda change: change.__name__
)
@pytest.mark.parametrize("backend", ["ort", "numpy"])
def test_shapes_that_no_runtime_gives(
    tmp_path: Path, backend: str, change: Callable[[onnx.GraphProto], object]
) -> None:
    """ONNX followed each of 2 ** 31 lengths; a graph that gives no logits has no shape of them."""
    folder = changed(tmp_path, change)
    started = time.process_time()
    try:
        model = load_model(folder, backend=backend)
        model.forward(np.array([[1, 2]]), model.create_cache(batch_size=1, capacity=8))
    except GenAIError as error:
        assert error.remedy
    assert time.process_time() - started < 10
