# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A server that speaks OpenAI's protocol, over the scheduler. Needs the extra "serve".

``genai-iface serve SOURCE`` is the way to it; ``Server`` is for programs that serve a pipeline of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genai_iface.errors import UnsupportedCapabilityError
from genai_iface.serving.settings import ServerSettings, read_api_keys

if TYPE_CHECKING:
    from genai_iface.serving.server import Server

__all__ = ["Server", "ServerSettings", "read_api_keys"]

_LIBRARIES = frozenset({"fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"})


def __getattr__(name: str) -> Any:
    """Loads the server when it is first asked for: its libraries are an extra, and slow to load."""
    if name != "Server":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from genai_iface.serving.server import Server  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _LIBRARIES:
            raise
        raise UnsupportedCapabilityError(
            f"Serving needs the package {error.name}, which is not installed",
            remedy="Install it: pip install 'genai-iface[serve]'",
        ) from error
    return Server
