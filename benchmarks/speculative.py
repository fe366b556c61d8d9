# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What prompt lookup is worth, or costs, for a model and a text; a repetitive text unless another is given.

    python benchmarks/speculative.py --backend ort

prints a JSON line for each way: median seconds of all steps after the first token, and the ratio to plain decoding.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from genai_iface import TextGenerationPipeline
from genai_iface.generation import PromptLookup

_TEXT = "The Attention operator computes scaled dot product attention on query, key and value tensors. "


def main() -> None:
    """Runs both ways in turn, so that a slow moment of the machine meets both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="the model folder; without it the embedded one")
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--prompt", default=_TEXT * 4)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--num-drafts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ways: dict[str, Any] = {"plain": None, "prompt_lookup": PromptLookup(arguments.num_drafts)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    with TextGenerationPipeline(arguments.model, backend=arguments.backend) as pipe:
        for _ in range(arguments.rounds):
            for name, speculation in ways.items():
                result = pipe.generate(
                    arguments.prompt,
                    max_new_tokens=arguments.max_new_tokens,
                    ignore_eos=True,
                    temperature=0,
                    speculation=speculation,
                )
                seconds[name].append(result.perf_metrics.decode_seconds)
                results[name] = result
    plain = statistics.median(seconds["plain"])
    for name, result in results.items():
        median = statistics.median(seconds[name])
        line = {
            "way": name,
            "backend": arguments.backend,
            "seconds": median,
            "ratio": plain / median,
            "acceptance_rate": result.perf_metrics.acceptance_rate,
            "equal_tokens": result.token_ids == results["plain"].token_ids,
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
