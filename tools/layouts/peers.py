# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One stack in a process of its own: a runtime that crashes takes nothing else with it.

Called as ``python -m tools.layouts.peers STACK``. A line of standard input names a folder, a prompt and a number of
steps, in JSON; a line of standard output gives the tokens or an error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

import numpy as np

from genai_iface.backend_kit import switch_off_telemetry

switch_off_telemetry()


def ours(folder: str, prompt: list[int], steps: int, backend: str) -> list[int]:
    """Greedy tokens of a backend of ours."""
    from genai_iface import load_model  # noqa: PLC0415 - each stack loads its own libraries only

    model = load_model(folder, backend=backend)
    cache = model.create_cache(capacity=len(prompt) + steps)
    ids, made = np.array([prompt]), list[int]()
    while len(made) < steps:
        made.append(int(model.forward(ids, cache)[0, -1].argmax()))
        ids = np.array([made[-1:]])
    return made


def genai(folder: str, prompt: list[int], steps: int) -> list[int]:
    """Greedy tokens of ONNX Runtime GenAI."""
    import onnxruntime_genai  # noqa: PLC0415

    model = onnxruntime_genai.Model(folder)
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + steps, do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(np.array([prompt], np.int32))
    for _ in range(steps):
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)[len(prompt) : len(prompt) + steps]]


def exported(folder: str, prompt: list[int], steps: int) -> list[int]:
    """Greedy tokens of Transformers' ``ExportedModel``: its graph for the prompt, then that for tokens, with the cache.

    It has no loop of its own; this one is what its documentation shows.
    """
    import torch  # noqa: PLC0415
    from transformers.exporters.base import ExportedModel  # noqa: PLC0415

    runners = ExportedModel.from_pretrained(folder).runners
    first = runners.get("prefill") or next(iter(runners.values()))
    further = runners.get("decode", first)
    ids, past, made = torch.tensor([prompt]), dict[str, object](), list[int]()
    while True:
        runner = further if made else first
        total = len(prompt) + len(made)
        known = {"input_ids": ids, "attention_mask": torch.ones(1, total, dtype=torch.int64), **past}
        known["position_ids"] = torch.arange(total - ids.shape[1], total)[None]
        output = runner(**{name: value for name, value in known.items() if name in runner.metadata.kwargs})
        made.append(int(output.logits[0, -1].argmax()))
        if len(made) == steps:
            return made
        name = "cache" if "cache" in output else "past_key_values"
        ids, past = torch.tensor([made[-1:]]), {name: output[name]}


STACKS: dict[str, Callable[[str, list[int], int], list[int]]] = {
    "ort": lambda folder, prompt, steps: ours(folder, prompt, steps, "ort"),
    "numpy": lambda folder, prompt, steps: ours(folder, prompt, steps, "numpy"),
    "genai": genai,
    "exported": exported,
}
"""The stacks by name."""


def main() -> int:
    """Answers until the input ends."""
    stack = STACKS[sys.argv[1]]
    answers = os.fdopen(os.dup(1), "w")
    # Runtimes print what they like.
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer: dict[str, object] = {"tokens": stack(asked["folder"], asked["prompt"], asked["steps"])}
        except Exception as error:  # noqa: BLE001 - whatever another stack raises is the result
            lines = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {lines[0]}".replace(asked["folder"], "FOLDER")[:160]}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
