# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The options of ``OrtBackend.load``: checked, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from genai_iface.errors import InvalidInputError

__all__ = ["LoadOptions", "OptimizeLevel", "parse_options"]

OptimizeLevel = Literal["none", "standard", "runtime"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What ``options`` may hold.

    Attributes:
        optimize: "none" runs the graph as it is on disk; "standard" rewrites it with standard
            operators only; "runtime" also uses ONNX Runtime's own operators.
        num_threads: Threads of one operator; 0 lets ONNX Runtime choose.
        session_options: Attributes of ``onnxruntime.SessionOptions`` by name; a name with a dot is a
            configuration entry, for example "session.intra_op.allow_spinning".
        provider_options: Options of the execution provider, as strings.
        cache_dir: A directory that keeps rewritten models between processes.
        share_buffers: Bind past and present of the cache to one buffer. Off, ONNX Runtime copies the
            cache in every step: for measurements.
        growth_positions: The smallest step, in tokens, by which the buffers of a cache grow on the processor.
            0 for 64 where attention costs by buffer length, and 256 where it costs by valid length.
        huge_pages: On Linux, move packed weights to large memory pages once they are loaded. Decoding was
            6 to 32 % faster in measurements, loading slower by a few milliseconds per megabyte at worst.
        cuda_graph: Capture decode steps as CUDA graphs.
        cpu_fallback: Whether nodes without a CUDA kernel may run on the processor.
    """

    optimize: OptimizeLevel = "runtime"
    num_threads: int = 0
    session_options: Mapping[str, Any] = field(default_factory=dict)
    provider_options: Mapping[str, str] = field(default_factory=dict)
    cache_dir: Path | None = None
    share_buffers: bool = True
    growth_positions: int = 0
    huge_pages: bool = True
    cuda_graph: bool = False
    cpu_fallback: bool = True


def parse_options(options: Mapping[str, Any] | None, kind: str) -> LoadOptions:
    """Checks the options of a caller.

    Args:
        options: As given to ``Backend.load``.
        kind: "cpu" or "cuda".

    Raises:
        InvalidInputError: A name is unknown, a value has the wrong type, or the device lacks the option.
    """
    given = dict(options or {})
    known = {entry.name for entry in fields(LoadOptions)}
    for name in given:
        if name not in known:
            raise InvalidInputError(
                f"The ort backend has no option {name!r}", remedy=f"Its options: {', '.join(sorted(known))}."
            )
    for name, value in given.items():
        given[name] = _checked(name, value)
    parsed = LoadOptions(**given)
    if kind == "cpu" and parsed.cuda_graph:
        raise InvalidInputError("There are no CUDA graphs on the processor", remedy='Load with device="cuda".')
    if kind == "cuda" and not parsed.share_buffers:
        raise InvalidInputError(
            "On CUDA past and present always share a buffer", remedy="Leave the option share_buffers out."
        )
    return parsed


def _checked(name: str, value: Any) -> Any:
    legal = ""
    match name:
        case "optimize":
            legal = "" if value in get_args(OptimizeLevel) else f"one of {', '.join(get_args(OptimizeLevel))}"
        case "num_threads" | "growth_positions":
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            legal = "" if is_integer and value >= 0 else "an integer from 0 on"
        case "session_options" | "provider_options":
            is_mapping = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
            legal = "" if is_mapping else "a mapping with strings as keys"
        case "cache_dir":
            if value is None or isinstance(value, str | Path):
                return None if value is None else Path(value)
            legal = "a path, or None"
        case _:
            legal = "" if isinstance(value, bool) else "True or False"
    if legal:
        raise InvalidInputError(f"The option {name}={value!r} is not legal", remedy=f"Pass {legal}.")
    return value
