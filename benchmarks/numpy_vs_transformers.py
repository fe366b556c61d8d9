# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Decode speed of the NumPy backend against Transformers on torch, in one run, with equal threads.

    python -m benchmarks.numpy_vs_transformers --threads 1 --context 128 --work-dir /tmp/bench

Both sides run the same random 135M-parameter float32 Llama. They take turns, a block of tokens
each, so that a change of the machine's speed meets both; the ratio is that of the medians.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="135m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=8, help="tokens of a block")
    parser.add_argument("--blocks", type=int, default=7, help="blocks of each side")
    parser.add_argument("--work-dir", type=Path, required=True)
    arguments = parser.parse_args()
    # NumPy's and torch's thread pools read these when they are loaded.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)

    sides = {"numpy": numpy_side, "transformers": transformers_side}
    blocks = {name: side(arguments) for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.blocks):
        for name, block in blocks.items():
            seconds[name].append(block() / arguments.tokens)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    line = {
        "benchmark": "numpy_vs_transformers",
        "size": arguments.size,
        "threads": arguments.threads,
        "context": arguments.context,
        "numpy_tokens_per_second": round(1 / median["numpy"], 2),
        "transformers_tokens_per_second": round(1 / median["transformers"], 2),
        "ratio": round(median["transformers"] / median["numpy"], 3),
    }
    print(json.dumps(line))


def numpy_side(arguments: argparse.Namespace) -> Callable[[], float]:
    """A function that decodes a block on the NumPy backend and returns its seconds."""
    import numpy as np

    from benchmarks.checkpoint import build_standard, make_checkpoint
    from genai_iface import load_model

    checkpoint = make_checkpoint(arguments.size, arguments.work_dir)
    model = load_model(build_standard(checkpoint), backend="numpy")
    cache = model.create_cache(capacity=arguments.context + arguments.tokens)
    ids = np.random.default_rng(0).integers(3, model.spec.vocab_size, (1, arguments.context))
    model.forward(ids, cache, logits="none")

    def block() -> float:
        cache.rewind_to(arguments.context)
        token = np.array([[7]])
        begin = time.perf_counter()
        for _ in range(arguments.tokens):
            token = model.forward(token, cache)[:, -1].argmax(-1)[:, None]
        return time.perf_counter() - begin

    return block


def transformers_side(arguments: argparse.Namespace) -> Callable[[], float]:
    """The same on Transformers with a dynamic cache."""
    import torch
    import transformers

    from benchmarks.checkpoint import make_checkpoint

    torch.set_num_threads(arguments.threads)
    checkpoint = make_checkpoint(arguments.size, arguments.work_dir)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = torch.randint(3, model.config.vocab_size, (1, arguments.context))
    cache = transformers.DynamicCache(config=model.config)
    with torch.inference_mode():
        model(ids, past_key_values=cache, logits_to_keep=1)

    @torch.inference_mode()
    def block() -> float:
        cache.crop(arguments.context)
        token = torch.tensor([[7]])
        begin = time.perf_counter()
        for _ in range(arguments.tokens):
            token = model(token, past_key_values=cache).logits[:, -1].argmax(-1)[:, None]
        return time.perf_counter() - begin

    return block


if __name__ == "__main__":
    main()
