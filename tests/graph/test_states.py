# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""States read from graphs: by their edges, by published names, or refused by node."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from genai_iface import UnsupportedModelError
from genai_iface.graph import GraphSignature, derive_signature
from genai_iface.types import StateSpec
from tests.states.models import KINDS, build_state_model, state_options


def derive(model: onnx.ModelProto) -> GraphSignature:
    return derive_signature(ir.from_proto(model))


def graph(*mixers: str, **fields: object) -> onnx.ModelProto:
    return build_state_model(state_options(mixers, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{}, {"domain": "com.microsoft", "opset": 24}, {"anonymous": True}])
def test_a_hybrid(fields: dict[str, object]) -> None:
    signature = derive(graph(*KINDS["gated_delta"], **fields))
    assert signature.cache.states == (
        StateSpec("conv", (40, 3), "float32", 0),
        StateSpec("recurrent", (2, 6, 8), "float32", 0),
        StateSpec("conv", (40, 3), "float32", 1),
        StateSpec("recurrent", (2, 6, 8), "float32", 1),
    )
    assert len(signature.cache.layers) == 1
    assert set(signature.inputs) == {"input_ids", "write_indices", "counts", "nonpad_kv_seqlen"}
    assert all(tensor.is_counted for tensor in signature.state_tensors)
    assert signature.cache.bytes_per_row == 2 * (120 + 96) * 4
    said = {item.role: item.reason for item in signature.evidence}
    assert "picks its end for each row" in said["past conv state 0, layer 0"]
    assert "counts" in said


def test_nothing_but_states() -> None:
    signature = derive(graph(*KINDS["alone"]))
    assert signature.cache.layers == signature.cache_tensors == ()
    assert [(state.kind, state.layer) for state in signature.cache.states] == [
        ("conv", 0),
        ("recurrent", 1),
        ("recurrent", 2),
    ]
    assert signature.cache.bytes_per_token == 0
    assert signature.cache.nbytes(3, 100) == 3 * 2 * signature.cache.bytes_per_row


def test_without_counts() -> None:
    signature = derive(graph(*KINDS["gated_delta"], counted=False))
    assert "counts" not in signature.inputs
    assert not any(tensor.is_counted for tensor in signature.state_tensors)


def test_a_shift_register() -> None:
    signature = derive(graph("spelled", "attention", counted=False, style="concat", anonymous=True))
    assert signature.cache.states == (StateSpec("conv", (32, 3), "float32", 0),)
    assert any("puts new columns behind it" in item.reason for item in signature.evidence)


@pytest.mark.parametrize(
    ("mixer", "operand"),
    [("gated", 1), ("gated", 4), ("gated_delta", 4), ("gated_delta", 5), ("delta", 5), ("linear", 1)],
)
def test_a_mask_that_is_not_there_shows(mixer: str, operand: int) -> None:
    """Padding would get into a state if one of the inputs that its rule needs were not masked."""
    model = graph(mixer, "attention", "conv")
    node = next(node for node in model.graph.node if node.op_type == "LinearAttention")
    mask = next(each for each in model.graph.node if node.input[operand] in each.output)
    assert mask.op_type == "Where"
    node.input[operand] = mask.input[1]
    signature = derive(model)
    recurrent = [index for index, state in enumerate(signature.cache.states) if state.kind == "recurrent"]
    assert not signature.state_tensors[recurrent[0]].is_counted


@pytest.mark.parametrize(
    ("past", "present", "kind"),
    [
        ("past_conv.7", "present_conv.7", "conv"),
        ("past_recurrent.0", "present_recurrent.0", "recurrent"),
        ("past_ssm.0", "present_ssm.0", "recurrent"),
        ("past_key_values.0.conv_state", "present.0.conv_state", "conv"),
        ("past_key_values.0.recurrent_state", "present.0.recurrent_state", "recurrent"),
        ("past_values.0", "present_values.0", ""),
    ],
)
def test_published_names(past: str, present: str, kind: str) -> None:
    """A state whose update is spelled out: only its name and the output that follows from it are left."""
    model = graph("conv", "attention", counted=False)
    shape = ["B", 2, 6]
    model.graph.input.append(helper.make_tensor_value_info(past, TensorProto.FLOAT, shape))
    model.graph.output.append(helper.make_tensor_value_info(present, TensorProto.FLOAT, shape))
    model.graph.node.append(helper.make_node("Tanh", [past], [present], name="update"))
    if not kind:
        with pytest.raises(UnsupportedModelError, match=r"'past_values\.0'.*Tanh node 'update'"):
            derive(model)
        return
    signature = derive(model)
    assert [(state.kind, state.shape) for state in signature.cache.states][-1] == (kind, (2, 6))
    assert signature.state_tensors[-1].present == present


def drop_output(model: onnx.ModelProto) -> None:
    del model.graph.output[next(i for i, each in enumerate(model.graph.output) if "recurrent" in each.name)]


def drop_past(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "LinearAttention")
    name = node.input[3]
    node.input[3] = ""
    del model.graph.input[next(i for i, each in enumerate(model.graph.input) if each.name == name)]


def windowed(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "LinearAttention")
    node.domain = "com.microsoft"
    node.attribute.append(helper.make_attribute("state_window", 3))


def free_size(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        if "recurrent" in value.name:
            value.type.tensor_type.shape.dim[1].dim_param = "H"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_output, "present_state of the LinearAttention node .* its state would be lost"),
        (drop_past, "past_state of the LinearAttention node .* every step would begin anew"),
        (windowed, "LinearAttention node .* state_window, which keeps another kind of state"),
        (free_size, r"'past_recurrent\.0' has the sizes \(None, 6, 8\) per row"),
    ],
)
def test_what_is_not_understood_is_refused_by_node(change: Callable[[onnx.ModelProto], None], message: str) -> None:
    model = graph("gated", "attention")
    change(model)
    with pytest.raises(UnsupportedModelError, match=message):
        derive(model)
