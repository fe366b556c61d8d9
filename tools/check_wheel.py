# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Checks what a built wheel holds: the packages, their type markers, the embedded model, and nothing else.

python tools/check_wheel.py dist/genai_iface-0.1.0-py3-none-any.whl
"""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

PACKAGES = (
    "genai_iface",
    "genai_iface_numpy",
    "genai_iface_openvino_genai",
    "genai_iface_ort",
    "genai_iface_ort_genai",
    "genai_iface_transformers",
)
NEEDED = (
    "genai_iface/models/onnx-prose/model.onnx",
    "genai_iface/models/onnx-prose/PROVENANCE.md",
    "genai_iface/conformance/golden/manifest.json",
    "genai_iface/conformance/report.schema.json",
    *(f"{package}/py.typed" for package in PACKAGES),
)
MAX_BYTES = 12 * 2**20


def faults(path: Path) -> list[str]:
    """What is wrong with a wheel, one sentence each."""
    names = ZipFile(path).namelist()
    found = [f"{name} is missing" for name in NEEDED if name not in names]
    for name in names:
        top = name.partition("/")[0]
        if top not in PACKAGES and not top.endswith(".dist-info"):
            found.append(f"{name} does not belong into the wheel")
        if "__pycache__" in name or "/tests/" in name:
            found.append(f"{name} does not belong into a package")
    size = path.stat().st_size
    if size > MAX_BYTES:
        found.append(f"the wheel has {size} bytes, the limit is {MAX_BYTES}")
    return found


def main() -> int:
    """Prints the faults of the wheels named on the command line; 1 if there are any, 2 without a wheel."""
    if len(sys.argv) < 2:
        print("usage: check_wheel.py WHEEL...", file=sys.stderr)
        return 2
    bad = 0
    for argument in sys.argv[1:]:
        path = Path(argument)
        found = faults(path)
        bad += bool(found)
        print(f"{path.name}: {path.stat().st_size} bytes, {'; '.join(found) or 'as it should be'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
