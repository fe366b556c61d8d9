# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Graphs with ONNX Runtime's own operators run here too: as its tools write them, with its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from genai_iface import Capability, load_model
from genai_iface.errors import UnsupportedModelError
from genai_iface.folder import open_folder
from tests.models import write_folder

IDS = np.array([[5, 77, 23, 9, 111], [64, 3, 30, 0, 0]])
COUNTS = [5, 3]


def optimized(folder: Path) -> Path:
    """The folder with the graph that ONNX Runtime saves after its own optimization."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    (folder / "optimized.onnx").replace(folder / "model.onnx")
    return folder


def quantized(folder: Path, *, bits: int = 4, symmetric: bool = True, tables: bool = True) -> Path:
    """The folder quantized by ONNX Runtime's tool, which published models come from."""
    model = onnx.load(folder / "model.onnx")
    tool = MatMulNBitsQuantizer(
        model,
        bits=bits,
        block_size=16,
        is_symmetric=symmetric,
        accuracy_level=1,
        op_types_to_quantize=("MatMul", "Gather") if tables else ("MatMul",),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    tool.process()
    onnx.save_model(tool.model.model, folder / "model.onnx")
    return folder


def contrib_operators(folder: Path) -> set[str]:
    return {node.op_type for node in onnx.load(folder / "model.onnx").graph.node if node.domain == "com.microsoft"}


def logits(folder: Path, backend: str) -> np.ndarray:
    """Of a ragged prompt, of decode steps and of a chunk."""
    model = load_model(folder, backend=backend)
    cache = model.create_cache(batch_size=2, capacity=24)
    steps = [model.forward(IDS, cache, counts=COUNTS)[:, 0].copy()]
    later = [np.full((2, 1), token) for token in (7, 8, 9)] + [np.full((2, 3), 4)]
    steps += [model.forward(tokens, cache)[:, 0].copy() for tokens in later]
    return np.stack(steps, axis=1)


def assert_same(folder: Path, *, tolerance: float = 1e-5) -> None:
    wanted, got = logits(folder, "ort"), logits(folder, "numpy")
    assert np.abs(wanted - got).max() < tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("style", ["decomposed", "concat", "concat_nodes", "shared", "scatter"])
def test_graphs_as_onnxruntime_saves_them(style: str, tmp_path: Path) -> None:
    folder = optimized(write_folder(tmp_path, style=style, position_ids=style == "shared"))
    assert "QuickGelu" in contrib_operators(folder)
    assert_same(folder)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("style", ["concat", "shared", "scatter"])
def test_graphs_as_the_quantizer_writes_them(style: str, bits: int, symmetric: bool, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, style=style, position_ids=style == "shared")
    folder = quantized(folder, bits=bits, symmetric=symmetric, tables=bits == 4)
    assert "MatMulNBits" in contrib_operators(folder)
    assert ("GatherBlockQuantized" in contrib_operators(folder)) == (bits == 4)
    assert_same(folder)


def test_a_shared_cache_does_what_others_do(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", style="shared", position_ids=True)
    model = load_model(folder)
    assert {Capability.CACHE_SHARED, Capability.IN_PLACE, Capability.REWIND} <= model.capabilities
    assert Capability.CACHE_SHARED not in load_model(write_folder(tmp_path / "other")).capabilities
    assert open_folder(folder).spec.cache.style == "shared"
    cache = model.create_cache(batch_size=2, capacity=24)
    whole = model.forward(IDS, cache, counts=COUNTS, logits="all").copy()
    assert cache.update_mode == "in_place"
    cache.rewind_to([2, 1])
    again = model.forward(IDS[:, 2:], cache, counts=[3, 0], logits="all")
    np.testing.assert_allclose(again[0], whole[0, 2:], atol=1e-5)


def test_a_cache_saved_here_is_read_by_onnxruntime(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", style="shared", position_ids=True)
    models = [load_model(folder, backend=backend) for backend in ("numpy", "ort")]
    cache = models[0].create_cache(batch_size=2)
    models[0].forward(IDS, cache, counts=COUNTS)
    models[0].save_cache(cache, tmp_path / "saved")
    other = models[1].load_cache(tmp_path / "saved")
    wanted, got = (model.forward([[7], [8]], one) for model, one in zip(models, (cache, other), strict=True))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_what_has_no_standard_form_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "Sigmoid":
            node.op_type, node.domain, node.name = "CDist", "com.microsoft", "odd"
            break
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save_model(model, folder / "model.onnx")
    with pytest.raises(UnsupportedModelError, match=r"com\.microsoft\.CDist node 'odd' has no standard form") as caught:
        load_model(folder)
    assert "ONNX Runtime backend" in str(caught.value)


def test_a_standard_graph_is_left_alone(tmp_path: Path) -> None:
    from genai_iface.transform import standardize

    folder = open_folder(write_folder(tmp_path))
    model = folder.load_ir()
    nodes: list[Any] = list(model.graph)
    assert standardize(model, folder.signature).notes == ()
    assert list(model.graph) == nodes
