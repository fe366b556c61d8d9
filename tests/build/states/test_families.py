# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Decoders that keep states, from checkpoints: what comes out computes what torch computes without any cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai_iface import load_model
from genai_iface.build._state_families import STATE_FAMILIES
from genai_iface.build.methods.tensor_names import name_tensors
from genai_iface.cli.main import main
from genai_iface.errors import UnsupportedModelError
from genai_iface.folder import open_folder
from tests.build.test_build import Checkpoint, built, greedy_batch, independent_greedy, made_once
from tests.marks import slow_but

_EXPRESSIBLE = [name for name, family in STATE_FAMILIES.items() if not family.inexpressible]
# A convolution, a delta rule, Mamba-2 beside attention, Mamba-1 without; the others are the slow sweep.
_QUICK = ("lfm2", "qwen3_5", "falcon_h1", "mamba")
_EXPERTS = ("qwen3_5_moe", "granitemoehybrid", "lfm2_moe")
_HALF = ("lfm2", "lfm3", "qwen3_5", "olmo_hybrid", "falcon_h1", "bamba", "mamba2", "zamba2", "mamba", "falcon_mamba")
_CONV, _BOTH = {"conv"}, {"conv", "recurrent"}
_KINDS = {"lfm2": _CONV, "lfm2_moe": _CONV, "lfm3": _CONV, "minimax": {"recurrent"}}
_WITHOUT_ATTENTION = ("mamba", "mamba2", "falcon_mamba")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return made_once(tmp_path_factory)


def difference_on(backend: str, folder: Path, result: Any) -> float:
    """Prefill, 32 tokens and a second chunk of a ragged batch, against torch; all tokens have to be equal."""
    from genai_iface.build._verify import compare

    model = load_model(folder, backend=backend)
    compared = compare(model, result.reference)
    model.close()
    assert compared.tokens_equal
    assert compared.steps == 3 * (1 + 32 + 1)
    return float(compared.difference)


