# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""An attention for Transformers that exports as the standard TensorScatter and Attention operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sliding_window_causal_mask_function

from genai_iface.build.methods.masks import causal_mask, explicit_mask
from genai_iface.build.methods.standard_cache import OPSET, scatter
from genai_iface.build.methods.step.indexed_attention import IndexKeys, chosen
from genai_iface.build.methods.step.query_scaling import scaled_query
from genai_iface.errors import UnsupportedModelError
from genai_iface.types import CacheLayout

__all__ = ["LayerShape", "StandardAttention"]

_NAME = "onnx_standard"
# Of qk_matmul_output_mode: after scale, soft cap and mask. Revisions of the operator's text differ on 1 and 2 where
# there is a soft cap, and agree on this one where there is none.
_MASKED_SCORES = 2


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps for each token.

    Attributes:
        num_heads: The number of key/value heads.
        key_size: Size of a key.
        value_size: Size of a value.
    """

    num_heads: int
    key_size: int
    value_size: int


class StandardAttention:
    """What a traced network calls instead of its own attention and mask functions.

    It holds the tensors of the step that is being traced, because not every network hands them down. Layers
    are numbered by the order in which they call.

    Args:
        layout: The layout of the caches; that of queries follows it.
    """

    def __init__(self, layout: CacheLayout) -> None:
        self._layout = layout
        self.always_masks = False
        """Whether masks are made that say no more than causality, for a network that cannot do without."""
        self._positions = self._write_indices = torch.empty(0, dtype=torch.int64)
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._written: list[tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor]] = []
        self._shapes: list[LayerShape] = []

    @property
    def shapes(self) -> list[LayerShape]:
        """The layers that have called since the step began."""
        return list(self._shapes)

    @property
    def written(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The buffers of keys and of values after the step."""
        return [keys for _, keys, _ in self._written], [values for _, _, values in self._written]

    def begin_step(
        self,
        positions: torch.Tensor,
        write_indices: torch.Tensor,
        keys: Sequence[torch.Tensor] = (),
        values: Sequence[torch.Tensor] = (),
    ) -> None:
        """Begins a step.

        Args:
            positions: int64 (B, S), of the new tokens.
            write_indices: int64 (B,), the position of each row's first new token.
            keys: The buffers of all layers; empty to learn the shapes only.
            values: Cache buffers of the values, in the same order.
        """
        self._positions, self._write_indices = positions, write_indices
        self._buffers = list(zip(keys, values, strict=True))
        self._written, self._shapes = [], []

    @contextmanager
    def installed(self, network: Any) -> Iterator[None]:
        """Lets a network use this attention; afterwards it has its own again."""
        AttentionInterface.register(_NAME, self.attend)
        AttentionMaskInterface.register(_NAME, self.mask)
        configs = {id(part.config): part.config for part in network.modules() if hasattr(part, "config")}
        before = [(config, config._attn_implementation) for config in configs.values()]
        for config, _ in before:
            config._attn_implementation = _NAME
        try:
            yield
        finally:
            for config, implementation in before:
                config._attn_implementation = implementation

    def mask(
        self, *, kv_length: Any, mask_function: Any, allow_is_causal_skip: bool = True, **_: Any
    ) -> torch.Tensor | None:
        """Transformers' mask function: what causality and the valid lengths do not say."""
        make = explicit_mask if allow_is_causal_skip and not self.always_masks else causal_mask
        return make(mask_function, self._positions, kv_length)

    def window(self, size: int) -> torch.Tensor:
        """Boolean (B, 1, S, C): what a layer with a sliding window of so many keys may see."""
        return causal_mask(sliding_window_causal_mask_function(size), self._positions, self.capacity)

    def bias(self, slopes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Scores that fall with the distance, (B, H, S, C), to be added to those of causal attention.

        Args:
            slopes: (H,), of each head.
            dtype: Of the scores.
        """
        distances = torch.arange(self.capacity)[None, None, :] - self._positions[:, :, None]
        return (slopes[None, :, None, None] * distances[:, None]).to(dtype)

    @property
    def capacity(self) -> Any:
        """Positions of the buffers, or those of the step where there are none."""
        return self._buffers[0][0].shape[self._axis] if self._buffers else self._positions.shape[1]

    def index(self, key: torch.Tensor) -> IndexKeys:
        """Writes the keys of an indexer to a layer of their own.

        Args:
            key: (B, S, D), of the new tokens.

        Returns:
            The keys of the whole buffer, to be multiplied with queries.
        """
        fresh = key[:, None]
        if self._buffers:  # which have the type of all others, while an indexer may compute in single precision
            fresh = fresh.to(self._buffers[len(self._written)][0].dtype)
        keys, values, _ = self._write(fresh, torch.zeros_like(fresh[..., :1]))
        lengths = self._write_indices + fresh.shape[2]
        return IndexKeys(keys, values, lengths, self._layout)

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        indices: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Transformers' attention function.

        Args:
            module: The attention layer.
            query: (B, Hq, S, D).
            key: (B, Hkv, S, D), of the new tokens.
            value: (B, Hkv, S, Dv).
            attention_mask: What ``mask``, ``window`` or ``bias`` returned for the layer; floats are added to the scores
                of causal attention.
            scaling: Factor of the scores; 1 / sqrt(D) if None.
            softcap: Scores go through softcap * tanh(scores / softcap).
            s_aux: The network's attention sinks: (Hq,), one more logit of each head in the softmax.
            indices: (B, S, K), the positions that an indexer has chosen for each query; None to see all.

        Returns:
            (B, S, Hq, Dv), and no weights.
        """
        keys, values, shape = self._write(key, value)
        query = scaled_query(module, query, self._positions)
        if indices is not None and attention_mask is not None:
            attention_mask = chosen(indices, attention_mask)
        attributes: dict[str, Any] = {"is_causal": int(attention_mask is None or attention_mask.is_floating_point())}
        if scaling is not None:
            attributes["scale"] = float(scaling)
        if softcap:
            attributes["softcap"] = float(softcap)
        batch, heads, length, size = query.shape
        result: tuple[Any, ...] = (batch, heads, length, shape.value_size)
        if self._layout == "bsh":
            attributes |= {"q_num_heads": heads, "kv_num_heads": shape.num_heads}
            query = query.transpose(1, 2).reshape(batch, length, heads * size)
            result = (batch, length, heads * shape.value_size)
        inputs = (query, keys, values, attention_mask, None, None, self._write_indices + length)
        if s_aux is None:
            output = torch.onnx.ops.symbolic(
                "Attention", inputs, attributes, dtype=query.dtype, shape=result, version=OPSET
            )
        else:
            columns = (batch, heads, length, keys.shape[self._axis])
            output, scores = _with_scores((query, keys, values), inputs[3:], attributes, (result, columns))
        if self._layout == "bsh":
            output = output.reshape(batch, length, heads, shape.value_size)
        else:
            output = output.transpose(1, 2)
        if s_aux is not None:
            output = output * _share(scores, s_aux, softcap).to(output.dtype)
        # Networks that take another attention's output as a view rely on its layout.
        return output.contiguous(), None

    @property
    def _axis(self) -> int:
        """Of the positions in a buffer."""
        return 2 if self._layout == "bnsh" else 1

    def _write(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, LayerShape]:
        """The buffers that this layer reads, after the write."""
        shape = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        for (fresh_key, fresh_value), keys, values in self._written:
            # Layers that share one cache hand on the same tensors.
            if fresh_key is key and fresh_value is value:
                return keys, values, shape
        index = len(self._written)
        keys, values = key, value
        if self._buffers:
            past_keys, past_values = self._buffers[index]
            keys = scatter(past_keys, key, self._write_indices, self._layout)
            values = scatter(past_values, value, self._write_indices, self._layout)
        self._written.append(((key, value), keys, values))
        self._shapes.append(shape)
        return keys, values, shape


def _with_scores(
    read: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rest: tuple[torch.Tensor | None, ...],
    attributes: dict[str, Any],
    shapes: tuple[tuple[Any, ...], tuple[Any, ...]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention, and the masked scores (B, Hq, S, C) that its softmax was taken of."""
    query, keys, values = read
    result, columns = shapes
    output, _keys, _values, scores = torch.onnx.ops.symbolic_multi_out(
        "Attention",
        (*read, *rest),
        {**attributes, "qk_matmul_output_mode": _MASKED_SCORES},
        dtypes=(query.dtype, keys.dtype, values.dtype, query.dtype),
        shapes=(result, keys.shape, values.shape, columns),
        version=OPSET,
    )
    return output, scores


def _share(scores: torch.Tensor, sinks: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """What a sink leaves of each head's output, (B, S, Hq, 1): the keys' part of a softmax with one more column."""
    if softcap:
        raise UnsupportedModelError(
            "The network has both attention sinks and a soft cap of its scores",
            remedy="There is no standard form of this model yet.",
        )
    total = torch.logsumexp(scores.float(), dim=3)
    return torch.sigmoid(total - sinks.float()[None, :, None]).transpose(1, 2)[..., None]
