# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A server that speaks OpenAI's protocol, over the scheduler. Needs the extra "serve".

``genai-iface serve SOURCE`` is the way to it; ``Server`` is for programs that serve a pipeline of their own. On a
cluster ``build`` makes an application for Ray Serve, and ``run_batch`` answers prompts in files; both need the extra
"ray".
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from genai_iface.errors import UnsupportedCapabilityError
from genai_iface.serving.settings import ServerSettings, read_api_keys

if TYPE_CHECKING:
    from genai_iface.serving.batch import BatchReport, run_batch
    from genai_iface.serving.ray_app import RayArguments, build
    from genai_iface.serving.server import Server

__all__ = [
    "BatchReport",
    "RayArguments",
    "Server",
    "ServerSettings",
    "build",
    "read_api_keys",
    "run_batch",
]

_MODULES = {
    "BatchReport": "batch",
    "RayArguments": "ray_app",
    "Server": "server",
    "build": "ray_app",
    "run_batch": "batch",
}
_LIBRARIES = frozenset({"fastapi", "prometheus_client", "pyarrow", "pydantic", "ray", "starlette", "uvicorn"})
_OF_RAY = frozenset({"pyarrow", "ray"})


def __getattr__(name: str) -> Any:
    """Loads what serves when it is first asked for: its libraries are extras, and slow to load."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"genai_iface.serving.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _LIBRARIES:
            raise
        extra = "ray" if library in _OF_RAY else "serve"
        raise UnsupportedCapabilityError(
            f"Serving needs the package {error.name}, which is not installed",
            remedy=f"Install it: pip install 'genai-iface[{extra}]'",
        ) from error
    return getattr(module, name)
