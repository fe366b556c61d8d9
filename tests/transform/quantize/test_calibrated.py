# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Scales by search, rounding errors that are made up for, and which matrices get 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from genai_iface.errors import InvalidInputError
from genai_iface.folder import open_folder
from genai_iface.transform.quantize import _moments, measure_moments, quantize_folder
from genai_iface.transform.quantize._blocks import dequantize_blocks, quantize_blocks
from genai_iface.transform.quantize._compensate import compensated_blocks, output_error
from genai_iface.transform.quantize._search import search_blocks
from tests.transform.quantize.test_weights import write_folder

BLOCK = 32


def weight(rows: int = 128, columns: int = 48) -> Any:
    return (np.random.default_rng(0).standard_t(5, (rows, columns)) * 0.05).astype(np.float32)


def moments(rows: int = 128) -> Any:
    """Of inputs that depend on each other and differ in size, as in networks."""
    random = np.random.default_rng(1)
    inputs = random.standard_normal((600, 12)) @ random.standard_normal((12, rows))
    inputs = (inputs + 0.3 * random.standard_normal(inputs.shape)) * np.exp(random.standard_normal(rows))
    return (inputs.T @ inputs / len(inputs)).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_scales_by_search_lose_less_in_every_block(bits: int, dtype: Any) -> None:
    matrix = weight().astype(dtype)
    wide = matrix.astype(np.float32)
    importance = np.random.default_rng(2).random(len(matrix)).astype(np.float32)
    for rows in (None, importance):
        per_row = np.ones(len(matrix)) if rows is None else rows
        lost = []
        for parts in (
            quantize_blocks(matrix, bits=bits, block_size=BLOCK),
            search_blocks(matrix, bits=bits, block_size=BLOCK, importance=rows),
        ):
            assert parts.scales.dtype == dtype
            limit = 2 ** (bits - 1)
            assert -limit <= parts.integers.min() <= parts.integers.max() < limit
            errors = np.square(dequantize_blocks(parts) - wide) * per_row[:, None]
            lost.append(errors.reshape(-1, BLOCK, matrix.shape[1]).sum(axis=1))
        assert (lost[1] <= lost[0] * 1.0001).all()
        assert lost[1].sum() < (0.93 if bits == 4 else 1.0) * lost[0].sum()


def test_blocks_of_zeros_stay_zero() -> None:
    matrix = np.zeros((64, 4), np.float32)
    matrix[40, 2] = 1
    for parts in (
        search_blocks(matrix, bits=4, block_size=BLOCK),
        compensated_blocks(matrix, np.zeros((64, 64), np.float32), bits=4, block_size=BLOCK),
    ):
        assert np.array_equal(dequantize_blocks(parts), matrix)


@pytest.mark.parametrize("bits", [4, 8])
def test_errors_are_made_up_for(bits: int) -> None:
    matrix, seen = weight(), moments()
    lost = {}
    for name, parts in {
        "nearest": quantize_blocks(matrix, bits=bits, block_size=BLOCK),
        "search": search_blocks(matrix, bits=bits, block_size=BLOCK),
        "compensated": compensated_blocks(matrix, seen, bits=bits, block_size=BLOCK),
    }.items():
        lost[name] = output_error(matrix, dequantize_blocks(parts), seen)
    assert lost["compensated"] < 0.2 * lost["search"]
    assert lost["search"] < lost["nearest"]


def test_it_loses_less_than_onnxruntimes() -> None:
    theirs = pytest.importorskip("onnxruntime.quantization.neural_compressor.weight_only")
    matrix, seen = weight(), moments()
    rounded = theirs.gptq(matrix.copy(), seen.copy(), 4, BLOCK, "sym", mse=True)
    ours = dequantize_blocks(compensated_blocks(matrix, seen, bits=4, block_size=BLOCK))
    assert output_error(matrix, ours, seen) < 0.5 * output_error(matrix, rounded, seen)


def test_a_weight_that_is_no_number_is_refused() -> None:
    matrix = weight()
    matrix[5, 0] = np.nan
    with pytest.raises(InvalidInputError, match="'w' holds NaN"):
        compensated_blocks(matrix, moments(), bits=4, block_size=BLOCK, name="w")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "float", tied=True, hidden=64)


TEXTS = [[int(token) for token in np.random.default_rng(seed).integers(0, 250, 24)] for seed in range(2)]


def on_onnxruntime(path: Path, wanted: Any) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return lambda feeds: session.run(list(wanted), {name: feeds[name] for name in names})


def test_both_runtimes_measure_the_same(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(source)
    fast = measure_moments(folder, TEXTS, session=on_onnxruntime)
    # One value at a time, on onnx.reference.
    monkeypatch.setattr(_moments, "_AT_ONCE", 1)
    slow = measure_moments(folder, TEXTS[:1])
    again = measure_moments(folder, TEXTS[1:])
    assert len(fast) == len(slow) == 9  # four inputs of products in each of two layers, and the head's
    for name, value in fast.items():
        assert value.shape[0] == value.shape[1]
        np.testing.assert_allclose((slow[name] + again[name]) / 2, value, rtol=1e-4, atol=1e-5)


def kinds(folder: Path) -> dict[str, str]:
    graph = ir.load(folder / "model.onnx").graph
    return {
        name.removeprefix("quantized.").rsplit(".", 1)[0]: str(value.dtype)
        for name, value in graph.initializers.items()
        if str(value.dtype) in ("INT4", "INT8")
    }


def test_the_most_sensitive_matrices_get_eight_bits(source: Path, tmp_path: Path) -> None:
    seen = measure_moments(open_folder(source), TEXTS)
    report = quantize_folder(source, tmp_path / "some", moments=seen, share=0.3, exclude=["0.up.weight"])
    found = kinds(report.path)
    eight = {name for name, kind in found.items() if kind == "INT8"} - {"embedding"}
    weights = {name: int(np.prod(ir.load(source / "model.onnx").graph.initializers[name].shape)) for name in found}
    assert eight
    assert "0.up.weight" not in found
    part = sum(weights[name] for name in eight) / (sum(weights.values()) - weights["embedding"])
    assert 0.15 < part <= 0.3
    assert {line.name: line.bits for line in report.matrices} == {
        name: 8 if kind == "INT8" else 4 for name, kind in found.items()
    }
    none = quantize_folder(source, tmp_path / "none", moments=seen, share=0)
    assert {name for name, kind in kinds(none.path).items() if kind == "INT8"} == {"embedding"}


def test_a_tied_table_and_head_share_eight_bits(source: Path, tmp_path: Path) -> None:
    shared = quantize_folder(source, tmp_path / "shared")
    apart = quantize_folder(source, tmp_path / "apart", shared_head=False)
    tables = [v for v in ir.load(shared.path / "model.onnx").graph.initializers.values() if 264 in v.shape]
    assert sorted(str(value.dtype) for value in tables) == ["FLOAT", "INT8"]  # scales and integers
    assert shared.nbytes_after < apart.nbytes_after
    assert "scales by search" in shared.notes[0].reason
    assert max(line.error for line in shared.matrices) < 0.1
