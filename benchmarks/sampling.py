# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What choosing a token costs, in microseconds, apart from the model.

    python -m benchmarks.sampling

prints a JSON line for each combination of parameters: the median over random logits of a plausible shape.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

from genai_iface import GenerationConfig
from genai_iface.generation import Sampler

_COMBINATIONS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "temperature": {"temperature": 0.8},
    "temperature + top-k": {"temperature": 0.8, "top_k": 50},
    "temperature + top-p": {"temperature": 0.8, "top_p": 0.95},
    "temperature + top-k + top-p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "temperature + min-p": {"temperature": 0.8, "min_p": 0.05},
    "temperature + typical": {"temperature": 0.8, "typical_p": 0.9},
    "temperature + top-k + top-p + repetition penalty": {
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
    },
    "greedy + repetition penalty + no repeated 3-grams": {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3},
}


def main() -> None:
    """Measures every combination."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vocab-size", type=int, default=50_000)
    parser.add_argument("--num-tokens", type=int, default=512, help="length of the sequence so far")
    parser.add_argument("--rounds", type=int, default=400)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, arguments.vocab_size, arguments.num_tokens)
    # Language models spread most of their mass over few tokens: a normal body with a heavy right tail.
    rows = [
        (rng.normal(0, 2, arguments.vocab_size) + 3 * rng.exponential(1, arguments.vocab_size)).astype(np.float32)
        for _ in range(16)
    ]
    for name, fields in _COMBINATIONS.items():
        sampler = Sampler(GenerationConfig(**fields), vocab_size=arguments.vocab_size, stop_ids=[2], seed=0)
        times = []
        for at in range(arguments.rounds):
            started = time.perf_counter()
            sampler.choose(rows[at % len(rows)], tokens, 16, 0)
            times.append(time.perf_counter() - started)
        line = {
            "benchmark": "sampling",
            "parameters": name,
            "vocab_size": arguments.vocab_size,
            "microseconds": round(1e6 * statistics.median(times), 1),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
