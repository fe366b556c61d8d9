# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A harness of the profile "text" over the SDK's own pipeline."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from genai_iface import TextGenerationPipeline, load_model
from genai_iface.conformance.wire import serve
from genai_iface.folder import open_folder

MODELS: dict[int, Any] = {}
BUG = sys.argv[1] if len(sys.argv) > 1 else ""


class NoTokenizer:
    """Of a folder without one: only ids go in and come out."""

    vocab_size, bos_token_id, eos_token_id = 40, None, None

    def decode(self, tokens: Any, /, **_: Any) -> str:
        return ""


def hello() -> dict[str, Any]:
    names = {"name": "text", "version": "1", "runtime": "numpy", "runtime_version": "1"}
    backend = names | {"interface_versions": [1], "capabilities": [], "dtypes": ["float32"], "limits": {}}
    devices = [{"identifier": "cpu", "kind": "cpu"}]
    return {"wire_version": 2, "backend": backend, "devices": devices, "form": "scatter", "profile": "text"}


def load(folder: str) -> dict[str, Any]:
    opened = open_folder(folder)
    has_texts = (Path(folder) / "tokenizer.json").is_file()
    tokenizer: Any = opened.tokenizer if has_texts else NoTokenizer()
    config = opened.generation_config
    MODELS[len(MODELS)] = TextGenerationPipeline.from_parts(load_model(folder), tokenizer, config)
    return {"model": len(MODELS) - 1}


def generate(model: int, prompt: Any, config: dict[str, Any]) -> dict[str, Any]:
    fields = dict(config)
    if BUG == "greedy":
        fields = {name: value for name, value in fields.items() if name not in ("temperature", "top_p", "seed")}
        fields["do_sample"] = False
    if BUG == "no limit":
        fields.pop("max_new_tokens", None)
    result = MODELS[model].generate(prompt, **fields)
    entries = None
    if result.logprobs is not None:
        entries = [dataclasses.asdict(entry) for entry in result.logprobs[0]]
    said = {"text": result.text, "finish_reason": result.finish_reasons[0], "logprobs": entries}
    return said if BUG == "no tokens" else said | {"token_ids": result.token_ids[0]}


def answer(call: str, given: dict[str, Any]) -> dict[str, Any]:
    if call == "load":
        return load(given["folder"])
    return generate(**given) if call == "generate" else hello() if call == "hello" else {}


if __name__ == "__main__":
    serve(answer)
