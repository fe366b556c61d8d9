# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The wire protocol in Python, over any registered backend.

genai-iface conformance --command "python examples/harness_python/harness.py numpy"
"""

import dataclasses
import json
import sys
from typing import Any

from genai_iface import GenAIError, InvalidInputError, load_backend
from genai_iface.conformance.wire import decode_tensor, encode_tensor, from_error

BACKEND: Any = load_backend(sys.argv[1])
MODELS: dict[int, Any] = {}
CACHES: dict[int, Any] = {}
# What the protocol's version 1 has no calls for.
ABSENT = {"checkpoint", "generator"}


def hello() -> dict[str, Any]:
    said = dataclasses.asdict(BACKEND.info()) | {"interface_versions": [1], "dtypes": sorted(BACKEND.info().dtypes)}
    said["capabilities"] = sorted(BACKEND.info().capabilities - ABSENT)
    devices = [{"identifier": device.identifier, "kind": device.kind} for device in BACKEND.devices()]
    operators = hasattr(BACKEND, "run_node")
    return {"wire_version": 1, "backend": said, "devices": devices, "form": "scatter", "operators": operators}


def load(folder: str, device: str | None, options: dict[str, Any]) -> dict[str, Any]:
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
    if call == "save_cache":
        model.save_cache(cache, given["path"])
    elif call == "load_cache":
        return new(model.load_cache(given["path"], capacity=given["capacity"]))
    elif call == "create_cache":
        return new(model.create_cache(**given))
    else:
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


def answer(call: str, given: dict[str, Any]) -> dict[str, Any]:
    if call == "hello":
        return hello()
    if call == "load":
        return load(**given)
    if call == "run_node":
        inputs = {name: decode_tensor(tensor) for name, tensor in given["inputs"].items()}
        return {"outputs": [encode_tensor(y) for y in BACKEND.run_node(decode_tensor(given["onnx"]).tobytes(), inputs)]}
    for name in ("input_ids", "counts", "lengths", "indices", "rows"):
        if given.get(name) is not None:
            given[name] = decode_tensor(given[name])
    cache = given.pop("cache", None)
    if cache is not None and cache not in CACHES:
        raise InvalidInputError(f"there is no cache {cache}", remedy="Make one.")
    if "model" in given:
        return of_model(call, MODELS[given.pop("model")], CACHES.get(cache), given)
    return of_cache(call, CACHES[cache], given)


def main() -> None:
    replies, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no message
    for line in sys.stdin:
        request = json.loads(line)
        identifier, call = request.pop("id"), request.pop("call")
        if call == "close":
            break
        try:
            request.pop("wire_versions", None)
            reply = {"result": answer(call, {} if call == "hello" else request)}
        except GenAIError as error:
            reply = {"error": from_error(error)}
        print(json.dumps({"id": identifier} | reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
