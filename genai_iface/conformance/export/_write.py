# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs checks on the reference and writes what they asked as programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import genai_iface
from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context
from genai_iface.conformance._golden import Golden, kit_digest
from genai_iface.conformance._runner import run_check
from genai_iface.conformance.export._oracle import OracleBackend, Recording
from genai_iface.conformance.registry import Check, all_checks
from genai_iface.errors import InvalidInputError, OutputError
from genai_iface.version import INTERFACE_VERSION

__all__ = ["PROGRAMS_SCHEMA", "export_programs"]

PROGRAMS_SCHEMA = Path(__file__).parent / "programs.schema.json"
"""The JSON Schema of programs.json."""

# Checks of steps and rows. What looks at memory, types of arrays or threads is a matter of the language.
_ROOMS = (
    "L2.write.",
    "L2.lengths.",
    "L2.idle.",
    "L2.padding.",
    "L2.overflow.",
    "L2.rewind.",
    "L2.reorder.",
    "L2.reset.",
    "L2.fork.",
    "L2.isolation.",
    "L2.circular.",
    "L2.walk.",
    "L3.golden.",
    "L3.fresh.",
    "L3.same.",
    "L3.logits.",
)
_LEFT_OUT = ("L2.walk.long", "L2.walk.powers_of_two", "L3.same.growth", "L3.same.threads")


class _RecordingContext(Context):
    """Models are loaded with their references."""

    def __init__(self, oracle: OracleBackend, seed: int) -> None:
        super().__init__(oracle, seed=seed)
        self._oracle = oracle

    def load(self, golden: Golden) -> Any:
        return self._oracle.load_golden(golden)


def export_programs(folder: str | PathLike[str], /, *, seed: int = 0, only: Collection[str] = ()) -> dict[str, int]:
    """Writes programs.json, tensors.safetensors and the models that they run on.

    Args:
        folder: Is made, and must be empty.
        seed: Of fresh models and walks.
        only: Ids of the checks to write; none given: all that can be written.

    Returns:
        The number of programs, steps and expected tensors.

    Raises:
        InvalidInputError: The folder is not empty, the seed is negative, or a check cannot be written.
        OutputError: It cannot be written to.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidInputError(f"{str(target)!r} is there and not empty", remedy="Name a new folder.")
    if seed < 0:
        raise InvalidInputError(f"The seed {seed} is negative", remedy="Give 0 or more.")
    chosen = [item for item in all_checks(level=3) if item.id.startswith(_ROOMS) and item.id not in _LEFT_OUT]
    if unknown := set(only) - {item.id for item in chosen}:
        raise InvalidInputError(
            f"{sorted(unknown)[0]!r} is no check that can be written as a program",
            remedy=f"Those of {', '.join(room.rstrip('.') for room in _ROOMS)} can.",
        )
    oracle = OracleBackend(seed)
    context = _RecordingContext(oracle, seed)
    programs, tensors, models = [], dict[str, NDArray[np.float32]](), set[str]()
    try:
        for item in chosen:
            if only and item.id not in only:
                continue
            oracle.recording.clear()
            outcome = run_check(item, context)
            if outcome.status == "passed" and _is_a_program(oracle.recording):
                programs.append(_as_program(item, oracle.recording, tensors))
                models |= oracle.recording.models
        data = {
            "format": 1,
            "interface_version": INTERFACE_VERSION,
            "kit": {"version": genai_iface.__version__, "sha256": kit_digest()},
            "dtype": "float32",
            "seed": seed,
            "models": {name: f"models/{name}" for name in sorted(models)},
            "programs": programs,
        }
        _write(target, data, tensors, {name: oracle.folders[name] for name in models})
    finally:
        context.close()
    steps = sum(len(program["steps"]) for program in programs)
    return {"programs": len(programs), "steps": steps, "tensors": len(tensors)}


def _is_a_program(recording: Recording) -> bool:
    return recording.is_whole and any("expected" in step or "error" in step for step in recording.steps)


def _as_program(item: Check, recording: Recording, tensors: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
    steps = [dict(step) for step in recording.steps]
    for step in steps:
        if "expected" in step:
            name = f"{item.id}/{step['expected']['tensor']}"
            tensors[name] = recording.tensors[step["expected"]["tensor"]]
            step["expected"] = {**step["expected"], "tensor": name}
    needs = set(item.requires)
    needs |= {str(Capability.FORK)} if any(step["call"] == "fork" for step in steps) else set()
    needs |= {str(Capability.CACHE_CIRCULAR)} if any("ring" in name for name in recording.models) else set()
    return {
        "id": item.id,
        "title": item.title,
        "clauses": list(item.spec),
        "needs": sorted(needs),
        "core": bool(item.core),
        "steps": steps,
    }


def _write(
    target: Path, data: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]], folders: Mapping[str, Path]
) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, folder in folders.items():
            place = target / "models" / name
            place.mkdir(parents=True)
            for file in ("model.onnx", "config.json"):
                shutil.copyfile(folder / file, place / file)
        (target / "tensors.safetensors").write_bytes(_as_safetensors(tensors))
        (target / "programs.json").write_text(json.dumps(data) + "\n", encoding="utf-8")
        shutil.copyfile(PROGRAMS_SCHEMA, target / PROGRAMS_SCHEMA.name)
    except OSError as error:
        raise OutputError(
            f"The programs cannot be written to {str(target)!r}: {error.strerror}",
            remedy="Name a folder that you may write to, with room.",
        ) from error


def _as_safetensors(tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """A length, a JSON header, the data; the kit has no library for it, and three lines need none."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = (np.ascontiguousarray(tensor, "<f4").tobytes() for tensor in tensors.values())
    return len(text).to_bytes(8, "little") + text + b"".join(data)
