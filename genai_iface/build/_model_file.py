# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writing model.onnx: checked, without traces of the machine that made it, and marked with how it was made."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir

from genai_iface.build._verify import Comparison
from genai_iface.errors import UnsupportedModelError

__all__ = ["load_saved", "mark_model", "save_model"]

_FILE, _DATA = "model.onnx", "model.onnx.data"
# Inside a message weights are in memory several times while it is written, checked and read; from a file of their own
# they are written one by one, and mapped.
_MOST_INLINE = 2**26
_PRODUCER = "genai-iface"


def save_model(model: ir.Model, folder: Path) -> None:
    """Writes a model into a folder and checks it.

    Raises:
        UnsupportedModelError: onnx.checker rejects it.
    """
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # the exporter's stack traces, with paths of this machine
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.producer_name, model.producer_version = _PRODUCER, version("genai-iface")
    model.graph.name = "decoder"
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    is_large = sum(tensor.nbytes for tensor in weights) > _MOST_INLINE
    for name in (_FILE, _DATA):
        (folder / name).unlink(missing_ok=True)
    ir.save(model, folder / _FILE, external_data=_DATA if is_large else None)
    try:
        onnx.checker.check_model(str(folder / _FILE), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UnsupportedModelError(
            f"The graph is not legal ONNX: {' '.join(str(error).split())[:300]}",
            remedy="Try another method with --via.",
        ) from error


def load_saved(folder: Path) -> ir.Model:
    """A model that ``save_model`` has written, with its weights in memory, so that it can be written there again."""
    model = ir.load(folder / _FILE)
    ir.external_data.load_to_model(model)
    return model


def mark_model(
    folder: Path, method: str, comparison: Comparison | None, *, verified: bool, quantized: Comparison | None = None
) -> None:
    """Notes in the model's metadata how it was made and whether it was verified.

    Args:
        folder: Where the model is.
        method: How it was made.
        comparison: With torch, before any quantization.
        verified: Whether that agrees.
        quantized: With torch, after the quantization.
    """
    model = onnx.load(folder / _FILE, load_external_data=False)
    facts = {"genai_iface.build_method": method, "genai_iface.verified": "true" if verified else "false"}
    if comparison is not None:
        facts["genai_iface.difference"] = f"{comparison.difference:.3g}"
    if quantized is not None:
        facts["genai_iface.quantized_difference"] = f"{quantized.difference:.3g}"
    facts |= {f"genai_iface.{name}": version(name) for name in ("torch", "transformers", "onnxscript")}
    if method == "mobius":
        facts["genai_iface.mobius-onnx"] = version("mobius-onnx")
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, folder / _FILE)
