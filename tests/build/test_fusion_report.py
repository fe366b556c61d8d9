# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The fusion report finds each kind of miss by itself, counts what torch runs, and goes on where it was stopped."""

from __future__ import annotations

import json
from functools import cache

import pytest

from genai_iface.build._families import FAMILIES, family_of, make_checkpoint, tiny_model
from genai_iface.build.fusion.cases import Case, cases_of
from genai_iface.cli.main import main
from genai_iface.errors import InvalidInputError

pytestmark = pytest.mark.parity

slow = pytest.mark.slow

# Which case shows which kinds, and what of norms and rotations is fused by default and after our rules.
SHOWN = [
    pytest.param("llama-23-float32-plain", {"factors-repeated"}, (9, 9, 9), id="llama"),
    pytest.param("llama-23-float16-plain", {"rotary-cast"}, (5, 9, 9), id="float16"),
    pytest.param("llama-24-float32-plain", {"opset-gate"}, (0, 9, 9), id="opset 24"),
    pytest.param("llama-23-float32-no-position-ids", {"rotary-batch", "factors-repeated"}, (9, 9, 9), id="no ids"),
    pytest.param("llama-23-float32-past", {"gqa-axes", "factors-repeated"}, (9, 9, 9), id="past"),
    pytest.param("llama-26-float32-plain", {"opset-not-reached", "opset-gate"}, (0, 9, None), id="opset 26"),
    pytest.param(
        "helium-23-float32-plain", {"epsilon-deleted", "rotary-interleaved"}, (0, 9, 4), id="helium", marks=slow
    ),
    pytest.param("llama-yarn-23-float32-plain", {"rotary-scale"}, (5, 9, 9), id="yarn", marks=slow),
    pytest.param("phi3-longrope-23-float32-plain", {"rotary-scale"}, (5, 9, 9), id="longrope", marks=slow),
    pytest.param("gpt_neox-23-float32-plain", {"partial-rotary", "factors-repeated"}, (4, 4, 4), id="neox", marks=slow),
    pytest.param("cohere-23-float32-plain", {"rotary-interleaved", "layer-norm"}, (0, 4, 4), id="cohere", marks=slow),
    pytest.param("gemma3-23-float16-plain", {"norm-types", "rotary-cast"}, (13, 17, 17), id="gemma3", marks=slow),
    pytest.param("gemma4-23-float32-plain", {"norm-pow", "rotary-layout"}, (0, 22, 22), id="gemma4", marks=slow),
    pytest.param("deepseek_v3-23-float32-plain", {"rotary-half-form"}, (9, 13, 13), id="deepseek", marks=slow),
    pytest.param("falcon-23-float32-plain", {"export-failed"}, None, id="falcon", marks=slow),
    pytest.param(
        "gpt_oss-23-float32-plain",
        {"rotary-scale", "attention-written-out"},
        (5, 9, 9),
        id="gpt_oss",
        marks=slow,
    ),
]


@pytest.fixture(scope="module")
def row_of(tmp_path_factory):
    """Exports all shown cases of a family at once, when one of them is asked for."""
    from genai_iface.build.fusion.analyse import analyse
    from genai_iface.build.fusion.sweep import run_exports, stored

    folder = tmp_path_factory.mktemp("exports")
    shown = [Case.from_name(parameters.values[0]) for parameters in SHOWN]

    @cache
    def export(family: str) -> None:
        run_exports([case for case in shown if case.family == family], folder)

    def row(name: str):
        case = Case.from_name(name)
        export(case.family)
        exported = stored(case, folder)
        assert exported is not None
        return analyse(case, exported, folder)

    return row


@pytest.mark.parametrize(("name", "kinds", "counts"), SHOWN)
def test_each_kind_is_found_where_it_is(row_of, name, kinds, counts):
    row = row_of(name)
    assert {finding["kind"] for finding in row["findings"]} == kinds
    assert all(finding["evidence"] for finding in row["findings"])
    if counts is None:
        assert row["error"]
        return
    assert row["error"] is None
    names = ("RMSNormalization", "RotaryEmbedding")

    def fused(state):
        return sum(min(state["found"][each], row["expected"][each]) for each in names)

    by_default, expected, ours = counts
    assert sum(row["expected"][each] for each in names) == expected
    assert fused(row["default"]) == by_default
    if ours is not None:
        assert fused(row["after"]) == ours
        assert row["after"]["checker"] is None
        assert row["after"]["error"] < (1e-4 if row["dtype"] == "float32" else 3e-2)


