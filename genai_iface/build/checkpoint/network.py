# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Loading the network of a checkpoint: every weight from its files, none left to chance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from genai_iface.build.checkpoint.adapter import merge_adapters
from genai_iface.build.checkpoint.configuration import network_class
from genai_iface.build.checkpoint.integers import IntegerMatrix, dequantized
from genai_iface.build.checkpoint.placement import check_placement
from genai_iface.build.checkpoint.quantization import FIELDS, Quantization, quantization_settings, read_quantized
from genai_iface.build.checkpoint.quiet import BROKEN, quiet_transformers, shortened
from genai_iface.build.checkpoint.sizes import check_layers, check_sizes
from genai_iface.build.checkpoint.source import Checkpoint
from genai_iface.build.checkpoint.text_part import text_weights
from genai_iface.build.checkpoint.weight_files import Tensors, open_tensors
from genai_iface.errors import GenAIError, InvalidInputError, UnsupportedModelError
from genai_iface.folder import refuse_own_code
from genai_iface.types import DType

__all__ = ["LoadedNetwork", "load_network"]

_EXPERTS = "batched_mm"


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network, and how it came about.

    Attributes:
        network: The Transformers network in evaluation mode.
        quantization: The integers of its weights, None if the checkpoint has floats.
        notes: What there is to know: adapters merged, weights that are no part of it.
    """

    network: Any
    quantization: Quantization | None = None
    notes: tuple[str, ...] = ()


def load_network(checkpoint: Checkpoint, dtype: DType, *, text_only: bool = False) -> LoadedNetwork:
    """The network in evaluation mode, with its plain attention and its experts in a form that can be traced.

    Args:
        checkpoint: Where it is; its adapters are merged.
        dtype: Of the weights. Quantized ones are dequantized.
        text_only: Take the decoder of text out of a network that has others beside it.

    Raises:
        InvalidInputError: Weights are missing or broken, or contradict the configuration; an adapter does not fit.
        UnsupportedModelError: It is not a decoder that Transformers knows, or quantized in a way that is not read.
    """
    if checkpoint.gguf is None:
        quantization_settings(checkpoint.folder)  # Transformers takes apart what is no object
    config = checkpoint.config()
    if checkpoint.gguf is not None:
        loaded = _from_gguf(checkpoint, config, dtype)
    else:
        loaded = _from_safetensors(checkpoint, config, dtype, text_only=text_only)
    network, notes = loaded.network.eval().requires_grad_(False), list(loaded.notes)
    if checkpoint.adapters:
        network, merged = merge_adapters(network, checkpoint.adapters)
        notes += merged
    return LoadedNetwork(network, loaded.quantization, tuple(notes))


def _from_gguf(checkpoint: Checkpoint, config: Any, dtype: DType) -> LoadedNetwork:
    file = checkpoint.folder / str(checkpoint.gguf)
    check_sizes(config, file.stat().st_size, checkpoint.name)
    check_layers(config, file)
    with _loading(checkpoint, config):
        network, loading = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            attn_implementation=_attention(config),
            experts_implementation=_EXPERTS,
            **checkpoint.gguf_option,
        )
    from genai_iface.build.gguf import read_gguf

    # Its weights are floats by now; with the mark of a quantized one Transformers saves it no more.
    if network.hf_quantizer is not None:
        network.hf_quantizer.remove_quantization_config(network)
    notes = check_placement(network, loading, checkpoint.name)
    quantization = read_gguf(checkpoint.folder / str(checkpoint.gguf), network)
    if quantization is not None:
        notes += quantization.notes
    return LoadedNetwork(network, quantization, tuple(notes))


def _from_safetensors(checkpoint: Checkpoint, config: Any, dtype: DType, *, text_only: bool) -> LoadedNetwork:
    tensors = open_tensors(checkpoint.folder)
    check_sizes(config, tensors.num_bytes, checkpoint.name)
    quantization = read_quantized(checkpoint.folder, tensors)
    whole = config
    kind, config = network_class(config, checkpoint.name, text_only=text_only)
    _forget_quantization(config)
    state = _state(tensors, quantization, kind, config, dtype)
    if config is not whole:
        state = text_weights(state)
    with _loading(checkpoint, config):
        # A path would let Transformers choose files, and look for adapters, by rules of its own.
        network, loading = kind.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            attn_implementation=_attention(config),
            experts_implementation=_EXPERTS,
        )
    notes = [*tensors.notes, *check_placement(network, loading, checkpoint.name, tensors)]
    if config is not whole:
        notes.append(
            f"the text decoder of a {whole.model_type}; {len(tensors.names) - len(state)} weights are of others"
        )
    if quantization is not None:
        notes += [*quantization.notes, *_rounded_scales(quantization, dtype)]
    return LoadedNetwork(network, quantization, tuple(notes))


@contextmanager
def _loading(checkpoint: Checkpoint, config: Any) -> Iterator[None]:
    """Turns what Transformers raises while it loads weights into errors of ours."""
    try:
        with quiet_transformers():
            yield
    except GenAIError:
        raise
    except ValueError as error:
        if checkpoint.gguf is None:
            refuse_own_code(checkpoint.folder)
        raise UnsupportedModelError(
            f"Transformers makes no causal language model of {config.model_type!r}: {shortened(error)}",
            remedy="Give the checkpoint of a decoder.",
        ) from error
    except BROKEN as error:
        raise InvalidInputError(
            f"The weights of {checkpoint.name!r} cannot be loaded: {shortened(error)}",
            remedy="Copy the checkpoint again.",
        ) from error


def _state(tensors: Tensors, quantization: Quantization | None, kind: Any, config: Any, dtype: DType) -> dict[str, Any]:
    """Every weight by its name in the checkpoint, to be read one at a time."""
    if quantization is None:
        return {name: tensors.slice(name) for name in tensors.names}
    state = {name: tensors.slice(name) for name in tensors.names if name not in quantization.used}
    with torch.device("meta"):
        parts = kind(config).named_modules()
    upright = {name for name, part in parts if isinstance(part, Conv1D)}
    for matrix in quantization.matrices:
        stem = matrix.name.removesuffix(".weight")
        is_upright = any(stem == name or name.endswith(f".{stem}") for name in upright)
        state[matrix.name] = _Dequantized(matrix, dtype, is_upright=is_upright)
    return state


class _Dequantized:
    """A float weight that is made when it is indexed, as a slice of a safetensors file is."""

    def __init__(self, matrix: IntegerMatrix, dtype: DType, *, is_upright: bool) -> None:
        self._matrix, self._dtype, self._is_upright = matrix, dtype, is_upright

    def __getitem__(self, _: Any) -> torch.Tensor:
        values = dequantized(self._matrix, self._dtype)
        return torch.from_numpy(values if self._is_upright else values.T).to(getattr(torch, self._dtype)).contiguous()


def _attention(config: Any) -> str:
    """Transformers' plain attention; that of Falcon adds ALiBi twice, to the scores and with the mask."""
    return "sdpa" if config.model_type == "falcon" and config.alibi else "eager"


def _forget_quantization(config: Any) -> None:
    """Transformers would look for the packages of the method."""
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for field in FIELDS:
            if hasattr(part, field):
                delattr(part, field)


def _rounded_scales(quantization: Quantization, dtype: DType) -> list[str]:
    types = {matrix.scale_dtype for matrix in quantization.matrices} - {dtype}
    if dtype == "float32" or not types:
        return []
    return [f"scales are {' and '.join(sorted(types))} in the checkpoint and were rounded; --dtype float32 keeps them"]
