# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""GroupQueryAttention and its cache against ONNX Runtime's kernel, over chunks, decode steps and ragged rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from genai_iface.errors import UnsupportedModelError
from genai_iface.graph import derive_signature
from genai_iface.transform.contrib.standardize import standardize
from tests.transform.contrib.one_layer import VOCABULARY, Layer, one_layer
from tests.transform.convert.drive import Drive, load, on_ort, on_reference

pytestmark = pytest.mark.filterwarnings("ignore:.*in-place optimization.*")
# The window's border and chunks that cross it are among these.
STEPS = ((5, (5, 2)), (1, (1, 1)), (3, (3, 2)), (1, (1, 0)), (1, (1, 1)), (4, (1, 4)))


def assert_same(layer: Layer, *, tolerance: float = 1e-5, source: Layer | None = None) -> ir.Model:
    """A ragged batch of the standard graph gives what single rows give on ONNX Runtime's own kernel."""
    proto = one_layer(layer)
    before, signature = load(one_layer(source or layer))
    rows = [Drive(on_ort(before), signature) for _ in range(2)]
    model, own = load(proto)
    done = standardize(model, own)
    for run in (on_ort(done.model), on_reference(done.model)):
        rows = [replace(row) for row in rows]
        batch = Drive(run, done.signature, batch_size=2)
        random = np.random.default_rng(1)
        for width, counts in STEPS:
            ids = random.integers(0, VOCABULARY, (2, width))
            with np.errstate(all="ignore"):
                got = batch.step(ids, counts)
            for row, count in enumerate(counts):
                if count:
                    wanted = rows[row].step(ids[row : row + 1, :count])[0]
                    assert np.abs(got[row, :count] - wanted).max() <= tolerance * np.abs(wanted).max()
    return done.model


SHAPES = [{"heads": 4, "kv_heads": 2}, {"heads": 3, "kv_heads": 3, "size": 8}, {"heads": 6, "kv_heads": 1}]
ROTARY = [
    {},
    {"rotary": 16},
    {"rotary": 16, "size": 32},
    {"rotary": 16, "interleaved": 1},
    {"rotary": 16, "positions": True},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_shapes_and_lengths(shape: dict[str, int], packed: bool, mask: bool) -> None:
    model = assert_same(Layer(**shape, packed=packed, mask=mask))
    signature = derive_signature(model)
    assert list(signature.inputs) == ["input_ids", "write_indices", "nonpad_kv_seqlen"]
    assert signature.cache.style == "scatter"
    assert not [node for node in model.graph if node.domain]


@pytest.mark.parametrize("rotary", ROTARY, ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_rotation_inside(rotary: dict[str, Any], packed: bool) -> None:
    assert_same(Layer(**rotary, packed=packed))


@pytest.mark.parametrize("window", [-1, 1, 4])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("scale", [0.0, 0.2])
def test_windows_soft_caps_and_scales(scale: float, softcap: float, window: int) -> None:
    attributes = {"local_window_size": window, "softcap": softcap, "scale": scale}
    assert_same(Layer(rotary=16, attributes=attributes))


@pytest.mark.parametrize("window", [-1, 4])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("smooth", [False, True])
def test_sinks(smooth: bool, softcap: float, window: int) -> None:
    attributes = {"local_window_size": window, "softcap": softcap} | ({"smooth_softmax": 1} if smooth else {})
    assert_same(Layer(rotary=16, sink=not smooth, attributes=attributes))


@pytest.mark.parametrize("window", [-1, 4])
@pytest.mark.parametrize("sink", [False, True])
def test_a_bias_on_the_scores(sink: bool, window: int) -> None:
    assert_same(Layer(bias=True, sink=sink, attributes={"local_window_size": window}))


def test_half_precision() -> None:
    assert_same(Layer(rotary=16, dtype="float16"), tolerance=5e-3)


def test_norms_inside() -> None:
    """ONNX Runtime's kernel for the processor refuses them: they equal nodes before the operator."""
    assert_same(Layer(rotary=16, norms="inside"), source=Layer(rotary=16, norms="outside"))


@pytest.mark.parametrize("per_channel", [False, True])
def test_an_int8_cache(per_channel: bool) -> None:
    assert_same(Layer(rotary=16, cache="int8", per_channel=per_channel), tolerance=2e-2)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Layer(attributes={"causal": 0}), "not causal"),
        (Layer(attributes={"kv_cache_bit_width": 4}), "in 4 bits"),
        (Layer(cache="int8", attributes={"k_quant_type": "NONE"}), ""),
    ],
)
def test_what_is_refused(layer: Layer, message: str) -> None:
    model, signature = load(one_layer(layer))
    for node in model.graph:
        for name, value in layer.attributes.items():
            if node.op_type == "GroupQueryAttention":
                attribute = ir.AttrString(name, value) if isinstance(value, str) else ir.AttrInt64(name, value)
                node.attributes[name] = attribute
    with pytest.raises(UnsupportedModelError, match=rf"GroupQueryAttention node 'the_attention'.*{message}"):
        standardize(model, signature)
