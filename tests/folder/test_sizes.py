# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What opening a folder costs: by the nodes of its graph and no more; files are judged by size before they are read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from genai_iface import GenAIError, GenerationConfig, InvalidInputError, UnsupportedModelError
from genai_iface._json_object import MAX_CONFIG_BYTES, parse_object
from genai_iface.folder import open_folder
from genai_iface.folder._collector import collector_paused
from genai_iface.folder._inline import inline_functions
from genai_iface.folder._structure import check_structure
from tests.folder.large_graphs import KINDS, OPSETS, nested_functions, unused_functions
from tests.models import write_folder

# Processors differ by a factor of two, and over half of the time is ONNX IR's: where that is slow, opening may be.
MOST_SECONDS = 10.0
MOST_TIMES = 2.75


def large_model(folder: Path, change: Callable[[onnx.ModelProto, int], None], count: int) -> Path:
    path = write_folder(folder / "model", layers=1) / "model.onnx"
    model = onnx.load(path)
    change(model, count)
    path.write_bytes(model.SerializeToString())
    (path.parent / "weights").write_bytes(bytes(4))
    return path


def seconds_to_open(path: Path) -> float:
    """Processor time; a typed refusal is an answer too."""
    started = time.process_time()
    try:
        open_folder(path.parent)
    except GenAIError as error:
        assert error.remedy and len(str(error)) < 4000
    return time.process_time() - started


@pytest.mark.parametrize("change", KINDS, ids=lambda change: change.__name__)
def test_four_thousand_nodes(tmp_path: Path, change: Callable[[onnx.ModelProto, int], None]) -> None:
    assert seconds_to_open(large_model(tmp_path, change, 4000)) < 3


@pytest.mark.slow
@pytest.mark.parametrize("change", KINDS, ids=lambda change: change.__name__)
def test_two_hundred_thousand_nodes(tmp_path: Path, change: Callable[[onnx.ModelProto, int], None]) -> None:
    path = large_model(tmp_path, change, 200_000)
    # Processor time grows several times over where others fill the machine: the best of a few counts.
    tried: list[float] = []
    while not tried or (tried[-1] >= MOST_SECONDS and len(tried) < 3):
        tried.append(seconds_to_open(path))
    times = 0.0
    if min(tried) >= MOST_SECONDS:
        times = min(tried) / min(seconds_to_read(path) for _ in range(2))
    print(f"{change.__name__}: {min(tried):.1f} s of a processor, {times:.1f} times ONNX IR's")
    assert times < MOST_TIMES, (tried, times)


def seconds_to_read(path: Path) -> float:
    """What ONNX IR alone takes, as opening uses it: with Python's garbage collector paused."""
    started = time.process_time()
    with collector_paused():
        ir.serde.deserialize_model(onnx.load(path, load_external_data=False))
    return time.process_time() - started


def test_functions_are_counted_first(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "model", layers=1) / "model.onnx"
    model = onnx.load(path)
    unused_functions(model, 10_001)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="has 10001 local functions, at most 10000 are read"):
        open_folder(path.parent)


def test_growth_is_judged_before_inlining(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "model", layers=1) / "model.onnx"
    model = onnx.load(path)
    nested_functions(model, 2**40)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="nodes once its functions are inlined"):
        open_folder(path.parent)
    # One node with a large constant, called often.
    model = onnx.load(write_folder(tmp_path / "other", layers=1) / "model.onnx")
    constant = helper.make_node("Constant", [], ["y"], value=helper.make_tensor("v", 1, [2**18], [0.0] * 2**18))
    model.functions.append(helper.make_function("local", "F", ["x"], ["y"], [constant], OPSETS))
    model.opset_import.append(OPSETS[1])
    model.graph.node.extend(helper.make_node("F", ["input_ids"], [f"c{i}"], domain="local") for i in range(1000))
    with pytest.raises(UnsupportedModelError, match="bytes when its functions are inlined"):
        check_structure(model)


