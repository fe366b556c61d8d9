# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What matrices are multiplied with in a text: X'X of the input of each product, added up in the graph itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from genai_iface._new_files import writing_to
from genai_iface.errors import BackendError, OutputError, UnsupportedModelError
from genai_iface.folder import ModelFolder
from genai_iface.graph._edit import Editor
from genai_iface.graph._walk import is_op
from genai_iface.graph.signature import GraphSignature
from genai_iface.memory import available_memory
from genai_iface.transform.quantize._source import source_of

__all__ = ["measure_moments", "why_not"]

Run: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[np.float32]]]
"""From graph inputs to outputs."""
Session: TypeAlias = Callable[[Path, Sequence[str]], Run]
"""From a file and names of outputs to what runs it."""

_FILE, _DATA = "model.onnx", "model.onnx.data"
_SMALL = 1024
# Bytes of moments that one run of the text collects.
_AT_ONCE = 1 << 30
# What the weights take while the graph is loaded.
_COPIES = 3
_ROLES = ("input_ids", "position_ids", "write_indices", "nonpad_kv_seqlen", "attention_mask")


def measure_moments(
    folder: ModelFolder,
    sequences: Sequence[Sequence[int]],
    /,
    *,
    session: Session | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Mapping[str, NDArray[np.float32]]:
    """Runs texts through a model.

    Args:
        folder: The float model.
        sequences: Token ids of one or more texts.
        session: Loads a graph from a file for some outputs, and gives what runs it; onnx.reference if None, which needs
            no runtime and takes its time.
        progress: Called with (sequences done, all sequences).

    Returns:
        By the name of the value that a product reads: float32 (K, K), the mean over all tokens.

    Raises:
        UnsupportedModelError: The graph has other inputs than tokens, positions and caches of keys and values.
        BackendError: What products read is not finite.
        OutputError: There is no room for temporary files.
    """
    signature = folder.signature
    _check(signature)
    groups = list(_groups(folder.load_ir(inline=False)))
    runs = len(groups) * len(sequences)
    found: dict[str, NDArray[np.float32]] = {}
    for index, names in enumerate(groups):
        with writing_to(_temporary_place()), tempfile.TemporaryDirectory(prefix="genai-iface-") as place:
            run = _prepared(folder, names, Path(place), session)
            for number, tokens in enumerate(sequences, start=1):
                for name, part in zip(names, run(_feeds(signature, tokens)), strict=True):
                    found[name] = found[name] + part if name in found else part
                if progress is not None:
                    progress(index * len(sequences) + number, runs)
    count = max(sum(map(len, sequences)), 1)
    means = {name: total / np.float32(count) for name, total in found.items()}
    for name, moments in means.items():
        if not np.isfinite(moments).all():
            raise BackendError(
                f"What the products of {name!r} are multiplied with is not finite on the calibration text",
                remedy="Check the model with genai-iface verify, or quantize with --calibration none.",
            )
    return means


def why_not(folder: ModelFolder, /) -> str | None:
    """Why a folder cannot be calibrated here, None if it can."""
    try:
        _check(folder.signature)
    except UnsupportedModelError as error:
        return error.what
    if not (folder.path / "tokenizer.json").exists():
        return "the folder has no tokenizer"
    weights = sum(file.stat().st_size for file in folder.files)
    needed, free = _COPIES * weights + 2 * _AT_ONCE, available_memory()
    if free is not None and needed > free:
        return f"running the model takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    return None


def _temporary_place() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise OutputError(
            f"Temporary files cannot be written: {error.strerror or error}",
            remedy="Set TMPDIR to a writable folder with room, or quantize with --calibration none.",
        ) from error


def _check(signature: GraphSignature) -> None:
    other = sorted(set(signature.inputs) - set(_ROLES))
    if signature.cache.style not in ("scatter", "concat") or other:
        what = f"the inputs {', '.join(other)}" if other else f"a cache of style {signature.cache.style!r}"
        raise UnsupportedModelError(
            f"Calibration does not run graphs with {what}", remedy="Quantize with --calibration none."
        )


def _groups(model: ir.Model) -> Iterator[list[str]]:
    """Names of values that products read, as many at once as their moments may take."""
    names: list[str] = []
    taken, nbytes = set[str](), 0
    for node in model.graph:
        source = source_of(node.inputs[1]) if is_op(node, "MatMul") else None
        given = node.inputs[0] if node.inputs else None
        if source is None or given is None or given.name in taken or given.name is None:
            continue
        size = 4 * source.rows**2
        if names and nbytes + size > _AT_ONCE:
            yield names
            names, nbytes = [], 0
        taken.add(given.name)
        names.append(given.name)
        nbytes += size
    if names:
        yield names


def _prepared(folder: ModelFolder, names: Sequence[str], place: Path, session: Session | None) -> Run:
    """The graph with moments as its only outputs, ready to run."""
    model = folder.load_ir(inline=False)
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs} | {v.name: v for v in graph.inputs}
    edit = Editor(graph, "moments")
    readers = {node.inputs[0].name: node for node in graph if is_op(node, "MatMul") and node.inputs[0] is not None}
    outputs = []
    for name in names:
        source = source_of(readers[name].inputs[1])
        if source is None:
            raise ValueError(f"{name!r} is read by no constant matrix")
        shape = edit.weight("rows", ir.Tensor(np.array([-1, source.rows], np.int64)))
        (wide,) = edit.before(readers[name], "Cast", [values[name]], {"to": int(ir.DataType.FLOAT)})
        (flat,) = edit.before(readers[name], "Reshape", [wide, shape])
        (turned,) = edit.before(readers[name], "Transpose", [flat], {"perm": [1, 0]})
        (product,) = edit.before(readers[name], "MatMul", [turned, flat])
        product.dtype, product.shape = ir.DataType.FLOAT, ir.Shape([source.rows, source.rows])
        outputs.append(product)
    graph.outputs[:] = outputs
    ir.save(model, place / _FILE, external_data=_DATA, size_threshold_bytes=_SMALL)
    wanted = [str(value.name) for value in outputs]
    return (session or _on_reference)(place / _FILE, wanted)


def _on_reference(path: Path, wanted: Sequence[str]) -> Run:
    evaluator = ReferenceEvaluator(str(path))

    def run(feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[np.float32]]:
        with np.errstate(all="ignore"):
            return [np.asarray(array) for array in evaluator.run(list(wanted), dict(feeds))]

    return run


def _feeds(signature: GraphSignature, tokens: Sequence[int]) -> dict[str, NDArray[Any]]:
    """One sequence from an empty cache."""
    count = len(tokens)
    roles = {
        "input_ids": np.array([tokens]),
        "position_ids": np.arange(count)[None],
        "write_indices": np.zeros(1, np.int64),
        "nonpad_kv_seqlen": np.array([count]),
        "attention_mask": np.ones((1, count), np.int64),
    }
    feeds = {name: roles[role].astype(signature.input_dtypes[role]) for role, name in signature.inputs.items()}
    for tensor in signature.cache_tensors:
        layer = signature.cache.layers[tensor.layer]
        size = layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim
        positions = 0 if signature.cache.style == "concat" else layer.capacity or count
        heads = layer.num_kv_heads
        shape = (1, heads, positions, size) if signature.cache.layout == "bnsh" else (1, positions, heads * size)
        feeds[tensor.past] = np.zeros(shape, getattr(ml_dtypes, layer.dtype, layer.dtype))
    return feeds
