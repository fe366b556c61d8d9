# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Facts of an object as text and as HTML, and a stream of chunks that a notebook shows as it goes."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_iface.protocols import KVCache, Model
    from genai_iface.results import Chunk
    from genai_iface.types import CacheSpec, ModelSpec

__all__ = ["Displayed", "ShownStream", "as_html", "as_text", "cache_facts", "in_bytes", "model_facts", "spec_facts"]

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


class ShownStream:
    """An iterator of chunks. As the last line of a notebook's cell it prints its text while it comes.

    Args:
        chunks: The generator of the chunks; ``close`` closes it, and so does dropping this object.
    """

    def __init__(self, chunks: Generator[Chunk, None, None], /) -> None:
        self._chunks = chunks

    def __iter__(self) -> ShownStream:
        return self

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def throw(self, error: BaseException, /) -> Chunk:
        """Raises an error where the generation stands, which ends it as ``close`` does."""
        return self._chunks.throw(error)

    def close(self) -> None:
        """Ends the generation and frees its cache. A second call does nothing."""
        self._chunks.close()

    def _ipython_display_(self) -> None:
        for chunk in self._chunks:
            # Several sequences at once would run into each other; each piece of another than the first is marked.
            mark = f"[{chunk.index}] " if chunk.index else ""
            print(f"{mark}{chunk.text}", end="", flush=True)  # noqa: T201 - a notebook's cell is what it prints to
        print()  # noqa: T201


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
