# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The golden data: models, references and operator cases, verified before they are used.

They are written by ``tools/golden_models`` and pinned by SHA-256 in ``golden/manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance._failure import NotApplicable
from genai_iface.conformance._tolerance import relative_tolerance
from genai_iface.errors import InvalidInputError

__all__ = [
    "GOLDEN",
    "Golden",
    "OperatorCase",
    "golden_names",
    "manifest",
    "manifest_digest",
    "open_golden",
    "operator_case",
    "state_names",
    "verify",
]

GOLDEN = Path(__file__).parent / "golden"
"""The golden models: a folder for each, with one for each of its forms and element types."""


@dataclass(frozen=True, slots=True)
class Golden:
    """One golden model in one dtype, with what it must give.

    Attributes:
        name: "base", "ring", ...
        folder: The model folder.
        form: "scatter", "concat" or "checkpoint".
        dtype: Of weights and cache.
        tokens: int64 (R, T), rows of tokens.
        logits: float32 (R, K, V), the float64 reference after the last K tokens of each row.
        greedy_prompt: Tokens before greedy decoding.
        greedy: The tokens that follow.
        tolerance: Largest legal absolute error of a logit.
        window: Positions of circular layers, or None.
        context_length: Most tokens of a sequence.
    """

    name: str
    folder: Path
    form: str
    dtype: str
    tokens: NDArray[np.int64]
    logits: NDArray[np.float32]
    greedy_prompt: list[int]
    greedy: list[int]
    tolerance: float
    window: int | None
    context_length: int

    def after(self, row: int, length: int) -> NDArray[np.float32]:
        """The reference logits (V,) after the first ``length`` tokens of a row."""
        index = length - 1 - self.tokens.shape[1]
        return np.asarray(self.logits[row, index])


@dataclass(frozen=True, slots=True)
class OperatorCase:
    """One node with inputs and outputs.

    Attributes:
        tolerance: Relative to the largest output; 0 where the result must be exact.
    """

    name: str
    model: bytes
    inputs: Mapping[str, NDArray[Any]]
    outputs: tuple[NDArray[Any], ...]
    tolerance: float


@cache
def manifest() -> Mapping[str, Any]:
    """The manifest."""
    content = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))
    return dict(content)


@cache
def manifest_digest() -> str:
    """SHA-256 of the manifest, which pins all golden files."""
    return hashlib.sha256((GOLDEN / "manifest.json").read_bytes()).hexdigest()


@cache
def kit_digest() -> str:
    """SHA-256 of every file of the kit, names included: checks, references, golden models."""
    kit, total = GOLDEN.parent, hashlib.sha256()
    files = {path.relative_to(kit).as_posix(): path for path in kit.rglob("*") if path.is_file()}
    for name in sorted(name for name in files if "__pycache__" not in name):
        total.update(f"{name}\0{hashlib.sha256(files[name].read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


@cache
def verify() -> None:
    """Compares all golden files with the manifest, once.

    Raises:
        InvalidInputError: A file is missing or was changed.
    """
    for name, digest in manifest()["files"].items():
        path = GOLDEN / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise InvalidInputError(
                f"The golden file {name} is missing or was changed", remedy="Reinstall genai-iface."
            )


def golden_names() -> list[str]:
    """The names of all golden models of attention alone."""
    return list(manifest()["models"])


def state_names() -> list[str]:
    """The names of all golden models that keep states."""
    return list(manifest()["states"])


def open_golden(name: str, form: str, dtype: str, *, factor: float = 1.0) -> Golden:
    """Opens a golden model.

    Raises:
        NotApplicable: It does not exist in that form and dtype.
    """
    verify()
    facts = (manifest()["models"] | manifest()["states"])[name]
    if f"{form}-{dtype}" not in facts["forms"]:
        raise NotApplicable(f"the golden model {name!r} has no form {form!r} in {dtype}")
    with np.load(GOLDEN / name / "reference.npz", allow_pickle=False) as arrays:

        def of(name: str) -> NDArray[Any]:
            """What is known of this element type, or else of all."""
            own = f"{dtype}.{name}"
            return np.asarray(arrays[own if own in arrays.files else name])

        judged = facts.get("judged_as", dtype)
        relative = relative_tolerance(judged, facts["reduction_length"], facts["num_stores"], factor=factor)
        # The checkpoint lies in the same folder as the standard graph.
        kind = "scatter" if form == "checkpoint" else form
        return Golden(
            name=name,
            folder=GOLDEN / name / f"{kind}-{dtype}",
            form=form,
            dtype=dtype,
            tokens=arrays["tokens"].astype(np.int64),
            logits=of("logits"),
            greedy_prompt=arrays["greedy_prompt"].tolist(),
            greedy=of("greedy").tolist(),
            tolerance=relative * float(of("scale")),
            window=facts["window"],
            context_length=facts["context_length"],
        )


def operator_case(name: str, *, factor: float = 1.0) -> OperatorCase:
    """Opens an operator case, "attention.causal"."""
    verify()
    facts = manifest()["operators"][name]
    with np.load(GOLDEN / "operators.npz", allow_pickle=False) as arrays:
        return OperatorCase(
            name=name,
            model=arrays[f"{name}/model"].tobytes(),
            inputs={key: arrays[f"{name}/{key}"] for key in facts["inputs"]},
            outputs=tuple(arrays[f"{name}/y{index}"] for index in range(facts["num_outputs"])),
            tolerance=0.0
            if facts["exact"]
            else relative_tolerance("float32", facts["reduction_length"], 1, factor=factor),
        )
