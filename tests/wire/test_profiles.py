# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The profiles "generator" and "text": what runs in them, what is refused by name, what broken loops are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from genai_iface import Capability, GenerationConfig, UnsupportedCapabilityError
from genai_iface.conformance import all_checks, run_checks
from genai_iface.conformance.adapter import BackendAdapter
from genai_iface.conformance.wire import SCHEMA, WireAdapter
from tests.conformance.mutants_runtime import PlainRuntime
from tests.conformance.plain import PlainAdapter
from tests.wire.test_harnesses import EXAMPLES, Listening, check_messages

HERE = Path(__file__).parent
TEXT = [sys.executable, str(HERE / "text_harness.py")]
GENERATOR = """
import runpy, sys
import genai_iface
from tests.conformance.mutants_runtime import PlainRuntime
genai_iface.load_backend = lambda name: PlainRuntime()
sys.argv = ["harness", "plain", "generator"]
runpy.run_path({harness!r}, run_name="__main__")
"""
LIGHT = {
    "generator": (
        "L0.backend.info",
        "L3.golden.two_layers",
        "L4.greedy.base",
        "L4.generator.logits",
        "L4.generator.rewind",
        "L4.generator.overflow",
        "L4.cancel.keeps_tokens",
        "L4.stop.eos",
        "L4.runtime.capacity",
    ),
    "text": (
        "L0.backend.info",
        "L4.greedy.base",
        "L4.stop.eos",
        "L4.stop.string_across_tokens",
        "L4.sampling.logprobs",
        "L4.pipeline.prompt_order",
    ),
}


def generator_command(tmp_path: Path) -> list[str]:
    script = tmp_path / "harness.py"
    script.write_text(GENERATOR.format(harness=str(EXAMPLES / "harness_python/harness.py")), encoding="utf-8")
    return [sys.executable, str(script)]


def runtime_adapter(kind: type[PlainRuntime] = PlainRuntime) -> PlainAdapter:
    adapter = PlainAdapter(kind(), "runtime")
    adapter.profile = "generator"
    return adapter


def failures(run: Any) -> dict[str, str]:
    return {item.check.id: item.message for item in run.outcomes if item.status == "failed"}


@pytest.mark.parametrize("profile", LIGHT)
def test_what_a_harness_of_another_profile_says(profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    adapter = Listening(TEXT if profile == "text" else generator_command(tmp_path))
    run = run_checks(adapter, only=LIGHT[profile], seed=1)
    adapter.close()
    assert run.profile == profile
    got = {item.check.id: (item.status, item.message) for item in run.outcomes if item.status != "not_executed"}
    assert got == dict.fromkeys(LIGHT[profile], ("passed", ""))
    calls = check_messages(adapter.said)
    wanted = {
        "generator": {"create_generator", "append_tokens", "generate_next_token", "get_sequence", "rewind_generator"}
        | {"get_logits", "set_logits", "cancel", "close_generator"},
        "text": {"generate"},
    }[profile]
    assert wanted <= calls
    assert wanted <= {name.removeprefix("call_") for name in json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]}


@pytest.mark.slow
def test_a_runtime_that_owns_its_loop_conforms_in_its_profile() -> None:
    run = run_checks(runtime_adapter(), seed=5)
    assert failures(run) == {}
    assert [(item.level, item.verdict) for item in run.levels] == [(level, "conforms") for level in (0, 3, 4)]
    assert {item.check.id for item in run.outcomes} == {
        item.id for item in all_checks() if "generator" in item.profiles
    }


@pytest.mark.slow
def test_a_text_harness_conforms_in_its_profile() -> None:
    adapter = WireAdapter(TEXT)
    run = run_checks(adapter, seed=5)
    adapter.close()
    assert failures(run) == {}
    assert run.verdict == "conforms"
    assert {item.level for item in run.levels} == {0, 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "found"),
    [("greedy", "L4.sampling.spread"), ("no limit", "L4.stop.max_new_tokens")],
)
def test_a_broken_text_harness_is_found(bug: str, found: str) -> None:
    adapter = WireAdapter([*TEXT, bug])
    run = run_checks(adapter, only=[found, "L4.stop.eos"], seed=5)
    adapter.close()
    assert set(failures(run)) == {found}


@pytest.mark.slow
def test_a_target_without_tokens_is_judged_by_its_text() -> None:
    adapter = WireAdapter([*TEXT, "no tokens"])
    ids = ["L4.stop.max_new_tokens", "L4.stop.eos_once", "L4.pipeline.same_alone", "L4.greedy.base"]
    run = run_checks(adapter, only=ids, seed=5)
    adapter.close()
    got = {item.check.id: item.status for item in run.outcomes if item.status != "not_executed"}
    assert got == dict(zip(ids, ("passed", "passed", "passed", "not_applicable"), strict=True))


class Refusing(PlainRuntime):
    """Refuses single fields by their name."""

    fields: tuple[str, ...] = ()

    def generator(self, folder: Any, /, *, config: GenerationConfig, **arguments: Any) -> Any:
        for name in self.fields:
            if getattr(config, name) != getattr(GenerationConfig(), name):
                raise UnsupportedCapabilityError(f"{name} cannot be honored", remedy="Leave it alone.")
        return super().generator(folder, config=config, **arguments)


def test_a_refusal_is_no_failure_but_of_a_core_check() -> None:
    class NoIgnoring(Refusing):
        fields = ("ignore_eos",)

    class NoDraws(Refusing):
        fields = ("temperature",)

    ids = ["L4.stop.ignore_eos", "L4.sampling.spread"]
    run = run_checks(runtime_adapter(NoIgnoring), only=ids, seed=1)
    got = {item.check.id: (item.status, item.message) for item in run.outcomes if item.check.id in ids}
    assert got["L4.sampling.spread"] == ("passed", "")
    assert got["L4.stop.ignore_eos"][0] == "not_applicable"
    assert "ignore_eos cannot be honored" in got["L4.stop.ignore_eos"][1]
    run = run_checks(runtime_adapter(NoDraws), only=ids, seed=1)
    assert set(failures(run)) == {"L4.sampling.spread"}


class IgnoresTopP(PlainRuntime):
    """Draws from all tokens."""

    def generator(self, folder: Any, /, *, config: GenerationConfig, **arguments: Any) -> Any:
        return super().generator(folder, config=config.replace(top_p=1.0), **arguments)


@pytest.mark.slow
def test_draws_against_the_law_are_found() -> None:
    run = run_checks(
        runtime_adapter(IgnoresTopP), only=["L4.sampling.own_law.top_p", "L4.sampling.own_law.top_k"], seed=1
    )
    assert set(failures(run)) == {"L4.sampling.own_law.top_p"}


def test_a_backend_names_its_profile_by_what_it_declares() -> None:
    class Named(BackendAdapter):
        def __init__(self, backend: Any) -> None:
            super().__init__("made up")
            self._backend = backend

        def backend(self) -> Any:
            return self._backend

    class LoopOnly(PlainRuntime):
        def info(self) -> Any:
            import dataclasses

            return dataclasses.replace(super().info(), capabilities=frozenset({Capability.GENERATOR}))

    assert Named(PlainRuntime()).profile == "step"
    assert Named(LoopOnly()).profile == "generator"
