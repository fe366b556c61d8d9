# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The server before tools of others: llm-comply over both protocols, and schemathesis over our OpenAPI document."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genai_iface import TextGenerationPipeline
from genai_iface.serving import Server, ServerSettings
from tests.models import write_folder

# What a model of text has not: llm-comply's names for it.
NO_IMAGES = {"chat-image-input", "image-input"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_folder(tmp_path_factory.mktemp("proof") / "model", max_positions=1024)
    # A random model never ends by itself; its answers have their time.
    settings = ServerSettings(port=0, model_name="m", request_seconds=0.3)
    with TextGenerationPipeline(folder, backend="ort") as pipeline, Server(pipeline, settings) as server:
        yield server


def run(where: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=280, check=False, cwd=where
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["openai-chat", "open-responses"])
def test_llm_comply(server: Server, form: str, tmp_path: Path) -> None:
    pytest.importorskip("llm_comply", reason="llm-comply is not installed; pip install llm-comply")
    done = run(
        tmp_path, "llm_comply.cli", "-u", f"{server.url}/v1", "-k", "none", "-m", "m", "--format", form, "--json"
    )
    results = {one["id"]: one for one in results_in(json.loads(done.stdout))}
    assert len(results) >= 9
    failed = {name: one["errors"] for name, one in results.items() if one["status"] == "failed"}
    # A random model ends by its limit, not by itself, and calls nothing by itself.
    left = {name: errors for name, errors in failed.items() if name not in NO_IMAGES}
    bad = [(name, error) for name, errors in left.items() for error in errors if not is_the_models(error)]
    assert not bad


def is_the_models(error: str) -> bool:
    endings = ("expected status='completed', got 'incomplete'", "finish_reason: expected 'stop', got 'length'")
    return any(ending in error for ending in endings) or "function_call" in error or "tool_calls" in error


def results_in(report: Any) -> list[dict[str, Any]]:
    lists = [value for value in report.values() if isinstance(value, list)] if isinstance(report, dict) else [report]
    return [one for found in lists for one in found]


@pytest.mark.slow
def test_schemathesis(server: Server, tmp_path: Path) -> None:
    """Nothing that fits our document, or nearly does, is a fault of the server."""
    pytest.importorskip("schemathesis", reason="schemathesis is not installed; pip install schemathesis")
    with urllib.request.urlopen(f"{server.url}/openapi.json", timeout=30) as answer:
        document = json.load(answer)
    for schema in document["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            # Other names would all be 404 and go no further.
            schema["properties"]["model"] = {"type": "string", "enum": ["m"]}
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    options = ["--max-examples", "15", "--seed", "1", "--checks", "not_a_server_error,status_code_conformance"]
    done = run(tmp_path, "schemathesis.cli", "run", str(path), "--url", server.url, "--phases", "fuzzing", *options)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "8 selected" in done.stdout
