# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Blocked integers for weights: the numbers, the graph, and that ONNX Runtime fuses it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai_iface import load_model
from genai_iface.errors import InvalidInputError
from genai_iface.folder import open_folder
from genai_iface.transform.quantize import _source as quantize_source
from genai_iface.transform.quantize._blocks import dequantize_blocks, quantize_blocks
from genai_iface.transform.quantize._weights import QuantizeWeights
from tests.models import write_folder

EXACT = {"session_options": {"session.qdq_matmulnbits_accuracy_level": "1"}}
FORMS = list(itertools.product((4, 8), (True, False)))
IDS = np.array([[5, 77, 200, 3, 41, 9]])


def weight(rows: int = 128, columns: int = 24, seed: int = 0) -> np.ndarray:
    array = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    array[:32, 3] = 0  # a block without a range
    array[:32, 4] = np.abs(array[:32, 4])
    return array


def quantized(source: Path, target: Path, **arguments: Any) -> tuple[Path, QuantizeWeights]:
    """The folder with its weights rounded, checked."""
    folder = open_folder(source)
    model = folder.load_ir()
    rewrite = QuantizeWeights(**arguments, signature=folder.signature)
    rewrite(model)
    target.mkdir()
    ir.save(model, target / "model.onnx")
    onnx.checker.check_model(target / "model.onnx", full_check=True)
    return target, rewrite


def logits(folder: Path, backend: str = "numpy", options: Any = None) -> np.ndarray:
    model = load_model(folder, backend=backend, options=options)
    result: np.ndarray = model.forward(IDS, model.create_cache(), logits="all")
    model.close()
    return result


# The numbers.


