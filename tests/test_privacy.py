# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing leaves the machine, as the kernel sees it: an audit hook sees Python's connections, and no library's."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from genai_iface.backend_kit import switch_off_telemetry

ROOT = Path(__file__).parents[1]
SWITCHES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
REPORTING = ("huggingface_hub", "onnxruntime", "onnxruntime_genai", "openvino", "transformers")


def test_a_setting_of_the_users_own_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    switch_off_telemetry()
    assert [os.environ[name] for name in SWITCHES] == ["0", "1"]


def test_openvino_telemetry_counts_as_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    switch_off_telemetry()
    with pytest.raises(ImportError):
        import openvino_telemetry  # noqa: F401
    # Somebody wants it.
    monkeypatch.setitem(sys.modules, "openvino_telemetry", ast)
    switch_off_telemetry()
    assert sys.modules["openvino_telemetry"] is ast


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_every_way_to_a_library_that_reports_passes_the_switch() -> None:
    """It is in the file, or in the ``__init__`` of a package around it, which runs before the file."""
    open_ways, seen = [], 0
    for folder in ("genai_iface", "backends", "benchmarks", "examples", "tests", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not set(REPORTING) & set(imports(path)):
                continue
            seen += 1
            before = [path, *(parent / "__init__.py" for parent in path.parents)]
            if not any(file.is_file() and "switch_off_telemetry()" in file.read_text() for file in before):
                open_ways.append(path.relative_to(ROOT).as_posix())
    assert seen > 15
    assert open_ways == []


@pytest.mark.slow
def test_the_switch_comes_before_the_runtime() -> None:
    """Whatever of a backend is imported first."""
    if find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed; pip install '.[ort]'")
    program = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Watch())
"""
    ways = (
        "import genai_iface_ort.runtime",
        "from genai_iface import load_backend; load_backend('ort')",
        "from genai_iface.cli.main import main; main(['devices'])",
        "from genai_iface.conformance import load_adapter; load_adapter('ort').backend().info()",
        "from genai_iface.build.fusion.runs import _run; _run(b'', {})",
        "import benchmarks.lowering",
    )
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *map(str, (ROOT / "backends").iterdir())])
    for way in ways:
        done = subprocess.run(
            [sys.executable, "-c", program + way],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.stdout.splitlines()[:1] == ["1"], (way, done.stderr)


def sockets(trace: Path, *command: str, verdict: tuple[int, ...] = (0,)) -> set[str]:
    """Runs a program under strace, without any setting of the user's, and gives the kinds of sockets that it made."""
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    done = subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(trace), *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in verdict, done.stderr[-2000:]
    return set(re.findall(r"\bsocket(?:pair)?\((\w+)", trace.read_text()))


def skip_without_eyes(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed; apt-get install strace")
    looked = subprocess.run(["strace", "-o", str(tmp_path / "looked"), "true"], capture_output=True, check=False)
    if looked.returncode:
        pytest.skip(f"strace may not look here: {looked.stderr.decode()[:200]}")


GENERATE = """
import sys, time
from genai_iface import TextGenerationPipeline

end = time.monotonic() + 20
with TextGenerationPipeline(backend=sys.argv[1]) as pipe:
    while time.monotonic() < end:
        assert pipe.generate("The", max_new_tokens=20).text
        time.sleep(0.5)
"""

LOCAL = {"AF_UNIX", "AF_LOCAL", "AF_NETLINK"}

COMMANDS = {
    "generate": ["-c", GENERATE, "ort"],
    "devices": ["-m", "genai_iface", "devices"],
    # A part of it, several seconds of work: checks share what they load.
    "conformance": ["-m", "genai_iface", "conformance", "ort", "--level", "2"],
    "bench": ["-m", "genai_iface", "bench", "--backend", "ort", "--new-tokens", "16"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_kernel_sees_no_network(command: list[str], tmp_path: Path) -> None:
    if find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed; pip install '.[ort]'")
    skip_without_eyes(tmp_path)
    assert sockets(tmp_path / "trace", sys.executable, *command) <= LOCAL


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("way", ["the transformers backend", "build", "openvino"])
def test_the_kernel_sees_no_network_of_other_libraries(way: str, tmp_path: Path) -> None:
    skip_without_eyes(tmp_path)
    if way == "openvino":
        if find_spec("openvino") is None:
            pytest.skip("openvino is not installed; pip install '.[parity]'")
        adapter = "examples.new_runtime.openvino_runtime:OpenVinoAdapter"
        command = ["-m", "genai_iface", "conformance", adapter, "--level", "1"]
    else:
        from tests.parity.checkpoints import make_checkpoint

        source = tmp_path / "checkpoint"
        make_checkpoint("llama", source)
        if way == "build":
            command = ["-m", "genai_iface", "build", str(source), str(tmp_path / "out")]
        else:
            command = ["-c", TRANSFORMERS, str(source)]
    # OpenVINO does not reach the level in all checks.
    verdict = (0, 1) if way == "openvino" else (0,)
    assert sockets(tmp_path / "trace", sys.executable, *command, verdict=verdict) <= LOCAL


TRANSFORMERS = """
import sys, time
import numpy as np
from genai_iface import load_model

model = load_model(sys.argv[1], backend="transformers")
cache = model.create_cache(batch_size=1, capacity=16)
model.forward(np.array([[1, 2, 3]]), cache)
time.sleep(10)
"""


@pytest.mark.slow
def test_the_eyes_can_see(tmp_path: Path) -> None:
    """A native connection, in a thread of its own, is noticed."""
    skip_without_eyes(tmp_path)
    program = (
        "import ctypes, threading; t = threading.Thread(target=ctypes.CDLL(None).socket, args=(2, 2, 0)); t.start()"
    )
    assert sockets(tmp_path / "trace", sys.executable, "-c", program) == {"AF_INET"}
