# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever is in a folder: it works, or raises a GenAIError with a remedy, within bounded time."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from genai_iface import GenAIError
from genai_iface.folder import open_folder
from genai_iface.folder.template.chat_template import ChatTemplate
from tests.marks import examples
from tests.models import write_folder

FUZZ = settings(
    max_examples=examples(50, 15),
    deadline=timedelta(seconds=20),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
STYLES = ("scatter", "concat", "concat_nodes", "decomposed", "shared")
TEXT_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("fuzz")
    made = {
        style: write_folder(base / style, style=style, external_data=style == "scatter", quantize=quantize, layers=1)
        for style, quantize in zip(STYLES, (None, "int8", "int4", None, None), strict=True)
    }
    made["texts"] = write_folder(base / "texts", layers=1)
    return made


def exercise(folder: Path) -> bool:
    """Uses everything that a folder offers; whether all of it worked."""
    worked = True

    def attempt(action: Callable[[], object]) -> None:
        nonlocal worked
        try:
            action()
        except GenAIError as error:
            worked = False
            assert error.remedy, error

    try:
        opened = open_folder(folder)
    except GenAIError as error:
        assert error.remedy, error
        return False
    attempt(lambda: opened.spec.cache.bytes_per_token)
    attempt(lambda: opened.generation_config)
    attempt(lambda: opened.fingerprint)
    attempt(opened.load_ir)
    attempt(opened.load_onnx)
    attempt(lambda: opened.tokenizer.decode(opened.tokenizer.encode("hé <|eos|>")))
    attempt(lambda: (opened.tokenizer.bos_token_id, opened.tokenizer.eos_token_id))
    attempt(lambda: opened.tokenizer.apply_chat_template([{"role": "user", "content": "x"}]))
    return worked


def test_the_untouched_folders_work(folders: dict[str, Path]) -> None:
    assert all(exercise(folder) for folder in folders.values())


def mutate(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Replaces stretches of bytes."""
    for place, length, replacement in edits:
        start = place % (len(content) + 1)
        content = content[:start] + replacement + content[start + length :]
    return content


EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 40), st.binary(max_size=12)), min_size=1, max_size=6)


@FUZZ
@given(style=st.sampled_from(STYLES), edits=EDITS, cut=st.none() | st.integers(0, 2**20))
def test_bytes_of_the_model(
    folders: dict[str, Path], style: str, edits: list[tuple[int, int, bytes]], cut: int | None
) -> None:
    path = folders[style] / "model.onnx"
    original = path.read_bytes()
    try:
        path.write_bytes(mutate(original, edits)[: None if cut is None else cut % len(original)])
        exercise(folders[style])
    finally:
        path.write_bytes(original)


# Structured changes of the graph.

OPERATORS = (
    *("Identity", "Cast", "Concat", "Reshape", "Transpose", "Unsqueeze", "Gather", "MatMul", "Softmax", "Shape"),
    *("TensorScatter", "Attention", "RotaryEmbedding", "Constant", "If", "Nothing", ""),
)
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32),
    st.text(max_size=4),
    st.lists(st.integers(-2, 9), min_size=1, max_size=4),
)


def number(value: object) -> int:
    """The same in every process, unlike hash()."""
    return zlib.crc32(repr(value).encode("utf-8", "replace"))


def drop_node(graph: onnx.GraphProto, at: int, _: Any) -> None:
    del graph.node[at % len(graph.node)]


def move_node(graph: onnx.GraphProto, at: int, value: Any) -> None:
    node = onnx.NodeProto()
    node.CopyFrom(graph.node[at % len(graph.node)])
    del graph.node[at % len(graph.node)]
    graph.node.insert(number(value) % (len(graph.node) + 1), node)


def repeat_node(graph: onnx.GraphProto, at: int, _: Any) -> None:
    graph.node.append(graph.node[at % len(graph.node)])


def change_operator(graph: onnx.GraphProto, at: int, value: Any) -> None:
    graph.node[at % len(graph.node)].op_type = OPERATORS[number(value) % len(OPERATORS)]


def change_domain(graph: onnx.GraphProto, at: int, value: Any) -> None:
    graph.node[at % len(graph.node)].domain = ("", "ai.onnx", "com.microsoft", "x")[number(value) % 4]


def drop_node_input(graph: onnx.GraphProto, at: int, value: Any) -> None:
    node = graph.node[at % len(graph.node)]
    if node.input:
        del node.input[number(value) % len(node.input)]


def clear_node_input(graph: onnx.GraphProto, at: int, value: Any) -> None:
    node = graph.node[at % len(graph.node)]
    if node.input:
        node.input[number(value) % len(node.input)] = ""


def rewire_node(graph: onnx.GraphProto, at: int, value: Any) -> None:
    node = graph.node[at % len(graph.node)]
    names = [value.name for value in graph.input] + [name for other in graph.node for name in other.output]
    if node.input:
        node.input[at % len(node.input)] = names[number(value) % len(names)]


def drop_outputs(graph: onnx.GraphProto, at: int, _: Any) -> None:
    del graph.node[at % len(graph.node)].output[:]


def drop_attribute(graph: onnx.GraphProto, at: int, value: Any) -> None:
    node = graph.node[at % len(graph.node)]
    if node.attribute:
        del node.attribute[number(value) % len(node.attribute)]


def set_attribute(graph: onnx.GraphProto, at: int, value: Any) -> None:
    nodes = [node for node in graph.node if node.attribute]
    attribute = nodes[at % len(nodes)].attribute[0]
    attribute.CopyFrom(onnx.helper.make_attribute(attribute.name, value))


def refer_attribute(graph: onnx.GraphProto, at: int, _: Any) -> None:
    nodes = [node for node in graph.node if node.attribute]
    nodes[at % len(nodes)].attribute[0].ref_attr_name = "outer"


def values_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.input, *graph.output]


def drop_input(graph: onnx.GraphProto, at: int, _: Any) -> None:
    # An earlier change may have taken the last one.
    if graph.input:
        del graph.input[at % len(graph.input)]


def drop_output(graph: onnx.GraphProto, at: int, _: Any) -> None:
    if graph.output:
        del graph.output[at % len(graph.output)]


def rename_value(graph: onnx.GraphProto, at: int, value: Any) -> None:
    values_of(graph)[at % len(values_of(graph))].name = str(value)


def change_type(graph: onnx.GraphProto, at: int, value: Any) -> None:
    values_of(graph)[at % len(values_of(graph))].type.tensor_type.elem_type = number(value) % 40


def other_type(graph: onnx.GraphProto, at: int, _: Any) -> None:
    values_of(graph)[at % len(values_of(graph))].type.sequence_type.elem_type.tensor_type.elem_type = 1


def change_shape(graph: onnx.GraphProto, at: int, value: Any) -> None:
    shape = values_of(graph)[at % len(values_of(graph))].type.tensor_type.shape
    if not shape.dim:
        return
    place = shape.dim[at % len(shape.dim)]
    if isinstance(value, int):
        place.dim_value = value
    elif isinstance(value, str):
        place.dim_param = value
    else:
        place.Clear()


def drop_axis(graph: onnx.GraphProto, at: int, _: Any) -> None:
    shape = values_of(graph)[at % len(values_of(graph))].type.tensor_type.shape
    del shape.dim[at % 3 : at % 3 + 1]


def drop_shape(graph: onnx.GraphProto, at: int, _: Any) -> None:
    values_of(graph)[at % len(values_of(graph))].type.Clear()


def drop_weight(graph: onnx.GraphProto, at: int, _: Any) -> None:
    del graph.initializer[at % len(graph.initializer)]


def change_weight_shape(graph: onnx.GraphProto, at: int, value: Any) -> None:
    tensor = graph.initializer[at % len(graph.initializer)]
    tensor.dims[:] = value if isinstance(value, list) else [1, 2]


def change_weight_type(graph: onnx.GraphProto, at: int, value: Any) -> None:
    graph.initializer[at % len(graph.initializer)].data_type = number(value) % 40


def external_entry(graph: onnx.GraphProto, at: int, value: Any) -> None:
    tensor = graph.initializer[at % len(graph.initializer)]
    tensor.data_location = TensorProto.EXTERNAL
    key = ("location", "offset", "length", "odd")[at % 4]
    tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))


CHANGES = (
    *(drop_node, move_node, repeat_node, change_operator, change_domain, drop_node_input, clear_node_input),
    *(rewire_node, drop_outputs, drop_attribute, set_attribute, refer_attribute, drop_input, drop_output),
    *(rename_value, change_type, other_type, change_shape, drop_axis, drop_shape, drop_weight),
    *(change_weight_shape, change_weight_type, external_entry),
)


@FUZZ
@given(
    style=st.sampled_from(STYLES),
    changes=st.lists(
        st.tuples(st.sampled_from(CHANGES), st.integers(0, 10_000), VALUES),
        min_size=1,
        max_size=4,
    ),
)
def test_structure_of_the_graph(
    folders: dict[str, Path], style: str, changes: list[tuple[Callable[..., None], int, Any]]
) -> None:
    path = folders[style] / "model.onnx"
    original = path.read_bytes()
    model = onnx.load_model_from_string(original)
    for change, at, value in changes:
        change(model.graph, at, value)
    try:
        path.write_bytes(model.SerializeToString())
        exercise(folders[style])
    finally:
        path.write_bytes(original)


# The files of text.


@FUZZ
@given(name=st.sampled_from(TEXT_FILES), edits=EDITS)
def test_bytes_of_the_texts(folders: dict[str, Path], name: str, edits: list[tuple[int, int, bytes]]) -> None:
    path = folders["texts"] / name
    original = path.read_bytes()
    try:
        path.write_bytes(mutate(original, edits))
        exercise(folders["texts"])
    finally:
        path.write_bytes(original)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = {
    "config.json": ("vocab_size", "max_position_embeddings", "eos_token_id", "text_config", "n_positions"),
    "generation_config.json": ("eos_token_id", "temperature", "top_k", "max_length", "stop_strings", "bad_words_ids"),
    "tokenizer_config.json": ("bos_token", "eos_token", "add_bos_token", "added_tokens_decoder", "chat_template"),
    "special_tokens_map.json": ("bos_token", "eos_token"),
    "tokenizer.json": ("version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"),
}


@FUZZ
@given(data=st.data(), name=st.sampled_from(sorted(FIELDS)))
def test_fields_of_the_texts(folders: dict[str, Path], data: st.DataObject, name: str) -> None:
    path = folders["texts"] / name
    template = folders["texts"] / "chat_template.jinja"
    original = path.read_bytes() if path.exists() else None
    values = json.loads(original) if original is not None else {}
    values |= data.draw(st.dictionaries(st.sampled_from(FIELDS[name]), JSON, min_size=1, max_size=2))
    hidden = template.rename(template.with_suffix(".hidden"))
    try:
        path.write_text(json.dumps(values), encoding="utf-8")
        exercise(folders["texts"])
    finally:
        hidden.rename(template)
        if original is None:
            path.unlink()
        else:
            path.write_bytes(original)


TOKENS = st.sampled_from(
    [
        *("{{", "}}", "{%", "%}", "for", "in", "if", "endfor", "endif", "set", "macro", "endmacro", "a", "messages"),
        *("namespace", "range", "(", ")", "[", "]", "{", "}", "|", "~", "*", "**", "+", ",", "=", ".", ":", "99999"),
        *("'x'", "loop", "tojson", "join", "list", "center", "indent", "replace", "format", "not", "-", " ", "\n"),
    ]
)


@pytest.mark.slow
@FUZZ
@given(pieces=st.lists(TOKENS, max_size=30))
@example(pieces=["{{", "99999", "**", "99999", "}}"])
@example(pieces=["{{", "'x'", "|", "center", "(", "99999", "**", "2", ")", "}}"])
def test_templates_of_any_kind(pieces: list[str]) -> None:
    try:
        text = ChatTemplate(" ".join(pieces), "chat_template.jinja").render({"messages": [{"role": "user"}]})
    except GenAIError as error:
        assert error.remedy, error
    else:
        assert isinstance(text, str)
