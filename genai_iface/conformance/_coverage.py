# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which clause of the specification is held by which checks, and which contract cannot be checked from outside.

Contracts are the numbered MUSTs of ``genai_iface.protocols``, cited as "Class.method.number"; other clauses ("Stop.3")
stand in the pages of docs/spec. A test compares this module with both: a MUST without a check and without a reason
fails it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from genai_iface.conformance.registry import all_checks

__all__ = ["UNTESTABLE", "checks_by_contract"]

UNTESTABLE: Mapping[str, str] = MappingProxyType(
    {
        "KVCache.update_mode.2": "a permission, not a duty: nothing can violate it",
        "Backend.info.2": "what a call loads cannot be seen from outside; info() runs before any folder is named",
        "SupportsGenerator.generator.4": "what a runtime keeps in memory cannot be seen from outside",
    }
)
"""Contracts without a check, and why."""


def checks_by_contract() -> dict[str, list[str]]:
    """The ids of the checks of each clause that has any."""
    found: dict[str, list[str]] = {}
    for item in all_checks():
        for clause in item.spec:
            found.setdefault(clause, []).append(item.id)
    return found
