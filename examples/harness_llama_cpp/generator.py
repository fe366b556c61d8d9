# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp behind the wire protocol, profile "generator": its decode and its samplers, through llama-cpp-python.

pip install llama-cpp-python gguf
genai-iface conformance --command "python examples/harness_llama_cpp/generator.py"
"""

import json
from pathlib import Path
from typing import Any

import llama_cpp
from loop import Loop

from genai_iface import GenerationConfig, InvalidInputError
from genai_iface.conformance.wire import decode_tensor, encode_tensor, serve

MODELS: list[tuple[Path, dict[str, Any]]] = []
LOOPS: list[Any] = []


def hello() -> dict[str, Any]:
    versions = {"version": "1", "runtime": "llama.cpp", "runtime_version": f"llama-cpp-python {llama_cpp.__version__}"}
    backend = {"name": "llama-cpp", **versions, "interface_versions": [1], "capabilities": ["generator"]}
    device = {"identifier": "cpu", "kind": "cpu"}
    said = {"wire_version": 2, "profile": "generator", "form": "gguf", "devices": [device]}
    return said | {"backend": backend | {"dtypes": ["float32"], "limits": {}}}


def of_loop(call: str, handle: int, given: dict[str, Any]) -> dict[str, Any]:
    loop = LOOPS[handle] if 0 <= handle < len(LOOPS) else None
    if loop is None:
        raise InvalidInputError(f"there is no generator {handle}", remedy="Make one.")
    if call == "close_generator":
        LOOPS[handle] = None
        return {}
    if call == "get_logits":
        return {"logits": encode_tensor(loop.logits()[None].copy())}
    if call == "get_sequence":
        return {"token_ids": loop.sequence(given["index"])}
    said = {"token": loop.step()} if call == "generate_next_token" else {}
    if call == "append_tokens":
        loop.append(decode_tensor(given["token_ids"]).tolist())
    elif call == "set_logits":
        loop.logits()[:] = decode_tensor(given["logits"]).reshape(-1)
    elif call in ("rewind_generator", "cancel"):
        {"rewind_generator": loop.rewind, "cancel": loop.cancel}[call](**given)
    return said | {"state": {"length": len(loop.tokens), "finish_reason": loop.reason}}


def answer(call: str, given: dict[str, Any]) -> dict[str, Any]:
    if call == "hello":
        return hello()
    if call == "load":
        folder = Path(given["folder"])
        if not (folder / "model.gguf").is_file():
            raise InvalidInputError(f"{folder} has no model.gguf", remedy="Give a folder of the form gguf.")
        MODELS.append((folder, json.loads((folder / "config.json").read_text(encoding="utf-8"))))
        return {"model": len(MODELS) - 1}
    if call == "create_generator":
        folder, facts = MODELS[given["model"]]
        LOOPS.append(Loop(folder, facts, GenerationConfig(**given["config"]), given["capacity"]))
        return {"generator": len(LOOPS) - 1, "state": {"length": 0, "finish_reason": None}}
    if call == "close_model":
        return {}
    return of_loop(call, given.pop("generator"), given)


if __name__ == "__main__":
    serve(answer)
