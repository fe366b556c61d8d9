# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What SECURITY.md promises of a run: no connection, no pickle, no process but the template's, nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genai_iface.models import default_folder
from tests.marks import BACKENDS

# Audit hooks cannot be removed, hence a process of its own.
PROGRAM = """
import json, os, sys

folder, backend = sys.argv[1], sys.argv[2]
seen, templates = [], []
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "pickle.find_class", "subprocess.Popen", "os.system", "os.exec",
             "os.posix_spawn", "os.fork", "os.forkpty")

def hook(event, arguments):
    if event == "subprocess.Popen" and arguments[0] == sys.executable and "template_worker" in str(arguments[1]):
        templates.append(arguments[1])
    elif event in FORBIDDEN:
        seen.append([event, str(arguments)[:200]])
    if event == "open" and isinstance(arguments[0], str) and os.path.realpath(arguments[0]).startswith(folder):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append(["write", arguments[0]])

switched_off = None
if backend == "ort":
    import onnxruntime
    switched_off = []
    disable = onnxruntime.disable_telemetry_events
    onnxruntime.disable_telemetry_events = lambda: (switched_off.append(True), disable())
    session = onnxruntime.InferenceSession.__init__
    def init(self, *arguments, **options):
        if not switched_off:
            seen.append(["a session before telemetry was switched off", ""])
        session(self, *arguments, **options)
    onnxruntime.InferenceSession.__init__ = init
sys.addaudithook(hook)

from genai_iface import TextGenerationPipeline

with TextGenerationPipeline(folder, backend=backend) as pipe:
    text = pipe.generate([{"role": "user", "content": "Hello"}], max_new_tokens=4, seed=1, temperature=0.7).text
print(json.dumps({"seen": seen, "text": text, "switched_off": switched_off, "templates": len(templates)}))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_connects_to_nothing_and_starts_the_template_only(backend: str, tmp_path: Path) -> None:
    folder = tmp_path.resolve() / "model"
    shutil.copytree(default_folder(), folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), backend], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["text"]
    assert result["seen"] == []
    assert result["templates"] == 1
    assert result["switched_off"] == ([True] if backend == "ort" else None)


def test_the_hook_would_see_it(tmp_path: Path) -> None:
    """The program above can fail: a pickle and a write into the folder are noticed."""
    marker = "from genai_iface import TextGenerationPipeline"
    evil = "import pickle\npickle.loads(b'cos\\ngetcwd\\n(tR.')\nopen(folder + '/new', 'w').close()\n"
    folder = tmp_path.resolve() / "model"
    shutil.copytree(default_folder(), folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace(marker, evil + marker), str(folder), "numpy"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert [event for event, _ in json.loads(done.stdout)["seen"]] == ["pickle.find_class", "write"]
