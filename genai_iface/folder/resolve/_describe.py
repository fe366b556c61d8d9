# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The models of a source as a table: for ``inspect``, and for errors that ask to choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

from genai_iface.errors import GenAIError
from genai_iface.folder.resolve._listing import Listing
from genai_iface.folder.resolve._look import Look, look_into
from genai_iface.folder.resolve._variants import Variant

__all__ = ["ModelFacts", "describe_models", "describe_variants", "look_at"]

_MOST_SHOWN = 16


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model of a source.

    Attributes:
        name: What ``variant`` calls it by.
        file: Its path below the source.
        size: Bytes, those of its external data included as far as names tell.
        dtype: What most of its weights are kept in, as the graph says, or else its name; None if neither does.
        cache: The style of its cache; None if that is not known before it is downloaded.
        problem: Why it cannot be opened.
    """

    name: str
    file: str
    size: int
    dtype: str | None
    cache: str | None
    problem: str | None


def describe_models(source: str | PathLike[str], *, revision: str | None = None) -> list[ModelFacts]:
    """All models that a source has. Of a repository only small graphs are fetched, and no weights.

    Raises:
        InvalidInputError: There is no such source, or it has no model.
        UnsupportedModelError: What it has is in a form that is not read.
    """
    from genai_iface.folder.resolve._choose import refuse_empty  # noqa: PLC0415 - it uses this module
    from genai_iface.folder.resolve._locate import list_variants  # noqa: PLC0415

    listing, variants = list_variants(source, revision=revision)
    if not variants:
        refuse_empty(listing)
    return [_facts(variant, look_at(listing, variant)) for variant in variants]


def _facts(variant: Variant, look: Look) -> ModelFacts:
    return ModelFacts(
        variant.name, variant.file, variant.size, look.dtype or variant.precision, look.style, look.problem
    )


def describe_variants(listing: Listing, variants: Sequence[Variant]) -> str:
    """A line for each: name, file, size, and what a look into it says."""
    lines = []
    for variant in variants[:_MOST_SHOWN]:
        facts = _facts(variant, look_at(listing, variant))
        cache = f"{facts.cache} cache" if facts.cache else "not on this machine"
        words = (f"{facts.size / 2**20:.1f} MiB", facts.dtype or "dtype unknown", facts.problem or cache)
        lines.append(f"  {facts.name}  ({facts.file}: {', '.join(words)})")
    if len(variants) > _MOST_SHOWN:
        lines.append(f"  and {len(variants) - _MOST_SHOWN} more")
    return "\n".join(lines)


def look_at(listing: Listing, variant: Variant) -> Look:
    """What the file of a variant says, as far as it is here or small."""
    if variant.refusal is not None:
        return Look(None, None, variant.refusal.what)
    folder = listing.fetch(variant.file) if listing.folder is None and listing.fetch is not None else listing.folder
    if folder is None:
        return Look(None, None, None)
    try:
        return look_into(folder / variant.folder, variant.file.rpartition("/")[2])
    except GenAIError as error:
        return Look(None, None, error.what)
