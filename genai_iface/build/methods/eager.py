# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The method "eager": a network traced with its own attention, which reads whole buffers written by TensorScatter.

For networks that compute attention in a way of their own: whatever they do between keys, values and the result (a
bias that grows with the distance, two softmaxes, heads folded into rows) becomes the standard operators that it is made
of. A mask, computed from write_indices, hides what a row does not have yet.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from transformers import AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from genai_iface.build._network_cache import cache_keyword
from genai_iface.build._reasons import said_by
from genai_iface.build.methods.export import decoder_arguments, finished, traced
from genai_iface.build.methods.masks import causal_mask
from genai_iface.build.methods.rotary_context import fixed_rotary
from genai_iface.build.methods.standard_attention import LayerShape
from genai_iface.build.methods.standard_cache import NewTokensLayer, scatter
from genai_iface.build.methods.step.dense_experts import dense_experts
from genai_iface.build.methods.step.length import AnsweredLengths
from genai_iface.build.methods.step.positions import first_position
from genai_iface.build.methods.step.real_rotary import real_rotary
from genai_iface.build.methods.tensor_names import name_tensors
from genai_iface.errors import GenAIError, UnsupportedModelError
from genai_iface.types import CacheLayout

__all__ = ["export_eager"]

_NAME = "eager"


def export_eager(network: Any, *, layout: CacheLayout = "bnsh", context: int | None = None) -> ir.Model:
    """Traces a network with its own attention over whole buffers.

    Args:
        network: A Transformers decoder in evaluation mode. It is given back as it was.
        layout: Only "bnsh": Transformers keeps heads apart.
        context: Tokens that a sequence may have.

    Returns:
        The model at opset 24, with the inputs and outputs of ``export_standard``.

    Raises:
        UnsupportedModelError: It has no cache of keys and values, or cannot be traced.
    """
    if layout != "bnsh":
        raise UnsupportedModelError(
            'The method "eager" gives the layout bnsh only', remedy="Leave --layout out, or take --via mobius."
        )
    buffers = _Buffers()
    with (
        buffers.installed(network),
        fixed_rotary(network, context),
        real_rotary(network),
        dense_experts(network),
    ):
        step = _BufferStep(network, buffers)
        shapes, layers = _kept(step)
        model = traced(step, *decoder_arguments(shapes, (), layout, network.dtype))
    name_tensors(model, layers, [])
    return finished(model, network, context)


class _Buffers:
    """The buffers of the step that is traced, and the masks over them."""

    def __init__(self) -> None:
        self.begin_step(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), (), ())

    def begin_step(
        self,
        positions: torch.Tensor,
        write_indices: torch.Tensor,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
    ) -> None:
        self._positions, self._write_indices = positions, write_indices
        self._past = list(zip(keys, values, strict=True))
        self.capacity: Any = keys[0].shape[2] if keys else positions.shape[1]
        self.written: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.layers: list[int] = []

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The buffers of a layer after the write."""
        if self._past:
            past_keys, past_values = self._past[len(self.written)]
            key = scatter(past_keys, key, self._write_indices, "bnsh")
            value = scatter(past_values, value, self._write_indices, "bnsh")
        self.written.append((key, value))
        self.layers.append(layer)
        return key, value

    def mask(self, *, mask_function: Any, dtype: torch.dtype = torch.float32, **_: Any) -> torch.Tensor:
        """Transformers' mask for its plain attention: 0 where a key may be seen, the lowest number elsewhere."""
        seen = causal_mask(mask_function, self._positions, self.capacity)
        zero, lowest = torch.zeros((), dtype=dtype), torch.full((), torch.finfo(dtype).min, dtype=dtype)
        return torch.where(seen, zero, lowest)

    def seen(self, window: int | None) -> torch.Tensor:
        """Boolean (B, 1, S, C): what a layer with this window may see."""
        function = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
        return causal_mask(function, self._positions, self.capacity)

    @contextmanager
    def installed(self, network: Any) -> Iterator[None]:
        """Lets a network take its masks from here; afterwards it has its own again."""
        before = AttentionMaskInterface()[_NAME]
        AttentionMaskInterface.register(_NAME, self.mask)
        own: list[tuple[torch.nn.Module, str]] = []
        tables: list[tuple[torch.nn.Module, torch.Tensor]] = []
        for part in network.modules():
            if hasattr(part, "build_mpt_alibi_tensor"):
                part.__dict__["build_mpt_alibi_tensor"] = _OverBuffers(self, part.build_mpt_alibi_tensor)
                own.append((part, "build_mpt_alibi_tensor"))
            if hasattr(part, "attention_type") and isinstance(getattr(part, "bias", None), torch.Tensor):
                window = part.config.window_size if part.attention_type == "local" else None
                tables.append((part, part._buffers.pop("bias")))
                part.__dict__["bias"] = _TriangleOverBuffers(self, window)
                own.append((part, "bias"))
        configs = {id(part.config): part.config for part in network.modules() if hasattr(part, "config")}
        implementations = [(config, config._attn_implementation) for config in configs.values()]
        for config, _ in implementations:
            config._attn_implementation = _NAME
        try:
            yield
        finally:
            for config, implementation in implementations:
                config._attn_implementation = implementation
            for part, name in own:
                del part.__dict__[name]
            for part, table in tables:
                part._buffers["bias"] = table
            AttentionMaskInterface.register(_NAME, before)


