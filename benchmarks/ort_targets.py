# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the ONNX Runtime backend has to reach, measured by one command.

    python -m benchmarks.ort_targets --work-dir /tmp/bench --threads 2 [--only NAME ...] [--size 135m]

Each measure runs in a process of its own and prints one JSON line with its value, its target and
whether it is met. Comparisons with other stacks are those of ``benchmarks.compare``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import CONTEXT, NAMES, build_concat, build_standard, make_checkpoint

# Within the 8192 positions of the real model.
_LONG = 6000


@dataclass(frozen=True)
class Target:
    """A measure and what it must reach.

    Attributes:
        name: Its name on the command line.
        title: What it is, for people.
        value: Gives the value; called in a process of its own.
        target: The value that the measure must reach.
        at_least: Whether the bound is the lowest legal value or the highest.
    """

    name: str
    title: str
    value: Callable[[argparse.Namespace], dict[str, Any]]
    target: float
    at_least: bool = True


def main() -> None:
    """Runs all measures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=NAMES, default="135m", help="a shape, or a real model")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help=", ".join(target.name for target in TARGETS)
    )
    parser.add_argument("--here", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        found = next(target for target in TARGETS if target.name == arguments.here).value(arguments)
        print(json.dumps(found))
        return
    for target in TARGETS:
        if not arguments.only or target.name in arguments.only:
            print(json.dumps(measure(target, arguments)), flush=True)


def measure(target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one measure in a fresh process."""
    threads = str(arguments.threads)
    command = [sys.executable, "-m", "benchmarks.ort_targets", "--here", target.name, "--threads", threads]
    command += ["--work-dir", str(arguments.work_dir), "--size", arguments.size]
    # The threads of the BLAS that measures the bandwidth are ours, one each.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return {"measure": target.name, "error": done.stderr.strip().splitlines()[-1:]}
    line = json.loads(done.stdout.strip().splitlines()[-1])
    met = line["value"] >= target.target if target.at_least else line["value"] <= target.target
    return {"measure": target.name, "title": target.title, **line, "target": target.target, "met": met}


