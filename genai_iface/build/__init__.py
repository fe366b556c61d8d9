# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Model folders from checkpoints; needs the extra "build". Torch is loaded with the first name that is used."""

import importlib
from typing import TYPE_CHECKING

from genai_iface.backend_kit import switch_off_telemetry

if TYPE_CHECKING:
    from genai_iface.build._build import METHODS, Attempt, BuildOptions, BuildResult, Method, build
    from genai_iface.build.methods.fuse_standard import fuse_standard

# Before any module here imports onnxruntime or transformers.
switch_off_telemetry()

__all__ = [
    "METHODS",
    "Attempt",
    "BuildOptions",
    "BuildResult",
    "Method",
    "build",
    "fuse_standard",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        home = "methods.fuse_standard" if name == "fuse_standard" else "_build"
        return getattr(importlib.import_module(f"genai_iface.build.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
