# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Finding a model in what people have: files, folders of many, folders in folders, snapshots of the hub's cache."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from genai_iface import InvalidInputError, TextGenerationPipeline, UnsupportedModelError, load_model
from genai_iface.folder import open_folder
from genai_iface.folder._files import find_inside
from tests.model_files import EOS
from tests.models import ModelOptions, build_model, write_folder

COMMIT = "c" * 40


def as_snapshot(folder: Path, cache: Path, repo: str = "someone--tiny") -> Path:
    """A folder as huggingface_hub keeps it: every file a link into blobs/."""
    home = cache / f"models--{repo}"
    snapshot = home / "snapshots" / COMMIT
    (home / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob = home / "blobs" / f"{number:064x}"
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def as_published(folder: Path, *names: str, below: str = "onnx") -> Path:
    """Moves the graph into a folder below, under other names, with external data beside it."""
    place = folder / below
    place.mkdir(parents=True, exist_ok=True)
    model = onnx.load(folder / "model.onnx")
    for name in names or ("model",):
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        onnx.save_model(
            copy,
            place / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.onnx_data",
            size_threshold=1024,
        )
    (folder / "model.onnx").unlink()
    (folder / "model.onnx.data").unlink(missing_ok=True)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", style="concat")


def greedy(source: str | Path, backend: str = "numpy", **options: str) -> list[int]:
    with TextGenerationPipeline(source, backend=backend, **options) as pipe:
        return pipe.generate("Hello", max_new_tokens=6, ignore_eos=True).token_ids[0]


# Paths.


def test_a_file(folder: Path) -> None:
    wanted = greedy(folder)
    (folder / "model.onnx").rename(folder / "any name.onnx")
    assert open_folder(folder / "any name.onnx").model_path.name == "any name.onnx"
    assert greedy(folder / "any name.onnx") == wanted
    assert greedy(str(folder)) == wanted  # the only one


def test_a_link_to_a_file_is_the_users(folder: Path) -> None:
    (folder.parent / "here.onnx").symlink_to(folder / "model.onnx")
    assert open_folder(folder.parent / "here.onnx").path == folder.resolve()


@pytest.mark.parametrize("below", ["onnx", "v2", "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4"])
def test_graphs_in_folders_below(folder: Path, below: str) -> None:
    wanted = greedy(folder)
    as_published(folder, below=below)
    for source in (folder, folder / below, folder / below / "model.onnx", folder / below.split("/", maxsplit=1)[0]):
        opened = open_folder(source)
        assert opened.path == (folder / below).resolve()
        assert opened.config["vocab_size"] == 264
        assert opened.generation_config.eos_token_ids == (EOS,)
        assert greedy(source) == wanted
        assert any(note.startswith("tokenizer.json: from ") for note in opened.notes)


def test_files_above_count_only_where_something_is_missing(folder: Path) -> None:
    inner = write_folder(folder / "inner", style="concat")
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert open_folder(inner).levels == (inner.resolve(),)
    (inner / "generation_config.json").unlink()
    assert open_folder(inner).generation_config.eos_token_ids == (EOS,)


@pytest.mark.parametrize("backend", ["numpy", "ort"])
def test_a_snapshot_of_the_cache(folder: Path, tmp_path: Path, backend: str) -> None:
    pytest.importorskip("onnxruntime") if backend == "ort" else None
    wanted = greedy(folder)
    snapshot = as_snapshot(as_published(folder), tmp_path / "hub")
    shutil.rmtree(folder)
    opened = open_folder(snapshot)
    assert opened.path == snapshot.resolve() / "onnx"
    assert {path.parent.name for path in opened.files} == {"blobs"}
    assert opened.file_names == ("model.onnx", "model.onnx_data")
    for source in (snapshot, snapshot / "onnx", snapshot / "onnx" / "model.onnx"):
        assert greedy(source, backend) == wanted
    if backend == "ort":
        model = load_model(snapshot, backend="ort", options={"optimize": "none"})
        assert model.forward([[1, 2]], model.create_cache()).shape == (1, 1, 264)


def test_links_of_a_snapshot_lead_to_its_own_blobs_only(folder: Path, tmp_path: Path) -> None:
    snapshot = as_snapshot(as_published(folder), tmp_path / "hub")
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    other = tmp_path / "hub" / "models--another--one" / "blobs"
    other.mkdir(parents=True)
    (other / "0").write_text("{}")
    deeper = snapshot.parents[1] / "blobs" / "deeper"
    deeper.mkdir()
    (deeper / "0").write_text("{}")
    for target in (outside, other / "0", deeper / "0", snapshot.parents[1] / "refs"):
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(target)
        with pytest.raises(InvalidInputError, match=r"config\.json"):
            open_folder(snapshot)
    # blobs/ itself may not be a link to somewhere else.
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInputError, match="leaves"):
        find_inside(snapshot.resolve(), "tokenizer.json")


