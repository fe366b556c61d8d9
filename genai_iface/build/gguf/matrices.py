# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The quantized matrices of a GGUF file under the names of the network that was loaded from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFReader, ReaderTensor, dequantize, get_tensor_name_map
from numpy.typing import NDArray

from genai_iface.build.checkpoint.integers import IntegerMatrix, IntegerParts, numpy_of
from genai_iface.build.checkpoint.quantization import Quantization
from genai_iface.build.gguf.blocks import AFFINE, EXACT, GGUFParts, nearest_bytes, own_parts

__all__ = ["read_gguf"]

_FLOATS = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16, GGMLQuantizationType.F64}
# Rows whose content decides how a file orders those of queries and keys.
_SAMPLE = 8
_ROTATED = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}


def read_gguf(path: Path, network: Any) -> Quantization | None:
    """The integers of a GGUF file.

    Args:
        path: The file, which is whole.
        network: What Transformers made of it, still with the values of the file.

    Returns:
        None if all weights are floats. Matrices whose blocks have an offset that no zero point gives are in
        ``approximate``: they are floats in the network, and the nearest bytes for who wants fewer bits.
    """
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    exact, near, kinds = [], [], Counter[str]()
    for name, stored, values in _weights(reader, tensors, network):
        kind = stored.tensor_type
        if kind in _FLOATS or len(stored.shape) != 2:
            continue
        kinds[kind.name] += 1
        order = _row_order(reader, stored, values)
        if order is None:
            continue
        if kind in EXACT:
            exact.append(_matrix(name, stored, order))
        elif kind in AFFINE:
            near.append(_matrix(name, stored, order))
    if not kinds:
        return None
    found = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common())
    return Quantization("gguf", tuple(exact), frozenset(), (f"the file's matrices: {found}",), tuple(near))


def _weights(
    reader: GGUFReader, tensors: dict[str, ReaderTensor], network: Any
) -> Iterator[tuple[str, ReaderTensor, Any]]:
    """Name in the network, tensor of the file, and values of each matrix that both have."""
    architecture = str(reader.fields["general.architecture"].contents())
    arch = next((known for known, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    layers = reader.fields.get(f"{architecture}.block_count")
    if arch is None or layers is None:
        return
    names = get_tensor_name_map(arch, int(layers.contents()))
    for name, values in network.named_parameters():
        stored = names.get_name(name, try_suffixes=(".weight",))
        if stored in tensors and values.ndim == 2:
            yield name, tensors[stored], values


def _row_order(reader: GGUFReader, stored: ReaderTensor, values: Any) -> NDArray[np.int64] | None:
    """Row i of the network is row order[i] of the file; None if the network has other values.

    Files of Llama's kind hold the rows of queries and keys as pairs that rotate together, Transformers the first
    of all pairs and then the second of all.
    """
    rows = int(stored.shape[1])
    if tuple(values.shape) != (rows, int(stored.shape[0])):
        return None
    sample = numpy_of(values[:_SAMPLE].detach().cpu()).astype(np.float32)
    dtype = str(values.dtype).removeprefix("torch.")
    for order in _orders(reader, stored.name, rows):
        read = dequantize(np.ascontiguousarray(stored.data[order[:_SAMPLE]]), stored.tensor_type)
        if np.array_equal(_rounded(read, dtype), sample):
            return order
    return None


def _orders(reader: GGUFReader, name: str, rows: int) -> Iterator[NDArray[np.int64]]:
    plain = np.arange(rows, dtype=np.int64)
    yield plain
    part = name.split(".")[-2]
    architecture = reader.fields["general.architecture"].contents()
    field = reader.fields.get(f"{architecture}.{_ROTATED.get(part, '')}")
    heads = 0 if field is None else field.contents()
    if isinstance(heads, int) and heads > 0 and rows % (2 * heads) == 0:
        yield plain.reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    import ml_dtypes

    kinds: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    return values if dtype == "float32" else values.astype(kinds[dtype]).astype(np.float32)


def _matrix(name: str, stored: ReaderTensor, order: NDArray[np.int64]) -> IntegerMatrix:
    kind = stored.tensor_type
    is_exact = kind in EXACT
    form = EXACT[kind] if is_exact else AFFINE[kind]
    return IntegerMatrix(
        name,
        rows=int(stored.shape[0]),
        columns=int(stored.shape[1]),
        bits=EXACT[kind].bits if is_exact else 8,
        is_signed=is_exact,
        has_zero_points=not is_exact,
        group=form.block,
        order=None,
        scale_dtype="float32",
        read=partial(_read, stored, order),
        values=None if is_exact else partial(_values, stored, order),
    )


def _read(stored: ReaderTensor, order: NDArray[np.int64]) -> IntegerParts:
    kind = stored.tensor_type
    parts: GGUFParts = (own_parts if kind in EXACT else nearest_bytes)(stored.data, kind, stored.name)
    return IntegerParts(
        np.ascontiguousarray(parts.integers[order].T),
        np.ascontiguousarray(parts.scales[order].T),
        None if parts.zero_points is None else np.ascontiguousarray(parts.zero_points[order].T),
    )


def _values(stored: ReaderTensor, order: NDArray[np.int64]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = dequantize(stored.data, stored.tensor_type)[order].T
    return values
