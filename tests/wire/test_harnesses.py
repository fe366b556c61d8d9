# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The harnesses of examples/: what they say follows the schema, and they reach their levels."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from genai_iface.cli.main import main
from genai_iface.conformance import run_checks
from genai_iface.conformance.wire import SCHEMA, WireAdapter

EXAMPLES = Path(__file__).parents[2] / "examples"
PYTHON = [sys.executable, str(EXAMPLES / "harness_python/harness.py"), "numpy"]
PACKAGES = EXAMPLES / "harness_javascript/node_modules"


def javascript(runtime: str) -> list[str]:
    """The command of the harness in JavaScript, if it can run."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (PACKAGES / runtime).is_dir():
        pytest.skip(f"{runtime} is not there: npm install --ignore-scripts in examples/harness_javascript")
    return ["node", str(EXAMPLES / "harness_javascript/harness.mjs"), runtime]


class Listening(WireAdapter):
    """Keeps what is said."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        self.said: list[tuple[str, Mapping[str, Any]]] = []
        send, receive = self.connection._send, self.connection._receive

        def sending(message: Mapping[str, Any]) -> None:
            self.said.append(("", message))
            send(message)

        def receiving(name: str) -> Mapping[str, Any]:
            message = receive(name)
            self.said.append((name, message))
            return message

        self.connection._send, self.connection._receive = sending, receiving


def check_messages(said: list[tuple[str, Mapping[str, Any]]]) -> set[str]:
    """Validates what was said; the calls that had a result."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = {
        name: jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]})
        for name in schema["$defs"]
    }
    # Many of a kind are alike: a few of each.
    seen: dict[str, int] = {}
    for call, message in said:
        name = f"result_{call}" if call else f"call_{message['call']}"
        seen[name] = seen.get(name, 0) + 1
        if call:
            parts["reply"].validate(message)
        if seen[name] <= 20 and "error" not in message:
            parts[name].validate(message["result"] if call else message)
    return {name.removeprefix("result_") for name in seen if name.startswith("result_")}


OTHER_PROFILES = ("create_generator", "append_tokens", "generate_next_token", "get_sequence", "rewind_generator")
OTHER_PROFILES += ("get_logits", "set_logits", "cancel", "close_generator", "generate")

LIGHT = (
    "L0.backend.info",
    "L0.errors.ids_type",
    "L0.errors.foreign_cache",
    "L0.errors.closed_model",
    "L1.tensor_scatter.circular",
    "L2.write.ragged_chunk",
    "L2.overflow.before_anything_changes",
    "L2.rewind.per_row",
    "L2.rewind.can_rewind_agrees",
    "L2.reorder.more_rows",
    "L2.reset.rows",
    "L2.fork.independent",
    "L2.inspect.shapes",
    "L2.save.round_trip",
    "L3.golden.two_layers",
)


def test_what_the_harness_in_python_says() -> None:
    adapter = Listening(PYTHON)
    run = run_checks(adapter, level=3, only=LIGHT)
    adapter.close()
    outcomes = {item.check.id: (item.status, item.message) for item in run.outcomes if item.check.id in LIGHT}
    assert outcomes == dict.fromkeys(LIGHT, ("passed", ""))
    calls = {name.removeprefix("call_") for name in json.loads(SCHEMA.read_text())["$defs"] if name.startswith("call_")}
    # The call that has no reply, and those of other profiles (test_profiles.py).
    assert calls - check_messages(adapter.said) == {"close", *OTHER_PROFILES}


@pytest.mark.slow
def test_a_broken_runtime_behind_the_wire_is_found(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(
        "import runpy, sys\n"
        "from genai_iface_numpy.cache import NumpyCache\n"
        "NumpyCache.reset = lambda self, rows=None, /: None\n"
        f"sys.argv = ['harness', 'numpy']\nrunpy.run_path({PYTHON[1]!r}, run_name='__main__')\n"
    )
    adapter = WireAdapter([sys.executable, str(script)])
    run = run_checks(adapter, level=2, only=["L2.reset.all", "L2.reset.rows", "L2.write.prefill"])
    adapter.close()
    found = {item.check.id: item.status for item in run.outcomes if item.status != "not_executed"}
    assert found == {"L2.write.prefill": "passed", "L2.reset.all": "failed", "L2.reset.rows": "failed"}


@pytest.mark.slow
def test_the_harness_in_python_conforms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "--command", " ".join(PYTHON)]) == 0
    assert "numpy, float32: conforms at level 4 (profile step" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime-node", "onnxruntime-web"])
def test_the_harness_in_javascript_conforms(runtime: str) -> None:
    adapter = Listening(javascript(runtime))
    run = run_checks(adapter)
    adapter.close()
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    # Operators are shown too: TensorScatter and Attention themselves.
    assert [(item.level, item.verdict) for item in run.levels] == [(level, "conforms") for level in range(5)]
    check_messages(adapter.said)


def conforms(adapter: Listening) -> set[str]:
    """Runs the kit; the calls that had a result."""
    run = run_checks(adapter, level=3)
    adapter.close()
    assert [(item.check.id, item.message) for item in run.outcomes if item.status == "failed"] == []
    assert run.verdict == "conforms"
    return check_messages(adapter.said)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["wasm", "webgpu"])
def test_a_page_in_a_browser_conforms(asked: str) -> None:
    browser = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
    if not browser.is_file():
        pytest.skip(f"{browser} is not installed; CHROMIUM names another one")
    javascript("playwright-core")
    adapter = Listening([*javascript("onnxruntime-web")[:1], str(EXAMPLES / "harness_javascript/chromium.mjs"), asked])
    used = adapter.backend().info().runtime_version
    if asked == "webgpu" and "WebGPU" not in used:
        adapter.close()
        pytest.skip(f"the browser offers no WebGPU adapter: {used}")
    conforms(adapter)


@pytest.mark.slow
@pytest.mark.parity
def test_the_harness_in_cpp_conforms(tmp_path: Path) -> None:
    package, compiler = find_spec("openvino"), shutil.which("g++")
    if compiler is None or package is None or package.origin is None:
        pytest.skip("not installed: g++ or openvino, whose package brings headers and libraries")
    if not Path("/usr/include/nlohmann/json.hpp").is_file():
        pytest.skip("not installed: nlohmann-json3-dev")
    at, source = Path(package.origin).parent, EXAMPLES / "harness_cpp/harness.cpp"
    libraries = [*map(str, (at / "libs").glob("libopenvino.so.*")), f"-Wl,-rpath,{at / 'libs'}"]
    built = str(tmp_path / "harness")
    subprocess.run(
        [
            compiler,
            "-std=c++17",
            "-O1",
            "-Wall",
            "-Werror",
            str(source),
            "-o",
            built,
            f"-isystem{at / 'include'}",
            *libraries,
        ],
        check=True,
    )
    assert "create_cache" in conforms(Listening([built]))


def test_harnesses_are_short() -> None:
    found = [path for kind in ("py", "mjs", "cpp") for path in EXAMPLES.glob(f"harness_*/*.{kind}")]
    assert len(found) >= 12
    for path in found:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 150, path


def test_the_command_wants_one_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "numpy", "--command", "node x.mjs"]) == 2
    assert main(["conformance", "--command", "no-such-program-of-ours"]) == 2
    assert "cannot be started" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "said"),
    [("import no_such_module", "No module named 'no_such_module'"), ("print('hi')", "a line that is no message: 'hi'")],
)
def test_a_harness_that_never_says_hello_is_bad_input(
    program: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conformance", "--command", shlex.join([sys.executable, "-c", program])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("genai-iface: There is nothing to judge.") and said in error
