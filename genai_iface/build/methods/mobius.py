# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The method "mobius": mobius-onnx builds the graph from the configuration, without tracing.

Its graphs are small and its table of model types long. What it does not know of a model it leaves out (a sliding
window, say), so the verification matters more than on the other methods.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import onnx_ir as ir

from genai_iface.build._reasons import FAILED, said_by
from genai_iface.build.checkpoint import Checkpoint, quiet_transformers
from genai_iface.errors import UnsupportedModelError
from genai_iface.graph import derive_signature
from genai_iface.transform.cache.bnsh_cache import BnshCache
from genai_iface.transform.cache.symbolic_capacity import SymbolicCapacity
from genai_iface.transform.rewrite import Rewrite
from genai_iface.types import CacheLayout, DType

__all__ = ["build_with_mobius"]

_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_PROVIDER = "onnx-standard"


def build_with_mobius(
    checkpoint: Checkpoint, *, dtype: DType, layout: CacheLayout = "bnsh", context: int | None = None
) -> ir.Model:
    """Builds the graph of a checkpoint, frees its capacity and gives its cache the layout.

    Args:
        checkpoint: A folder or a GGUF file.
        dtype: Of weights and cache.
        layout: mobius-onnx writes "bsh"; for "bnsh" the graph is rewritten.
        context: Rows of the position tables; the checkpoint's own number if None.

    Raises:
        UnsupportedModelError: mobius-onnx cannot build it, or the graph cannot be rewritten.
    """
    try:
        with _quiet():
            package = _package(checkpoint, dtype, context)
    except FAILED as error:
        # A failed pass says only at which step; what caused it says why.
        raise UnsupportedModelError(
            f"mobius-onnx cannot build {checkpoint.name!r}: {said_by(error)}",
            remedy="Try another method: --via export or --via convert.",
        ) from error
    if len(package) != 1:
        raise UnsupportedModelError(
            f"mobius-onnx makes {len(package)} models of {checkpoint.name!r} ({', '.join(package)}), expected one",
            remedy="Only decoders of text can be built.",
        )
    model: ir.Model = next(iter(package.values()))
    _rewritten(model, SymbolicCapacity(derive_signature(model)))
    if layout == "bnsh" and derive_signature(model).cache.layout == "bsh":
        _rewritten(model, BnshCache(derive_signature(model)))
    return model


def _package(checkpoint: Checkpoint, dtype: DType, context: int | None) -> Any:
    import mobius

    length = context or int(checkpoint.config().get_text_config().max_position_embeddings)
    if checkpoint.gguf is not None:
        return mobius.build_from_gguf(
            checkpoint.folder / checkpoint.gguf,
            dtype=_DTYPES[dtype],
            execution_provider=_PROVIDER,
            static_cache=True,
            max_seq_len=length,
        )
    return mobius.build(
        str(checkpoint.folder),
        task=mobius.CausalLMTask(static_cache=True, max_seq_len=length),
        dtype=_DTYPES[dtype],
        execution_provider=_PROVIDER,
        trust_remote_code=False,
    )


def _rewritten(model: ir.Model, rewrite: Rewrite) -> None:
    rewrite(model)
    if not rewrite.note.applied:
        raise UnsupportedModelError(
            f"The graph of mobius-onnx cannot be brought into the standard form: {rewrite.note}",
            remedy="Try another method: --via export or --via convert.",
        )


@contextlib.contextmanager
def _quiet() -> Any:
    """Without its bars and warnings; what they warn of, the verification finds."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