def test_external_data_of_a_snapshot_may_not_leave_it(folder: Path, tmp_path: Path) -> None:
    snapshot = as_snapshot(as_published(folder), tmp_path / "hub")
    data = snapshot / "onnx" / "model.onnx_data"
    content = data.read_bytes()
    data.unlink()
    (tmp_path / "weights").write_bytes(content)
    data.symlink_to(tmp_path / "weights")
    with pytest.raises(InvalidInputError, match="leaves the model folder"):
        open_folder(snapshot)


# Several models.


def test_the_fullest_precision_is_taken(folder: Path) -> None:
    as_published(folder, "model", "model_fp16", "model_q4f16", "model_q4", "model_int8", "model_uint8", "model_bnb4")
    assert open_folder(folder).model_path.name == "model.onnx"
    (folder / "onnx" / "model.onnx").unlink()
    assert open_folder(folder).model_path.name == "model_fp16.onnx"
    (folder / "onnx" / "model_fp16.onnx").unlink()
    assert open_folder(folder).model_path.name == "model_int8.onnx"


@pytest.mark.parametrize("name", ["q4f16", "model_q4f16", "onnx/model_q4f16", "onnx/model_q4f16.onnx", "Q4F16"])
def test_a_variant_by_name(folder: Path, name: str) -> None:
    as_published(folder, "model", "model_fp16", "model_q4f16", "model_q4")
    assert open_folder(folder, variant=name).model_path.name == "model_q4f16.onnx"
    assert open_folder(f"{folder}:{name}").model_path.name == "model_q4f16.onnx"
    assert load_model(folder, variant=name).spec.vocab_size == 264
    assert len(greedy(folder, variant=name)) == 6


def test_a_variant_that_is_not_there(folder: Path) -> None:
    as_published(folder, "model", "model_q4")
    with pytest.raises(InvalidInputError) as caught:
        open_folder(folder, variant="fp16")
    text = str(caught.value)
    assert "no variant 'fp16'" in text
    assert "fp32  (onnx/model.onnx: " in text
    assert "MiB, float32, concat cache" in text
    assert "q4  (onnx/model_q4.onnx" in text


