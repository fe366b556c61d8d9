# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Quantized checkpoints keep their integers, and stand for exactly what their format says; others get one line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai_iface.errors import GenAIError, InvalidInputError, UnsupportedModelError
from tests.build.quantized_checkpoints import (
    Written,
    awq_tensors,
    byte_tensors,
    compressed_tensors,
    draw,
    gptq_tensors,
    write,
)

pytestmark = pytest.mark.parity

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


def compressed(form: str, bits: int, *, symmetric: bool, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": groups,
        "ignore": ["lm_head"],
        **more,
    }


FORMS = {
    "gptq": (GPTQ, gptq_tensors, {}),
    "gptq, no g_idx": (GPTQ, partial(gptq_tensors, g_idx=False), {}),
    "gptq v2": ({**GPTQ, "checkpoint_format": "gptq_v2"}, partial(gptq_tensors, version=2), {}),
    "gptq, act-order": ({**GPTQ, "desc_act": True}, gptq_tensors, {"order": True}),
    "gptq, 8 bits": ({**GPTQ, "bits": 8, "group_size": -1}, partial(gptq_tensors, bits=8), {"high": 255, "group": -1}),
    "gptq, 2 bits": ({**GPTQ, "bits": 2}, partial(gptq_tensors, bits=2), {"high": 3}),
    "gptq, biases": (GPTQ, gptq_tensors, {"family": "qwen2"}),
    "gptq, gpt2": (GPTQ, gptq_tensors, {"family": "gpt2", "skip": ("wte", "wpe", "lm_head")}),
    "gptq, head": (GPTQ, gptq_tensors, {"skip": ("embed_tokens", "k_proj")}),
    "awq": (AWQ, awq_tensors, {}),
    "awq, one group": ({**AWQ, "group_size": -1}, awq_tensors, {"group": -1}),
    "packed": (
        compressed("pack-quantized", 4, symmetric=True),
        compressed_tensors,
        {"low": -8, "high": 7, "symmetric": True},
    ),
    "packed, zero points": (
        compressed("pack-quantized", 4, symmetric=False),
        partial(compressed_tensors, symmetric=False),
        {"low": -8, "high": 7},
    ),
    "packed, 8 bits": (
        compressed("pack-quantized", 8, symmetric=False),
        partial(compressed_tensors, bits=8, symmetric=False),
        {"low": -128, "high": 127},
    ),
    "bytes": (
        compressed("int-quantized", 8, symmetric=False),
        partial(byte_tensors, symmetric=False),
        {"low": -128, "high": 127, "group": -1},
    ),
}


def written(form: str, path: Path) -> Written:
    settings, make, options = FORMS[form]
    return write(path, settings, make, **options)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_to_the_bit_what_the_format_says(form: str, tmp_path: Path) -> None:
    from genai_iface.build.checkpoint import load_network, open_checkpoint

    made = written(form, tmp_path)
    loaded = load_network(open_checkpoint(made.folder), "float32")
    assert loaded.quantization is not None
    found = {matrix.name: matrix for matrix in loaded.quantization.matrices}
    assert set(found) == set(made.numbers)
    for name, numbers in made.numbers.items():
        parts, order = found[name].read(), found[name].order
        rows = np.arange(found[name].rows) if order is None else order
        np.testing.assert_array_equal(parts.integers, numbers.integers[rows])
        np.testing.assert_array_equal(parts.scales, numbers.scales)
        points = np.zeros_like(numbers.zero_points) if parts.zero_points is None else parts.zero_points
        np.testing.assert_array_equal(points, numbers.zero_points)
        weight = loaded.network.get_parameter(name).numpy()
        floats = numbers.floats()
        np.testing.assert_array_equal(weight, floats if "gpt2" in form else floats.T)


def product(kind: str, weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any]) -> ir.Model:
    """x (B, K) times a constant (K, N), in the forms in which exporters write it."""
    rows, columns = weight.shape
    text = {
        "MatMul": "y = MatMul(x, w)",
        "Transpose": "t = Transpose<perm=[1, 0]>(w)  y = MatMul(x, t)",
        "Gemm": "y = Gemm(x, w, b)",
        "Gemm, transB": "y = Gemm<transB=1>(x, w, b)",
    }[kind]
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 24]> g (float[B, {rows}] x) => (float[B, {columns}] y) {{ {text} }}'
    )
    stored = np.ascontiguousarray(weight.T) if kind in ("Transpose", "Gemm, transB") else weight
    model.graph.initializer.append(onnx.numpy_helper.from_array(stored, "w"))
    if "Gemm" in kind:
        model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "b"))
    return ir.from_proto(model)


