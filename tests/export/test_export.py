# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Checks as data: the programs follow their schema, and a replayer without Python judges as the kit does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from genai_iface import CacheOverflowError, CacheRewindError, GenAIError, InvalidInputError, load_backend
from genai_iface.cli.main import main
from genai_iface.conformance.export import PROGRAMS_SCHEMA, export_programs

REPLAYER = Path(__file__).parents[2] / "examples/replay_javascript"
FEW = (
    "L2.write.ragged_chunk",
    "L2.idle.unchanged",
    "L2.overflow.before_anything_changes",
    "L2.rewind.per_row",
    "L2.reorder.more_rows",
    "L2.reset.rows",
    "L2.fork.independent",
    "L2.circular.refuses_rewind",
    "L3.fresh.base",
)
ERRORS = {"cache_overflow": CacheOverflowError, "cache_rewind": CacheRewindError, "invalid_input": InvalidInputError}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs") / "few"
    assert export_programs(folder, seed=4, only=FEW)["programs"] == len(FEW)
    return folder


class Replay:
    """The replayer in Python, over any backend; what the one in JavaScript does."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder, self.backend = folder, load_backend(backend)
        self.data = json.loads((folder / "programs.json").read_text())
        self.tensors = load_file(folder / "tensors.safetensors")
        self.models: dict[str, Any] = {}

    def run(self, steps: list[dict[str, Any]]) -> None:
        caches: dict[int, Any] = {}
        for step in steps:
            if step["call"] == "create_cache":
                model = self.model(step["model"])
                caches[step["cache"]] = (
                    model,
                    model.create_cache(batch_size=step["batch_size"], capacity=step["capacity"]),
                )
            elif step["call"] == "fork":
                model, cache = caches[step["cache"]]
                caches[step["to"]] = model, cache.fork()
            else:
                self.step(step, *caches[step["cache"]])

    def model(self, name: str) -> Any:
        if name not in self.models:
            self.models[name] = self.backend.load(self.folder / self.data["models"][name])
        return self.models[name]

    def step(self, step: dict[str, Any], model: Any, cache: Any) -> None:
        names = {"rewind_to": "lengths", "reorder": "indices", "reset": "rows"}
        if step["call"] == "close":
            cache.close()
            return
        try:
            if step["call"] == "forward":
                got = model.forward(step["input_ids"], cache, counts=step["counts"], logits=step["logits"])
            else:
                got = getattr(cache, step["call"])(step[names[step["call"]]])
        except GenAIError as error:
            assert "error" in step, error
            assert isinstance(error, ERRORS[step["error"]])
            return
        assert "error" not in step, step
        assert cache.lengths.tolist() == step["lengths_after"]
        if "expected" in step:
            wanted = self.tensors[step["expected"]["tensor"]]
            counts = step["counts"] or [len(row) for row in step["input_ids"]]
            for row, count in enumerate(counts):
                real = count if step["logits"] == "all" else min(1, count)
                assert np.abs(got[row, :real] - wanted[row, :real]).max(initial=0) <= step["expected"]["tolerance"]


def test_programs_follow_their_schema(few: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(PROGRAMS_SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    data = json.loads((few / "programs.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(data)
    assert [program["id"] for program in data["programs"]] == list(FEW)
    used = {
        step["expected"]["tensor"] for program in data["programs"] for step in program["steps"] if "expected" in step
    }
    assert used == load_file(few / "tensors.safetensors").keys()
    assert all((few / place / "model.onnx").is_file() for place in data["models"].values())


@pytest.mark.parametrize("backend", ["numpy", "ort"])
def test_backends_pass_what_is_written(backend: str, few: Path) -> None:
    if backend == "ort":
        pytest.importorskip("onnxruntime")
    replay = Replay(few, backend)
    for program in replay.data["programs"]:
        replay.run(program["steps"])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "out")
    assert main(["conformance", "--export", target, "--only", "L2.write.prefill"]) == 0
    assert capsys.readouterr().out.startswith("1 programs, 12 steps, 4 tensors")
    assert main(["conformance", "--export", target]) == 2
    assert main(["conformance", "--export", str(tmp_path / "other"), "--only", "L0.backend.info"]) == 2


def test_the_replayer_is_short_and_pinned() -> None:
    assert len((REPLAYER / "replay.mjs").read_text().splitlines()) <= 150
    versions = json.loads((REPLAYER / "package.json").read_text())["dependencies"]
    assert all(version[0].isdigit() for version in versions.values())


def replay_in_javascript(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (REPLAYER / "node_modules/onnxruntime-node").is_dir():
        pytest.skip("onnxruntime-node is not there: npm install --ignore-scripts in examples/replay_javascript")
    command = ["node", str(REPLAYER / "replay.mjs"), str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_javascript_replays_everything(tmp_path: Path) -> None:
    made = export_programs(tmp_path / "all", seed=9)
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(PROGRAMS_SCHEMA.read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads((tmp_path / "all/programs.json").read_text()))
    done = replay_in_javascript(tmp_path / "all")
    assert done.returncode == 0, done.stdout + done.stderr
    passed, failed, skipped = (int(part.split()[0]) for part in done.stdout.splitlines()[-1].split(", "))
    assert (failed, passed + skipped) == (0, made["programs"])
    assert passed > 60
    assert all("cache_circular" in line for line in done.stdout.splitlines() if line.startswith("skipped"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["index", "rewind"])
def test_javascript_finds_a_spoilt_runtime(kind: str, few: Path) -> None:
    done = replay_in_javascript(few, "--spoil", kind)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED L2." in done.stdout