def test_names_that_say_nothing_are_looked_into(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    for name, dtype in (("one", "float16"), ("two", "float32")):
        onnx.save(build_model(ModelOptions(style="concat", dtype=dtype)), folder / f"{name}.onnx")
    assert open_folder(folder).model_path.name == "two.onnx"
    shutil.copyfile(folder / "two.onnx", folder / "three.onnx")
    with pytest.raises(InvalidInputError, match="several models") as caught:
        open_folder(folder)
    assert "three  (three.onnx: " in str(caught.value)
    assert open_folder(folder, variant="three").model_path.name == "three.onnx"


def test_a_processor_comes_before_other_devices(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    (folder / "model.onnx").unlink()
    for place in ("cuda/cuda-fp16", "cpu_and_mobile/cpu-int4-rtn-block-32", "directml/directml-int4-awq-block-128"):
        (folder / place).mkdir(parents=True)
        onnx.save(model, folder / place / "model.onnx")
    assert open_folder(folder).path.name == "cpu-int4-rtn-block-32"
    assert open_folder(folder, variant="cuda-fp16").path.name == "cuda-fp16"


@pytest.mark.parametrize("argument", [{"variant": "q4"}, {"revision": "main"}])
def test_arguments_that_do_not_fit_a_file(folder: Path, argument: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="has no"):
        open_folder(folder / "model.onnx", **argument)


# What genai_config.json and others name.


def test_the_file_that_genai_config_names(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "phi.onnx")
    shutil.copyfile(folder / "phi.onnx", folder / "another.onnx")
    (folder / "config.json").unlink()
    (folder / "generation_config.json").unlink()
    (folder / "genai_config.json").write_text(
        json.dumps(
            {
                "model": {
                    "decoder": {"filename": "phi.onnx"},
                    "context_length": 48,
                    "vocab_size": 261,
                    "eos_token_id": [5, 6],
                }
            }
        )
    )
    opened = open_folder(folder)
    assert opened.model_path.name == "phi.onnx"
    assert opened.context_length == 48
    assert opened.generation_config.eos_token_ids == (5, 6)


def test_the_decoder_of_transformers_exporters(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "decode.onnx")
    shutil.copyfile(folder / "decode.onnx", folder / "prefill.onnx")
    manifest = {"schema_version": 1, "components": {n: {"file": f"{n}.onnx"} for n in ("prefill", "decode")}}
    (folder / "export.json").write_text(json.dumps(manifest))
    assert open_folder(folder).model_path.name == "decode.onnx"


REFUSED = {
    "openvino": ({"openvino_model.xml": "", "openvino_model.bin": ""}, UnsupportedModelError, "OpenVINO"),
    "checkpoint": ({"model.safetensors": "", "config.json": "{}"}, InvalidInputError, "genai-iface build"),
    "nothing": ({"readme.txt": ""}, InvalidInputError, "no model.onnx"),
    "vision": (
        {"onnx/decoder_model_merged_q4.onnx": "", "onnx/embed_tokens_q4.onnx": "", "onnx/vision_encoder_q4.onnx": ""},
        UnsupportedModelError,
        "embeddings, not token ids",
    ),
    "encoder": (
        {"onnx/decoder_model_merged.onnx": "", "onnx/encoder_model.onnx": ""},
        UnsupportedModelError,
        "encoder-decoder",
    ),
    "pipeline": (
        {"context_ctx.onnx": "", "genai_config.json": '{"model": {"decoder": {"pipeline": [{"ctx": {}}]}}}'},
        UnsupportedModelError,
        "pipeline of several graphs",
    ),
    "genai-vision": (
        {
            "text.onnx": "",
            "genai_config.json": '{"model": {"decoder": {"filename": "text.onnx"}, "vision": {}, "embedding": {}}}',
        },
        UnsupportedModelError,
        "other inputs than text",
    ),
}


@pytest.mark.parametrize(("files", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_by_name(files: dict[str, str], error: type[Exception], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message) as caught:
        open_folder(tmp_path)
    assert caught.value.remedy  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/model.onnx", "sub/../../model.onnx"])
def test_a_configuration_cannot_name_a_file_elsewhere(folder: Path, name: str) -> None:
    shutil.copyfile(folder / "model.onnx", folder.parent / "model.onnx")
    (folder / "model.onnx").rename(folder / "mine.onnx")
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": {"filename": name}}}))
    assert open_folder(folder).model_path == folder.resolve() / "mine.onnx"
    (folder / "genai_config.json").unlink()
    (folder / "export.json").write_text(json.dumps({"components": {"decode": {"file": name}}}))
    assert open_folder(folder).model_path == folder.resolve() / "mine.onnx"


def test_weights_keep_their_fingerprint_in_a_cache(folder: Path, tmp_path: Path) -> None:
    as_published(folder)
    snapshot = as_snapshot(folder, tmp_path / "hub")
    assert open_folder(snapshot).fingerprint == open_folder(folder).fingerprint
    read, written = (open_folder(place).load_onnx().graph.initializer for place in (snapshot, folder))
    assert all(
        np.array_equal(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other))
        for one, other in zip(read, written, strict=True)
    )
