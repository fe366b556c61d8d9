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

from genai_iface import TextGenerationPipeline
from genai_iface.errors import GenAIError, InvalidInputError, UnsupportedCapabilityError, UnsupportedModelError
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
    with TextGenerationPipeline.from_exported(exported(tmp_path / "exported"), backend=backend) as pipe:
        assert tokens(pipe) == expected
        streamed = [chunk.token_ids for chunk in pipe.stream(PROMPTS[0], max_new_tokens=6, ignore_eos=True)]
        assert [token for chunk in streamed for token in chunk] == expected[0]


@pytest.mark.parametrize("change", [carry_window, fix_axis(1, 1), fix_axis(0, 1)], ids=["window", "token", "row"])
def test_what_a_trace_fixed_does_not_change_the_tokens(
    change: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    with TextGenerationPipeline(write_folder(tmp_path / "plain", style="concat_nodes")) as pipe:
        expected = tokens(pipe)
    with TextGenerationPipeline.from_exported(exported(tmp_path / "exported", change)) as pipe:
        assert tokens(pipe) == expected


def test_a_graph_of_one_row_says_so(tmp_path: Path) -> None:
    with TextGenerationPipeline.from_exported(exported(tmp_path, fix_axis(0, 1))) as pipe:
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

    class Saves:
        def save_pretrained(self, directory: Any) -> None:
            shutil.copytree(texts, directory, dirs_exist_ok=True)

    for tokenizer in (texts, Saves()):
        with TextGenerationPipeline.from_exported(folder, tokenizer=tokenizer) as pipe:
            assert pipe.tokenizer.encode("ab") == [97, 98]


def test_what_was_made_for_reading_goes_with_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    folder = exported(tmp_path / "exported")
    pipe = TextGenerationPipeline.from_exported(folder)
    made = [path.name for path in (tmp_path / "temporary").iterdir()]
    assert any(name.startswith("genai-iface-") for name in made)
    pipe.close()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(GenAIError):
        TextGenerationPipeline.from_exported(folder)
    left = [path.name for path in (tmp_path / "temporary").iterdir()]
    assert not any(name.startswith("genai-iface-") for name in left)


MODEL = {"file": "model.onnx", "metadata": {}}


@pytest.mark.parametrize(
    ("manifest", "kind", "words"),
    [
        ({"export_format": "openvino"}, UnsupportedModelError, "exported for OpenVINO"),
        ({"export_format": "executorch"}, UnsupportedModelError, "exported for ExecuTorch"),
        ({"components": {}}, InvalidInputError, "names no components"),
        ({"components": [1]}, InvalidInputError, "names no components"),
        ({"components": {"decode": MODEL, "vision_encoder": MODEL}}, UnsupportedModelError, "vision_encoder"),
        ({"components": {"prefill": MODEL}}, UnsupportedModelError, "expected prefill and decode"),
        ({"components": {"decode": {"file": "decode.xml"}}}, InvalidInputError, r"decode\.xml"),
        ({"components": {"decode": {"file": 7}}}, InvalidInputError, "gives 7"),
        ({"components": {"decode": {"file": "other.onnx"}}}, InvalidInputError, r"no other\.onnx"),
        ({"components": {"decode": {"file": "../decode.onnx"}}}, InvalidInputError, r"\.\."),
    ],
)
def test_other_exports_are_refused_by_what_they_are(
    manifest: dict[str, Any], kind: type[GenAIError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words), open_export(exported(tmp_path / "exported", **manifest)):
        pass


@pytest.mark.parametrize(("axis", "words"), [(0, "3 rows"), (1, "3 tokens")])
def test_sizes_that_no_loop_can_keep_are_refused(axis: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=words), open_export(exported(tmp_path, fix_axis(axis, 3))):
        pass


def test_a_folder_without_a_manifest_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no export\.json"), open_export(write_folder(tmp_path)):
        pass
