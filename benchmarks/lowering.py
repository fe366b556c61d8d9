# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What load-time lowering is worth: one random decoder, every level, measured in turn in one process.

    python -m benchmarks.lowering --quantize int4 --threads 2

prints a JSON line for each level and task: median seconds, and the ratio to the graph as it is on disk.
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

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from genai_iface.graph import derive_signature
from genai_iface_ort.lowering.lower import Lowered, lower

LEVELS = ("none", "standard", "runtime")
TASKS = {"decode_128": (127, 1), "decode_1024": (1023, 1), "prefill_1024": (0, 1024)}


class Decoder:
    """Writes a Llama-style decoder with random weights, cache (B, Hkv, C, D)."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.o = options
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Adds a node."""
        name = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        """Adds a constant."""
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def linear(self, name: str, x: str, rows: int, columns: int) -> str:
        """A product with a random matrix."""
        if self.o.quantize == "none":
            matrix = self.random.standard_normal((rows, columns), np.float32) * rows**-0.5
            return self.op("MatMul", x, self.weight(name, matrix))
        kind = {"int4": ml_dtypes.int4, "int8": np.int8}[self.o.quantize]
        top = 8 if self.o.quantize == "int4" else 127
        integers = self.random.integers(-top + 1, top, (rows, columns), np.int8).astype(kind)
        scales = np.full((rows // 32, columns), rows**-0.5 / top, np.float32)
        parts = self.weight(f"{name}.q", integers), self.weight(f"{name}.s", scales)
        return self.op("MatMul", x, self.op("DequantizeLinear", *parts, axis=0, block_size=32))

    def norm(self, name: str, x: str) -> str:
        """RMSNormalization."""
        return self.op("RMSNormalization", x, self.weight(name, np.ones(self.o.hidden, np.float32)), epsilon=1e-5)

    def heads(self, x: str, count: int, size: int) -> str:
        """(B, S, count * size) to (B, count, S, size)."""
        target = self.weight(f"{x}.heads", np.array([0, 0, count, size], np.int64))
        return self.op("Transpose", self.op("Reshape", x, target), perm=[0, 2, 1, 3])

    def build(self) -> onnx.ModelProto:
        """The model."""
        o = self.o
        size = o.hidden // o.heads
        angles = np.arange(8192)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
        tables = [self.weight(f.__name__, f(angles).astype(np.float32)) for f in (np.cos, np.sin)]
        table = self.random.standard_normal((o.vocab, o.hidden), np.float32)
        x = self.op("Gather", self.weight("embedding", table), "input_ids")
        pasts: list[Any] = []
        presents: list[Any] = []
        for layer in range(o.layers):
            y = self.norm(f"{layer}.n1", x)
            q = self.heads(self.linear(f"{layer}.q", y, o.hidden, o.hidden), o.heads, size)
            k, v = (
                self.heads(self.linear(f"{layer}.{n}", y, o.hidden, o.kv_heads * size), o.kv_heads, size) for n in "kv"
            )
            q, k = (self.op("RotaryEmbedding", z, *tables, "position_ids") for z in (q, k))
            for kind, new in (("key", k), ("value", v)):
                for place, names in ((f"past.{layer}.{kind}", pasts), (f"present.{layer}.{kind}", presents)):
                    shape = ["B", o.kv_heads, "C", size]
                    names.append(helper.make_tensor_value_info(place, TensorProto.FLOAT, shape))
                self.op("TensorScatter", pasts[-1].name, new, "write_indices", out=presents[-1].name, axis=2)
            attended = self.op(
                "Attention", q, presents[-2].name, presents[-1].name, "", "", "", "nonpad_kv_seqlen", is_causal=1
            )
            flat = self.weight(f"{layer}.flat", np.array([0, 0, o.hidden], np.int64))
            merged = self.op("Reshape", self.op("Transpose", attended, perm=[0, 2, 1, 3]), flat)
            x = self.op("Add", x, self.linear(f"{layer}.o", merged, o.hidden, o.hidden))
            y = self.norm(f"{layer}.n2", x)
            gate, up = (self.linear(f"{layer}.{n}", y, o.hidden, o.ffn) for n in ("gate", "up"))
            active = self.op("Mul", self.op("Mul", gate, self.op("Sigmoid", gate)), up)
            x = self.op("Add", x, self.linear(f"{layer}.down", active, o.ffn, o.hidden))
        self.op("Identity", self.linear("lm_head", self.norm("norm", x), o.hidden, o.vocab), out="logits")
        ints = [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name, shape in (
                ("input_ids", ["B", "S"]),
                ("position_ids", ["B", "S"]),
                ("write_indices", ["B"]),
                ("nonpad_kv_seqlen", ["B"]),
            )
        ]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "S", o.vocab])
        graph = helper.make_graph(self.nodes, "decoder", [*ints, *pasts], [logits, *presents], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


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
    for name, value in {"layers": 30, "hidden": 576, "heads": 9, "kv_heads": 3, "ffn": 1536, "vocab": 49152}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--quantize", choices=("none", "int4", "int8"), default="none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--levels", nargs="+", default=LEVELS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--profile", default="", help="prefix of ONNX Runtime's profile files")
    options = parser.parse_args()
    proto = Decoder(options).build()
    with tempfile.TemporaryDirectory() as scratch:
        opened = {}
        for level in options.levels:
            model = ir.from_proto(proto)
            lowered = lower(model, derive_signature(model), level=level)
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
            "weights": options.quantize,
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
