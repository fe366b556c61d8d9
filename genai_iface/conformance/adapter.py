# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a vendor gives the kit: an adapter. A registered backend is one by its name alone.

The protocols here, like those of ``genai_iface.protocols``, are of this version and stability:

Since: 1
Stability: preview
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.conformance.registry import PROFILES
from genai_iface.conformance.text import TextPipeline
from genai_iface.errors import InvalidInputError
from genai_iface.protocols import Backend, Model, Pipeline
from genai_iface.registry import list_backends, load_backend

__all__ = [
    "Adapter",
    "BackendAdapter",
    "SupportsForm",
    "SupportsLoading",
    "SupportsOperators",
    "SupportsPipeline",
    "SupportsText",
    "load_adapter",
    "profile_of",
]


class Adapter(Protocol):
    """The least that the kit needs."""

    @property
    def name(self) -> str:
        """The name that reports show."""
        ...

    def backend(self) -> Backend:
        """A new backend object."""
        ...


@runtime_checkable
class SupportsLoading(Protocol):
    """An adapter that chooses the form of the golden folders, or loads them in its own way."""

    def golden_form(self) -> str:
        """A name of ``FORMS``: "scatter" is opset 24, "concat" is opset 18 with growing tensors."""
        ...

    def load(self, folder: Path, /) -> Model[Any]:
        """Loads a golden folder."""
        ...


@runtime_checkable
class SupportsForm(Protocol):
    """An adapter, or the backend itself, that names the form of golden folders that its runtime reads."""

    def golden_form(self) -> str:
        """A name of ``genai_iface.conformance.forms.FORMS``."""
        ...


@runtime_checkable
class SupportsOperators(Protocol):
    """An adapter, or the backend itself, that can run a single node, for level 1."""

    def run_node(self, model: bytes, inputs: Mapping[str, NDArray[Any]], /) -> Sequence[NDArray[Any]]:
        """Runs a serialized ONNX model of one node and returns its outputs in order."""
        ...


@runtime_checkable
class SupportsPipeline(Protocol):
    """An adapter of a stack that owns its loop: level 4 then judges that stack's pipeline."""

    def pipeline(self, folder: Path, /) -> Pipeline:
        """The stack's own pipeline over a golden folder."""
        ...


@runtime_checkable
class SupportsText(Protocol):
    """An adapter of the profile "text"."""

    def text_pipeline(self, folder: Path, /) -> TextPipeline:
        """What completes prompts with the model of a golden folder."""
        ...


class BackendAdapter:
    """The adapter of a registered backend.

    Args:
        name: A name of ``list_backends()``.
    """

    def __init__(self, name: str, /) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """The backend's name."""
        return self._name

    @property
    def profile(self) -> str:
        """The profile "generator" for a backend that declares its own loop and no style of cache."""
        can = self.backend().info().capabilities
        runs_steps = any(name.startswith("cache_") for name in map(str, can)) or Capability.STATE in can
        return "generator" if Capability.GENERATOR in can and not runs_steps else "step"

    def backend(self) -> Backend:
        """The backend, loaded by its entry point."""
        return load_backend(self._name)


def profile_of(adapter: Adapter, /) -> str:
    """The profile that an adapter names in its attribute ``profile``; "step" where it has none.

    Raises:
        InvalidInputError: There is no such profile.
    """
    profile = getattr(adapter, "profile", "step")
    if profile not in PROFILES:
        raise InvalidInputError(f"There is no profile {profile!r}", remedy=f"Profiles: {', '.join(PROFILES)}.")
    return str(profile)


def load_adapter(name: str, /) -> Adapter:
    """Finds an adapter.

    Args:
        name: A registered backend, or "module:attribute" of an adapter or of a class of adapters.

    Raises:
        InvalidInputError: There is no such thing.
        BackendNotFoundError: The backend's runtime is not installed.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in list_backends():
            raise InvalidInputError(
                f"{name!r} is not a registered backend",
                remedy=f"Registered: {', '.join(list_backends())}; or module:attribute.",
            )
        return BackendAdapter(name)
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidInputError(
            f"The adapter {name!r} cannot be imported: {error}",
            remedy="Give module:attribute; start the command in the folder that holds the module.",
        ) from error
    adapter: Adapter = found() if isinstance(found, type) else found
    if not isinstance(getattr(adapter, "name", None), str) or not callable(getattr(adapter, "backend", None)):
        raise InvalidInputError(
            f"{name!r} is a {type(adapter).__name__} without name and backend()",
            remedy="See docs/conformance.md: an adapter has a name and a method backend().",
        )
    return adapter
