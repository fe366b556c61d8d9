# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The wire protocol in Python, over any registered backend: its steps, or the generators of one that owns its loop.

genai-iface conformance --command "python examples/harness_python/harness.py numpy"
"""

import dataclasses
import sys
from typing import Any

import numpy as np

from genai_iface import Capability, GenerationConfig, InvalidInputError, load_backend
from genai_iface.conformance import profile_of
from genai_iface.conformance.adapter import BackendAdapter
from genai_iface.conformance.wire import decode_tensor, encode_tensor, serve

BACKEND: Any = load_backend(sys.argv[1])
PROFILE = sys.argv[2] if len(sys.argv) > 2 else profile_of(BackendAdapter(sys.argv[1]))
MODELS: dict[int, Any] = {}
CACHES: dict[int, Any] = {}
GENERATORS: dict[int, Any] = {}
# What the protocol has no calls for.
ABSENT = {Capability.CHECKPOINT} | ({Capability.GENERATOR} if PROFILE == "step" else set())


def hello() -> dict[str, Any]:
    info = BACKEND.info()
    said = dataclasses.asdict(info) | {"interface_versions": [1], "dtypes": sorted(info.dtypes)}
    said["capabilities"] = sorted(info.capabilities - ABSENT)
    devices = [{"identifier": device.identifier, "kind": device.kind} for device in BACKEND.devices()]
    form = BACKEND.golden_form() if hasattr(BACKEND, "golden_form") else "scatter"
    shown = {"form": form, "profile": PROFILE, "operators": hasattr(BACKEND, "run_node")}
    return {"wire_version": 2, "backend": said, "devices": devices, **shown}


def load(folder: str, device: str | None, options: dict[str, Any]) -> dict[str, Any]:
    if PROFILE == "generator":
        MODELS[len(MODELS)] = folder
        return {"model": len(MODELS) - 1}
    model = BACKEND.load(folder, device=device, options=options)
    MODELS[len(MODELS)] = model
    where = {"identifier": model.device.identifier, "kind": model.device.kind}
    can = sorted(model.capabilities - ABSENT)
    return {"model": len(MODELS) - 1, "spec": dataclasses.asdict(model.spec), "device": where, "capabilities": can}


def told(cache: Any) -> dict[str, Any]:
    names = ("batch_size", "capacity", "nbytes", "bytes_per_token", "update_mode")
    return {name: getattr(cache, name) for name in names} | {"lengths": cache.lengths.tolist()}


def new(cache: Any) -> dict[str, Any]:
    CACHES[len(CACHES)] = cache
    return {"cache": len(CACHES) - 1, "state": told(cache)}


def of_model(call: str, model: Any, cache: Any, given: dict[str, Any]) -> dict[str, Any]:
    if call == "forward":
        logits = model.forward(given["input_ids"], cache, counts=given["counts"], logits=given["logits"])
        return {"logits": encode_tensor(logits), "state": told(cache)}
    if call == "create_generator":
        generator = BACKEND.generator(model, config=GenerationConfig(**given["config"]), capacity=given["capacity"])
        GENERATORS[len(GENERATORS)] = generator
        return {"generator": len(GENERATORS) - 1, "state": state_of(generator)}
    if call == "save_cache":
        model.save_cache(cache, given["path"])
    elif call == "load_cache":
        return new(model.load_cache(given["path"], capacity=given["capacity"]))
    elif call == "create_cache":
        return new(model.create_cache(**given))
    elif PROFILE == "step":
        model.close()
    return {}


def of_cache(call: str, cache: Any, given: dict[str, Any]) -> dict[str, Any]:
    if call == "fork":
        return new(cache.fork())
    if call == "read":
        keys, values = cache.read(given["layer"], given["row"])
        return {"keys": encode_tensor(keys), "values": encode_tensor(values)}
    result = getattr(cache, "close" if call == "close_cache" else call)(*given.values())
    return {"state": told(cache)} | ({"can": result} if call == "can_rewind_to" else {})


def state_of(generator: Any) -> dict[str, Any]:
    return {"length": generator.token_count(), "finish_reason": generator.finish_reasons[0]}


def of_generator(call: str, handle: int, given: dict[str, Any]) -> dict[str, Any]:
    if call == "close_generator":
        GENERATORS.pop(handle, None)
        return {}
    generator = GENERATORS.get(handle)
    if generator is None:
        raise InvalidInputError(f"there is no generator {handle}", remedy="Make one.")
    if call == "get_logits":
        return {"logits": encode_tensor(generator.get_logits())}
    if call == "get_sequence":
        return {"token_ids": generator.get_sequence(given["index"])}
    name = "rewind_to" if call == "rewind_generator" else call
    getattr(generator, name)(*(value.tolist() if isinstance(value, np.ndarray) else value for value in given.values()))
    token = {"token": generator.get_next_tokens()[0]} if call == "generate_next_token" else {}
    return {**token, "state": state_of(generator)}


def answer(call: str, given: dict[str, Any]) -> dict[str, Any]:
    if call == "hello":
        return hello()
    if call == "load":
        return load(**given)
    if call == "run_node":
        inputs = {name: decode_tensor(tensor) for name, tensor in given["inputs"].items()}
        return {"outputs": [encode_tensor(y) for y in BACKEND.run_node(decode_tensor(given["onnx"]).tobytes(), inputs)]}
    for name in ("input_ids", "token_ids", "counts", "lengths", "indices", "rows"):
        if given.get(name) is not None:
            given[name] = decode_tensor(given[name])
    if call == "set_logits":
        given["logits"] = decode_tensor(given["logits"])
    if "generator" in given:
        return of_generator(call, given.pop("generator"), given)
    cache = given.pop("cache", None)
    if cache is not None and cache not in CACHES:
        raise InvalidInputError(f"there is no cache {cache}", remedy="Make one.")
    if "model" in given:
        return of_model(call, MODELS[given.pop("model")], CACHES.get(cache), given)
    return of_cache(call, CACHES[cache], given)


if __name__ == "__main__":
    serve(answer)
