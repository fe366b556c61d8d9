# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What is changed in a graph at load: what may be, and what may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from genai_iface import UnsupportedModelError, load_model
from genai_iface.folder import open_folder
from tests.models import write_folder


def windows(folder: Path) -> list[int]:
    """local_window_size of each GroupQueryAttention as backends get it."""
    nodes = [node for node in open_folder(folder).load_ir().graph if node.op_type == "GroupQueryAttention"]
    found = (node.attributes.get("local_window_size") for node in nodes)
    return [-1 if attribute is None else attribute.as_int() for attribute in found]


def told(folder: Path, **sliding: Any) -> None:
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": {"sliding_window": sliding}}}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", style="shared")


@pytest.mark.parametrize(
    ("sliding", "expected"),
    [
        ({"window_size": 4, "layers": []}, [4, 4]),
        ({"window_size": 4}, [4, 4]),
        ({"window_size": 4, "layers": [1]}, [-1, 4]),
        ({"window_size": 0, "layers": []}, [-1, -1]),
        ({"window_size": -1}, [-1, -1]),
        ({"window_size": True}, [-1, -1]),
        ({"window_size": "4"}, [-1, -1]),
        ({"window_size": 2**40}, [-1, -1]),
        ({"window_size": 4, "layers": ["0", 7]}, [-1, -1]),
    ],
)
def test_a_window_of_genai_config(folder: Path, sliding: dict[str, Any], expected: list[int]) -> None:
    told(folder, **sliding)
    assert windows(folder) == expected
    changed = any(window > 0 for window in expected)
    assert any("from genai_config.json" in note for note in open_folder(folder).changes) == changed


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sliding_window": 4}, [4, 4]),
        ({"sliding_window": None}, [-1, -1]),
        ({"sliding_window": 4, "use_sliding_window": False}, [-1, -1]),
        ({"sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"]}, [-1, 4]),
        ({"sliding_window": 4, "layer_types": ["full_attention", "full_attention"]}, [-1, -1]),
        ({"sliding_window": 4, "sliding_window_pattern": 2}, [-1, -1]),
        ({"text_config": {"sliding_window": 4}}, [4, 4]),
    ],
)
def test_a_window_of_config(folder: Path, fields: dict[str, Any], expected: list[int]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    assert windows(folder) == expected


def test_the_graph_wins(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            node.attribute.append(helper.make_attribute("local_window_size", 6))
    onnx.save(model, folder / "model.onnx")
    told(folder, window_size=6, layers=[0, 1])
    assert not any("windows" in note for note in open_folder(folder).notes)
    told(folder, window_size=4, layers=[0])
    assert windows(folder) == [6, 6]
    note = next(note for note in open_folder(folder).notes if note.startswith("windows"))
    assert note == "windows: the graph's are used (6 in 2 of 2 layers); genai_config.json says 4 in 1 of 2 layers"


def test_an_integer_that_is_no_number_of_logits_is_not_fixed(tmp_path: Path) -> None:
    """It gives the end of a slice, or goes elsewhere too: nobody knows what 0 would mean."""
    folder = write_folder(tmp_path / "model", style="concat")
    model = onnx.load(folder / "model.onnx")
    model.graph.input.append(helper.make_tensor_value_info("most", TensorProto.INT64, [1]))
    last = next(node for node in model.graph.node if node.output[0] == "logits")
    scores = last.input[0]
    zero, one = (helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("at0", 0), ("at1", 1)))
    model.graph.initializer.extend([zero, one])
    model.graph.node.insert(
        len(model.graph.node) - 1, helper.make_node("Slice", [scores, "at0", "most", "at1"], ["cut"])
    )
    last.input[0] = "cut"
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(UnsupportedModelError, match="'most'"):
        open_folder(folder)


@pytest.mark.parametrize("style", ["concat", "scatter", "shared"])
def test_a_graph_for_one_token_runs_prompts_token_by_token(tmp_path: Path, style: str) -> None:
    backends = ["ort"] if style == "shared" else ["numpy", "ort"]
    fields = {"style": style, "head_dim": 16, "position_ids": style == "shared"}
    wide, narrow = (write_folder(tmp_path / name, **fields) for name in ("wide", "narrow"))
    model = onnx.load(narrow / "model.onnx")
    ids = next(value for value in model.graph.input if value.name == "input_ids")
    ids.type.tensor_type.shape.dim[1].Clear()
    ids.type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(model, narrow / "model.onnx")
    assert open_folder(narrow).signature.one_token
    tokens, counts = np.array([[5, 6, 7, 8], [9, 1, 0, 0]]), np.array([4, 2])
    for backend in backends:
        if backend == "ort":
            pytest.importorskip("onnxruntime")
        one, other = (load_model(place, backend=backend) for place in (wide, narrow))
        got = [
            loaded.forward(tokens, loaded.create_cache(batch_size=2, capacity=8), counts=counts, logits="all")
            for loaded in (one, other)
        ]
        for row, count in enumerate(counts):
            np.testing.assert_allclose(got[0][row, :count], got[1][row, :count], atol=2e-5)


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
def test_a_rotary_table_that_config_contradicts_is_kept_and_named(tmp_path: Path, positions: str) -> None:
    folder = write_folder(tmp_path / "model", style="scatter", positions=positions)  # of the base 100
    config = json.loads((folder / "config.json").read_text())

    def note(**fields: Any) -> str | None:
        (folder / "config.json").write_text(json.dumps(config | fields))
        opened = open_folder(folder)
        assert opened.is_as_on_disk
        return next((note for note in opened.notes if note.startswith("rotation")), None)

    assert note(rope_theta=100.0) is None
    assert note(rope_parameters={"rope_theta": 100, "rope_type": "default"}) is None
    assert note(text_config={"rope_theta": 100.0}) is None
    assert note() is None
    told = note(rope_theta=500000.0)
    assert told == "rotation: the graph's is used (a base of about 100); config.json says rope_theta 500000"
    scaled = {"rope_type": "linear", "factor": 4.0}
    assert "rope_theta 100 scaled as 'linear'" in str(note(rope_theta=100.0, rope_scaling=scaled))
    # Layers of two kinds: one of both is the graph's.
    kinds = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 100}}
    assert note(rope_parameters=kinds) is None
    # Nothing is said about what is not known, or makes no sense.
    for unknown in ({"rope_type": "spiral"}, {"rope_theta": "x"}, {"rope_theta": 0.5}, {"rope_theta": True}):
        assert note(rope_parameters={"rope_theta": 500000.0, **unknown}) is None
