# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO GenAI behind the wire protocol, profile "text".

pip install openvino-genai transformers
genai-iface conformance --command "python examples/harness_openvino_genai/harness.py"
"""

import json
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

# Before openvino, which would tell a server that it was imported.
from genai_iface.backend_kit import switch_off_telemetry

switch_off_telemetry()

import numpy as np  # noqa: E402
import openvino  # noqa: E402
import openvino.opset13 as operators  # noqa: E402
import openvino_genai  # noqa: E402
import openvino_tokenizers  # noqa: E402
from openvino._offline_transformations import apply_make_stateful_transformation  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from genai_iface import GenerationConfig, InvalidInputError, UnsupportedCapabilityError  # noqa: E402
from genai_iface.conformance.wire import serve  # noqa: E402

NUMBERS = [
    *("min_new_tokens", "temperature", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size"),
    *("presence_penalty", "frequency_penalty", "ignore_eos", "include_stop_str_in_output"),
]
KNOWN = {*NUMBERS, "max_new_tokens", "max_length", "do_sample", "top_k", "seed", "stop_strings", "stop_token_ids"}
SCRATCH = tempfile.TemporaryDirectory(prefix="openvino-genai-")
MODELS: list[Any] = []


def hello() -> dict[str, Any]:
    versions = {"version": "1", "runtime": "openvino-genai", "runtime_version": openvino_genai.__version__}
    backend = {"name": "openvino-genai", **versions, "interface_versions": [1], "capabilities": []}
    device = {"identifier": "cpu", "kind": "cpu"}
    said = {"wire_version": 2, "profile": "text", "form": "concat", "devices": [device]}
    return said | {"backend": backend | {"dtypes": ["float32"], "limits": {}}}


def convert(folder: Path, target: Path) -> None:
    """A graph with growing tensors as the runtime wants it: past and present are states, for one row."""
    graph = openvino.Core().read_model(folder / "model.onnx")
    shapes = {item.any_name: item.partial_shape for item in graph.inputs}
    for shape in shapes.values():
        shape[0] = 1
    graph.reshape(shapes)
    # What its loop gives every model, and this one does not need.
    for name, kind, rank in (("attention_mask", np.int64, 2), ("beam_idx", np.int32, 1)):
        parameter = operators.parameter([-1] * rank, kind, name=name)
        parameter.output(0).get_tensor().set_names({name})
        graph.add_parameters([parameter])
    pasts = [name for name in shapes if name.startswith("past_key_values")]
    apply_make_stateful_transformation(graph, {name: name.replace("past_key_values", "present") for name in pasts})
    openvino.save_model(graph, target / "openvino_model.xml", compress_to_fp16=False)
    shutil.copyfile(folder / "config.json", target / "config.json")
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # Where the folder names no end it would take -1, and refuse that; no token has the id that is one too many.
    ends = {"eos_token_id": said.get("eos_token_id", said["vocab_size"])}
    (target / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")
    if (folder / "tokenizer.json").is_file():
        names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **names)
        parts = openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)
        for part, name in zip(parts, ("openvino_tokenizer.xml", "openvino_detokenizer.xml"), strict=True):
            openvino.save_model(part, target / name)


def load(folder: str) -> dict[str, Any]:
    root = Path(folder)
    if not (root / "model.onnx").is_file():
        raise InvalidInputError(f"{folder} has no model.onnx", remedy="Give a folder of the form concat.")
    target = Path(SCRATCH.name) / str(len(MODELS))
    target.mkdir()
    convert(root, target)
    # The processor plugin may choose a narrower type by itself.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "ATTENTION_BACKEND": "SDPA"}
    pipeline = openvino_genai.LLMPipeline(str(target), "CPU", **exact)
    room = json.loads((root / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    MODELS.append((pipeline, room))
    return {"model": len(MODELS) - 1}


def config_of(asked: GenerationConfig, room: int) -> Any:
    config = openvino_genai.GenerationConfig()
    config.apply_chat_template = False
    config.do_sample = asked.samples
    for name in NUMBERS:
        if asked.samples or name not in ("temperature", "top_p", "min_p"):
            setattr(config, name, getattr(asked, name))
    if asked.samples and asked.top_k:
        config.top_k = asked.top_k
    # Its own default is the same for every call.
    config.rng_seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    if asked.max_length is not None or asked.max_new_tokens is None:
        config.max_length = asked.max_length or room
    if asked.max_new_tokens is not None:
        config.max_new_tokens = asked.max_new_tokens
    config.stop_strings = set(asked.stop_strings)
    config.stop_token_ids = set(asked.stop_token_ids)
    return config


def generate(model: int, prompt: Any, config: dict[str, Any]) -> dict[str, Any]:
    for name in config:
        if name not in KNOWN:
            raise UnsupportedCapabilityError(f"this harness cannot honor {name}", remedy="Leave it alone.")
    pipeline, room = MODELS[model]
    asked = config_of(GenerationConfig(**config), room)
    # Text comes back for text, tokens for tokens.
    if isinstance(prompt, str):
        result = pipeline.generate([prompt], asked)
        text, tokens = result.texts[0], None
    else:
        result = pipeline.generate(openvino.Tensor(np.array([prompt], np.int64)), asked)
        text, tokens = "", [int(token) for token in result.tokens[0]]
    reason = "length" if result.finish_reasons[0] == openvino_genai.GenerationFinishReason.LENGTH else "stop"
    return {"text": text, "finish_reason": reason, "token_ids": tokens}


def answer(call: str, given: dict[str, Any]) -> dict[str, Any]:
    if call == "hello":
        return hello()
    if call == "load":
        return load(given["folder"])
    if call == "generate":
        return generate(**given)
    if call == "close_model":
        return {}
    raise UnsupportedCapabilityError(f"there is no {call} in the profile text", remedy="See docs/spec/wire.md.")


if __name__ == "__main__":
    serve(answer)
