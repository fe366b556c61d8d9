# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The method "export": torch.onnx.export of a network whose attention and cache are the standard operators.

The network is traced as it is, but for three things that Transformers lets one replace: the attention
function, the mask function and the cache. Where it keeps states, its convolutions and recurrences are replaced too.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch

from genai_iface.build._network_cache import cache_keyword
from genai_iface.build._reasons import lacks_operator, said_by
from genai_iface.build.methods.folded_constants import fold_constants
from genai_iface.build.methods.fuse_standard import fuse_standard
from genai_iface.build.methods.names import name_parts
from genai_iface.build.methods.quick_matching import quick_matching
from genai_iface.build.methods.rotary_context import fixed_rotary
from genai_iface.build.methods.standard_attention import LayerShape, StandardAttention
from genai_iface.build.methods.standard_cache import OPSET
from genai_iface.build.methods.step.dense_experts import dense_experts
from genai_iface.build.methods.step.indexed_attention import symbolic_minimum
from genai_iface.build.methods.step.length import AnsweredLengths
from genai_iface.build.methods.step.own_attention import own_attention
from genai_iface.build.methods.step.positions import first_position
from genai_iface.build.methods.step.query_scaling import without_own_scaling
from genai_iface.build.methods.step.real_rotary import real_rotary
from genai_iface.build.methods.tensor_names import name_tensors
from genai_iface.build.states.installed import installed_states, keeps_states, step_cache
from genai_iface.build.states.operators import STATE_OPSET
from genai_iface.build.states.step_states import StateSlot, StepStates
from genai_iface.errors import GenAIError, UnsupportedModelError
from genai_iface.graph import derive_signature
from genai_iface.transform.fuse.rotary_tables import RotaryTables
from genai_iface.types import CacheLayout

__all__ = ["decoder_arguments", "export_standard", "finished", "quiet_exporter", "traced"]

# Sizes of the traced step: no two alike and none 0 or 1, so that nothing is taken for a constant.
_BATCH, _SEQUENCE, _CAPACITY = 2, 3, 7
_STATE_IR_VERSION = 13


def export_standard(network: Any, *, layout: CacheLayout = "bnsh", context: int | None = None) -> ir.Model:
    """Traces a network into a graph with TensorScatter and Attention(nonpad_kv_seqlen).

    Args:
        network: A Transformers decoder in evaluation mode. It is given back as it was.
        layout: "bnsh" for caches (B, Hkv, C, D), "bsh" for (B, C, Hkv * D).
        context: Tokens that a sequence may have; decides between the two sets of frequencies of longrope.

    Returns:
        The model at opset 24: inputs input_ids (B, S), write_indices (B,), key_cache.i and value_cache.i of any
        capacity; outputs logits (B, S, V), updated_key_cache.i and updated_value_cache.i. Of a network that keeps
        states, at opset 27: also counts (B,), past_conv.i and past_recurrent.i, and present_conv.i and
        present_recurrent.i, with i the layer's number; without attention there are no write_indices.

    Raises:
        UnsupportedModelError: The network computes attention by itself, keeps something that neither attention nor
            the two state operators keep, or cannot be traced.
    """
    attention, states = StandardAttention(layout), StepStates()
    with (
        attention.installed(network),
        installed_states(states, network),
        fixed_rotary(network, context),
        real_rotary(network),
        without_own_scaling(network),
        symbolic_minimum(network),
        dense_experts(network),
        own_attention(attention, network),
    ):
        step = _Step(network, attention, states)
        shapes, layers, slots = _kept(step)
        arguments, dynamic = decoder_arguments(shapes, slots, layout, network.dtype)
        model = traced(step, arguments, dynamic)
    name_tensors(model, layers, [(slot.kind, slot.layer) for slot in slots])
    return finished(model, network, context, has_states=bool(slots))


def finished(model: ir.Model, network: Any, context: int | None, *, has_states: bool = False) -> ir.Model:
    """A traced model whose tensors have names, with its norms and rotations fused.

    Args:
        model: What ``traced`` gave.
        network: What was traced.
        context: Tokens that a sequence may have, None for what the checkpoint says.
        has_states: Whether it has operators of a newer opset.
    """
    fuse_standard(model)
    _count_axes_from_the_front(model)
    if has_states:
        model.opset_imports[""], model.ir_version = STATE_OPSET, _STATE_IR_VERSION
    rows = context or getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if rows is not None:
        RotaryTables(derive_signature(model), rows)(model)
    name_parts(model)
    return model


