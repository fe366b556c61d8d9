# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A look into a model file: what its weights and its cache are, without reading weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from genai_iface.folder._collector import collector_paused
from genai_iface.folder._files import open_root
from genai_iface.folder._load import read_model
from genai_iface.folder.adjust import adjust_graph
from genai_iface.graph.derive import derive_signature

__all__ = ["Look", "look_into", "weights_dtype"]

_WORDS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_PACKED = {"MatMulNBits": 4, "GatherBlockQuantized": 4, "QMoE": 4, "MatMulBnb4": 4}


@dataclass(frozen=True, slots=True)
class Look:
    """What a model file says.

    Attributes:
        dtype: What most of the weights are kept in, None if it is not known.
        style: The style of its cache.
        problem: Why it cannot be opened.
    """

    dtype: str | None
    style: str | None
    problem: str | None

    @property
    def precision(self) -> str | None:
        """The dtype as file names spell it."""
        return None if self.dtype is None else _WORDS.get(self.dtype, self.dtype)


def look_into(folder: Path, name: str) -> Look:
    """Reads the graph of a file.

    Raises:
        GenAIError: It is broken, or not understood.
    """
    with collector_paused():
        model = read_model(open_root(folder), name, data=False).model
        dtype = weights_dtype(model)
        adjust_graph(model)
        return Look(dtype, derive_signature(model).cache.style, None)


def weights_dtype(model: ir.Model) -> str:
    """What most bytes of the weights are: a float type, or "int8", "uint8", "int4" for integers."""
    sizes: Counter[str] = Counter()
    packed = _packed_weights(model)
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None:
            kind = packed.get(name) or tensor.dtype.name.lower()
            sizes[{"float": "float32", "uint4": "int4"}.get(kind, kind)] += tensor.nbytes
    return max(sizes, key=sizes.__getitem__, default="float32")


def _packed_weights(model: ir.Model) -> dict[str, str]:
    """Weights that lie in bytes and are of fewer bits, by the operators that read them."""
    found = {}
    for node in model.graph:
        bits = _PACKED.get(node.op_type)
        if node.domain != "com.microsoft" or bits is None:
            continue
        given = node.attributes.get("bits") or node.attributes.get("expert_weight_bits")
        width = given.value if given is not None and isinstance(given.value, int) else bits
        for value in node.inputs:
            if value is not None and value.name is not None and value.is_initializer():
                tensor = value.const_value
                if tensor is not None and tensor.dtype == ir.DataType.UINT8:
                    found[value.name] = f"int{width}"
    return found
