# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp behind the wire protocol, profile "text": its server in this process.

pip install xllamacpp gguf
genai-iface conformance --command "python examples/harness_llama_cpp/harness.py"
"""

import json
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xllamacpp

from genai_iface import GenerationConfig, InvalidInputError, UnsupportedCapabilityError
from genai_iface.conformance.wire import serve

# What its completions take, by our name.
SAME = {"top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "typical_p": "typical_p"}
SAME |= {"repetition_penalty": "repeat_penalty", "stop_strings": "stop", "seed": "seed", "logprobs": "n_probs"}
# Its ignore_eos is another one: the end token is never drawn.
KNOWN = {*SAME, "max_new_tokens", "max_length", "do_sample", "temperature", "logit_bias"}
# It has three samplers more, and a temperature that comes last; these are the ones that a caller can ask for.
SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p", "typ_p"]
MOST_SEEDS = 2**32 - 1
MODELS: list[Any] = []


def hello() -> dict[str, Any]:
    versions = {"version": "1", "runtime": "llama.cpp", "runtime_version": f"xllamacpp {version('xllamacpp')}"}
    backend = {"name": "llama-cpp", **versions, "interface_versions": [1], "capabilities": []}
    device = {"identifier": "cpu", "kind": "cpu"}
    said = {"wire_version": 2, "profile": "text", "form": "gguf", "devices": [device]}
    return said | {"backend": backend | {"dtypes": ["float32"], "limits": {}}}


def load(folder: str) -> dict[str, Any]:
    root = Path(folder)
    if not (root / "model.gguf").is_file():
        raise InvalidInputError(f"{folder} has no model.gguf", remedy="Give a folder of the form gguf.")
    room = json.loads((root / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(root / "model.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.port = room, 1, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    # Keys and values as the interface has them; its default is float16.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    MODELS.append((xllamacpp.Server(parameters), room))
    return {"model": len(MODELS) - 1}


def ask(server: Any, path: str, body: dict[str, Any]) -> dict[str, Any]:
    content = json.dumps(body).encode()
    request = urllib.request.Request(server.listening_address + path, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return dict(json.load(reply))
    except urllib.error.HTTPError as error:
        raise InvalidInputError(f"llama.cpp refuses: {error.read().decode()[:300]}", remedy="Ask for less.") from error


def options_of(asked: GenerationConfig, given: dict[str, Any], room: int) -> dict[str, Any]:
    options = {SAME[name]: value for name, value in given.items() if name in SAME and value is not None}
    if "logit_bias" in given:
        options["logit_bias"] = [[int(token), bias] for token, bias in asked.logit_bias.items()]
    neutral = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "repeat_last_n": room, "cache_prompt": False}
    options = {**neutral, **options, "samplers": SAMPLERS, "return_tokens": True}
    options["temperature"] = asked.temperature if asked.samples else 0.0
    return options


def generate(model: int, prompt: Any, config: dict[str, Any]) -> dict[str, Any]:
    for name in config:
        if name not in KNOWN:
            raise UnsupportedCapabilityError(f"llama.cpp's completions have no {name}", remedy="Leave it alone.")
    asked = GenerationConfig(**config)
    if asked.seed is not None and asked.seed >= MOST_SEEDS:
        raise UnsupportedCapabilityError("llama.cpp has no seed above 32 bits", remedy="Give a smaller one.")
    server, room = MODELS[model]
    ids = ask(server, "/tokenize", {"content": prompt})["tokens"] if isinstance(prompt, str) else prompt
    limit = min(asked.max_new_tokens or room, (asked.max_length or room) - len(ids), room - len(ids))
    done = ask(server, "/completion", {"prompt": ids, "n_predict": limit, **options_of(asked, config, room)})
    entries = None
    if asked.logprobs is not None:
        entries = [
            {
                "token_id": entry["id"],
                "logprob": entry["logprob"],
                "top": [[best["id"], best["logprob"]] for best in entry["top_logprobs"][: asked.logprobs]],
            }
            for entry in done.get("completion_probabilities", [])
        ]
    reason = "length" if done["stop_type"] == "limit" else "stop"
    return {"text": done["content"], "finish_reason": reason, "token_ids": done["tokens"], "logprobs": entries}


def answer(call: str, given: dict[str, Any]) -> dict[str, Any]:
    if call == "hello":
        return hello()
    if call == "load":
        return load(given["folder"])
    if call == "generate":
        return generate(**given)
    if call == "close_model":
        MODELS[given["model"]] = None
        return {}
    raise UnsupportedCapabilityError(f"there is no {call} in the profile text", remedy="See docs/spec/wire.md.")


if __name__ == "__main__":
    serve(answer)
