# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What load-time lowering is worth: a folder that ``build`` made, every level, measured in turn in one process.

    python -m benchmarks.lowering --work-dir /tmp/bench --weights int4 --threads 2

prints a JSON line for each level and task: median seconds, and the ratio to the graph as it is on disk; before them,
one line with what lowering did. ``--model`` takes any other folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from benchmarks.checkpoint import NAMES, build_standard, make_checkpoint
from genai_iface.folder import open_folder
from genai_iface_ort.lowering.lower import Lowered, lower

LEVELS = ("none", "standard", "runtime")
TASKS = {"decode_128": (127, 1), "decode_1024": (1023, 1), "prefill_1024": (0, 1024)}


def open_session(lowered: Lowered, folder: Path, options: argparse.Namespace) -> ort.InferenceSession:
    """Writes the graph and opens it."""
    path = folder / "model.onnx"
    folder.mkdir()
    ir.save(lowered.model, path, external_data="model.onnx.data")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = 3
    # Waiting threads of one session would take the processor from the next one.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.enable_profiling = bool(options.profile)
    settings.profile_file_prefix = f"{options.profile}_{folder.name}" if options.profile else ""
    return ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def task_runner(session: ort.InferenceSession, lowered: Lowered, begin: int, width: int) -> Callable[[], np.ndarray]:
    """One step at a given length, over buffers that are past and present at once."""
    binding = session.io_binding()
    signature = lowered.signature
    total = begin + width
    capacity = -(-total // 256) * 256
    random = np.random.default_rng(1)
    by_role: dict[str, Any] = {
        "input_ids": random.integers(0, 1000, (1, width)),
        "position_ids": np.arange(begin, total)[None],
        "write_indices": np.array([begin]),
        "nonpad_kv_seqlen": np.array([total]),
        "seqlens_k": np.array([total - 1]),
        "total_sequence_length": np.array(total),
    }
    feeds = {name: by_role[role].astype(signature.input_dtypes[role]) for role, name in signature.inputs.items()}
    if lowered.logits_positions:
        feeds[lowered.logits_positions] = np.array([[width - 1]])
    if lowered.query_seqlens:
        feeds[lowered.query_seqlens] = np.array([width], np.int32)
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    kept = []
    for tensor in signature.cache_tensors:
        layer = signature.cache.layers[tensor.layer]
        array = random.standard_normal((1, layer.num_kv_heads, capacity, layer.key_head_dim), np.float32)
        kept.append(ort.OrtValue.ortvalue_from_numpy(array))
        binding.bind_ortvalue_input(tensor.past, kept[-1])
        binding.bind_ortvalue_output(tensor.present, kept[-1])
    binding.bind_output(signature.logits)

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        logits: np.ndarray = binding.get_outputs()[-1].numpy()
        return logits[:, -1]

    run.kept = (kept, feeds)  # type: ignore[attr-defined]
    return run


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, help="where models are made and kept")
    parser.add_argument("--model", type=Path, help="a model folder; without it one is built of --size and --weights")
    parser.add_argument("--size", choices=NAMES, default="135m", help="a shape, or a real model")
    parser.add_argument("--weights", choices=("fp32", "int4"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--levels", nargs="+", default=LEVELS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--profile", default="", help="prefix of ONNX Runtime's profile files")
    options = parser.parse_args()
    if options.model is None and options.work_dir is None:
        parser.error("give --work-dir or --model")
    source = options.model or build_standard(make_checkpoint(options.size, options.work_dir), options.weights)
    folder = open_folder(source)
    with tempfile.TemporaryDirectory() as scratch:
        opened = {}
        for level in options.levels:
            lowered = lower(folder.load_ir(), folder.signature, level=level)
            print(json.dumps({"level": level, "notes": [str(note) for note in lowered.notes]}), flush=True)
            opened[level] = open_session(lowered, Path(scratch) / level, options), lowered
        for task in options.tasks:
            measure(task, *TASKS[task], opened, options)


def measure(task: str, begin: int, width: int, opened: dict[str, Any], options: argparse.Namespace) -> None:
    """Runs every level in turn, several rounds, and prints medians."""
    runners = {level: task_runner(session, lowered, begin, width) for level, (session, lowered) in opened.items()}
    logits = {level: runner() for level, runner in runners.items()}
    times: dict[str, list[float]] = {level: [] for level in runners}
    rounds, repeat = (options.rounds, 10) if width == 1 else (max(3, options.rounds // 4), 1)
    for _ in range(rounds):
        for level, runner in runners.items():
            start = time.perf_counter()
            for _ in range(repeat):
                runner()
            times[level].append((time.perf_counter() - start) / repeat)
    first = next(iter(runners))
    for level, seconds in times.items():
        ratios = [base / mine for base, mine in zip(times[first], seconds, strict=True)]
        line = {
            "benchmark": "lowering",
            "task": task,
            "model": str(options.model or options.size),
            "weights": options.weights,
            "level": level,
            "threads": options.threads,
            "median_s": round(statistics.median(seconds), 6),
            "tokens_per_second": round(width / statistics.median(seconds), 1),
            f"speedup_over_{first}": round(statistics.median(ratios), 3),
            "max_logit_difference": float(np.abs(logits[level] - logits[first]).max()),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
