# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes all golden data: ``python -m tools.golden_models [FOLDER]``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from genai_iface.conformance._tolerance import relative_tolerance
from genai_iface.conformance.decoder.plan import PLANS, Plan
from genai_iface.conformance.decoder.reference import greedy, logits_of
from genai_iface.conformance.decoder.weights import weights_of
from tools.golden_models.builder import Builder
from tools.golden_models.files import write_checkpoint, write_config, write_tokenizer
from tools.golden_models.operators import operator_cases
from tools.golden_models.primitive import ConcatBuilder
from tools.golden_models.scatter import ScatterBuilder
from tools.golden_models.search import MARGIN, greedy_prompt, sequences_of
from tools.golden_models.states import STATE_PLANS, write_states

GOLDEN = Path(__file__).parents[2] / "genai_iface" / "conformance" / "golden"
MAX_BYTES = 2_950_000


def main(target: Path) -> None:
    """Writes the models, their references, the operator cases and the manifest."""
    shutil.rmtree(target, ignore_errors=True)
    models = {plan.name: _write_plan(target / plan.name, plan) for plan in PLANS}
    states = {plan.name: write_states(target / plan.name, plan) for plan in STATE_PLANS}
    operators = _write_operators(target / "operators.npz")
    _write_escape(target / "escape")
    files = {
        path.relative_to(target).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(target.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": 1, "models": models, "states": states, "operators": operators, "files": files}
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{len(files)} files, {total} bytes")
    if total > MAX_BYTES:
        raise SystemExit(f"the golden data have {total} bytes, the limit is {MAX_BYTES}")


def _write_plan(path: Path, plan: Plan) -> dict[str, Any]:
    weights = weights_of(plan)
    forms: dict[str, Builder] = {f"scatter-{dtype}": ScatterBuilder(plan, weights, dtype) for dtype in plan.dtypes}
    if plan.has_concat:
        forms["concat-float32"] = ConcatBuilder(plan, weights, "float32")
    for name, builder in forms.items():
        folder = path / name
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(builder.build().SerializeToString(deterministic=True))
        write_config(folder, plan, builder.dtype)
        if plan.is_text:
            write_tokenizer(folder)
    if plan.checkpoint:
        write_checkpoint(path / "scatter-float32", plan, weights)
    arrays: dict[str, NDArray[Any]] = {
        "tokens": np.array(sequences_of(plan), np.int16),
        "greedy_prompt": np.array(greedy_prompt(plan), np.int16),
    }
    margins = {}
    for dtype in plan.dtypes:
        logits = np.stack([logits_of(plan, weights, dtype, row, plan.keep) for row in sequences_of(plan)])
        tokens, gaps, largest = greedy(plan, weights, dtype, greedy_prompt(plan), plan.num_greedy)
        scale = max(largest, float(np.abs(logits).max()))
        tolerance = relative_tolerance(plan.judged_as(dtype), plan.reduction_length, plan.num_stores) * scale
        margins[dtype] = round(min(gaps) / tolerance, 2)
        if margins[dtype] < MARGIN:
            raise SystemExit(f"{plan.name}, {dtype}: a greedy step has a margin of {margins[dtype]} tolerances only")
        arrays |= {
            f"{dtype}.logits": logits.astype(np.float32),
            f"{dtype}.greedy": np.array(tokens, np.int16),
            f"{dtype}.scale": np.array(scale),
        }
    np.savez_compressed(path / "reference.npz", allow_pickle=False, **arrays)
    facts = {"judged_as": plan.judged_as("")} if plan.is_quantized else {}
    return facts | {
        "forms": sorted([*forms, *(["checkpoint-float32"] if plan.checkpoint else [])]),
        "reduction_length": plan.reduction_length,
        "num_stores": plan.num_stores,
        "layers": plan.layers,
        "num_kv_heads": plan.num_kv_heads,
        "head_dim": plan.head_dim,
        "window": plan.window,
        "context_length": plan.context_length,
        "margins": margins,
        "seed": plan.seed,
    }


def _write_escape(path: Path) -> None:
    """A folder whose external data lead out of it; the kit puts weights.bin where they point."""
    path.mkdir()
    plan = dataclasses.replace(PLANS[0], layers=1, hidden=8, intermediate=8)
    model = ScatterBuilder(plan, weights_of(plan), "float32").build()
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
    (path / "weights.bin").write_bytes(head.raw_data)
    head.ClearField("raw_data")
    head.data_location = onnx.TensorProto.EXTERNAL
    head.external_data.add(key="location", value="../weights.bin")
    (path / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    write_config(path, plan, "float32")


def _write_operators(path: Path) -> dict[str, Any]:
    arrays: dict[str, NDArray[Any]] = {}
    facts = {}
    for case in operator_cases():
        model: onnx.ModelProto = case.model()
        arrays[f"{case.name}/model"] = np.frombuffer(model.SerializeToString(deterministic=True), np.uint8)
        inputs = {f"x{index}": array for index, array in enumerate(case.inputs) if array is not None}
        arrays |= {f"{case.name}/{name}": array for name, array in inputs.items()}
        arrays |= {f"{case.name}/y{index}": array for index, array in enumerate(case.outputs)}
        facts[case.name] = {
            "inputs": sorted(inputs),
            "num_outputs": len(case.outputs),
            "exact": case.exact,
            "reduction_length": case.reduction_length,
        }
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return facts


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN)
