# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""From folder to folder: what is copied, that nothing half-written stays, and how much memory it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from genai_iface import load_model
from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder import open_folder
from genai_iface.transform import quantize_source
from genai_iface.transform.quantize_calibrate import calibrate, random_tokens
from genai_iface.transform.quantize_folder import quantize_folder
from tests.models import write_folder


def tensors(folder: Path) -> dict[str, np.ndarray]:
    graph = ir.load(folder / "model.onnx").graph
    return {name: value.const_value.numpy() for name, value in graph.initializers.items()}


def test_the_rest_of_the_folder_comes_along(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float", external_data=True)
    (source / "LICENSE").write_text("free")
    (source / "extra").mkdir()
    (source / "extra" / "template.jinja").write_text("{{ x }}")
    (source / "model.safetensors").write_bytes(b"much")
    (source / ".secret").write_text("hidden")
    (tmp_path / "outside.txt").write_text("not ours")
    (source / "link.txt").symlink_to(tmp_path / "outside.txt")
    report = quantize_folder(source, tmp_path / "low", bits=8)
    made = {path.relative_to(report.path).as_posix() for path in report.path.rglob("*") if path.is_file()}
    assert made == {
        *("model.onnx", "model.onnx.data", "config.json", "generation_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE", "extra/template.jinja"),
    }
    assert (report.path / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert (
        report.nbytes_before
        > report.nbytes_after
        == sum((report.path / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    )
    assert open_folder(report.path).tokenizer.encode("a") == open_folder(source).tokenizer.encode("a")
    assert "int8" in onnx.load(report.path / "model.onnx", load_external_data=False).metadata_props[0].value


def test_weights_inside_and_outside_the_file_give_the_same_model(tmp_path: Path) -> None:
    paths = []
    for name, external in (("inside", False), ("outside", True)):
        source = write_folder(tmp_path / name, external_data=external, tied=True)
        paths.append(quantize_folder(source, tmp_path / f"{name}-low").path)
    assert not (paths[0] / "model.onnx.data").exists()
    one, other = map(tensors, paths)
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert np.array_equal(array, other[name])


@pytest.mark.parametrize("arguments", [{"bits": 4}, {"bits": 8, "symmetric": False}, {"bits": 4, "symmetric": False}])
@pytest.mark.parametrize("tied", [False, True])
def test_slices_change_nothing(
    arguments: dict[str, Any], tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(tmp_path / "float", external_data=True, tied=tied, padded_vocab=0)  # an odd vocabulary
    whole = tensors(quantize_folder(source, tmp_path / "whole", **arguments).path)
    monkeypatch.setattr(quantize_source, "_SLICE_BYTES", 1024)
    sliced = tensors(quantize_folder(source, tmp_path / "sliced", **arguments).path)
    assert whole.keys() == sliced.keys()
    for name, array in whole.items():
        assert np.array_equal(array, sliced[name]), name


def test_weights_and_cache_together(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float", hidden=64)
    model = load_model(source)
    tokens = random_tokens(256, 30)
    ranges = calibrate(model, [tokens])
    report = quantize_folder(source, tmp_path / "low", bits=8, cache_ranges=ranges)
    assert [note.rewrite for note in report.notes] == ["quantize-weights", "quantize-cache"]
    logits = []
    for path, backend in ((source, "numpy"), (report.path, "numpy"), (report.path, "ort")):
        loaded = load_model(path, backend=backend)
        logits.append(loaded.forward([tokens], loaded.create_cache(), logits="all"))
    scale = np.abs(logits[0]).max()
    assert 0 < np.abs(logits[1] - logits[0]).max() < 0.1 * scale
    assert np.abs(logits[2] - logits[1]).max() < 0.05 * scale


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float")
    model = ir.load(source / "model.onnx")
    broken = model.graph.initializers["1.down.weight"]
    array = broken.const_value.numpy().copy()
    array[3, 3] = np.nan
    broken.const_value = ir.Tensor(array, name=broken.name)
    ir.save(model, source / "model.onnx")
    with pytest.raises(InvalidInputError, match=r"'1\.down\.weight' holds NaN"):
        quantize_folder(source, tmp_path / "low")
    assert [path.name for path in tmp_path.iterdir()] == ["float"]
    # The remedy works.
    quantize_folder(source, tmp_path / "low", exclude=["1.down.weight"])


def test_nothing_is_left_of_an_interruption(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert list(tmp_path.glob(".low.*.tmp/*"))
        raise KeyboardInterrupt

    source = write_folder(tmp_path / "float", external_data=True)
    with pytest.raises(KeyboardInterrupt):
        quantize_folder(source, tmp_path / "low", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["float"]


def test_targets_that_would_lose_something_are_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    for target, words in (("full", "exists already"), ("float", "is or lies in"), ("float/low", "is or lies in")):
        with pytest.raises(InvalidInputError, match=words):
            quantize_folder(source, tmp_path / target)
    (tmp_path / "empty").mkdir()
    assert quantize_folder(source, tmp_path / "empty").path == tmp_path / "empty"
    with pytest.raises(InvalidInputError, match="nothing to do"):
        quantize_folder(source, tmp_path / "none", bits=None)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "float")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="cannot be made"):
        quantize_folder(source, tmp_path / "file" / "low")


def test_quantised_folders_are_refused(tmp_path: Path) -> None:
    once = quantize_folder(write_folder(tmp_path / "float"), tmp_path / "once").path
    with pytest.raises(InvalidInputError, match=r"no weights to quantise.*quantised already.*--allow-requantize"):
        quantize_folder(once, tmp_path / "twice")
    report = quantize_folder(once, tmp_path / "twice", bits=8, requantize=True)
    assert "15 matrices to int8" in report.notes[0].reason
    concat = write_folder(tmp_path / "concat", style="concat")
    with pytest.raises(UnsupportedModelError, match="style 'concat'"):
        quantize_folder(concat, tmp_path / "low", cache_ranges=[])


def test_progress_counts_tensors(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = write_folder(tmp_path / "float", external_data=True)
    quantize_folder(source, tmp_path / "low", progress=lambda *at: seen.append(at))
    assert seen == [(count, len(seen)) for count in range(1, len(seen) + 1)]
    assert len(seen) > 2


# Memory.


def write_llama(path: Path, *, layers: int, hidden: int, inner: int, vocab: int, sparse: bool) -> Path:
    """A decoder of real proportions whose matrices lie in one external file, random or a hole of zeros."""
    heads, head_dim, kv = hidden // 64, 64, hidden // 4 // 64
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []
    path.mkdir(parents=True)
    offset = 0

    def matrix(name: str, *shape: int) -> str:
        nonlocal offset
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        size = 4 * int(np.prod(shape))
        for key, value in (("location", "model.onnx.data"), ("offset", str(offset)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        offset += size
        weights.append(tensor)
        return name

    def op(kind: str, inputs: list[str], out: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [out], name=f"node.{out}", **attributes))
        return out

    def linear(x: str, name: str, rows: int, columns: int) -> str:
        return op("MatMul", [x, matrix(f"{name}.weight", rows, columns)], f"{name}.out")

    caches, presents = [], []
    norm = helper.make_tensor("norm", TensorProto.FLOAT, [hidden], np.ones(hidden, np.float32))
    x = op("Gather", [matrix("embed_tokens.weight", vocab, hidden), "input_ids"], "embedded")
    attributes = {"q_num_heads": heads, "kv_num_heads": kv, "is_causal": 1}
    for i in range(layers):
        h = op("RMSNormalization", [x, "norm"], f"{i}.h")
        q, k, v = (linear(h, f"layers.{i}.{n}", hidden, 64 * c) for n, c in (("q", heads), ("k", kv), ("v", kv)))
        for kind, update in (("key", k), ("value", v)):
            shape = ["B", "C", 64 * kv]
            caches.append(helper.make_tensor_value_info(f"past.{i}.{kind}", TensorProto.FLOAT, shape))
            presents.append(helper.make_tensor_value_info(f"present.{i}.{kind}", TensorProto.FLOAT, shape))
            op("TensorScatter", [f"past.{i}.{kind}", update, "write_indices"], f"present.{i}.{kind}", axis=1)
        a = [q, f"present.{i}.key", f"present.{i}.value", "", "", "", "nonpad"]
        x = op(
            "Add", [x, linear(op("Attention", a, f"{i}.a", **attributes), f"layers.{i}.o", hidden, hidden)], f"{i}.x"
        )
        up = linear(op("RMSNormalization", [x, "norm"], f"{i}.g"), f"layers.{i}.up", hidden, inner)
        x = op("Add", [x, linear(op("Sigmoid", [up], f"{i}.s"), f"layers.{i}.down", inner, hidden)], f"{i}.y")
    op("MatMul", [op("RMSNormalization", [x, "norm"], "last"), matrix("lm_head.weight", hidden, vocab)], "logits")
    int64 = TensorProto.INT64
    inputs = [
        helper.make_tensor_value_info("input_ids", int64, ["B", "S"]),
        helper.make_tensor_value_info("write_indices", int64, ["B"]),
        helper.make_tensor_value_info("nonpad", int64, ["B"]),
        *caches,
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "S", vocab])
    graph = helper.make_graph(nodes, "llama", inputs, [logits, *presents], [norm, *weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    assert head_dim * heads == hidden
    with (path / "model.onnx.data").open("wb") as file:
        if not sparse:
            np.random.default_rng(0).standard_normal(offset // 4, np.float32).tofile(file)
        file.truncate(offset)
    (path / "model.onnx").write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("arguments", [{"bits": 4}, {"bits": 8, "symmetric": False}])
def test_one_matrix_is_held_at_a_time(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy reports what it allocates to tracemalloc; weights are read into it, not mapped."""
    monkeypatch.setattr(quantize_source, "_SLICE_BYTES", 1 << 18)
    source = write_llama(tmp_path / "float", layers=6, hidden=512, inner=1024, vocab=2048, sparse=False)
    whole = (source / "model.onnx.data").stat().st_size
    largest = 4 * 2048 * 512
    assert whole > 10 * largest
    tracemalloc.start()
    try:
        report = quantize_folder(source, tmp_path / "low", **arguments)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The integers of the largest matrix, a byte each at most, its scales, and a slice in a few forms.
    assert peak < largest // 4 + largest // 16 + 16 * (1 << 18) < whole // 5
    ours = tensors(report.path)
    floats = tensors(source)
    name, kind = "layers.5.down", "int4" if arguments["bits"] == 4 else "uint8"
    stored = ours[f"quantised.{name}.weight.{kind}"].astype(np.float32).reshape(32, 32, 512)
    if kind == "uint8":
        stored -= ours[f"quantised.{name}.weight.zero_points"].astype(np.float32)[:, None]
    back = (stored * ours[f"quantised.{name}.weight.scales"][:, None]).reshape(1024, 512)
    error = np.abs(back - floats[f"{name}.weight"]).max()
    assert error < (0.6 if kind == "int4" else 0.03)


@pytest.mark.slow
def test_a_model_of_7b_takes_less_than_four_gigabytes(tmp_path: Path) -> None:
    """Llama-2-7B's matrices as holes in a file of 26 GB; the peak is the process's own, mapped pages included."""
    free = os.statvfs(tmp_path)
    if free.f_bavail * free.f_frsize < 6 << 30:
        pytest.skip("needs 6 GB of disk for the quantised weights")
    source = write_llama(tmp_path / "float", layers=40, hidden=4096, inner=16384, vocab=32000, sparse=True)
    assert (source / "model.onnx.data").stat().st_size > 26e9
    assert (source / "model.onnx.data").stat().st_blocks < 1024
    program = (
        "import json, resource, sys\n"
        "from genai_iface.transform.quantize_folder import quantize_folder\n"
        "report = quantize_folder(sys.argv[1], sys.argv[2], bits=4)\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "print(json.dumps([peak, report.nbytes_before, report.nbytes_after]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(source), str(tmp_path / "low")], capture_output=True, text=True, check=True
    )
    peak, before, after = json.loads(done.stdout)
    assert peak < 4 << 30
    assert after < before / 5
