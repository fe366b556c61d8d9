# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny decoders that keep states, written node by node, and the same decoders as formulas in float64.

``write_state_folder(path, mixers=("conv", "attention"))`` writes a complete model folder. ``StateOracle`` runs a whole
sequence at once, from the weights of the graph: no cache, no state that is handed on, no padding.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from genai_iface.conformance.decoder.states import HEADS, KEY, VALUE, StateDecoder
from tests.model_files import write_config_files, write_tokenizer_files
from tests.models import _ONNX_DTYPES, NUMPY_DTYPES, ModelOptions, _Builder, _rename_edges

Mixer: TypeAlias = Literal["attention", "conv", "linear", "gated", "delta", "gated_delta", "gated_channels", "spelled"]

RULES = {"linear", "gated", "delta", "gated_delta"}
CONV_KERNEL, MIX_KERNEL = 3, 4

KINDS: dict[str, tuple[Mixer, ...]] = {
    "conv": ("conv", "attention"),
    "gated_delta": ("gated_delta", "attention", "gated_delta"),
    "gated": ("gated", "attention"),
    "alone": ("conv", "gated_channels", "delta"),
}
"""The models that most tests run: the families of one year in small."""


@dataclass(frozen=True, kw_only=True)
class StateOptions(ModelOptions):
    """What the graph looks like.

    Attributes:
        mixers: What each layer mixes tokens with. "gated_delta" has a convolution before it; "gated_channels" lets each
            key channel fade at a rate of its own; "spelled" is a convolution as Concat, Conv and Slice.
        counted: The graph has the input ``counts``, and padding leaves its states alone.
        exact: Weights and tables are numbers that float32, float16 and bfloat16 all hold.
        domain: Of the state operators.
        opset: Of the default domain.
    """

    mixers: tuple[Mixer, ...] = ("conv", "attention")
    counted: bool = True
    exact: bool = False
    domain: Literal["", "com.microsoft"] = ""
    opset: int = 27


def state_options(mixers: tuple[Mixer, ...], **fields: Any) -> StateOptions:
    return StateOptions(mixers=mixers, layers=len(mixers), **fields)


def write_state_folder(path: Path, mixers: tuple[Mixer, ...], /, **fields: Any) -> Path:
    """Writes a whole model folder and returns its path; ``fields`` are those of ``StateOptions``."""
    options = state_options(mixers, **fields)
    path.mkdir(parents=True, exist_ok=True)
    onnx.save_model(build_state_model(options), path / "model.onnx")
    write_tokenizer_files(path)
    write_config_files(path, options)
    return path


def build_state_model(options: StateOptions) -> onnx.ModelProto:
    """The graph of ``options``; checked by ``onnx.checker`` where the checker knows its operators."""
    model = _StateBuilder(options).build()
    if not options.domain:
        onnx.checker.check_model(model)
    return model


