# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a submission of a report."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

import genai_iface
from genai_iface._new_files import new_file
from genai_iface.conformance._golden import kit_digest
from genai_iface.errors import InvalidInputError

__all__ = ["read_json", "write_submission"]


def write_submission(folder: str | PathLike[str], /, *, command: str = "") -> Path:
    """Writes submission.json beside a report of this kit and this machine.

    Args:
        folder: Holds ``report.json``, as ``write_report`` wrote it.
        command: What was run, so that others can run it too.

    Returns:
        The path of submission.json.

    Raises:
        InvalidInputError: There is no report, or another kit made it.
        OutputError: The file cannot be written.
    """
    path = Path(folder) / "report.json"
    report = read_json(path)
    kit = report.get("kit")
    if not isinstance(kit, dict) or kit.get("sha256") != kit_digest():
        raise InvalidInputError(
            f"{path} was not made by this kit, whose files have the SHA-256 {kit_digest()[:12]}...",
            remedy="Run the kit again with --report, then submit.",
        )
    backend = report["backend"]
    data = {
        "format": 1,
        "report_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "kit": kit,
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seed": report["seed"],
        "command": command,
        "machine": _machine(),
        "versions": {
            "genai-iface": genai_iface.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            backend["runtime"]: backend["runtime_version"],
        },
    }
    with new_file(path.with_name("submission.json")) as file:
        file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path.with_name("submission.json")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InvalidInputError: There is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{path} cannot be read: {error}", remedy="Give a folder that --report has written."
        ) from error
    if not isinstance(data, dict):
        raise InvalidInputError(f"{path} holds no JSON object", remedy="Give a folder that --report has written.")
    return data


def _machine() -> dict[str, Any]:
    """The hardware and its system; no name of the machine or of who uses it."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8", errors="replace").splitlines() if cpu.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "system": platform.system(),
        "release": platform.release().partition("-")[0],
        "architecture": platform.machine(),
        "processor": next(models, platform.processor()),
        "cpus": os.cpu_count() or 1,
    }
