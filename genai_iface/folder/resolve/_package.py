# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Model packages of ONNX Runtime: ``manifest.json`` names components, a component its variants."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genai_iface.folder.resolve._listing import Listing

__all__ = ["MANIFEST", "PackageVariant", "package_variants", "shared_folders"]

MANIFEST = "manifest.json"
_COMPONENT_FILES = ("component.json", "metadata.json")
_ASSET = re.compile(r"shared_assets/sha256-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PackageVariant:
    """One variant of one component.

    Attributes:
        component: Its name.
        name: The variant's own name.
        folder: Where its files are, below the package.
        provider: The execution provider that it was made for, "" if none is named.
    """

    component: str
    name: str
    folder: str
    provider: str


def package_variants(listing: Listing) -> list[PackageVariant]:
    """The variants of a package; empty for a folder that is none.

    Raises:
        InvalidInputError: A file of the package is not a JSON object.
    """
    if MANIFEST not in listing.sizes:
        return []
    manifest = listing.read_json(MANIFEST) or {}
    if "schema_version" not in manifest:
        return []
    return [
        found
        for component, folder, body in _components(manifest, listing)
        for found in _variants(component, folder, body)
        if any(name.startswith(f"{found.folder}/") for name in listing.sizes)
    ]


def shared_folders(listing: Listing) -> list[str]:
    """Where the components of a package keep what they share: tokenizers, configurations."""
    folders = {name.rpartition("/")[0] for name in listing.sizes}
    return sorted(folder for folder in folders if _ASSET.fullmatch(folder) or folder == "configs")


def _components(manifest: Mapping[str, Any], listing: Listing) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, folder and description of each component, in the present form and in the first one (a list of names)."""
    given = manifest.get("components")
    named = given if isinstance(given, list) else []
    pairs = list(given.items()) if isinstance(given, Mapping) else [(name, name) for name in named]
    for name, value in pairs:
        if isinstance(value, Mapping):
            yield str(name), "", value
        elif isinstance(value, str):
            place = value.strip("/")
            files = [place] if place.endswith(".json") else [f"{place}/{file}" for file in _COMPONENT_FILES]
            body = next((listing.read_json(file) or {} for file in files if file in listing.sizes), {})
            yield str(name), place.rpartition("/")[0] if place.endswith(".json") else place, body


def _variants(component: str, folder: str, body: Mapping[str, Any]) -> Iterator[PackageVariant]:
    variants = body.get("variants")
    if not isinstance(variants, Mapping):
        return
    for name, value in variants.items():
        described = value if isinstance(value, Mapping) else {}
        directory = str(described.get("variant_directory") or name).strip("/")
        yield PackageVariant(
            component, str(name), f"{folder}/{directory}" if folder else directory, str(described.get("ep") or "")
        )