class _StateBuilder(_Builder):
    """The plumbing of a decoder, with other mixers than attention."""

    o: StateOptions

    def __init__(self, options: StateOptions) -> None:
        super().__init__(options)
        if options.exact:
            # Rounded once, in ``constant``: twice gives other numbers.
            self.dtype = np.dtype(np.float32)

    def build(self) -> onnx.ModelProto:
        o = self.o
        ids = self.input("input_ids", TensorProto.INT64, ["B", "S"])
        self.mask = ""
        attention = [layer for layer, mixer in enumerate(o.mixers) if mixer == "attention"]
        if attention and o.style == "scatter":
            self.write_indices = self.input("write_indices", TensorProto.INT64, ["B"])
            self.nonpad = self.input("nonpad_kv_seqlen", TensorProto.INT64, ["B"])
        self.length = self.op("Gather", [self.op("Shape", [ids]), self.number(1)])
        self.pasts = {layer: self.cache_inputs(layer) for layer in attention}
        if attention:
            if o.style != "scatter":
                shape = self.op("Shape", [self.pasts[attention[0]][0]])
                self.past_length = self.op("Gather", [shape, self.number(2)])
            self.position_ids = self.computed_positions(ids)
        self.bias = self.attention_bias() if attention else ""
        if o.counted:
            counts = self.op("Unsqueeze", [self.input("counts", TensorProto.INT64, ["B"]), self.vector(1)])
            steps = self.op("Range", [self.number(0), self.length, self.number(1)])
            self.counts = counts
            self.is_real = self.op("Unsqueeze", [self.op("Less", [steps, counts]), self.vector(2)])
        hidden = self.embedding(ids)
        for layer in range(o.layers):
            hidden = self.layer(layer, hidden)
        self.op("Identity", [self.lm_head(self.norm("final", hidden))], out="logits")
        logits = helper.make_tensor_value_info("logits", _ONNX_DTYPES[o.dtype], ["B", "S", o.vocab_size])
        graph = helper.make_graph(
            self.nodes, "tiny_hybrid", self.inputs, [logits, *self.outputs], list(self.weights.values())
        )
        domains = {node.domain for node in self.nodes} - {""}
        opsets = [helper.make_opsetid("", o.opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=13, producer_name="tests.states.models")
        if o.anonymous:
            _rename_edges(model)
        return model

    def constant(self, name: str, array: np.ndarray) -> str:
        if self.o.exact and np.issubdtype(array.dtype, np.floating):
            # What is smaller than that has fewer digits in float16.
            array = np.where(np.abs(array) < 2.0**-16, 0, array.astype(ml_dtypes.bfloat16))
            array = array.astype(NUMPY_DTYPES[self.o.dtype])
        return super().constant(name, array)

    def attention(self, layer: int, x: str) -> str:
        mixer = self.o.mixers[layer]
        if mixer == "attention":
            return super().attention(layer, x)
        if mixer == "conv":
            return self.short_convolution(layer, x)
        if mixer == "spelled":
            return self.spelled_convolution(layer, x)
        return self.recurrence(layer, x, "gated" if mixer == "gated_channels" else mixer)

    def state_input(self, layer: int, kind: str, shape: tuple[int, ...], dtype: int) -> tuple[str, str]:
        past, present = f"past_{kind}.{layer}", f"present_{kind}.{layer}"
        self.input(past, dtype, ["B", *shape])
        self.outputs.append(helper.make_tensor_value_info(present, dtype, ["B", *shape]))
        return past, present

    def multi(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        while not inputs[-1]:
            inputs = inputs[:-1]
        self.nodes.append(
            helper.make_node(kind, inputs, outputs, name=f"node_{outputs[0]}", domain=self.o.domain, **attributes)
        )
        return outputs[0]

    def columns(self, x: str, begin: int, end: int) -> str:
        return self.op("Slice", [x, self.vector(begin), self.vector(end), self.vector(2)])

    def convolved(self, layer: int, x: str, channels: int, kernel: int, activation: str) -> str:
        """A causal convolution over (B, S, channels)."""
        x = self.op("Transpose", [x], perm=[0, 2, 1])
        weight = self.random_array(channels, 1, kernel, scale=kernel**-0.5)
        bias = self.random_array(channels, scale=0.2)
        past, present = self.state_input(layer, "conv", (channels, kernel - 1), _ONNX_DTYPES[self.o.dtype])
        weights = [
            self.constant(f"{layer}.conv.{name}", array.astype(self.dtype))
            for name, array in (("weight", weight), ("bias", bias))
        ]
        own = f"present_conv.{layer}.padded" if self.o.counted else present
        convolved = f"convolved_{layer}"
        self.multi("CausalConvWithState", [x, *weights, past], [convolved, own], activation=activation)
        if self.o.counted:
            joined = self.op("Concat", [past, x], axis=2)
            at = self.constant(f"columns_{kernel}", np.arange(kernel - 1, dtype=np.int64))
            index = self.op("Unsqueeze", [self.op("Add", [self.counts, at]), self.vector(1)])
            shape = self.op("Shape", [past])
            self.op("GatherElements", [joined, self.op("Expand", [index, shape])], out=present, axis=2)
        return self.op("Transpose", [convolved], perm=[0, 2, 1])

    def short_convolution(self, layer: int, x: str) -> str:
        size = self.o.hidden
        packed = self.linear(f"{layer}.in", x, size, 3 * size)
        before, after, x = (self.columns(packed, at * size, (at + 1) * size) for at in range(3))
        mixed = self.convolved(layer, self.op("Mul", [before, x]), size, CONV_KERNEL, "none")
        return self.linear(f"{layer}.out", self.op("Mul", [after, mixed]), size, size)

    def spelled_convolution(self, layer: int, x: str) -> str:
        """As exports of LFM2 have it: the state holds K columns, the graph drops the oldest."""
        size = self.o.hidden
        weight = self.random_array(size, 1, CONV_KERNEL, scale=CONV_KERNEL**-0.5)
        x = self.op("Transpose", [self.linear(f"{layer}.in", x, size, size)], perm=[0, 2, 1])
        past, present = self.state_input(layer, "conv", (size, CONV_KERNEL), _ONNX_DTYPES[self.o.dtype])
        joined = self.op("Concat", [past, x], axis=-1)
        far = self.vector(2**31 - 1)
        self.op("Slice", [joined, self.vector(-CONV_KERNEL), far, self.vector(2)], out=present)
        seen = self.op("Slice", [joined, self.vector(1), far, self.vector(2)])
        mixed = self.op("Conv", [seen, self.constant(f"{layer}.conv.weight", weight)], group=size)
        return self.linear(f"{layer}.out", self.op("Transpose", [mixed], perm=[0, 2, 1]), size, size)

    def recurrence(self, layer: int, x: str, rule: str) -> str:
        o = self.o
        widths = [HEADS * KEY, HEADS * KEY, HEADS * VALUE]
        packed = self.linear(f"{layer}.qkv", x, o.hidden, sum(widths))
        if rule == "gated_delta":
            packed = self.convolved(layer, packed, sum(widths), MIX_KERNEL, "silu")
        ends = np.cumsum([0, *widths]).tolist()
        q, k, v = (self.columns(packed, a, b) for a, b in itertools.pairwise(ends))
        if "delta" in rule:
            q, k = self.unit(q), self.unit(k)
        decay = beta = ""
        if "gated" in rule:
            each = KEY if o.mixers[layer] == "gated_channels" else 1
            decay = self.op("Neg", [self.op("Softplus", [self.linear(f"{layer}.decay", x, o.hidden, HEADS * each)])])
        if "delta" in rule:
            beta = self.op("Sigmoid", [self.linear(f"{layer}.beta", x, o.hidden, HEADS)])
        if o.counted:
            decay, beta = self.masked(decay), self.masked(beta)
            k = k if "delta" in rule else self.masked(k)
        past, present = self.state_input(layer, "recurrent", (HEADS, KEY, VALUE), TensorProto.FLOAT)
        mixed = self.multi(
            "LinearAttention",
            [q, k, v, past, decay, beta],
            [f"mixed_{layer}", present],
            update_rule=rule,
            q_num_heads=HEADS,
            kv_num_heads=HEADS,
            scale=0.5,
        )
        return self.linear(f"{layer}.out", mixed, HEADS * VALUE, o.hidden)

    def masked(self, x: str) -> str:
        return self.op("Where", [self.is_real, x, self.scalar(0.0)]) if x else ""

    def unit(self, x: str) -> str:
        """Each head divided by its length."""
        heads = self.op("Reshape", [x, self.vector(0, 0, HEADS, KEY)])
        size = self.op("ReduceL2", [heads, self.vector(-1)], keepdims=1)
        return self.op("Reshape", [self.op("Div", [heads, size]), self.vector(0, 0, HEADS * KEY)])


class StateOracle(StateDecoder):
    """A decoder of this module as formulas over a whole sequence, in float64.

    Args:
        model: The graph; only its weights are read.
        options: What it was made of.
    """

    def __init__(self, model: onnx.ModelProto, options: StateOptions) -> None:
        self.o = options
        weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer if t.dims}
        windows = {
            layer: int(options.per_layer("capacity", layer))
            for layer in range(options.layers)
            if options.per_layer("mode", layer) == "circular"
        }
        super().__init__(weights, options.mixers, options.num_heads, windows)


def oracle_of(path: Path, mixers: tuple[Mixer, ...], **fields: Any) -> StateOracle:
    """The oracle of a folder that ``write_state_folder`` made with the same arguments."""
    fields = {
        name: value for name, value in fields.items() if name in {f.name for f in dataclasses.fields(StateOptions)}
    }
    return StateOracle(onnx.load(path / "model.onnx"), state_options(mixers, **fields))
