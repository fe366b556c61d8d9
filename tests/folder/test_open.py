# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``open_folder``: what it gives for a good folder, and one typed error for every kind of bad one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from genai_iface import InvalidInputError, ModelSpec, UnsupportedModelError
from genai_iface.folder import open_folder
from genai_iface.folder._files import find_inside
from tests.model_files import EOS
from tests.models import ModelOptions, build_model, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", external_data=True)


# A good folder.


def test_a_whole_folder(folder: Path) -> None:
    opened = open_folder(folder)
    assert opened.path == folder.resolve()
    assert opened.config["architectures"] == ["TinyForCausalLM"]
    assert opened.spec == ModelSpec(264, 64, opened.signature.cache)
    assert opened.generation_config.eos_token_ids == (EOS,)
    assert opened.generation_config.do_sample is False
    assert opened.tokenizer is opened.tokenizer
    assert [path.name for path in opened.files] == ["model.onnx", "model.onnx.data"]


def test_only_the_graph_is_needed(folder: Path) -> None:
    for path in folder.iterdir():
        if not path.name.startswith("model.onnx"):
            path.unlink()
    opened = open_folder(folder)
    assert opened.config == {}
    assert opened.generation_config.eos_token_ids == ()
    assert opened.context_length == 64
    with pytest.raises(InvalidInputError, match=r"no tokenizer\.json"):
        _ = opened.tokenizer


def test_config_is_read_only(folder: Path) -> None:
    with pytest.raises(TypeError):
        open_folder(folder).config["vocab_size"] = 1  # type: ignore[index]


def test_relative_path_and_link_to_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "link").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    assert open_folder("link").path == folder.resolve()


def test_end_of_sequence_falls_back(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["eos_token_id"] = [3, 4]
    (folder / "config.json").write_text(json.dumps(config))
    assert open_folder(folder).generation_config.eos_token_ids == (3, 4)
    del config["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    assert open_folder(folder).generation_config.eos_token_ids == (EOS,)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_position_embeddings": 48}, 48),
        ({"n_positions": 40}, 40),
        ({"max_position_embeddings": 4096}, 64),
        ({"text_config": {"max_position_embeddings": 32}}, 32),
        ({}, 64),
    ],
)
def test_context_length_is_the_tightest_bound(folder: Path, fields: dict[str, object], expected: int) -> None:
    (folder / "config.json").write_text(json.dumps(fields))
    assert open_folder(folder).context_length == expected


@pytest.mark.parametrize("external", [True, False])
def test_weights_come_back_equal(tmp_path: Path, external: bool) -> None:
    written = {t.name: numpy_helper.to_array(t) for t in build_model(ModelOptions()).graph.initializer}
    opened = open_folder(write_folder(tmp_path / "model", external_data=external))
    read = {tensor.name: numpy_helper.to_array(tensor) for tensor in opened.load_onnx().graph.initializer}
    assert read.keys() == written.keys()
    assert all(np.array_equal(read[name], written[name]) for name in written)
    values = opened.load_ir().graph.initializers
    assert all(np.array_equal(values[name].const_value.numpy(), written[name]) for name in written)


def test_local_functions_are_inlined(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    swish = helper.make_function(
        "com.example",
        "Swish",
        ["x"],
        ["y"],
        [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])],
        [helper.make_opsetid("", 24)],
    )
    model.functions.append(swish)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    norm = next(node for node in model.graph.node if node.op_type == "RMSNormalization")
    call = helper.make_node("Swish", [norm.output[0]], ["swished"], domain="com.example")
    model.graph.node.insert(list(model.graph.node).index(norm) + 1, call)
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[0] == norm.output[0]:
            node.input[0] = "swished"
    onnx.save_model(model, folder / "model.onnx")
    opened = open_folder(folder)
    assert {node.op_type for node in opened.load_ir().graph} & {"Swish"} == set()
    assert {node.op_type for node in opened.load_ir(inline=False).graph} >= {"Swish"}
    assert not opened.load_onnx().functions


def test_fingerprint_depends_on_every_weight(folder: Path, tmp_path: Path) -> None:
    first = open_folder(folder).fingerprint
    assert first == open_folder(write_folder(tmp_path / "again", external_data=True)).fingerprint
    data = bytearray((folder / "model.onnx.data").read_bytes())
    data[100] ^= 1
    (folder / "model.onnx.data").write_bytes(data)
    assert open_folder(folder).fingerprint != first


# Bad folders.


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, size)


