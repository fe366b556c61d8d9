# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a runtime wants beside a graph: ONNX Runtime GenAI its configuration, a small harness a plain config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from genai_iface.folder import ModelFolder

__all__ = ["for_genai", "for_harness", "link_graph", "why_not_genai", "why_not_harness", "without_end"]

_KEPT = "past_key_values.{layer}.{kind}", "present.{layer}.{kind}"


def link_graph(folder: ModelFolder, target: Path) -> None:
    """The files of the graph in another folder, its own under the name model.onnx."""
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.path.iterdir():
        if path.is_file() and path.suffix != ".json":
            shutil.copyfile(path, target / path.name)
    shutil.copyfile(folder.model_path, target / "model.onnx")


def why_not_harness(folder: ModelFolder) -> str:
    """Why a harness that finds caches by their names cannot drive the graph; empty if it can."""
    signature, spec = folder.signature, folder.spec
    if spec.cache.style != "scatter" or spec.cache.states:
        return "its cache is not of TensorScatter alone"
    if set(signature.inputs) - {"input_ids", "write_indices", "nonpad_kv_seqlen"}:
        return "it has more inputs than ids, write indices and lengths"
    if any((t.past, t.present) != tuple(_named(t.layer, t.kind)) for t in signature.cache_tensors):
        return "its caches have other names"
    shapes = {(layer.num_kv_heads, layer.key_head_dim, layer.value_head_dim) for layer in spec.cache.layers}
    return "" if len(shapes) == 1 and spec.context_length is not None else "its layers differ in shape"


def for_harness(folder: ModelFolder, target: Path) -> Path:
    """A folder with the configuration that examples/harness_javascript reads."""
    link_graph(folder, target)
    spec, layer = folder.spec, folder.spec.cache.layers[0]
    _write(
        target / "config.json",
        {
            "vocab_size": spec.vocab_size,
            "max_position_embeddings": spec.context_length,
            "num_key_value_heads": layer.num_kv_heads,
            "head_dim": layer.key_head_dim,
        },
    )
    return target


def why_not_genai(folder: ModelFolder) -> str:
    """Why ONNX Runtime GenAI cannot be told to run the graph; empty if it can."""
    signature, cache = folder.signature, folder.spec.cache
    if cache.style == "scatter":
        return "it gives a graph no write_indices, so TensorScatter caches cannot be driven"
    if cache.states:
        return "its configuration names no states of this form"
    known = {"input_ids", "attention_mask", "position_ids"}
    if set(signature.inputs) - known:
        return f"it has no name for the input {', '.join(sorted(set(signature.inputs) - known))}"
    shapes = {(layer.num_kv_heads, layer.key_head_dim, layer.value_head_dim) for layer in cache.layers}
    if len(shapes) != 1 or cache.layers[0].key_head_dim != cache.layers[0].value_head_dim:
        return "it takes one shape for all keys and values"
    patterns = {_pattern(name, t.layer) for t in signature.cache_tensors for name in (t.past, t.present)}
    return "" if len(patterns) == 4 else "the names of its caches follow no pattern"


def for_genai(folder: ModelFolder, target: Path) -> Path:
    """A folder with a genai_config.json from the graph's signature, for a graph with past and present tensors."""
    link_graph(folder, target)
    signature, spec = folder.signature, folder.spec
    layer, key, value = spec.cache.layers[0], *signature.cache_tensors[:2]
    config = folder.config
    heads = int(config.get("num_attention_heads") or config.get("n_head") or layer.num_kv_heads)
    context = spec.context_length or 128
    decoder: dict[str, Any] = {
        "session_options": {"provider_options": []},
        "filename": "model.onnx",
        "head_size": layer.key_head_dim,
        "hidden_size": heads * layer.key_head_dim,
        "num_attention_heads": heads,
        "num_hidden_layers": len(spec.cache.layers),
        "num_key_value_heads": layer.num_kv_heads,
        "inputs": {
            **signature.inputs,
            "past_key_names": _pattern(key.past, key.layer),
            "past_value_names": _pattern(value.past, value.layer),
        },
        "outputs": {
            "logits": signature.logits,
            "present_key_names": _pattern(key.present, key.layer),
            "present_value_names": _pattern(value.present, value.layer),
        },
    }
    # A plain decoder for it; other types have rules of their own.
    model = {"type": "llama", "context_length": context, "vocab_size": spec.vocab_size, "decoder": decoder}
    model |= {"eos_token_id": [], "pad_token_id": 0, "bos_token_id": 1}
    _write(
        target / "genai_config.json",
        {"model": model, "search": {"max_length": context, "past_present_share_buffer": False}},
    )
    return target


def without_end(source: Path, target: Path) -> Path:
    """A folder of ONNX Runtime GenAI in which no token ends a sequence, so that all of torch's can be compared."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    config = json.loads((target / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["eos_token_id"] = []
    config["model"].setdefault("pad_token_id", 0)
    _write(target / "genai_config.json", config)
    return target


def _named(layer: int, kind: str) -> tuple[str, str]:
    past, present = (form.format(layer=layer, kind=kind) for form in _KEPT)
    return past, present


def _pattern(name: str, layer: int) -> str:
    before, number, after = name.rpartition(f".{layer}.") if f".{layer}." in name else (name, "", "")
    return f"{before}.%d.{after}" if number else name


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
