# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Transformers' generate() behind the wire protocol, profile "text".

genai-iface conformance --command "python examples/harness_transformers/harness.py"
"""

import json
from pathlib import Path
from typing import Any

from genai_iface import GenerationConfig, InvalidInputError, UnsupportedCapabilityError
from genai_iface.backend_kit import switch_off_telemetry
from genai_iface.conformance.wire import serve

switch_off_telemetry()  # before Transformers is imported

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: E402
from transformers.utils import logging  # noqa: E402

# What generate() takes under the same name.
SAME = ("min_new_tokens", "top_p", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size", "max_time")
KNOWN = {
    *SAME,
    "max_new_tokens",
    "max_length",
    "do_sample",
    "temperature",
    "top_k",
    "seed",
    "bad_words_ids",
    "logprobs",
}
KNOWN |= {"stop_strings", "include_stop_str_in_output", "stop_token_ids", "ignore_eos", "eos_token_id"}
MODELS: list[Any] = []


def hello() -> dict[str, Any]:
    versions = {"version": "1", "runtime": "transformers", "runtime_version": transformers.__version__}
    backend = {"name": "transformers-generate", **versions, "interface_versions": [1], "capabilities": []}
    device = {"identifier": "cpu", "kind": "cpu"}
    said = {"wire_version": 2, "profile": "text", "form": "checkpoint", "devices": [device]}
    return said | {"backend": backend | {"dtypes": ["float32"], "limits": {}}}


def load(folder: str) -> dict[str, Any]:
    root = Path(folder)
    if not (root / "config.json").is_file():
        raise InvalidInputError(f"{folder} has no config.json", remedy="Give a checkpoint.")
    network = AutoModelForCausalLM.from_pretrained(root, local_files_only=True, dtype=torch.float32).eval()
    has_texts = (root / "tokenizer.json").is_file()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(root / "tokenizer.json")) if has_texts else None
    # Transformers fills in an end token where config.json names none.
    ends = json.loads((root / "config.json").read_text()).get("eos_token_id", [])
    MODELS.append((network, tokenizer, [ends] if isinstance(ends, int) else ends))
    return {"model": len(MODELS) - 1}


def settings_of(asked: GenerationConfig, num_prompt: int, room: int, ends: list[int]) -> dict[str, Any]:
    settings = {name: getattr(asked, name) for name in SAME}
    stops = [*asked.stop_token_ids, *([] if asked.ignore_eos else ends)]
    limit = min(asked.max_new_tokens or room, (asked.max_length or room) - num_prompt, room - num_prompt)
    settings |= {"max_new_tokens": limit, "do_sample": asked.samples, "eos_token_id": stops or None}
    settings["top_k"] = asked.top_k
    if asked.samples:
        settings["temperature"] = asked.temperature
    if asked.bad_words_ids:
        settings["bad_words_ids"] = [list(words) for words in asked.bad_words_ids]
    if asked.stop_strings:
        settings["stop_strings"] = list(asked.stop_strings)
    return settings


def ended(asked: GenerationConfig, tokens: list[int], text: str, settings: dict[str, Any]) -> tuple[str, str]:
    """The text up to what ended it, and the reason."""
    found = [(text.find(stop), stop) for stop in asked.stop_strings if stop in text]
    if found:
        place, stop = min(found)
        return text[: place + len(stop) * asked.include_stop_str_in_output], "stop"
    if tokens and tokens[-1] in (settings["eos_token_id"] or ()):
        return text, "stop"
    return text, "length" if len(tokens) >= settings["max_new_tokens"] else "time"


def entries(asked: GenerationConfig, tokens: list[int], logits: Any) -> list[dict[str, Any]]:
    found = []
    for token, row in zip(tokens, logits, strict=True):
        values = torch.log_softmax(row[0].double(), -1)
        best = values.topk(asked.logprobs or 1).indices.tolist()[: asked.logprobs]
        top = [[index, float(values[index])] for index in best]
        found.append({"token_id": token, "logprob": float(values[token]), "top": top})
    return found


def generate(model: int, prompt: Any, config: dict[str, Any]) -> dict[str, Any]:
    for name in config:
        if name not in KNOWN:
            raise UnsupportedCapabilityError(f"generate() has no {name}", remedy="Leave it alone.")
    network, tokenizer, ends = MODELS[model]
    asked = GenerationConfig(**config)
    ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
    settings = settings_of(asked, len(ids), network.config.max_position_embeddings, ends)
    if asked.eos_token_id is not None:
        raise UnsupportedCapabilityError("this harness takes eos_token_id from the folder", remedy="Leave it alone.")
    if asked.seed is not None:
        torch.manual_seed(asked.seed)
    network.generation_config.eos_token_id = None
    with torch.no_grad():
        done = network.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            pad_token_id=0,
            tokenizer=tokenizer,
            return_dict_in_generate=True,
            output_logits=True,
            **settings,
        )
    tokens = done.sequences[0, len(ids) :].tolist()
    shown = [token for token in tokens if token not in asked.stop_token_ids]
    text, reason = ended(
        asked, tokens, tokenizer.decode(shown, skip_special_tokens=True) if tokenizer else "", settings
    )
    logprobs = None if asked.logprobs is None else entries(asked, tokens, done.logits)
    return {"text": text, "finish_reason": reason, "token_ids": tokens, "logprobs": logprobs}


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
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    serve(answer)