@pytest.mark.parametrize(("bits", "symmetric"), FORMS)
@pytest.mark.parametrize("block_size", [16, 32, 128])
def test_no_weight_moves_more_than_half_a_step(bits: int, symmetric: bool, block_size: int) -> None:
    given = weight()
    parts = quantize_blocks(given, bits=bits, block_size=block_size, symmetric=symmetric)
    assert parts.scales.shape == (len(given) // block_size, given.shape[1])
    assert (parts.zero_points is None) == symmetric
    error = np.abs(dequantize_blocks(parts) - given).reshape(-1, block_size, given.shape[1])
    # The symmetric form has one integer less on the side opposite to the largest element.
    slack = 1.0 if symmetric else 0.5
    assert (error <= np.abs(parts.scales)[:, None] * (slack + 1e-3) + 1e-7).all()
    assert np.median(error / np.maximum(np.abs(parts.scales), 1e-9)[:, None]) < 0.3
    assert (dequantize_blocks(parts)[:32, 3] == 0).all()


@pytest.mark.parametrize(("bits", "symmetric"), FORMS)
def test_the_integers_use_the_whole_range(bits: int, symmetric: bool) -> None:
    integers = quantize_blocks(weight(), bits=bits, block_size=32, symmetric=symmetric).integers
    lowest = -(2 ** (bits - 1)) if symmetric else 0
    assert (integers.min(), integers.max()) == (lowest, lowest + 2**bits - 1)


@pytest.mark.parametrize("symmetric", [True, False])
def test_rounding_again_changes_nothing(symmetric: bool) -> None:
    once = dequantize_blocks(quantize_blocks(weight(), bits=4, block_size=32, symmetric=symmetric))
    twice = dequantize_blocks(quantize_blocks(once, bits=4, block_size=32, symmetric=symmetric))
    np.testing.assert_allclose(twice, once, atol=1e-6)


def test_integers_are_rounded_for_the_scale_that_is_stored() -> None:
    given = weight().astype(np.float16)
    parts = quantize_blocks(given, bits=8, block_size=32)
    assert parts.scales.dtype == np.float16
    scales = parts.scales.astype(np.float32)[:, None]
    used = np.broadcast_to(scales != 0, (4, 32, 24))
    wanted = np.rint(given.astype(np.float32).reshape(4, 32, -1) / np.where(scales == 0, 1, scales)).clip(-128, 127)
    assert (parts.integers.reshape(4, 32, -1)[used] == wanted[used]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    given = weight()
    given[7, 7] = bad
    with pytest.raises(InvalidInputError, match="'w' holds NaN or infinity"):
        quantize_blocks(given, bits=8, block_size=16, name="w")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_onnxruntimes_own_quantizer_gives_the_same_four_bit_weights(symmetric: bool, block_size: int) -> None:
    native = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    given = weight()
    theirs = native.DefaultWeightOnlyQuantizer(
        native.DefaultWeightOnlyQuantConfig(
            block_size=block_size,
            is_symmetric=symmetric,
            bits=4,
            quant_format=native.QuantFormat.QDQ,
        )
    )
    packed, scales, points = theirs.qbits_block_quant(given)
    mine = quantize_blocks(given, bits=4, block_size=block_size, symmetric=symmetric)
    np.testing.assert_allclose(mine.scales, scales, rtol=1e-6)
    integers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(given.shape).astype(np.int8)
    if symmetric:
        integers = (integers ^ 8) - 8
    else:
        zero_points = np.stack([points & 15, points >> 4], axis=-1).reshape(-1)[: scales.size].reshape(scales.shape)
        used = scales != 0  # of a block of zeros any zero point is right
        assert mine.zero_points is not None
        assert (mine.zero_points[used] == zero_points[used]).all()
    assert_same_but_for_ties(given, mine, integers)


@pytest.mark.parametrize("symmetric", [True, False])
def test_onnxruntimes_own_quantizer_gives_the_same_eight_bit_weights(symmetric: bool) -> None:
    native = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    given, block_size = weight(), 32
    theirs = native.DefaultWeightOnlyQuantizer(
        native.DefaultWeightOnlyQuantConfig(block_size=block_size, is_symmetric=symmetric, bits=8)
    )
    packed, scales, points = theirs.qbits_block_quant(given)
    mine = quantize_blocks(given, bits=8, block_size=block_size, symmetric=symmetric)
    np.testing.assert_allclose(mine.scales.T, scales, rtol=1e-6)
    integers = packed.reshape(given.shape[1], len(given)).T.astype(np.int16)
    zero_points = points.T.astype(np.int16) if not symmetric else np.int16(128)
    offset = zero_points if mine.zero_points is None else zero_points - mine.zero_points.astype(np.int16)
    integers -= np.broadcast_to(offset, mine.scales.shape).repeat(block_size, axis=0)
    assert_same_but_for_ties(given, mine, integers)


def assert_same_but_for_ties(given: np.ndarray, mine: Any, theirs: np.ndarray) -> None:
    """Equal integers, or neighbours where the quotient lies in the middle of the two."""
    block_size = len(given) // len(mine.scales)
    scales = mine.scales.repeat(block_size, axis=0)
    differs = (mine.integers.astype(int) != theirs.astype(int)) & (scales != 0)
    quotient = given / np.where(scales == 0, 1, scales)
    assert np.abs(mine.integers.astype(int) - theirs)[differs].max(initial=0) <= 1
    assert (np.abs(np.abs(quotient - np.floor(quotient)) - 0.5)[differs] < 1e-3).all()
    assert differs.mean() < 0.01


# The graph.


@pytest.mark.parametrize(("bits", "symmetric"), FORMS)
@pytest.mark.parametrize("tied", [False, True])
def test_every_backend_computes_with_the_rounded_weights(
    bits: Any, symmetric: bool, tied: bool, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "float", tied=tied, hidden=64)
    target, rewrite = quantized(source, tmp_path / "low", bits=bits, symmetric=symmetric, embedding=True)
    assert rewrite.note.count == 16  # seven matrices in each of two layers, the head, the table
    on_numpy = logits(target)
    scale = np.abs(on_numpy).max()
    assert np.abs(logits(target, "ort", EXACT) - on_numpy).max() < 1e-5 * scale
    assert np.abs(logits(source) - on_numpy).max() < (0.4 if bits == 4 else 0.03) * scale
    # The same model in floats, with the weights that the integers stand for.
    model = ir.load(target / "model.onnx")
    rounded = write_folder(tmp_path / "rounded", tied=False, hidden=64)
    floats = ir.load(rounded / "model.onnx")
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer():
            parts = [value.const_value.numpy() for value in node.inputs]
            matrix = (parts[0].astype(np.float32).reshape(parts[1].shape[0], -1, parts[1].shape[1])).copy()
            if len(parts) > 2:
                matrix -= parts[2].astype(np.float32)[:, None]
            matrix = (matrix * parts[1][:, None]).reshape(parts[0].shape)
            (user,) = [use.node for use in node.outputs[0].uses()]
            name = f"{node.inputs[0].name.removeprefix('quantized.').rsplit('.', 1)[0]}"
            if name == "embedding":
                name = "lm_head.weight"
            floats.graph.initializers[name].const_value = ir.Tensor(matrix, name=name)
            assert user.op_type == "MatMul"
    table = next(node for node in model.graph if node.op_type == "DequantizeLinear" and node is first_lookup(model))
    floats.graph.initializers["embedding"].const_value = ir.Tensor(rows_of(model, table), name="embedding")
    ir.save(floats, rounded / "model.onnx")
    assert np.abs(logits(rounded) - on_numpy).max() < 1e-5 * scale


def first_lookup(model: ir.Model) -> ir.Node:
    return next(
        node for node in model.graph if node.op_type == "DequantizeLinear" and node.inputs[0].producer() is not None
    )


def rows_of(model: ir.Model, node: ir.Node) -> np.ndarray:
    """The whole token table (V, H), from the integers that the lookup gathers."""
    axis = node.inputs[0].producer().attributes["axis"].as_int()
    parts = [value.producer().inputs[0].const_value.numpy().astype(np.float32) for value in node.inputs]
    integers, scales, *points = [part.T for part in parts] if axis == 1 else parts
    repeat = integers.shape[1] // scales.shape[1]
    for point in points:
        integers = integers - point.repeat(repeat, axis=1)
    return np.ascontiguousarray(integers * scales.repeat(repeat, axis=1))


@pytest.mark.parametrize(("bits", "symmetric"), FORMS)
@pytest.mark.parametrize("block_size", [16, 256])
def test_onnxruntime_fuses_every_product(bits: Any, symmetric: bool, block_size: int, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    source = write_folder(tmp_path / "float", hidden=256, layers=1, head_dim=64)
    target, _ = quantized(source, tmp_path / "low", bits=bits, symmetric=symmetric, block_size=block_size)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(target / "model.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("MatMulNBits") == 8
    assert not {"MatMul", "DequantizeLinear"} & set(kinds)


@pytest.mark.parametrize(
    "form",
    [
        {"style": "concat"},
        pytest.param({"style": "decomposed"}, marks=pytest.mark.slow),
        {"style": "shared", "position_ids": True},
        pytest.param({"positions": "learned"}, marks=pytest.mark.slow),
        pytest.param({"positions": "sincos"}, marks=pytest.mark.slow),
    ],
)
def test_weights_of_every_cache_style(form: dict[str, Any], tmp_path: Path) -> None:
    """Tables of positions stay as they are: only what token ids look up is a token table."""
    source = write_folder(tmp_path / "float", hidden=64, **form)
    folder = open_folder(source)
    model = folder.load_ir()
    rewrite = QuantizeWeights(8, embedding=True, signature=folder.signature)
    rewrite(model)
    assert rewrite.note.reason == "15 matrices to int8 in blocks of 32; the token table to 8 bits"
    (tmp_path / "low").mkdir()
    ir.save(model, tmp_path / "low" / "model.onnx")
    before, after = logits(source, "ort"), logits(tmp_path / "low", "ort", EXACT)
    assert 0 < np.abs(before - after).max() < 0.03 * np.abs(before).max()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scales_have_the_type_of_the_model(dtype: Any, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float", dtype=dtype, hidden=64)
    target, _ = quantized(source, tmp_path / "low", bits=8, symmetric=False, embedding=True)
    on_numpy = logits(target)
    tolerance = (0.02 if dtype == "float16" else 0.15) * np.abs(on_numpy).max()
    assert np.abs(logits(source) - on_numpy).max() < 3 * tolerance
    assert np.abs(logits(target, "ort", EXACT) - on_numpy).max() < tolerance


def integers_by_name(folder: Path) -> dict[str, str]:
    graph = ir.load(folder / "model.onnx").graph
    kinds = ("INT4", "UINT4", "INT8", "UINT8")
    return {
        name.removeprefix("quantized.").rsplit(".", 1)[0]: value.dtype.name
        for name, value in graph.initializers.items()
        if value.dtype.name in kinds and not name.endswith("zero_points")
    }


def test_patterns_choose_matrices_by_the_names_of_weights_and_nodes(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float")
    node = next(
        n.name for n in ir.load(source / "model.onnx").graph if n.op_type == "MatMul" and "1.v" in n.inputs[1].name
    )
    target, rewrite = quantized(
        source, tmp_path / "low", exclude=["0.*", node], eight_bits=["lm_head", "*.down.weight"], block_size=16
    )
    kinds = integers_by_name(target)
    assert kinds["1.q.weight"] == "INT4"
    assert kinds["1.down.weight"] == kinds["lm_head.weight"] == "INT8"
    assert not [name for name in kinds if name.startswith("0.")]
    assert "1.v.weight" not in kinds
    assert set(rewrite.kept["excluded"]) == {
        "1.v.weight",
        *(f"0.{n}.weight" for n in ("q", "k", "v", "o", "gate", "up", "down")),
    }
    assert "0.q.weight, 0.k.weight, 0.v.weight and 5 more: excluded" in rewrite.note.reason


def test_the_head_is_found_without_its_name(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float", tied=True, anonymous=True, softcap=3.0)
    target, rewrite = quantized(source, tmp_path / "low", exclude=["lm_head", "embedding"], embedding=True)
    assert rewrite.note.count == 14
    assert rewrite.kept["excluded"] == ["embedding", "embedding"]
    assert "embedding" in ir.load(target / "model.onnx").graph.initializers


def test_a_pattern_that_means_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"like 'model\.layers\.0\*'.*Names in this graph: .*0\.q\.weight"):
        quantized(write_folder(tmp_path / "float"), tmp_path / "low", exclude=["model.layers.0*"])


def test_rows_that_the_block_does_not_divide_get_smaller_blocks(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float", hidden=96, layers=1)
    target, rewrite = quantized(source, tmp_path / "low", block_size=128)
    nodes = [node for node in ir.load(target / "model.onnx").graph if node.op_type == "DequantizeLinear"]
    assert sorted(node.attributes["block_size"].as_int() for node in nodes) == [32, 32, 32, 32, 32, 32, 32, 64]
    assert "smaller blocks" in rewrite.note.reason


def test_rows_that_no_block_divides_are_kept(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float", hidden=24, layers=1)
    _, rewrite = quantized(source, tmp_path / "low", block_size=32)
    assert len(rewrite.kept["K is not a multiple of 16"]) == 6
    assert rewrite.note.count == 2  # o has K = 32, down K = 48


def test_a_tied_table_is_stored_once_in_eight_bits(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float", tied=True, hidden=64)
    target, _ = quantized(source, tmp_path / "low", bits=8, embedding=True)
    tables = [v for v in ir.load(target / "model.onnx").graph.initializers.values() if 264 in v.shape]
    assert sorted((str(v.dtype), tuple(v.shape)) for v in tables) == [("FLOAT", (2, 264)), ("INT8", (64, 264))]


def test_a_tied_table_stays_float_on_request(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float", tied=True, hidden=64)
    target, rewrite = quantized(source, tmp_path / "low", bits=4)
    assert rewrite.kept == {"a token table": ["embedding"]}
    table = ir.load(target / "model.onnx").graph.initializers["embedding"]
    assert np.array_equal(
        table.const_value.numpy(), ir.load(source / "model.onnx").graph.initializers["embedding"].const_value.numpy()
    )


def test_quantized_weights_are_left_alone_or_rounded_again_on_request(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "int8", quantize="int8", block_size=16, tied=True)
    _, left = quantized(source, tmp_path / "left", bits=4)
    assert left.note.count == 0
    assert len(left.kept["quantized already"]) == 15
    target, again = quantized(source, tmp_path / "again", bits=4, block_size=32, symmetric=False, requantize=True)
    assert again.note.count == 15
    tied, both = quantized(source, tmp_path / "tied", bits=8, symmetric=False, requantize=True)
    assert both.note.count == 16
    tables = [v for v in ir.load(tied / "model.onnx").graph.initializers.values() if 264 in v.shape]
    assert sorted(v.dtype.name for v in tables) == ["FLOAT", "UINT8", "UINT8"]  # scales, integers, zero points
    assert np.abs(logits(tied) - logits(source)).max() < 0.02 * np.abs(logits(source)).max()
    direct, _ = quantized(write_folder(tmp_path / "float", tied=True), tmp_path / "direct", bits=4, symmetric=False)
    one, other = (ir.load(path / "model.onnx").graph.initializers for path in (target, direct))
    for name in ("0.q", "1.down"):
        twice = one[f"quantized.{name}.quantized.uint4"].const_value.numpy().astype(int)
        once = other[f"quantized.{name}.weight.uint4"].const_value.numpy().astype(int)
        assert np.abs(twice - once).max() <= 1
        assert (twice == once).mean() > 0.9


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_matrices_are_read_back_in_any_orientation(flip: bool, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_source, "_SLICE_BYTES", 2048)
    random = np.random.default_rng(0)
    stored, scales = random.integers(-8, 8, (64, 96)), random.random((4, 96) if axis == 0 else (64, 6), np.float32)
    names = {"w": stored.astype(ml_dtypes.int4), "s": scales}
    values = {n: ir.Value(name=n, const_value=ir.tensor(a, name=n), shape=ir.Shape(a.shape)) for n, a in names.items()}
    graph = ir.Graph([], [], nodes=[], initializers=list(values.values()))
    node = ir.node("DequantizeLinear", list(values.values()), {"axis": axis, "block_size": 16})
    graph.append(node)
    wanted = stored * scales.repeat(16, axis=axis)
    value = node.outputs[0]
    if flip:
        turn = ir.node("Transpose", [value], {"perm": [1, 0]})
        graph.append(turn)
        value, wanted = turn.outputs[0], wanted.T
    source = quantize_source.source_of(value, quantized=True)
    assert source is not None
    assert (source.rows, source.columns) == wanted.shape
    got = np.full(wanted.shape, np.nan, np.float32)
    pieces = list(source.slices(16))
    assert len(pieces) > 3
    for rows, columns, content in pieces:
        assert rows.start % 16 == 0
        got[rows, columns] = content
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_what_is_out_of_range_is_refused() -> None:
    for arguments, words in (
        ({"bits": 3}, "bits=3"),
        ({"block_size": 48}, "block_size=48"),
        ({"block_size": 512}, "512"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            QuantizeWeights(**arguments)
    with pytest.raises(InvalidInputError, match="signature"):
        QuantizeWeights(embedding=True)


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    folder = open_folder(write_folder(tmp_path / "float"))
    model = folder.load_ir()
    model.opset_imports[""] = 20
    with pytest.raises(InvalidInputError, match="opset 20"):
        QuantizeWeights()(model)


def test_experts_of_rank_three_are_kept_and_named(tmp_path: Path) -> None:
    folder = open_folder(write_folder(tmp_path / "float"))
    model = folder.load_ir()
    weight = model.graph.initializers["1.up.weight"]
    weight.const_value = ir.Tensor(weight.const_value.numpy()[None], name=weight.name)
    rewrite = QuantizeWeights(signature=folder.signature)
    rewrite(model)
    assert rewrite.kept == {"a weight of rank 3": ["1.up.weight"], "a token table": ["embedding"]}