class _OverBuffers:
    """MPT's bias, which only grows with the distance, for as many keys as the buffers have."""

    def __init__(self, buffers: _Buffers, build: Any) -> None:
        self._buffers, self._build = buffers, build

    def __call__(self, heads: int, _: int, **rest: Any) -> torch.Tensor:
        bias: torch.Tensor = self._build(heads, self._buffers.capacity, **rest)
        return bias


class _TriangleOverBuffers:
    """GPT-Neo's table of what may be seen: rows for the last queries of a row, whatever part it is asked for."""

    def __init__(self, buffers: _Buffers, window: int | None) -> None:
        self._buffers, self._window = buffers, window

    def __getitem__(self, _: Any) -> torch.Tensor:
        return self._buffers.seen(self._window)


class _BufferLayer(NewTokensLayer):
    """A layer of the cache whose keys and values are those of the whole buffer."""

    def __init__(self, buffers: _Buffers, index: int) -> None:
        super().__init__(buffers.capacity)
        self._buffers, self._index = buffers, index

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._buffers.write(self._index, key_states, value_states)


class _BufferStep(torch.nn.Module):
    """One step with the network's own attention."""

    def __init__(self, network: Any, buffers: _Buffers) -> None:
        super().__init__()
        self.network = network
        self.kept = buffers
        self.known = inspect.signature(network.forward).parameters
        self._first = first_position(network)

    def forward(
        self,
        input_ids: torch.Tensor,
        write_indices: torch.Tensor,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        buffers = self.kept
        positions = write_indices[:, None] + torch.arange(input_ids.shape[1])[None]
        buffers.begin_step(positions, write_indices, keys, values)
        count = int(self.network.config.get_text_config().num_hidden_layers)
        cache = Cache(layers=[_BufferLayer(buffers, index) for index in range(count)])
        for layer in cache.layers:
            layer.begin_step(write_indices)
        given: dict[str, Any] = {}
        if "position_ids" in self.known:
            given["position_ids"] = positions + self._first
        if "attention_mask" in self.known:
            # Falcon takes the number of keys from it.
            given["attention_mask"] = torch.ones(input_ids.shape[0], buffers.capacity, dtype=torch.int64)
        with AnsweredLengths():
            output = self.network(input_ids=input_ids, **given, **cache_keyword(self.network, cache), use_cache=True)
        return output.logits, [keys for keys, _ in buffers.written], [values for _, values in buffers.written]


def _kept(step: _BufferStep) -> tuple[list[LayerShape], Sequence[int]]:
    """Keys and values, and the layers that keep them, from a step of two tokens."""
    name = type(step.network).__name__
    try:
        with torch.no_grad():
            _, keys, values = step(torch.tensor([[1, 2]]), torch.zeros(1, dtype=torch.int64), [], [])
    except GenAIError:
        raise
    except (TypeError, AttributeError, RuntimeError, ValueError, LookupError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"{name} does not run with a cache of whole buffers: {said_by(error)}",
            remedy="There is no standard form of this model yet.",
        ) from error
    if not keys or any(each.ndim != 4 for each in (*keys, *values)):
        raise UnsupportedModelError(
            f"{name} gives its cache no keys and values of heads", remedy="There is no standard form of this model yet."
        )
    layers = step.kept.layers
    shapes = [LayerShape(key.shape[1], key.shape[3], value.shape[3]) for key, value in zip(keys, values, strict=True)]
    return shapes, layers if len(set(layers)) == len(layers) else range(len(shapes))