@pytest.mark.parametrize("order", [False, True], ids=["in order", "act-order"])
@pytest.mark.parametrize("kind", ["MatMul", "Transpose", "Gemm", "Gemm, transB"])
def test_integers_take_the_place_of_what_they_stand_for(kind: str, order: bool) -> None:
    from onnx.reference import ReferenceEvaluator

    from genai_iface.build._own_integers import OwnIntegers
    from genai_iface.build.checkpoint.integers import IntegerMatrix, IntegerParts

    rng = np.random.default_rng(3)
    numbers = draw(rng, 96, 8, 32, low=0, high=15, order=order)
    rows = np.argsort(numbers.group_of, kind="stable")
    parts = IntegerParts(numbers.integers[rows].astype(np.uint8), numbers.scales, numbers.zero_points.astype(np.uint8))
    matrix = IntegerMatrix("m", 96, 8, 4, False, True, 32, rows if order else None, "float16", lambda: parts)
    other = IntegerMatrix(
        "other", 96, 8, 4, False, True, 32, None, "float16", lambda: parts._replace(scales=-parts.scales)
    )
    bias = rng.standard_normal(8).astype(np.float32)
    model = product(kind, numbers.floats(), bias)
    rewrite = OwnIntegers([other, matrix], "float32")
    rewrite(model)
    assert (rewrite.note.count, rewrite.kept) == (1, ["other"])
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds == [*(["Gather"] if order else []), "DequantizeLinear", "MatMul", *(["Add"] if "Gemm" in kind else [])]
    constants = {tensor.data_type: tensor for tensor in proto.graph.initializer}
    stored = onnx.numpy_helper.to_array(constants[onnx.TensorProto.UINT4]).astype(int)
    assert stored.shape in ((96, 8), (3, 8))
    # One row picks one row of the matrix: nothing is summed, so nothing may be rounded.
    (result,) = ReferenceEvaluator(proto).run(None, {"x": np.eye(96, dtype=np.float32)})
    expected = numbers.floats() + (bias if "Gemm" in kind else np.float32(0))
    np.testing.assert_array_equal(result, expected)


def test_groups_that_no_runtime_fuses_get_blocks_that_it_does() -> None:
    from genai_iface.build._own_integers import _block
    from genai_iface.build.checkpoint.integers import IntegerMatrix

    def block(rows: int, group: int) -> int:
        return _block(IntegerMatrix("m", rows, 8, 4, False, True, group, None, "float16", lambda: None))  # type: ignore[arg-type, return-value]

    assert [block(4096, 4096), block(4096, 128), block(96, 96), block(64, 1024), block(160, 128)] == [
        128,
        128,
        32,
        64,
        32,
    ]
    assert block(30, 30) == 30  # no power of two of 16 or more: exact, and not fused


def test_a_build_has_the_integers_and_the_tokens_of_the_floats(tmp_path: Path) -> None:
    from genai_iface.build import build
    from tests.build.test_build import greedy_batch, independent_greedy

    made = written("gptq, act-order", tmp_path)
    result = build(made.folder, tmp_path / "out")
    assert result.verified
    assert result.own_integers is not None
    assert result.own_integers.difference < 1e-5
    assert "14 of 14 matrices" in " ".join(result.notes)
    initializers = {tensor.name: tensor for tensor in onnx.load(tmp_path / "out" / "model.onnx").graph.initializer}
    for name, numbers in made.numbers.items():
        stored = onnx.numpy_helper.to_array(initializers[f"integers.{name}.uint4"])
        order = np.argsort(numbers.group_of, kind="stable")
        np.testing.assert_array_equal(stored.astype(int), numbers.integers[order])
    prompts = [[5, 9, 17, 33, 65], [60]]
    expected = [independent_greedy(made.plain, prompt, 6) for prompt in prompts]
    assert greedy_batch(tmp_path / "out", "numpy", prompts, 6) == expected
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["awq", "packed, zero points", "bytes", "gptq, gpt2"])
def test_other_forms_build_too(form: str, tmp_path: Path) -> None:
    from genai_iface.build import BuildOptions, build

    made = written(form, tmp_path)
    result = build(made.folder, tmp_path / "out", BuildOptions(verify_on="ort"))
    assert result.verified
    assert result.own_integers is not None
    assert not [note for note in result.notes if "dequantized" in note]


