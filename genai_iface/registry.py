# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Finding backends by name.

A backend is an entry point of the group "genai_iface.backends" in any installed distribution:

    [project.entry-points."genai_iface.backends"]
    mine = "my_package:MyBackend [extra]"

The optional extra is the one that installs the runtime; it appears in the error message if the
import fails. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from genai_iface.errors import BackendError, BackendNotFoundError, did_you_mean
from genai_iface.protocols import Backend, Model
from genai_iface.version import negotiate_version

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["list_backends", "load_backend", "load_model"]

ENTRY_POINT_GROUP = "genai_iface.backends"


def list_backends() -> list[str]:
    """The names of all registered backends, sorted. Imports none of them."""
    return sorted({entry.name for entry in _entry_points()})


def load_backend(name: str, /) -> Backend:
    """Imports a backend, makes it and agrees on an interface version.

    Args:
        name: One of ``list_backends()``.

    Raises:
        BackendNotFoundError: The name is not registered, or something the backend imports is missing.
        BackendError: The backend's package is broken.
        InterfaceVersionError: It shares no interface version with this SDK.
    """
    found = [entry for entry in _entry_points() if entry.name == name]
    if not found:
        names = ", ".join(list_backends()) or "none"
        raise BackendNotFoundError(
            f"There is no backend {name!r}; registered: {names}",
            remedy=f"Install the package that brings it, or choose one of these.{did_you_mean(name, list_backends())}",
        )
    entry = found[0]
    try:
        factory = entry.load()
    except ModuleNotFoundError as error:
        raise BackendNotFoundError(
            f"The backend {name!r} needs the module {error.name!r}, which is not installed",
            remedy=f"Run: pip install {_requirement(entry)}",
        ) from error
    except (ImportError, AttributeError) as error:
        raise BackendError(
            f"The backend {name!r} ({entry.value}) cannot be imported: {error}",
            remedy=f"Reinstall it: pip install --force-reinstall {_requirement(entry)}",
        ) from error
    backend: Backend = factory()
    negotiate_version(backend.info().interface_versions, backend=f"The backend {name!r}")
    return backend


def load_model(
    folder: str | PathLike[str],
    /,
    *,
    backend: str | Backend = "numpy",
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
    variant: str | None = None,
    revision: str | None = None,
) -> Model:
    """Loads a model on a backend.

    Args:
        folder: A folder that holds a model, a ``.onnx`` file, or an id ``ORG/NAME[:VARIANT]`` of the Hugging Face Hub,
            which is downloaded if it is not in the local cache. A ``Path`` is never taken for an id.
        backend: A registered name, or a backend object.
        device: An identifier from the backend's ``devices()``; None for its default.
        options: The backend's own settings by name.
        variant: Which of several models to take, as ``genai-iface inspect`` names them; None for the fullest precision.
        revision: A branch, tag or commit of the repository.

    Raises:
        GenAIError: As ``load_backend`` and ``Backend.load``; or there is no such model.
    """
    # Finding models needs libraries that importing the interface must not load.
    from genai_iface.folder.resolve import as_path  # noqa: PLC0415

    chosen = load_backend(backend) if isinstance(backend, str) else backend
    return chosen.load(as_path(folder, variant=variant, revision=revision), device=device, options=options)


def _entry_points() -> tuple[EntryPoint, ...]:
    # A fifth of the interface's import time, so not at the top.
    from importlib.metadata import entry_points  # noqa: PLC0415

    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _requirement(entry: EntryPoint) -> str:
    """What pip has to install for an entry point, extras included."""
    name = entry.dist.name if entry.dist is not None else entry.module.partition(".")[0]
    return f'"{name}[{",".join(entry.extras)}]"' if entry.extras else name
