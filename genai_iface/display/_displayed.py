# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Facts of an object as text and as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_iface.protocols import KVCache, Model
    from genai_iface.types import CacheSpec, ModelSpec

__all__ = [
    "Displayed",
    "as_html",
    "as_text",
    "cache_facts",
    "in_bytes",
    "model_facts",
    "spec_facts",
]

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Displayed:
    """Shows an object by its facts: ``repr`` in a console, a table in a notebook.

    A subclass implements ``display_facts``. It must not fail, whatever state the object is in, for a debugger calls
    ``repr`` too.
    """

    __slots__ = ()

    def display_facts(self) -> Mapping[str, object]:
        """What the object is, where it is and how full, by name."""
        return {}

    def __repr__(self) -> str:
        return as_text(type(self).__name__, self.display_facts())

    def _repr_html_(self) -> str:
        return as_html(type(self).__name__, self.display_facts())


def as_text(name: str, facts: Mapping[str, object], /) -> str:
    """One line: the name of a class and its facts."""
    return f"<{name}: {', '.join(f'{key} {value}' for key, value in facts.items())}>" if facts else f"<{name}>"


def as_html(name: str, facts: Mapping[str, object], /) -> str:
    """A table of two columns, with what a model's files say escaped."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(key)}</th><td style="text-align:left">{escape(str(value))}</td></tr>'
        for key, value in facts.items()
    )
    return f"<table><caption>{escape(name)}</caption><tbody>{rows}</tbody></table>"


def in_bytes(count: int, /) -> str:
    """A number of bytes as people say it: "1.5 MiB"."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} bytes" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def model_facts(model: Model[Any], /) -> dict[str, object]:
    """What is worth knowing of a loaded model."""
    return {"device": model.device.identifier, **spec_facts(model.spec)}


def spec_facts(spec: ModelSpec, /) -> dict[str, object]:
    """What is worth knowing of a model, wherever it runs."""
    return {
        "vocabulary": spec.vocab_size,
        "context": spec.context_length if spec.context_length is not None else "unlimited",
        "cache": _layers(spec.cache),
    }


def cache_facts(cache: KVCache, /) -> dict[str, object]:
    """What is worth knowing of a cache."""
    lengths = cache.lengths.tolist()
    shown = ", ".join(map(str, lengths[:8])) + (", ..." if len(lengths) > 8 else "")
    longest = max(lengths, default=0)
    return {
        "rows": cache.batch_size,
        "lengths": f"[{shown}]",
        "capacity": f"{cache.capacity} ({longest / cache.capacity:.0%} used)",
        "memory": in_bytes(cache.nbytes),
        "updates": cache.update_mode,
    }


def _layers(cache: CacheSpec) -> str:
    parts = [f"{len(cache.layers)} x {cache.layers[0].dtype} {cache.style}"] if cache.layers else []
    parts += [f"{len(cache.states)} states"] if cache.states else []
    per_token = f", {in_bytes(cache.bytes_per_token)} per token" if cache.layers else ""
    return " and ".join(parts) + per_token