def put(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)

    return change


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def outside(name: str) -> Callable[[Path], None]:
    """Moves a file out of the folder and leaves a link to it."""

    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return change


def pipe(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def directory(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return change


def location(text: str) -> Callable[[Path], None]:
    """Points all external data at another file, which exists and is large enough."""

    def change(folder: Path) -> None:
        (folder.parent / "outside.data").write_bytes((folder / "model.onnx.data").read_bytes())
        edit_tensors("location", text.format(parent=folder.parent))(folder)

    return change


def edit_tensors(key: str, value: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == key:
                    entry.value = value
        onnx.save_model(model, folder / "model.onnx")

    return change


def linked_directory(folder: Path) -> None:
    (folder.parent / "real").mkdir()
    (folder / "model.onnx.data").rename(folder.parent / "real" / "weights")
    (folder / "data").symlink_to(folder.parent / "real")
    edit_tensors("location", "data/weights")(folder)


def hard_link(folder: Path) -> None:
    os.link(folder / "model.onnx.data", folder.parent / "second name")


def edit_graph(change_graph: Callable[[onnx.GraphProto], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        change_graph(model.graph)
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return change


def short_tensor(graph: onnx.GraphProto) -> None:
    graph.initializer.append(TensorProto(name="short", dims=[4], data_type=TensorProto.FLOAT, raw_data=b"1234"))


def unknown_type(graph: onnx.GraphProto) -> None:
    graph.initializer.append(TensorProto(name="odd", dims=[1], data_type=99, raw_data=b"1234"))


def cycle(graph: onnx.GraphProto) -> None:
    first = next(node for node in graph.node if node.op_type == "RMSNormalization")
    first.input[0] = graph.node[-1].output[0]


def missing_value(graph: onnx.GraphProto) -> None:
    graph.node[-1].input[0] = "nowhere"


def two_outputs_of_one_name(graph: onnx.GraphProto) -> None:
    graph.node[-2].output[0] = graph.node[-3].output[0]


def two_inputs_of_one_name(graph: onnx.GraphProto) -> None:
    graph.input[1].name = graph.input[0].name


def output_without_node(graph: onnx.GraphProto) -> None:
    graph.output[0].name = "nothing"


def recursive_function(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    body = [helper.make_node("Again", ["x"], ["y"], domain="com.example")]
    function = helper.make_function("com.example", "Again", ["x"], ["y"], body, [helper.make_opsetid("com.example", 1)])
    model.functions.append(function)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no model": (drop("model.onnx"), "There is no model.onnx"),
    "empty model": (put("model.onnx", b""), "no graph with nodes"),
    "garbage": (put("model.onnx", b"\xff" * 1000), "not an ONNX model"),
    "text": (put("model.onnx", b"version https://git-lfs.github.com/spec/v1\n"), "not an ONNX model"),
    "truncated model": (cut("model.onnx", 3000), "not an ONNX model"),
    "truncated data": (cut("model.onnx.data", 5000), "which has 5000 bytes"),
    "empty data": (cut("model.onnx.data", 0), "which has 0 bytes"),
    "missing data": (drop("model.onnx.data"), "no file 'model.onnx.data'"),
    "data by absolute path": (location("{parent}/outside.data"), "leaves the model folder"),
    "data in the parent": (location("../outside.data"), "leaves the model folder"),
    "data in a detour": (location("model/../../outside.data"), "leaves the model folder"),
    "data with a drive": (location("C:\\outside.data"), "leaves the model folder"),
    "data with a null": (location("a\0b"), "cannot be opened"),
    "data by a link out": (outside("model.onnx.data"), "link that leaves"),
    "data in a folder linked out": (linked_directory, "link that leaves"),
    "data with a hard link": (hard_link, "more than one hard link"),
    "data is a pipe": (pipe("model.onnx.data"), "not a regular file"),
    "negative offset": (edit_tensors("offset", "-1"), "offset '-1', expected a number"),
    "huge offset": (edit_tensors("offset", "9" * 18), "ends at byte"),
    "wrong length": (edit_tensors("length", "5"), "has 5 bytes, its shape and type need"),
    "length as text": (edit_tensors("length", "many"), "length 'many'"),
    "model by a link out": (outside("model.onnx"), "link that leaves"),
    "model is a pipe": (pipe("model.onnx"), "not a regular file"),
    "model is a folder": (directory("model.onnx"), "not a regular file"),
    "config by a link out": (outside("config.json"), "link that leaves"),
    "config is not JSON": (put("config.json", b"{'a': 1}"), "is not JSON"),
    "config is a list": (put("config.json", b"[1]"), "a JSON list, not an object"),
    "config is not UTF-8": (put("config.json", b'{"a": "\xff"}'), "is not JSON"),
    "config with a byte-order mark": (put("config.json", b"\xef\xbb\xbf{}"), "is not JSON"),
    "config is nested": (put("config.json", b'{"a":' + b"[" * 200_000), "nested deeper than 64 levels"),
    "config with a huge number": (put("config.json", b'{"a": ' + b"9" * 10_000 + b"}"), "is not JSON"),
    "config is empty": (put("config.json", b""), "is not JSON"),
    "config is a pipe": (pipe("config.json"), "not a regular file"),
    "vocabulary above the logits": (put("config.json", b'{"vocab_size": 265}'), "vocab_size=265.*only 264 columns"),
    "vocabulary is a text": (put("config.json", b'{"vocab_size": "many"}'), "vocab_size='many'"),
    "context of zero": (put("config.json", b'{"n_positions": 0}'), "n_positions=0"),
    "short tensor": (edit_graph(short_tensor), "holds 4 values or bytes, expected 16"),
    "unknown tensor type": (edit_graph(unknown_type), "unknown type 99"),
    "cycle": (edit_graph(cycle), "has a cycle or is not sorted"),
    "missing value": (edit_graph(missing_value), "uses 'nowhere', which nothing before it makes"),
    "value made twice": (edit_graph(two_outputs_of_one_name), "which exists already"),
    "input named twice": (edit_graph(two_inputs_of_one_name), "an input names 'input_ids' twice"),
    "output without node": (edit_graph(output_without_node), "No node computes the graph output 'nothing'"),
    "recursive function": (recursive_function, "The local function 'Again' calls itself"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_folders(folder: Path, change: Callable[[Path], None], message: str) -> None:
    change(folder)
    with pytest.raises(InvalidInputError, match=message) as caught:
        open_folder(folder)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["nothing", "model/config.json", "null\0byte"])
def test_no_folder(folder: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot be opened|is not a folder") as caught:
        open_folder(f"{folder.parent}/{name}")
    assert caught.value.remedy


def test_endless_link(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(InvalidInputError, match="cannot be opened"):
        open_folder(tmp_path / "a")


def test_a_link_inside_the_folder_is_fine(folder: Path) -> None:
    (folder / "model.onnx.data").rename(folder / "weights")
    (folder / "model.onnx.data").symlink_to("weights")
    assert open_folder(folder).load_onnx().graph.initializer


def test_a_graph_that_is_not_understood(folder: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])],
    )
    onnx.save_model(helper.make_model(graph), folder / "model.onnx")
    with pytest.raises(UnsupportedModelError, match="does not keep a cache"):
        open_folder(folder)


def test_functions_that_grow_without_end(folder: Path) -> None:
    """40 functions that each call the next one twice would be 2**40 nodes."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.example", 1)]
    for number in range(40):
        kind = f"F{number + 1}" if number < 39 else "Identity"
        domain = "com.example" if number < 39 else ""
        body = [
            helper.make_node(kind, ["x"], ["h"], domain=domain),
            helper.make_node(kind, ["h"], ["y"], domain=domain),
        ]
        model.functions.append(helper.make_function("com.example", f"F{number}", ["x"], ["y"], body, opsets))
    model.graph.node.append(helper.make_node("F0", ["input_ids"], ["unused"], domain="com.example"))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="once its functions are inlined"):
        open_folder(folder)


def test_a_tokenizer_with_more_ids_than_logits(folder: Path) -> None:
    (folder / "config.json").unlink()
    onnx.save_model(build_model(ModelOptions(padded_vocab=-2)), folder / "model.onnx")
    tokenizer = open_folder(folder).tokenizer
    assert (tokenizer.vocab_size, tokenizer.encode("<|im_start|>")) == (261, [259])
    assert tokenizer.decode([259], skip_special_tokens=False) == "<|im_start|>"


def test_broken_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": -1}')
    with pytest.raises(InvalidInputError, match="temperature"):
        _ = open_folder(folder).generation_config


def test_the_file_may_break_after_opening(folder: Path) -> None:
    opened = open_folder(folder)
    os.truncate(folder / "model.onnx.data", 5000)
    with pytest.raises(InvalidInputError, match="which has 5000 bytes"):
        opened.load_onnx()


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "../x", "a/../../x", "\\x", "..\\x", "C:x", "//host/x"])
def test_names_that_leave(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError):
        find_inside(tmp_path, name)
