# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the names of published files say: precision, target, which part of a model."""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = [
    "PRECISIONS",
    "data_size",
    "is_for_another_device",
    "is_part",
    "precision_of",
    "split_suffix",
    "vision_parts",
]

PRECISIONS = (
    "fp32",
    "bf16",
    "fp16",
    "int8",
    "quantized",
    "uint8",
    "q8",
    "q8f16",
    "q4",
    "int4",
    "uint4",
    "q4f16",
    "bnb4",
    "q2",
    "q2f16",
    "q1",
    "q1f16",
)
"""Words of file names for what weights are kept in, the fullest first."""

_SAME = {"float32": "fp32", "f32": "fp32", "float16": "fp16", "f16": "fp16", "half": "fp16", "bfloat16": "bf16"}
_CPU = frozenset({"cpu", "mobile"})
_OTHERS = frozenset(
    {"cuda", "gpu", "dml", "directml", "webgpu", "webnn", "qnn", "npu", "tensorrt", "trt", "rtx", "rocm", "migraphx"}
    | {"vitisai", "vitis", "ryzenai", "openvino", "coreml", "nnapi", "snapdragon"}
)
# Parts of models that take pictures, sound or a second text; a decoder beside them takes embeddings.
_VISION = re.compile(
    r"(?:embed_tokens|vision_encoder|vision|vision_embeddings|vision_projector|audio_encoder|audio|speech|"
    r"speech_encoder|prepare_inputs_embeds|embedding|embeddings|text_embeddings|multi_modal_projector|projector)"
)
_OTHER_PARTS = re.compile(
    r"(?:encoder_model|encoder|preprocess\w*|postprocess\w*|tokenizer|detokenizer|prefill|lm_head|gen_\w+|"
    r"image_decode|vocoder|draft\w*|assistant\w*|mtp|reward\w*|classifier)"
)


def _words(name: str) -> list[str]:
    words = re.split(r"[^a-z0-9]+", name.lower())
    return [_SAME.get(word, word) for word in words]


def split_suffix(stem: str) -> tuple[str, str | None]:
    """The name of a part, and the precision behind it: ``model_q4f16`` is ``model`` in ``q4f16``."""
    base, separator, last = stem.rpartition("_")
    precision = _SAME.get(last.lower(), last.lower())
    return (base, precision) if separator and precision in PRECISIONS else (stem, None)


def precision_of(path: str) -> str | None:
    """The precision that a path names, in the file's own name first and then in its folders'."""
    for part in reversed(path.removesuffix(".onnx").split("/")):
        found = [word for word in _words(part) if word in PRECISIONS]
        if found:
            return found[-1]
    return None


def is_for_another_device(path: str) -> bool:
    """Whether the names of its folders, or its own, say that it was made for something else than a processor."""
    words = set(_words(path))
    return bool(words & _OTHERS) and not words & _CPU


def is_part(stem: str) -> bool:
    """Whether a file is a part beside a decoder, and no decoder itself."""
    base = split_suffix(stem)[0].lower()
    return bool(_VISION.fullmatch(base) or _OTHER_PARTS.fullmatch(base))


def vision_parts(stems: Collection[str]) -> list[str]:
    """Those files that are parts of a model with other inputs than text."""
    return sorted(stem for stem in stems if _VISION.fullmatch(split_suffix(stem)[0].lower()))


def data_size(name: str, sizes: dict[str, int]) -> int:
    """Bytes of the files beside a model that are named after it, where exporters put external data."""
    stem = name.removesuffix(".onnx")
    own = re.compile(rf"(?:{re.escape(name)}[._]data|{re.escape(stem)}\.data|{re.escape(stem)}\.weights)[\w.-]*")
    return sum(size for other, size in sizes.items() if other != name and own.fullmatch(other))
