# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What stands around the graphs: external data in one file or several, configurations, packages, a hub's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import set_external_data

from tests.model_files import BOS, EOS, write_tokenizer_files

__all__ = ["VOCABULARY", "beside", "genai_config", "into_cache", "merged", "save", "with_past_width", "write_json"]

VOCABULARY = 264


def save(model: onnx.ModelProto, path: Path, *, data: Sequence[str] = ()) -> None:
    """Writes a model; with names, its larger weights are shared out among these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    contents: dict[str, bytearray] = {name: bytearray() for name in data}
    large = [tensor for tensor in copy.graph.initializer if len(tensor.raw_data) > 1024] if data else []
    for number, tensor in enumerate(large):
        place = list(contents)[number * len(contents) // len(large)]
        content = contents[place]
        content.extend(bytes(-len(content) % 64))
        set_external_data(tensor, place, offset=len(content), length=len(tensor.raw_data))
        content.extend(tensor.raw_data)
        tensor.ClearField("raw_data")
    for name, content in contents.items():
        (path.parent / name).write_bytes(content)
    path.write_bytes(copy.SerializeToString())


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


def beside(folder: Path, **fields: Any) -> None:
    """config.json, generation_config.json and the tokenizer, as every repository has them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer_files(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 64, **sizes}
    write_json(folder / "config.json", config | {"vocab_size": 261, "bos_token_id": BOS, "eos_token_id": EOS} | fields)
    write_json(folder / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS})


def genai_config(folder: Path, file: str = "model.onnx", *, window: Any = None, **fields: Any) -> None:
    """What ONNX Runtime GenAI's builder writes, with the tokenizer and without config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer_files(folder)
    decoder: dict[str, Any] = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": file,
        "head_size": 16,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask"}
        | {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"},
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    if window is not None:
        decoder["sliding_window"] = window
    model = {"type": "llama", "vocab_size": VOCABULARY, "context_length": 64, "decoder": decoder}
    model |= {"bos_token_id": BOS, "eos_token_id": [EOS, 260], "pad_token_id": 258}
    search = {"max_length": 64, "do_sample": False, "past_present_share_buffer": True, "top_k": 50}
    write_json(folder / "genai_config.json", {"model": model | fields, "search": search})


def into_cache(folder: Path, cache: Path, repository: str) -> Path:
    """Moves a folder into a cache as huggingface_hub keeps it: links into blobs/ by hash. Returns the snapshot."""
    home = cache / f"models--{repository}"
    snapshot = home / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    (home / "blobs").mkdir(parents=True)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    shutil.rmtree(folder)
    return snapshot


def with_past_width(model: onnx.ModelProto) -> onnx.ModelProto:
    """A decoder as older Optimum writes it for the steps after a prompt: one token wide."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for value in copy.graph.input:
        if value.name in ("input_ids", "position_ids"):
            value.type.tensor_type.shape.dim[1].ClearField("value")
            value.type.tensor_type.shape.dim[1].dim_value = 1
    return copy


def without_past(model: onnx.ModelProto) -> onnx.ModelProto:
    """A decoder for prompts: no cache comes in."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    pasts = [value for value in copy.graph.input if value.name.startswith("past_key_values")]
    for value in pasts:
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        shape[2] = 0
        kind = value.type.tensor_type.elem_type
        copy.graph.initializer.append(onnx.helper.make_tensor(value.name, kind, shape, []))
        copy.graph.input.remove(value)
    return copy


def merged(model: onnx.ModelProto) -> onnx.ModelProto:
    """Both decoders in the branches of an If that ``use_cache_branch`` chooses, the weights outside of them."""
    graph = model.graph
    outputs = list(graph.output)

    def branch(name: str, *, cached: bool) -> onnx.GraphProto:
        body = onnx.GraphProto(name=name)
        body.output.extend(outputs)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        if not cached:
            # What this branch knows of the past: that there is none.
            empty = {}
            for value in graph.input:
                if value.name.startswith("past_key_values"):
                    shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
                    shape[2] = 0
                    empty[value.name] = f"{value.name}.none"
                    kind = value.type.tensor_type.elem_type
                    body.initializer.append(onnx.helper.make_tensor(empty[value.name], kind, shape, []))
            for node in nodes:
                for index, used in enumerate(node.input):
                    node.input[index] = empty.get(used, used)
        body.node.extend(nodes)
        return body

    choice = onnx.helper.make_node(
        "If",
        ["use_cache_branch"],
        [value.name for value in outputs],
        name="optimum::if",
        then_branch=branch("with_past", cached=True),
        else_branch=branch("no_past", cached=False),
    )
    asked = onnx.helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1])
    whole = onnx.helper.make_graph(
        [choice], "merged", [*graph.input, asked], outputs, initializer=list(graph.initializer)
    )
    made = onnx.helper.make_model(whole, opset_imports=model.opset_import, ir_version=model.ir_version)
    made.producer_name = "optimum-onnx"
    return made
