# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The method "transformers": the decode graph of Transformers' own exporter, rewritten to TensorScatter."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.exporters import OnnxConfig, OnnxExporter
from transformers.exporters.utils import decompose_for_generation

from genai_iface.build._network_cache import cache_keyword
from genai_iface.build.checkpoint.quiet import quiet_transformers
from genai_iface.build.methods.convert import exportable_attention, scattered
from genai_iface.build.methods.export import quiet_exporter
from genai_iface.build.methods.rotary_context import fixed_rotary
from genai_iface.errors import UnsupportedModelError
from genai_iface.graph import derive_signature
from genai_iface.types import CacheLayout

__all__ = ["export_with_transformers"]

_OPSET = 23  # their default is older and has no Attention
# What torch, onnxscript and their patches of both raise on the way.
_FAILED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def export_with_transformers(network: Any, *, layout: CacheLayout = "bnsh", context: int | None = None) -> ir.Model:
    """Exports a network with ``OnnxExporter`` and rewrites its cache.

    Args:
        network: A Transformers decoder in evaluation mode.
        layout: Only "bnsh": Transformers keeps heads apart.
        context: The most tokens of a sequence, None for what the checkpoint says.

    Raises:
        UnsupportedModelError: It cannot be exported, or its cache cannot be rewritten.
    """
    if layout != "bnsh":
        raise UnsupportedModelError(
            'The method "transformers" gives the layout bnsh only', remedy="Leave --layout out, or take --via mobius."
        )
    with quiet_transformers(), exportable_attention(network), fixed_rotary(network, context):
        try:
            with _quiet():
                model = _decode_graph(network)
        except _FAILED as error:
            deepest: BaseException = error
            while deepest.__cause__ is not None:
                deepest = deepest.__cause__
            text = " ".join(str(deepest).split())[:200]
            raise UnsupportedModelError(
                f"Transformers' exporter fails: {type(deepest).__name__}: {text}",
                remedy="Try another method (--via export); --debug shows the whole story.",
            ) from error
    for tensor in derive_signature(model).cache_tensors:
        values = {value.name: value for value in (*model.graph.inputs, *model.graph.outputs)}
        values[tensor.past].name = f"past_key_values.{tensor.layer}.{tensor.kind}"
        values[tensor.present].name = f"present.{tensor.layer}.{tensor.kind}"
    return scattered(model, network, context)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without remarks on versions and on what would be faster; what matters, the verification finds."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet_exporter(), contextlib.redirect_stdout(None):
            yield
    finally:
        logging.disable(before)


def _decode_graph(network: Any) -> ir.Model:
    """The graph for any number of tokens after any number of others.

    Raises:
        UnsupportedModelError: The network keeps something else than keys and values.
    """
    ids = torch.arange(3, 13).reshape(2, 5)  # no size that is 0 or 1, which would be taken for a constant
    mask = torch.ones_like(ids)
    mask[0, 0] = 0  # a mask of ones would be taken for none
    stages = decompose_for_generation(
        network,
        {"input_ids": ids, "attention_mask": mask},
        generation_config=GenerationConfig(do_sample=False, pad_token_id=0),
        multi_token_decode=True,
    )
    if set(stages) != {"prefill", "decode"}:
        raise UnsupportedModelError(
            f"Transformers takes {type(network).__name__} apart into {', '.join(stages)}",
            remedy="Only decoders of text can be built.",
        )
    module, inputs = stages["decode"]
    name = next(iter(cache_keyword(network, None)))
    layers = getattr(inputs.get(name), "layers", [])
    if not layers or not all(isinstance(layer, DynamicLayer) for layer in layers):
        raise UnsupportedModelError(
            f"{type(network).__name__} does not keep a plain cache of keys and values",
            remedy="Try another method: --via export or --via mobius.",
        )
    # Without a configuration, so that layers with a window keep all their tokens and their window stays a mask.
    cache = DynamicCache()
    for index, layer in enumerate(layers):
        cache.update(layer.keys, layer.values, index)
    inputs[name] = cache
    exported = OnnxExporter().export(module, inputs, OnnxConfig(dynamic=True, opset_version=_OPSET))
    program: ir.Model = exported.program
    return program
