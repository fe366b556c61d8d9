# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Beside Transformers' exporters: their folders in our loop, our folders in their ``ExportedModel``.

``open_export`` needs nothing but this package; the others load torch and Transformers with the first name that is used.
"""

import importlib
from typing import TYPE_CHECKING

from genai_iface.backend_kit import switch_off_telemetry
from genai_iface.integrations.transformers._export_folder import Exported, open_export

if TYPE_CHECKING:
    from genai_iface.integrations.transformers._exporter import StandardConfig, StandardExporter, register
    from genai_iface.integrations.transformers._manifest import write_manifest
    from genai_iface.integrations.transformers._runner import StepCache, StepRunner

# Before any module here imports transformers.
switch_off_telemetry()

# Each loads torch.
_MODULES = {
    "StandardConfig": "_exporter",
    "StandardExporter": "_exporter",
    "StepCache": "_runner",
    "StepRunner": "_runner",
    "register": "_exporter",
    "write_manifest": "_manifest",
}

__all__ = [
    "Exported",
    "StandardConfig",
    "StandardExporter",
    "StepCache",
    "StepRunner",
    "open_export",
    "register",
    "write_manifest",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"genai_iface.integrations.transformers.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