def test_inlining_keeps_the_mathematics() -> None:
    """Defaults of attributes, references to them, absent inputs, names that clash, calls inside a branch."""
    scale = helper.make_node("Mul", ["x", "factor"], ["y"])
    factor = helper.make_node("Constant", [], ["factor"])
    factor.attribute.append(onnx.AttributeProto(name="value_float", ref_attr_name="by", type=onnx.AttributeProto.FLOAT))
    times = helper.make_function(
        "local", "Times", ["x"], ["y"], [factor, scale], OPSETS, attribute_protos=[helper.make_attribute("by", 3.0)]
    )
    clip = helper.make_function(
        "local", "Low", ["x", "low"], ["y"], [helper.make_node("Clip", ["x", "low"], ["y"])], OPSETS
    )
    branch = [
        helper.make_graph(
            [helper.make_node("Times", ["t"], [name], domain="local", by=by)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])],
        )
        for name, by in (("then", 2.0), ("else", 5.0))
    ]
    nodes = [
        helper.make_node("Times", ["x"], ["t"], domain="local"),
        helper.make_node("If", ["flag"], ["factor"], then_branch=branch[0], else_branch=branch[1]),
        helper.make_node("Low", ["factor"], ["y"], domain="local"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]), helper.make_tensor_value_info("flag", 9, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    model = helper.make_model(graph, functions=[times, clip], opset_imports=OPSETS)
    check_structure(model)
    inline_functions(model)
    assert not model.functions and all(node.domain != "local" for node in model.graph.node)
    onnx.checker.check_model(model)
    for flag, factor in ((True, 6), (False, 15)):
        (given,) = ReferenceEvaluator(model).run(None, {"x": np.float32([-1, 2]), "flag": np.array(flag)})
        np.testing.assert_array_equal(given, np.float32([-factor, 2 * factor]))


def test_more_logits_than_any_vocabulary(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "model", layers=1) / "model.onnx"
    model = onnx.load(path)
    logits = next(value for value in model.graph.output if value.name == "logits")
    logits.type.tensor_type.shape.dim[-1].dim_value = 2**62
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="columns, at most 16777216 are read"):
        open_folder(path.parent)


@pytest.mark.parametrize("sizes", [{1: -2}, {3: -8}, {2: 2**62}, {1: 2**40}], ids=str)
def test_cache_sizes_that_no_buffer_has(tmp_path: Path, sizes: dict[int, int]) -> None:
    path = write_folder(tmp_path / "model", layers=1) / "model.onnx"
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            for axis, size in sizes.items():
                dims[axis].dim_value = size
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"expected numbers from 1|expected 1 to"):
        open_folder(path.parent)


# Files of text.


def test_large_files_are_refused_unread(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", layers=1)
    for name, size in (
        ("config.json", MAX_CONFIG_BYTES),
        ("generation_config.json", MAX_CONFIG_BYTES),
        ("tokenizer_config.json", MAX_CONFIG_BYTES),
        ("tokenizer.json", 256 * 2**20),
    ):
        path, before = folder / name, (folder / name).read_bytes()
        # A sparse file: it has a size and no content.
        os.truncate(path, size + 1)
        started = time.process_time()
        with pytest.raises(InvalidInputError, match="larger than"):
            opened = open_folder(folder)
            _ = opened.generation_config, opened.tokenizer
        assert time.process_time() - started < 6
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"vocab_size": ' + b"[" * 900 + b"]" * 900 + b"}", "nested deeper than 64 levels"),
        (b'{"eos_token": "\\ud800"}', "lone surrogate"),
        (b'{"\\udfff": 1}', "lone surrogate"),
        (b'{"x": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "holds a JSON list"),
    ],
    ids=["deep", "surrogate", "surrogate as a name", "digits", "no text", "list"],
)
def test_hostile_json(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    folder = write_folder(tmp_path / "model", layers=1)
    (folder / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=message):
        opened = open_folder(folder)
        _ = opened.generation_config, opened.tokenizer.eos_token_id


def test_whole_characters_in_escapes_are_fine() -> None:
    assert parse_object(b'{"x": "\\ud83d\\ude00"}') == {"x": "\U0001f600"}


@pytest.mark.parametrize(
    "values",
    [
        {"num_return_sequences": 10**9},
        {"num_beams": 10**9},
        pytest.param({"bad_words_ids": [[1]] * 2_000_000}, marks=pytest.mark.slow),
        {"bad_words_ids": [[1] * 1_000_000]},
        {"stop_strings": ["x"] * 100_000},
        {"stop_strings": ["x" * 100_000]},
        {"stop_token_ids": [1] * 1_000_000},
        {"eos_token_id": [1] * 1_000_000},
        {"max_new_tokens": 10**4000},
        {"max_length": 2**63},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_strangers_settings_are_bounded(tmp_path: Path, values: dict[str, object]) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    started = time.process_time()
    with pytest.raises(InvalidInputError) as caught:
        GenerationConfig.from_file(path)
    assert time.process_time() - started < 6
    assert len(str(caught.value)) < 1000


def test_a_number_that_cannot_be_printed() -> None:
    with pytest.raises(InvalidInputError, match="max_length=a int that cannot be printed is not legal"):
        GenerationConfig(max_length=10**5000)
