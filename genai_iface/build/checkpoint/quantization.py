# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Quantized checkpoints: which method it is, its integers if they can be read, else one line that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genai_iface.build.checkpoint.awq import read_awq
from genai_iface.build.checkpoint.compressed import read_compressed
from genai_iface.build.checkpoint.gptq import read_gptq
from genai_iface.build.checkpoint.integers import IntegerMatrix
from genai_iface.build.checkpoint.weight_files import Tensors
from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder import read_json

__all__ = ["FIELDS", "Quantization", "quantization_settings", "read_quantized"]

FIELDS = ("quantization_config", "compression_config")
"""Where config.json says it; a model that was built has other weights, so there they are left out."""

# Files of their own, from before config.json had a place for it.
_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
_ADVICE = (
    "Build from the checkpoint that it was made of, with --quantize int4 or int8; of quantized ones GPTQ, AWQ (gemm) "
    "and compressed-tensors with integers are read."
)
# What people know them by, beside the name in the file.
_KNOWN = {
    "bitsandbytes": "bitsandbytes: nf4, fp4 or outlier-aware int8",
    "fp8": "8-bit floats with scales in blocks",
    "fbgemm_fp8": "8-bit floats",
    "mxfp4": "4-bit floats with shared exponents",
    "nvfp4": "4-bit floats with 8-bit scales",
    "mxfp8": "8-bit floats with shared exponents",
    "hqq": "half-quadratic quantization",
    "torchao": "tensor subclasses of torchao",
    "auto-round": "AutoRound's own form",
    "modelopt": "NVIDIA ModelOpt",
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """The quantized weights of a checkpoint.

    Attributes:
        method: As config.json names it.
        matrices: The weights.
        used: Tensors of the files that they are made of, or that say how to round activations.
        notes: What is not taken over.
        approximate: Weights that no integers stand for exactly, with the nearest; they are floats unless fewer bits
            are asked for.
    """

    method: str
    matrices: tuple[IntegerMatrix, ...]
    used: frozenset[str]
    notes: tuple[str, ...] = ()
    approximate: tuple[IntegerMatrix, ...] = ()


def quantization_settings(root: Path) -> Mapping[str, Any] | None:
    """What a folder says of how its weights are quantized, with the method as "quant_method"; None if nothing.

    Raises:
        InvalidInputError: It is no JSON object.
    """
    config = read_json(root, "config.json") or {}
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for field in FIELDS:
            settings = part.get(field)
            if isinstance(settings, Mapping) and settings:
                return {"quant_method": _implied(field, settings), **settings}
            if settings:
                raise InvalidInputError(
                    f"config.json of {root.name!r} has {field}={str(settings)[:60]!r}, expected an object",
                    remedy="Take config.json of the checkpoint.",
                )
    for name, method in _FILES.items():
        settings = read_json(root, name)
        if settings is not None:
            return {"quant_method": method, **settings}
    return None


def _implied(field: str, settings: Mapping[str, Any]) -> str | None:
    """The method of settings that do not name it."""
    if field == FIELDS[1]:
        return "compressed-tensors"
    return "bitsandbytes" if settings.get("load_in_4bit") or settings.get("load_in_8bit") else None


def read_quantized(root: Path, tensors: Tensors) -> Quantization | None:
    """The quantized weights of a checkpoint folder, None if its weights are floats.

    Raises:
        InvalidInputError: Settings and tensors contradict each other.
        UnsupportedModelError: The method is one that is not read; the message says which, and what to do.
    """
    settings = quantization_settings(root)
    if settings is None:
        return None
    method = str(settings.get("quant_method") or "unknown").lower()
    notes: list[str] = []
    if method == "gptq":
        matrices, used = read_gptq(tensors, settings, root.name)
    elif method == "awq":
        matrices, used = read_awq(tensors, settings, root.name)
    elif method in ("compressed-tensors", "compressed_tensors"):
        matrices, used, notes = read_compressed(tensors, settings, root.name)
    else:
        known = _KNOWN.get(method)
        raise UnsupportedModelError(
            f"The weights of {root.name!r} are quantized with {method[:40]!r}{f' ({known})' if known else ''}, which "
            "is not read",
            remedy=_ADVICE,
        )
    if not matrices:
        raise InvalidInputError(
            f"{root.name!r} says that its weights are quantized with {method!r}, but it holds no such tensors "
            f"({tensors.names[0] if tensors.names else 'no tensors at all'}, ...)",
            remedy="If its weights are plain floats, remove quantization_config from config.json.",
        )
    return Quantization(method, tuple(matrices), frozenset(used), tuple(notes))