def against(side: str, measure: str, weights: str, context: int) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """The speed of the ORT backend over another stack."""

    def value(arguments: argparse.Namespace) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.compare", "ort", side, "--measure", measure, "--weights", weights]
        command += ["--context", str(context), "--threads", str(arguments.threads), "--size", arguments.size]
        command += ["--work-dir", str(arguments.work_dir)]
        environment = {name: text for name, text in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(done.stderr)
        line = json.loads(done.stdout.strip().splitlines()[-1])
        return {
            "value": line["speed_of_ort_over"][side],
            "by_order": line["by_order"][side],
            "tokens_per_second": line["tokens_per_second"],
        }

    return value


def bandwidth_floor(arguments: argparse.Namespace) -> dict[str, Any]:
    """Decode time that reading weights and cache once must take, over the time it takes."""
    model, cache = _loaded(arguments, "fp32", context=128, capacity=160)
    folder = build_standard(make_checkpoint(arguments.size, arguments.work_dir), "fp32")
    # The embedding is tied: the LM head reads the same table once. Position tables are hardly read.
    weights = (make_checkpoint(arguments.size, arguments.work_dir) / "model.safetensors").stat().st_size
    ratios, bandwidths = [], []
    for _ in range(5):
        bandwidth = _read_bandwidth(arguments.threads)
        seconds = _decode_seconds(model, cache, context=128, tokens=16)
        read = weights + 136 * model.spec.cache.bytes_per_token
        ratios.append(read / bandwidth / seconds)
        bandwidths.append(bandwidth / 1e9)
    return {
        "value": round(statistics.median(ratios), 3),
        "gigabytes_per_second": round(statistics.median(bandwidths), 1),
        "model": folder.name,
    }


def capacity_cost(arguments: argparse.Namespace) -> dict[str, Any]:
    """Step time of a cache with the model's whole context over one with 512, both with 400 tokens."""
    model, small = _loaded(arguments, "fp32", context=400, capacity=512)
    large = model.create_cache(capacity=model.spec.context_length or CONTEXT)
    model.forward(_prompt(model, 400), large, logits="none")
    pairs = []
    for _ in range(9):
        times = [_decode_seconds(model, cache, context=400, tokens=16) for cache in (large, small)]
        pairs.append(times[0] / times[1])
    return {"value": round(statistics.median(pairs), 3), "bytes": [large.nbytes, small.nbytes]}


def scatter_over_concat(arguments: argparse.Namespace) -> dict[str, Any]:
    """Speed of the in-place cache over the same model in concat style, at a long context."""
    from genai_iface import load_model

    context = _LONG
    model, cache = _loaded(arguments, "fp32", context=context, capacity=context + 16)
    folder = build_concat(make_checkpoint(arguments.size, arguments.work_dir))
    other = load_model(folder, backend="ort", options={"num_threads": arguments.threads})
    slow = other.create_cache(capacity=context + 16)
    _prefill(other, slow, context)
    times: dict[str, list[float]] = {"in_place": [], "copied": []}
    for _ in range(5):
        times["in_place"].append(_decode_seconds(model, cache, context=context, tokens=8))
        times["copied"].append(_decode_seconds(other, slow, context=context, tokens=8))
    median = {name: statistics.median(values) for name, values in times.items()}
    written = {
        cache.update_mode: model.spec.cache.bytes_per_token,
        slow.update_mode: (context + 1) * other.spec.cache.bytes_per_token,
    }
    return {"value": round(median["copied"] / median["in_place"], 3), "cache_bytes_written_per_token": written}


def python_overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """Microseconds of a greedy token outside the runtime's run call, the generation loop included."""
    import onnxruntime

    from genai_iface import GenerationConfig
    from genai_iface.generation.generator import ModelGenerator

    inside: list[float] = []
    plain = onnxruntime.InferenceSession.run_with_iobinding

    def timed(self: Any, *values: Any, **options: Any) -> None:
        begin = time.perf_counter()
        plain(self, *values, **options)
        inside.append(time.perf_counter() - begin)

    onnxruntime.InferenceSession.run_with_iobinding = timed
    model, _ = _loaded(arguments, "fp32", context=8, capacity=16)
    config = GenerationConfig(max_new_tokens=400, ignore_eos=True)
    generator = ModelGenerator(model, config, capacity=512)
    generator.append_tokens(list(range(3, 11)))
    for _ in range(20):
        generator.generate_next_token()
    outside = []
    for _ in range(150):
        inside.clear()
        begin = time.perf_counter()
        generator.generate_next_token()
        outside.append(time.perf_counter() - begin - sum(inside))
    # The same code with the run left out: what is left above it is the runtime's eviction of Python from the caches.
    onnxruntime.InferenceSession.run_with_iobinding = lambda *_, **__: None
    warm = []
    for _ in range(150):
        begin = time.perf_counter()
        generator.generate_next_token()
        warm.append(time.perf_counter() - begin)
    return {
        "value": round(statistics.median(outside) * 1e6, 1),
        "with_the_run_left_out": round(statistics.median(warm) * 1e6, 1),
        "unit": "microseconds",
    }


def memory_overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak memory above weights and cache, as a part of them, with a long context in the cache."""
    import onnx  # noqa: F401
    import onnx_ir  # noqa: F401
    import onnxruntime  # noqa: F401

    from genai_iface import list_backends

    list_backends()
    # The libraries' own code is not memory of the model.
    before = _peak_bytes()
    model, cache = _loaded(arguments, "fp32", context=_LONG, capacity=_LONG + 8)
    _decode_seconds(model, cache, context=_LONG, tokens=4)
    peak = _peak_bytes() - before
    weights = (make_checkpoint(arguments.size, arguments.work_dir) / "model.safetensors").stat().st_size
    needed = weights + (_LONG + 4) * model.spec.cache.bytes_per_token
    table = model.spec.vocab_size * json.loads((_folder(arguments) / "config.json").read_text())["hidden_size"] * 4
    return {
        "value": round(peak / needed - 1, 3),
        "of_which_the_tied_table_is_held_twice": round(table / needed, 3),
        "peak_megabytes": peak // 2**20,
        "needed_megabytes": needed // 2**20,
    }


TARGETS = (
    *(
        Target(
            f"decode-{weights}-{context}-genai",
            f"decode {weights} at {context}, over ONNX Runtime GenAI",
            against("genai", "decode", weights, context),
            bound,
        )
        for weights, bound in (("int4", 1.1), ("fp32", 1.05))
        for context in (128, 1024, _LONG)
    ),
    *(
        Target(
            f"decode-int4-{context}-llamacpp",
            f"decode int4 at {context}, over llama.cpp",
            against("llamacpp", "decode", "int4", context),
            bound,
        )
        for context, bound in ((128, 1.2), (1024, 1.1))
    ),
    *(
        Target(
            f"prefill-{weights}-1024-genai",
            f"prefill {weights} of 1024, over ONNX Runtime GenAI",
            against("genai", "prefill", weights, 1024),
            1.2,
        )
        for weights in ("fp32", "int4")
    ),
    Target(
        "prefill-fp32-1024-transformers",
        "prefill fp32 of 1024, over Transformers",
        against("transformers", "prefill", "fp32", 1024),
        1.3,
    ),
    Target("decode-fp32-bandwidth-floor", "decode fp32 at 128, over memory bandwidth", bandwidth_floor, 0.9),
    Target("step-capacity-most-over-512", "step time, most capacity over 512", capacity_cost, 1.05, at_least=False),
    Target(f"decode-scatter-over-concat-{_LONG}", f"cache in place over copied, at {_LONG}", scatter_over_concat, 1.5),
    Target("python-overhead", "Python outside the run, microseconds", python_overhead, 120, at_least=False),
    Target(f"memory-overhead-{_LONG}", "memory over weights and cache", memory_overhead, 0.12, at_least=False),
)


def _loaded(arguments: argparse.Namespace, weights: Any, *, context: int, capacity: int) -> tuple[Any, Any]:
    """The ORT backend's model and a cache that holds so many tokens."""
    from genai_iface import load_model

    folder = build_standard(make_checkpoint(arguments.size, arguments.work_dir), weights)
    model = load_model(folder, backend="ort", options={"num_threads": arguments.threads})
    cache = model.create_cache(capacity=capacity)
    _prefill(model, cache, context)
    return model, cache


def _folder(arguments: argparse.Namespace) -> Path:
    return build_standard(make_checkpoint(arguments.size, arguments.work_dir), "fp32")


def _prompt(model: Any, tokens: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(3, model.spec.vocab_size, (1, tokens))


def _prefill(model: Any, cache: Any, context: int) -> None:
    prompt = _prompt(model, context)
    for chunk in _chunks(context, 512):
        model.forward(prompt[:, chunk], cache, logits="none")


def _chunks(total: int, size: int) -> Iterator[slice]:
    for begin in range(0, total, size):
        yield slice(begin, min(begin + size, total))


def _decode_seconds(model: Any, cache: Any, *, context: int, tokens: int) -> float:
    """Seconds per greedy token from a context on."""
    cache.rewind_to(context)
    token = _prompt(model, 1)
    begin = time.perf_counter()
    for _ in range(tokens):
        token = model.forward(token, cache)[:, -1].argmax(-1)[:, None]
    return (time.perf_counter() - begin) / tokens


def _read_bandwidth(threads: int) -> float:
    """Bytes per second that so many threads read from memory, by matrix-vector products."""
    import numpy as np

    matrices = [np.ones((16384, 4096), np.float32) for _ in range(threads)]
    vector = np.ones(4096, np.float32)

    def read(matrix: Any) -> None:
        for _ in range(3):
            matrix @ vector

    best = 0.0
    for _ in range(3):
        workers = [threading.Thread(target=read, args=(matrix,)) for matrix in matrices]
        begin = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, 3 * sum(matrix.nbytes for matrix in matrices) / (time.perf_counter() - begin))
    return best


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
