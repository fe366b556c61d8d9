# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Beside Transformers' exporters: their folders in our loop, our folders in their ``ExportedModel``.

``open_export`` needs nothing but this package; the others load torch and Transformers with the first name that is used.
"""

import importlib
from typing import TYPE_CHECKING

from genai_iface.integrations.transformers._export_folder import OpenedExport, open_export

if TYPE_CHECKING:
    from genai_iface.integrations.transformers._cache import StepCache
    from genai_iface.integrations.transformers._exporter import EXPORT_FORMAT, StandardConfig, StandardExporter
    from genai_iface.integrations.transformers._manifest import register, write_manifest
    from genai_iface.integrations.transformers._runner import StepRunner

# Each loads torch.
_MODULES = {
    "EXPORT_FORMAT": "_exporter",
    "StandardConfig": "_exporter",
    "StandardExporter": "_exporter",
    "StepCache": "_cache",
    "StepRunner": "_runner",
    "register": "_manifest",
    "write_manifest": "_manifest",
}

__all__ = [
    "EXPORT_FORMAT",
    "OpenedExport",
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