class _Step(torch.nn.Module):
    """One step as the graph has it: positions and lengths follow from write_indices."""

    def __init__(self, network: Any, attention: StandardAttention, states: StepStates) -> None:
        super().__init__()
        self.network = network
        self.attention = attention
        self.states = states
        # What has no attention has no positions either.
        parameters = inspect.signature(network.forward).parameters
        self._takes_positions = "position_ids" in parameters or not keeps_states(network)
        self._first = first_position(network)

    def forward(
        self,
        input_ids: torch.Tensor,
        write_indices: torch.Tensor,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        counts: torch.Tensor | None = None,
        past: Sequence[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        length = input_ids.shape[1]
        positions = write_indices[:, None] + torch.arange(length)[None]
        self.attention.begin_step(positions, write_indices, keys, values)
        self.states.begin_step(length, counts, past)
        capacity = keys[0].shape[2 if keys[0].ndim == 4 else 1] if keys else length
        cache = step_cache(self.network, capacity, self.states, self.attention.index)
        for layer in cache.layers:
            layer.begin_step(write_indices)
        with AnsweredLengths():
            output = self.network(
                input_ids=input_ids,
                **({"position_ids": positions + self._first} if self._takes_positions else {}),
                **cache_keyword(self.network, cache),
                use_cache=True,
            )
        return output.logits, *self.attention.written, self.states.present


def _kept(step: _Step) -> tuple[list[LayerShape], Sequence[int], list[StateSlot]]:
    """Keys and values, the layers that keep them, and states, from a step of two tokens with everything installed.

    Raises:
        UnsupportedModelError: The network computes attention by itself, or keeps states in a way of its own.
    """
    network = step.network
    name = type(network).__name__
    problem = ""
    try:
        with torch.no_grad():
            step(torch.tensor([[1, 2]]), torch.zeros(1, dtype=torch.int64), [], [])
    except (TypeError, AttributeError, RuntimeError, ValueError, LookupError, NotImplementedError) as error:
        # Older network classes expect a mask, or take no positions.
        problem = f": {said_by(error)}"
    shapes, slots = step.attention.shapes, step.states.slots
    if not problem:
        step.states.check_all_kept(name)
    if problem or not (shapes or slots):
        raise UnsupportedModelError(
            f"{name} computes attention by itself, not through Transformers' attention interface{problem}",
            remedy="Try another method: --via convert or --via mobius.",
        )
    layers = step.states.attention_layers
    return shapes, layers if len(set(layers)) == len(layers) == len(shapes) else range(len(shapes)), slots


def traced(
    module: torch.nn.Module, arguments: tuple[Any, ...], dynamic: tuple[Any, ...], *, opset: int = OPSET
) -> ir.Model:
    """torch.onnx.export, quietly, with one kind of error.

    Raises:
        UnsupportedModelError: The module cannot be traced or translated.
    """
    try:
        with quiet_exporter(), quick_matching(), torch.no_grad():
            program = _translated(module.eval(), arguments, dynamic, opset)
    except (torch.onnx.OnnxExporterError, GenAIError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, GenAIError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from None
        raise UnsupportedModelError(
            f"torch cannot export the network: {said_by(error)}",
            remedy="Try another method (--via mobius or --via convert); --debug shows the whole story.",
        ) from error
    model: ir.Model = program.model
    return model


def _translated(module: torch.nn.Module, arguments: tuple[Any, ...], dynamic: tuple[Any, ...], opset: int) -> Any:
    """The program of the exporter; where it lacks an operator, that of the module with its constants computed."""
    try:
        return torch.onnx.export(
            module, arguments, dynamo=True, opset_version=opset, dynamic_shapes=dynamic, verbose=False
        )
    except torch.onnx.OnnxExporterError as error:
        if not lacks_operator(error):
            raise
        folded = fold_constants(torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False))
        if folded is None:
            raise
    return torch.onnx.export(folded, dynamo=True, opset_version=opset, verbose=False)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without the exporter's remarks about packages that are not needed."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def decoder_arguments(
    shapes: Sequence[LayerShape], slots: Sequence[StateSlot], layout: CacheLayout, dtype: torch.dtype
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Example inputs of a step, and which of their axes are free."""
    batch, sequence, capacity = (torch.export.Dim(name) for name in ("batch", "sequence", "capacity"))

    def buffer(heads: int, size: int) -> torch.Tensor:
        shape = (_BATCH, heads, _CAPACITY, size) if layout == "bnsh" else (_BATCH, _CAPACITY, heads * size)
        return torch.zeros(shape, dtype=dtype)

    keys = [buffer(shape.num_heads, shape.key_size) for shape in shapes]
    values = [buffer(shape.num_heads, shape.value_size) for shape in shapes]
    ids = torch.ones(_BATCH, _SEQUENCE, dtype=torch.int64)
    write_indices = torch.tensor([1, 2])
    axes = {0: batch, 2 if layout == "bnsh" else 1: capacity}
    arguments = (ids, write_indices, keys, values)
    free = ({0: batch, 1: sequence}, {0: batch}, [axes] * len(keys), [axes] * len(values))
    if not slots:
        return arguments, free
    states = [torch.zeros(_BATCH, *slot.shape, dtype=slot.dtype) for slot in slots]
    counts = torch.tensor([_SEQUENCE, _SEQUENCE - 1])
    return (*arguments, counts, states), (*free, {0: batch}, [{0: batch}] * len(states))


def _count_axes_from_the_front(model: ir.Model) -> None:
    """onnx.reference takes a negative axis of ScatterElements for another one than it is."""
    for node in model.graph:
        axis, data = node.attributes.get("axis"), node.inputs[0] if node.inputs else None
        if node.op_type in ("GatherElements", "ScatterElements") and axis is not None and axis.as_int() < 0:
            output = node.outputs[0].shape
            shape = data.shape if data is not None and data.shape is not None else output
            if shape is not None:
                node.attributes["axis"] = ir.AttrInt64("axis", axis.as_int() % len(shape))