@pytest.mark.slow
def test_mobius_gets_the_dequantized_weights(tmp_path: Path) -> None:
    from genai_iface.build import BuildOptions, build

    result = build(written("awq", tmp_path).folder, tmp_path / "out", BuildOptions(via="mobius"))
    assert (result.method, result.verified, result.own_integers is not None) == ("mobius", True, True)
    assert "14 of 14 matrices" in " ".join(result.notes)


def test_the_packages_own_code_gives_the_same(tmp_path: Path) -> None:
    """compressed-tensors unpacks what the test packed, and packs what the reader unpacks."""
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    import torch

    from genai_iface.build.checkpoint.integers import unpacked

    rng = np.random.default_rng(5)
    numbers = draw(rng, 40, 12, 40, low=-8, high=7)
    words = compressed_tensors(numbers)["weight_packed"]
    theirs = helpers.unpack_from_int32(torch.from_numpy(words), 4, torch.Size((12, 40)))
    np.testing.assert_array_equal(theirs.numpy(), numbers.integers.T)
    packed = helpers.pack_to_int32(torch.from_numpy(numbers.integers.T.astype(np.int8)), 4)
    np.testing.assert_array_equal(unpacked(packed.numpy(), 4, 1, 40).astype(int) - 8, numbers.integers.T)


REFUSED = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
    "no method": ({"load_in_8bit": True}, "'bitsandbytes'"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "'fp8'"),
    "hqq": ({"quant_method": "hqq"}, "'hqq'"),
    "torchao": ({"quant_method": "torchao"}, "'torchao'"),
    "mxfp4": ({"quant_method": "mxfp4"}, "'mxfp4'"),
    "auto-round": ({"quant_method": "auto-round", "bits": 4}, "'auto-round'"),
    "a name": ({"quant_method": "somebodys"}, "'somebodys'"),
    "gptq of floats": (GPTQ, "holds no such tensors"),
    "awq of floats": (AWQ, "holds no such tensors"),
    "marlin": ({**GPTQ, "checkpoint_format": "marlin"}, "'marlin'"),
    "gemv": ({**AWQ, "version": "gemv"}, "'gemv'"),
    "empty": (compressed("pack-quantized", 4, symmetric=True, config_groups={}), "form none"),
    "nvfp4": (compressed("nvfp4-pack-quantized", 4, symmetric=True), "nvfp4-pack-quantized"),
    "sparse": (
        compressed("pack-quantized", 4, symmetric=True, sparsity_config={"format": "sparse-24-bitmask"}),
        "sparse-24",
    ),
    "rotated": (compressed("pack-quantized", 4, symmetric=True, transform_config={"a": 1}), "rotated"),
    "no object": ("gptq", "expected an object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    from genai_iface.build._families import make_checkpoint
    from genai_iface.build.checkpoint import load_network, open_checkpoint

    settings, words = REFUSED[name]
    make_checkpoint("llama", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    with pytest.raises(GenAIError, match=words) as caught:
        load_network(open_checkpoint(tmp_path), "float32")
    assert isinstance(caught.value, InvalidInputError | UnsupportedModelError)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_activations_that_were_to_be_rounded_are_said(tmp_path: Path) -> None:
    from genai_iface.build.checkpoint import load_network, open_checkpoint

    settings = compressed("int-quantized", 8, symmetric=True)
    settings["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": True, "strategy": "token"}
    made = write(tmp_path, settings, byte_tensors, low=-128, high=127, group=-1, symmetric=True)
    (note,) = load_network(open_checkpoint(made.folder), "float32").notes
    assert "round activations" in note


def test_numbers_that_contradict_each_other(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from genai_iface.build.checkpoint import load_network, open_checkpoint

    made = written("gptq", tmp_path)
    path = made.folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.self_attn.q_proj"
    for part, changed, words in (
        ("scales", tensors[f"{name}.scales"][:1], "groups"),
        ("qzeros", tensors[f"{name}.qzeros"][:, :1], "expected"),
        ("g_idx", (np.arange(64) >= 10).astype(np.int32), "groups of equal size"),
    ):
        save_file({**tensors, f"{name}.{part}": np.ascontiguousarray(changed)}, path, {"format": "pt"})
        with pytest.raises((InvalidInputError, UnsupportedModelError), match=words):
            load_network(open_checkpoint(made.folder), "float32")