@pytest.mark.parity
@pytest.mark.parametrize("family", slow_but(_QUICK, _EXPRESSIBLE))
def test_a_family_computes_what_torch_computes_without_cache(
    family: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = built(checkpoint(family), out)
    assert result.verified
    assert result.method == "export"
    assert [len(more) for more in result.reference.more] == [2, 7, 4]
    assert result.attempts[-1].comparison.difference < 1e-5
    assert difference_on("ort", out, result) < 1e-5
    signature = open_folder(out).signature
    assert signature.opset == 27
    assert {state.kind for state in signature.cache.states} == _KINDS.get(family, _BOTH)
    assert all(tensor.is_counted for tensor in signature.state_tensors)
    assert bool(signature.cache.layers) == (family not in _WITHOUT_ATTENTION)
    assert ("write_indices" in signature.inputs) == bool(signature.cache.layers)


@pytest.mark.parity
@pytest.mark.parametrize("family", slow_but((), _EXPERTS))
def test_experts_by_the_command(
    family: str, checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = checkpoint(family), tmp_path / "out"
    assert main(["build", str(source), str(out)]) == 0
    assert "verified" in capsys.readouterr().out
    prompts = [[5, 9, 17, 33, 65, 12, 3, 88, 41], [60, 61], [100]]
    expected = [independent_greedy(source, prompt, 12) for prompt in prompts]
    for backend in ("numpy", "ort"):
        assert greedy_batch(out, backend, prompts, 12) == expected


@pytest.mark.parity
@pytest.mark.parametrize("family", slow_but(("lfm2",), _HALF))
def test_half_precision_keeps_matrices_in_float32(family: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    result = built(checkpoint(family), tmp_path / "out", dtype="float16", via="export")
    assert result.verified
    assert 1e-6 < result.attempts[-1].comparison.difference < 2e-2
    states = open_folder(tmp_path / "out").signature.cache.states
    assert {state.dtype for state in states if state.kind == "recurrent"} <= {"float32"}
    assert {state.dtype for state in states if state.kind == "conv"} == {"float16"}


@pytest.mark.parity
@pytest.mark.parametrize(
    "case", slow_but(("lfm2 int4",), ["lfm2 int4", "qwen3_5 int4", "qwen3_5 int8", "falcon_h1 int8"])
)
def test_integers_are_weights_and_states_stay_floats(case: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """How far rounding leads from torch says nothing; that two runtimes go equally far does."""
    from genai_iface.build._verify import compare

    family, kind = case.split()
    result = built(checkpoint(family), tmp_path / "out", via="export", quantize=kind, block_size=16)
    assert result.verified
    exact = {"session_options": {"session.qdq_matmulnbits_accuracy_level": "1"}}
    model = load_model(tmp_path / "out", backend="ort", options=exact)
    on_ort = compare(model, result.reference)
    model.close()
    assert result.quantized.difference > 1e-3
    assert on_ort.difference == pytest.approx(result.quantized.difference, rel=1e-3)
    assert on_ort.equal_tokens == result.quantized.equal_tokens
    assert {state.dtype for state in open_folder(tmp_path / "out").signature.cache.states} == {"float32"}
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert sum(node.op_type == "DequantizeLinear" for node in graph.node) > 8


@pytest.mark.parity
def test_a_state_of_its_own_kind_is_refused_by_name(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"Layer 0 of ZayaForCausalLM keeps .* of a kind of its own"):
        built(checkpoint("zaya"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parity
def test_padding_in_a_state_does_not_pass_the_verification(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph says that padding is hidden, and hides it one token late."""
    import torch

    from genai_iface.build.states.step_states import StepStates

    def hides_late(states: StepStates, part: torch.Tensor) -> torch.Tensor:
        if states.counts is None:
            return part
        is_real = torch.arange(part.shape[1])[None] < states.counts[:, None] + 1
        return torch.where(is_real[:, :, None], part, torch.zeros((), dtype=part.dtype))

    monkeypatch.setattr(StepStates, "hide_padding", hides_late)
    with pytest.raises(UnsupportedModelError, match="differs from torch"):
        built(checkpoint("falcon_h1"), tmp_path / "out", via="export")


@pytest.mark.parity
def test_a_network_gets_its_functions_back() -> None:
    from genai_iface.build._families import tiny_model
    from genai_iface.build.states.installed import installed_states, keeps_states
    from genai_iface.build.states.step_states import StepStates

    network = tiny_model("minimax")
    module = __import__(type(tiny_model("qwen3_5")).__module__, fromlist=["*"])
    before = module.torch_chunk_gated_delta_rule, module.causal_conv1d_fn
    with installed_states(StepStates(), tiny_model("qwen3_5")), installed_states(StepStates(), network):
        assert module.torch_chunk_gated_delta_rule is not before[0]
        assert "forward" in vars(network.model.layers[0].self_attn)
    assert (module.torch_chunk_gated_delta_rule, module.causal_conv1d_fn) == before
    assert "forward" not in vars(network.model.layers[0].self_attn)
    assert keeps_states(network)
    assert not keeps_states(tiny_model("llama"))


def step_graph(layers: int, states: int, *, is_positioned: bool) -> ir.Model:
    """Inputs and outputs of an exported step, in the exporter's order."""
    ends = 2 * layers + states

    def value(name: str) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["B"]))

    inputs = [value(f"in{index}") for index in range(2 + ends + bool(states))]
    nodes = [ir.node("Identity", [inputs[0]]) for _ in range(1 + ends)]
    if is_positioned:
        nodes[0] = ir.node("Add", [inputs[0], inputs[1]])
    outputs = [node.outputs[0] for node in nodes]
    return ir.Model(ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 24}), ir_version=10)


def test_names_of_states_say_the_layer() -> None:
    model = step_graph(1, 3, is_positioned=True)
    before = list(model.graph.inputs)
    name_tensors(model, [4], [("conv", 0), ("conv", 2), ("recurrent", 2)])
    assert [value.name for value in before] == [
        *("input_ids", "write_indices", "key_cache.4", "value_cache.4", "counts"),
        *("past_conv.0", "past_conv.2", "past_recurrent.2"),
    ]
    assert [value.name for value in model.graph.inputs][2] == "counts"
    assert [value.name for value in model.graph.outputs] == [
        *("logits", "updated_key_cache.4", "updated_value_cache.4"),
        *("present_conv.0", "present_conv.2", "present_recurrent.2"),
    ]


def test_what_asks_for_no_position_has_no_write_indices() -> None:
    model = step_graph(0, 2, is_positioned=False)
    asks = ir.node("Shape", [model.graph.inputs[1]])
    model.graph.insert_before(model.graph[0], asks)
    name_tensors(model, [], [("conv", 0), ("conv", 0)])
    assert asks.inputs[0] is model.graph.inputs[0]
    assert (asks.attributes["start"].as_int(), asks.attributes["end"].as_int()) == (0, 1)
    assert [value.name for value in model.graph.inputs] == ["input_ids", "counts", "past_conv.0.0", "past_conv.0.1"]


def test_the_table_of_families_is_whole() -> None:
    assert len(_EXPRESSIBLE) >= 18
    assert set(_QUICK) | set(_EXPERTS) | set(_HALF) | set(_KINDS) <= set(_EXPRESSIBLE)
    assert all(family.notes for family in STATE_FAMILIES.values())
    assert np.unique(_EXPRESSIBLE).size == len(_EXPRESSIBLE)