def test_a_miss_names_the_rule_its_condition_and_the_subgraph(row_of):
    (miss,) = row_of("llama-23-float16-plain")["misses"]
    assert (miss["operator"], miss["module"], miss["count"]) == ("RotaryEmbedding", "model.layers.0.self_attn", 4)
    assert miss["why"] == "RotaryEmbedding23, its pattern: OpType mismatch: expected Cos, got Cast."
    assert "Cast(cos" in miss["rejection"]["at"]
    assert miss["rejection"]["operators"][-1] == "Add"


def test_fuse_standard_refuses_an_opset_without_the_operators():
    import onnx_ir as ir

    from genai_iface.build.methods.fuse_standard import fuse_standard
    from genai_iface.errors import UnsupportedModelError

    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="old"), ir_version=10)
    with pytest.raises(UnsupportedModelError, match="opset 20"):
        fuse_standard(model)


def test_expected_counts_are_what_one_forward_runs():
    import torch

    from genai_iface.build.fusion.expected import Expected, observe

    model = tiny_model("smollm3")  # rotary in the first layer only
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        seen, result = observe(model, lambda: model(ids).logits)
    assert result.shape == (1, 6, model.config.vocab_size)
    assert seen.rotations == ["model.layers.0.self_attn"] * 2
    assert [norm.path for norm in seen.rms_norms][-1] == "model.norm"
    assert seen.counts() == {"RMSNormalization": 5, "RotaryEmbedding": 2, "Attention": 2, "LayerNormalization": 0}
    assert {norm.epsilon for norm in seen.rms_norms} == {model.config.rms_norm_eps}
    assert Expected.from_dict(json.loads(json.dumps(seen.as_dict()))) == seen


def test_a_process_that_dies_is_a_row_and_the_others_go_on(tmp_path, monkeypatch):
    import genai_iface.build.fusion.sweep as sweep

    cases = [Case("llama", 23, "float32"), Case("llama", 24, "float32")]
    monkeypatch.setattr(sweep.sys, "executable", "/bin/false")
    said = []
    sweep.run_exports(cases, tmp_path, done=lambda case, what: said.append((case, what)))
    assert [case for case, _ in said] == cases
    assert all("the process ended with 1" in what for _, what in said)
    assert all("ended with 1" in sweep.stored(case, tmp_path)["error"] for case in cases)
    monkeypatch.setattr(sweep.subprocess, "Popen", None)  # everything is stored: no process is started again
    sweep.run_exports(cases, tmp_path)


def test_the_command_writes_a_report(tmp_path, monkeypatch, capsys):
    import genai_iface.build.fusion.sweep as sweep

    def exports(cases, folder, *, jobs, done):
        folder.mkdir(parents=True)
        for case in cases:
            sweep._record(case, folder, "not exported")
            done(case, "not exported")

    monkeypatch.setattr(sweep, "run_exports", exports)
    out = tmp_path / "out"
    arguments = ["--families", "gpt2", "--opsets", "23", "--out", str(out), "--cache", str(tmp_path / "cache")]
    assert main(["fusion-report", *arguments]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [row["error"] for row in report["rows"]] == ["not exported"] * len(report["rows"])
    assert report["versions"]["torch"]
    assert "| gpt2 | learned positions | export fails | export fails |" in (out / "report.md").read_text(
        encoding="utf-8"
    )
    assert "export-failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--families", "llama,nope"], "there is no family 'nope'"),
        (["--opsets", "23,x"], "--opsets is '23,x'"),
        (["--dtypes", "float8"], "--dtypes has float8"),
        (["--jobs", "0"], "--jobs is 0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, said, capsys):
    assert main(["fusion-report", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_cases_have_names_that_lead_back_to_them():
    cases = [case for family in FAMILIES for case in cases_of(family)]
    assert len({case.name for case in cases}) == len(cases)
    assert [Case.from_name(case.name) for case in cases] == cases


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_small_and_its_weights_depend_on_the_seed_alone(family):
    import torch

    one, again, other = tiny_model(family), tiny_model(family), tiny_model(family, seed=1)
    first, second, third = (next(iter(model.parameters())) for model in (one, again, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert sum(parameter.numel() for parameter in one.parameters()) < 400_000
    half = next(iter(tiny_model(family, dtype="float16").parameters()))
    assert torch.equal(half, first.half())


def test_a_checkpoint_loads_again(tmp_path):
    import torch
    import transformers

    model = make_checkpoint("qwen3", tmp_path)
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
        assert torch.equal(again, model(ids).logits)


def test_unknown_families_and_types_are_refused():
    with pytest.raises(InvalidInputError, match="choose from llama"):
        family_of("nope")
    with pytest.raises(InvalidInputError, match="dtype is 'int8'"):
        tiny_model("llama", dtype="int8")
