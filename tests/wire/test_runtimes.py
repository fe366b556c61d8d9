# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runtimes that nobody here wrote, behind harnesses and by their address: their true verdicts, deviations included."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from genai_iface.conformance import GOLDEN, ConformanceResult, read_deviations, run_checks
from genai_iface.conformance.forms import write_form
from genai_iface.conformance.text import UrlAdapter
from tests.wire.test_harnesses import EXAMPLES, Listening, check_messages

pytestmark = [pytest.mark.parity, pytest.mark.slow]
REPORTS = Path(__file__).parents[2] / "docs/reports/conformance"


def judged(adapter: Any, name: str, profile: str = "text") -> ConformanceResult:
    path = REPORTS / f"{name}-deviations.json"
    run = run_checks(adapter, deviations=read_deviations(path) if path.exists() else None, seed=5)
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    assert run.profile == profile
    assert run.verdict == ("known_deviations" if path.exists() else "conforms")
    return run


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("transformers", ("torch", "transformers")),
        ("llama_cpp", ("xllamacpp", "gguf")),
        ("openvino_genai", ("openvino_genai", "openvino_tokenizers", "transformers")),
    ],
)
def test_harnesses_in_python(name: str, modules: tuple[str, ...]) -> None:
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    adapter = Listening([sys.executable, str(EXAMPLES / f"harness_{name}/harness.py")])
    run = judged(adapter, {"transformers": "transformers-generate"}.get(name, name.replace("_", "-")))
    adapter.close()
    passed = {item.check.id for item in run.outcomes if item.status == "passed"}
    # Models that were made for this run, token by token.
    assert {"L4.greedy.base", "L4.greedy.fresh", "L4.sampling.spread"} <= passed
    assert "generate" in check_messages(adapter.said)


def test_llama_cpp_token_by_token() -> None:
    missing = [module for module in ("llama_cpp", "gguf") if find_spec(module) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (llama-cpp-python is built for many minutes)")
    adapter = Listening([sys.executable, str(EXAMPLES / "harness_llama_cpp/generator.py")])
    run = judged(adapter, "llama-cpp-python", "generator")
    adapter.close()
    passed = {item.check.id for item in run.outcomes if item.status == "passed"}
    assert {"L3.fresh.base", "L4.greedy.fresh", "L4.generator.rewind", "L4.sampling.own_law.top_p"} <= passed
    assert "rewind_generator" in check_messages(adapter.said)


def test_transformers_js() -> None:
    room = EXAMPLES / "harness_transformers_js"
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not any((folder / "node_modules/@huggingface/transformers").is_dir() for folder in (room, EXAMPLES)):
        pytest.skip("transformers.js is not there: npm install --ignore-scripts in examples/harness_transformers_js")
    adapter = Listening(["node", str(room / "harness.mjs")])
    run = judged(adapter, "transformers-js")
    adapter.close()
    assert "L4.greedy.fresh" in {item.check.id for item in run.outcomes if item.status == "passed"}
    check_messages(adapter.said)


def test_the_server_of_llama_cpp(tmp_path: Path) -> None:
    if find_spec("xllamacpp") is None or find_spec("gguf") is None:
        pytest.skip("not installed: xllamacpp (the server of llama.cpp in a wheel) or gguf")
    import xllamacpp

    folder = write_form(GOLDEN / "text/scatter-float32", "gguf", tmp_path / "text")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(folder / "model.gguf")
    parameters.model_alias = {"text"}
    parameters.n_ctx, parameters.n_parallel, parameters.port = 64, 1, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    # Its own defaults filter what the protocol does not speak of.
    parameters.sampling.top_k, parameters.sampling.top_p, parameters.sampling.min_p = 0, 1.0, 0.0
    server = xllamacpp.Server(parameters)
    run = judged(UrlAdapter(server.listening_address, "text"), "llama-cpp-server")
    passed = {item.check.id for item in run.outcomes if item.status == "passed"}
    assert {"L4.stop.eos", "L4.stop.string_across_tokens", "L4.stream.whole_characters"} <= passed
