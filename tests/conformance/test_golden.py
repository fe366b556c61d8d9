# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The golden data: pinned, small, reproducible, and right by onnx.reference and by torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from genai_iface import InvalidInputError
from genai_iface.conformance import _golden as golden
from genai_iface.conformance._golden import GOLDEN, manifest, open_golden, operator_case
from genai_iface.conformance.decoder.plan import PLANS
from genai_iface.conformance.decoder.reference import logits_of
from genai_iface.conformance.decoder.weights import weights_of
from tools.golden_models.scatter import ScatterBuilder
from tools.golden_models.search import MARGIN, sequences_of

BY_NAME = {plan.name: plan for plan in PLANS}
# The long one takes its time in onnx.reference, and shows nothing more.
SHORT = [plan.name for plan in PLANS if plan.name != "long"]


def test_they_are_small_and_pinned() -> None:
    files = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*") if path.is_file()}
    assert files == {*manifest()["files"], "manifest.json"}
    assert sum((GOLDEN / name).stat().st_size for name in files) < 2_950_000
    assert manifest()["models"].keys() == BY_NAME.keys()


def test_a_changed_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "golden"
    shutil.copytree(GOLDEN, copy)
    monkeypatch.setattr(golden, "GOLDEN", copy)
    golden.verify.__wrapped__()
    with (copy / "base" / "reference.npz").open("ab") as file:
        file.write(b"0")
    with pytest.raises(InvalidInputError, match=r"base/reference\.npz"):
        golden.verify.__wrapped__()


@pytest.mark.parametrize("name", BY_NAME)
def test_every_greedy_step_has_its_margin(name: str) -> None:
    margins = manifest()["models"][name]["margins"]
    assert margins.keys() == set(BY_NAME[name].dtypes)
    assert min(margins.values()) >= MARGIN


@pytest.mark.parametrize("name", ["base", "ring", "rings", "partial", "masked", "experts", "quantized"])
def test_the_script_makes_the_same_again(name: str) -> None:
    plan = BY_NAME[name]
    weights = weights_of(plan)
    built = ScatterBuilder(plan, weights, "bfloat16").build()
    stored = onnx.load(GOLDEN / name / "scatter-bfloat16" / "model.onnx")
    assert list(built.graph.node) == list(stored.graph.node)
    assert list(built.graph.initializer) == list(stored.graph.initializer)
    item = open_golden(name, "scatter", "bfloat16")
    again = [logits_of(plan, weights, "bfloat16", row, plan.keep) for row in sequences_of(plan)]
    np.testing.assert_allclose(item.logits, np.stack(again), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["scatter", "concat"])
@pytest.mark.parametrize("name", SHORT)
def test_references_agree_with_onnx_reference(name: str, form: str) -> None:
    if f"{form}-float32" not in manifest()["models"][name]["forms"]:
        pytest.skip("there is no such form")
    item = open_golden(name, form, "float32")
    model = onnx.load(item.folder / "model.onnx")
    evaluator = ReferenceEvaluator(model)
    for row, tokens in enumerate(item.tokens):
        got = run_reference(evaluator, model, tokens, one_by_one=item.window is not None)
        assert np.abs(got[-item.logits.shape[1] :] - item.logits[row]).max() <= item.tolerance


def run_reference(evaluator: Any, model: onnx.ModelProto, tokens: np.ndarray, *, one_by_one: bool) -> np.ndarray:
    """float32 (T, V): a row through onnx.reference, from an empty cache."""
    names = [value.name for value in model.graph.output]
    past = {}
    for value in model.graph.input:
        if value.name.startswith("past"):
            sizes = {"batch": 1, "capacity": len(tokens), "past": 0}
            shape = [sizes.get(dim.dim_param, dim.dim_value) for dim in value.type.tensor_type.shape.dim]
            past[value.name] = np.zeros(shape, np.float32)
    pieces = [[token] for token in tokens] if one_by_one else [tokens]
    rows, begin = [], 0
    for piece in pieces:
        end = begin + len(piece)
        every = {
            "input_ids": np.array([piece], np.int64),
            "write_indices": np.array([begin]),
            "nonpad_kv_seqlen": np.array([end]),
            "position_ids": np.arange(begin, end)[None],
            "attention_mask": np.ones((1, end), np.int64),
            **past,
        }
        feeds = {value.name: every[value.name] for value in model.graph.input}
        with np.errstate(all="ignore"):
            results = dict(zip(names, evaluator.run(None, feeds), strict=True))
        past = {name: results[name.replace("past_key_values", "present")] for name in past}
        rows.append(results["logits"][0])
        begin = end
    return np.concatenate(rows)


@pytest.mark.parametrize("name", sorted(manifest()["operators"]))
def test_operator_cases_agree_with_onnx_reference(name: str) -> None:
    case = operator_case(name)
    outputs = ReferenceEvaluator(onnx.load_from_string(case.model)).run(None, dict(case.inputs))
    for got, expected in zip(outputs, case.outputs, strict=True):
        assert np.abs(got - expected).max() <= case.tolerance * np.abs(expected).max()


@pytest.mark.parity
@pytest.mark.parametrize("name", [plan.name for plan in PLANS if plan.checkpoint and plan.name != "long"])
def test_references_agree_with_torch(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    item = open_golden(name, "checkpoint", "float32")
    model = AutoModelForCausalLM.from_pretrained(item.folder, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        got = model(torch.from_numpy(item.tokens)).logits.numpy()
    assert np.abs(got[:, -item.logits.shape[1] :] - item.logits).max() <= item.tolerance


def test_configurations_are_what_transformers_reads() -> None:
    config = json.loads((GOLDEN / "head80" / "scatter-float32" / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["head_dim"]) == ("llama", 80)
