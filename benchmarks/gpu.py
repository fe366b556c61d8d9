# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that is measured on a GPU, by one command.

    python -m benchmarks.gpu --work-dir /tmp/bench --size 1b --weights fp16 --out gpu.json

First it checks that the results are right: greedy tokens of a small float32 model equal to the NumPy
backend's, captured decode steps equal to plain ones, and no node on the processor. Then it measures
decoding and prefill against ONNX Runtime GenAI and against the bandwidth of the device's memory, both sides in
processes of their own, in both starting orders. Prints one table; ``--out`` keeps the figures. With ``--device cpu`` it
runs without a GPU, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import SIZES, Weights, build_standard, make_checkpoint
from benchmarks.compare import ratio, take_turns
from benchmarks.sides import Setting

_PACKAGES = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-genai-cuda", "onnxruntime-genai", "onnx", "numpy")
_ROWS = [[11, 12, 13, 14, 15], [21, 22, 23, 0, 0], [31, 32, 33, 34, 0]]
_COUNTS = [5, 3, 4]


def main() -> None:
    """Checks, measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="where models are made and kept")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=sorted(SIZES), default="1b")
    parser.add_argument("--weights", choices=("fp16", "fp32", "int4"), default="fp16")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1024, 8192])
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a decode block")
    parser.add_argument("--blocks", type=int, default=7, help="blocks of each side and order")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    _require(arguments.device)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": _device_name(arguments.device),
        "versions": _versions(),
        "size": arguments.size,
        "weights": arguments.weights,
        "checks": checks(arguments.device, arguments.work_dir),
        "gigabytes_per_second": round(bandwidth(arguments.device) / 1e9, 1),
    }
    report["measures"] = [
        measure(name, context, arguments, report["gigabytes_per_second"] * 1e9)
        for context in arguments.contexts
        for name in ("decode", "prefill")
    ]
    print(_table(report))
    if arguments.out:
        partial = arguments.out.with_suffix(".partial")
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        partial.replace(arguments.out)
    if not all(report["checks"].values()):
        sys.exit(1)


def checks(device: str, work_dir: Path) -> dict[str, bool]:
    """Whether the device computes what the reference computes."""
    from genai_iface import load_model

    folder = build_standard(make_checkpoint("tiny", work_dir), "fp32")
    reference = _greedy(load_model(folder, backend="numpy"))
    plain = _greedy(load_model(folder, backend="ort", device=device))
    results = {"greedy tokens equal to the NumPy backend's": plain == reference}
    if device == "cuda":
        captured = load_model(folder, backend="ort", device=device, options={"cuda_graph": True})
        results["captured decode equal to plain decode"] = _greedy(captured) == plain
        # Fails to load if any node would run on the processor.
        load_model(folder, backend="ort", device=device, options={"cpu_fallback": False})
        results["no node on the processor"] = True
    return results


def bandwidth(device: str) -> float:
    """Bytes per second that a reduction over one large tensor reads."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    count = (1 << 29) if device == "cuda" else (1 << 26)
    graph = helper.make_graph(
        [helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)],
        "read",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [count // 4096, 4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[provider])
    binding = session.io_binding()
    values = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((count // 4096, 4096), np.float32), device, 0)
    binding.bind_ortvalue_input("x", values)
    binding.bind_output("y", "cpu")
    seconds = []
    for _ in range(12):
        begin = time.perf_counter()
        session.run_with_iobinding(binding)
        seconds.append(time.perf_counter() - begin)
    return 4 * count / min(seconds)


def measure(name: str, context: int, arguments: argparse.Namespace, bytes_per_second: float) -> dict[str, Any]:
    """One line of the table: our speed, theirs, and the floor."""
    weights: Weights = arguments.weights
    setting = Setting(arguments.size, weights, 0, context, arguments.tokens, arguments.work_dir, arguments.device)
    ours = "ort-graph" if arguments.device == "cuda" and name == "decode" else "ort"
    sides = [ours, "genai"]
    runs = [take_turns(order, setting, name, arguments.blocks) for order in (sides, sides[::-1])]
    seconds = {side: statistics.median(value for run in runs for value in run[side]) for side in sides}
    line: dict[str, Any] = {
        "measure": name,
        "context": context,
        "milliseconds": {side: round(1e3 * value, 3) for side, value in seconds.items()},
        "speed_over_genai": round(statistics.geometric_mean(ratio(run[ours], run["genai"]) for run in runs), 3),
        "by_order": [round(ratio(run[ours], run["genai"]), 3) for run in runs],
    }
    if name == "decode":
        folder = build_standard(make_checkpoint(arguments.size, arguments.work_dir), weights)
        read = sum(path.stat().st_size for path in folder.glob("model.onnx*"))
        line["bandwidth_reached"] = round(read / bytes_per_second / seconds[ours], 3)
    return line


def _greedy(model: Any) -> list[list[int]]:
    import numpy as np

    cache = model.create_cache(batch_size=len(_ROWS), capacity=64)
    token = model.forward(np.array(_ROWS), cache, counts=np.array(_COUNTS))[:, -1].argmax(-1)[:, None]
    tokens = [token]
    for _ in range(32):
        token = model.forward(token, cache)[:, -1].argmax(-1)[:, None]
        tokens.append(token)
    model.close()
    return [[int(value) for value in row] for row in np.concatenate(tokens, axis=1)]


def _require(device: str) -> None:
    import onnxruntime

    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        sys.exit("The installed onnxruntime has no CUDA: install genai-iface[gpu], or pass --device cpu.")


def _device_name(device: str) -> str:
    program = shutil.which("nvidia-smi") if device == "cuda" else None
    if program is None:
        return device
    command = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _table(report: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        f"{report['device']}; {versions}; {report['date']}",
        f"{report['size']} {report['weights']}, memory read at {report['gigabytes_per_second']} GB/s",
        *(f"{'ok  ' if passed else 'FAIL'} {name}" for name, passed in report["checks"].items()),
        "",
        "| measure | tokens | ours, ms | GenAI, ms | speed over GenAI | of the bandwidth |",
        "|---|---|---|---|---|---|",
    ]
    for line in report["measures"]:
        ours, theirs = line["milliseconds"].values()
        reached = line.get("bandwidth_reached", "")
        cells = (line["measure"], line["context"], ours, theirs, line["speed_over_genai"], reached)
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
