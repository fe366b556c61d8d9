# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Folders in the form of Transformers' exporters, without torch: what is opened, and what is refused and why."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from genai_iface import TextGenerationPipeline, load_model
from genai_iface.errors import GenAIError, InvalidInputError, UnsupportedCapabilityError, UnsupportedModelError
from genai_iface.folder import open_folder
from genai_iface.folder.resolve import describe_models
from genai_iface.integrations.transformers import open_export
from tests.marks import BACKENDS
from tests.models import write_folder

PROMPTS = ["An operator", "A much longer prompt", "x"]


def exported(path: Path, change: Callable[[onnx.ModelProto], None] | None = None, **manifest: Any) -> Path:
    """A folder as their exporter lays it out, with a decode graph of ours."""
    folder = write_folder(path, style="concat_nodes", external_data=True)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    if change is not None:
        change(model)
    onnx.save(model, folder / "decode.onnx")
    (folder / "model.onnx").unlink()
    parts = {name: {"file": f"{name}.onnx", "metadata": {}} for name in ("prefill", "decode")}
    written = {"schema_version": 1, "export_format": "onnx", "components": parts, **manifest}
    (folder / "export.json").write_text(json.dumps(written))
    return folder


def fix_axis(axis: int, size: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        ids = next(value for value in model.graph.input if value.name == "input_ids")
        ids.type.tensor_type.shape.dim[axis].dim_value = size

    return change


def carry_window(model: onnx.ModelProto) -> None:
    """What a cache with a window adds to a traced graph."""
    kind = helper.make_tensor_type_proto(TensorProto.INT64, [])
    model.graph.input.append(helper.make_value_info("input.cache.layers.0._sliding_window_tensor", kind))
    model.graph.output.append(helper.make_value_info("output.cache.layers.0._sliding_window_tensor", kind))
    names = (model.graph.input[-1].name, model.graph.output[-1].name)
    model.graph.node.append(helper.make_node("Identity", [names[0]], [names[1]], name="window"))


def tokens(pipe: TextGenerationPipeline) -> list[list[int]]:
    return pipe.generate(PROMPTS, max_new_tokens=6, ignore_eos=True).token_ids


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exported_folder_gives_what_its_graph_gives(backend: str, tmp_path: Path) -> None:
    with TextGenerationPipeline(write_folder(tmp_path / "plain", style="concat_nodes"), backend=backend) as pipe:
        expected = tokens(pipe)
    folder = exported(tmp_path / "exported")
    with TextGenerationPipeline(folder, backend=backend) as pipe:
        assert tokens(pipe) == expected
    with TextGenerationPipeline.from_exported(folder, backend=backend) as pipe:
        assert tokens(pipe) == expected
        streamed = [chunk.token_ids for chunk in pipe.stream(PROMPTS[0], max_new_tokens=6, ignore_eos=True)]
        assert [token for chunk in streamed for token in chunk] == expected[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", [carry_window, fix_axis(1, 1), fix_axis(0, 1)], ids=["window", "token", "row"])
def test_what_a_trace_fixed_does_not_change_the_tokens(
    change: Callable[[onnx.ModelProto], None], backend: str, tmp_path: Path
) -> None:
    with TextGenerationPipeline(write_folder(tmp_path / "plain", style="concat_nodes")) as pipe:
        expected = tokens(pipe)
    with TextGenerationPipeline(exported(tmp_path / "exported", change), backend=backend) as pipe:
        assert tokens(pipe) == expected


def test_what_only_passes_through_is_dropped_and_what_is_read_is_not(tmp_path: Path) -> None:
    def carry_more(model: onnx.ModelProto) -> None:
        carry_window(model)
        kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3])
        for name in ("itself", "twice"):
            model.graph.input.append(helper.make_value_info(name, kind))
        model.graph.output.append(helper.make_value_info("itself", kind))
        for copy in ("one", "other"):
            model.graph.output.append(helper.make_value_info(copy, kind))
            model.graph.node.append(helper.make_node("Identity", ["twice"], [copy]))
        # The same for the tokens, which are read as well.
        model.graph.output.append(helper.make_tensor_value_info("echo", TensorProto.INT64, ["B", "S"]))
        model.graph.node.append(helper.make_node("Identity", ["input_ids"], ["echo"]))

    opened = open_folder(exported(tmp_path, carry_more))
    assert [change.partition(":")[0] for change in opened.changes] == ["carried"]
    graph = opened.load_ir().graph
    names = {value.name for value in (*graph.inputs, *graph.outputs)}
    assert not {"itself", "twice", "one", "other", "input.cache.layers.0._sliding_window_tensor"} & names
    assert {"input_ids", "echo"} <= names
    model = load_model(opened.source)
    assert model.forward([[5, 6]], model.create_cache()).shape[:2] == (1, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_of_one_row_says_so(backend: str, tmp_path: Path) -> None:
    with TextGenerationPipeline(exported(tmp_path, fix_axis(0, 1)), backend=backend) as pipe:
        assert not {"batch", "ragged", "reorder"} & pipe.model.capabilities
        with pytest.raises(UnsupportedCapabilityError, match="one row and cannot take 2"):
            pipe.model.create_cache(batch_size=2)
        with pytest.raises(UnsupportedCapabilityError):
            pipe.generate(PROMPTS[0], num_beams=2, max_new_tokens=2)


def test_a_tokenizer_may_lie_elsewhere(tmp_path: Path) -> None:
    folder = exported(tmp_path / "exported")
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.move(folder / name, texts / name)
    with pytest.raises(InvalidInputError, match=r"no tokenizer\.json"):
        TextGenerationPipeline.from_exported(folder)

    for tokenizer in (texts, Saved(texts)):
        with TextGenerationPipeline.from_exported(folder, tokenizer=tokenizer) as pipe:
            assert pipe.tokenizer.encode("ab") == [97, 98]


class Saved:
    """As an ``ExportedModel`` or a tokenizer: writes the files of a folder elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save_pretrained(self, directory: Any) -> None:
        shutil.copytree(self._folder, directory, dirs_exist_ok=True)


def test_what_was_saved_for_reading_goes_with_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def made() -> list[Path]:
        return list((tmp_path / "temporary").glob("genai-iface-*"))

    folder = exported(tmp_path / "exported")
    with TextGenerationPipeline.from_exported(folder, tokenizer=folder):
        assert not made()  # read where it lies
    with TextGenerationPipeline.from_exported(Saved(folder), tokenizer=Saved(folder)) as pipe:
        assert len(made()) == 2
        assert len(tokens(pipe)) == len(PROMPTS)
    assert not made()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(GenAIError):
        TextGenerationPipeline.from_exported(Saved(folder))
    assert not made()


def test_chat_templates_come_from_where_the_tokenizer_is(tmp_path: Path) -> None:
    folder = exported(tmp_path / "exported")
    texts = tmp_path / "texts"
    for place, word in ((folder, "theirs"), (texts, "mine")):
        (place / "additional_chat_templates").mkdir(parents=True)
        (place / "chat_template.jinja").write_text(f"{word} {{{{ messages[0].content }}}}")
        (place / "additional_chat_templates" / "tool_use.jinja").write_text(f"{word} tools")
    shutil.copy(folder / "tokenizer.json", texts)
    chat = [{"role": "user", "content": "x"}]
    for tokenizer, word in ((None, "theirs"), (texts, "mine"), (Saved(texts), "mine")):
        with TextGenerationPipeline.from_exported(folder, tokenizer=tokenizer) as pipe:
            assert pipe.tokenizer.apply_chat_template(chat) == f"{word} x"
            assert pipe.tokenizer.apply_chat_template(chat, chat_template="tool_use") == f"{word} tools"
    # As older tokenizers keep them.
    shutil.rmtree(texts / "additional_chat_templates")
    (texts / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": "d"}, {"name": "rag", "template": "documents"}]
    (texts / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    with TextGenerationPipeline.from_exported(folder, tokenizer=texts) as pipe:
        assert pipe.tokenizer.apply_chat_template(chat, chat_template="rag") == "documents"


def test_the_parts_of_an_export_are_listed(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    shutil.copy(folder / "decode.onnx", folder / "prefill.onnx")
    decode, prefill = describe_models(folder)
    assert (decode.name, decode.cache, decode.problem) == ("decode", "concat", None)
    assert prefill.name == "prefill"
    assert "takes no cache" in str(prefill.problem)
    assert open_folder(folder, variant="decode").model_path.name == "decode.onnx"
    with pytest.raises(UnsupportedModelError, match="graph for prompts"):
        open_folder(folder, variant="prefill")


MODEL = {"file": "model.onnx", "metadata": {}}
DECODE = {"file": "decode.onnx", "metadata": {}}


@pytest.mark.parametrize(
    ("manifest", "kind", "words"),
    [
        ({"components": {"decode": MODEL, "vision_encoder": MODEL}}, InvalidInputError, "'decode'"),
        ({"components": {"decode": DECODE, "vision_encoder": MODEL}}, UnsupportedModelError, "vision_encoder"),
        ({"components": {"decode": {"file": "decode.xml"}}}, InvalidInputError, r"decode\.xml"),
        ({"components": {"decode": {"file": 7}}}, InvalidInputError, "gives null"),
        ({"components": {"decode": {"file": "other.onnx"}}}, InvalidInputError, r"other\.onnx"),
        ({"components": {"decode": {"file": "../decode.onnx"}}}, InvalidInputError, r"\.\."),
        ({"components": {"prefill": DECODE}}, UnsupportedModelError, "graph for prompts"),
    ],
)
def test_other_exports_are_refused_by_what_they_are(
    manifest: dict[str, Any], kind: type[GenAIError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        open_folder(exported(tmp_path / "exported", **manifest))


@pytest.mark.parametrize(("form", "words"), [("openvino", "exported for OpenVINO"), ("dynamo", "exported for torch")])
def test_exports_for_other_runtimes_are_refused_by_name(form: str, words: str, tmp_path: Path) -> None:
    folder = exported(tmp_path, export_format=form)
    (folder / "decode.onnx").unlink()
    with pytest.raises(UnsupportedModelError, match=words):
        open_folder(folder)


@pytest.mark.parametrize("manifest", [{"components": {}}, {"components": [1]}, {"components": None}])
def test_a_manifest_that_says_nothing_is_no_obstacle(manifest: dict[str, Any], tmp_path: Path) -> None:
    assert open_folder(exported(tmp_path, **manifest)).model_path.name == "decode.onnx"


@pytest.mark.parametrize(("axis", "words"), [(0, "3 rows"), (1, "3 tokens")])
def test_sizes_that_no_loop_can_keep_are_refused(axis: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=words), open_export(exported(tmp_path, fix_axis(axis, 3))):
        pass
