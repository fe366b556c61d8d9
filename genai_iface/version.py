# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The interface version and how two sides agree on one.

The interface version is a plain integer. It grows when a published contract changes its meaning;
new abilities arrive as ``Supports*`` protocols and capability names and leave it alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from genai_iface.errors import InterfaceVersionError

__all__ = ["INTERFACE_VERSION", "SUPPORTED_INTERFACE_VERSIONS", "negotiate_version"]

INTERFACE_VERSION = 1
"""The newest version of the contracts in ``genai_iface.protocols``."""

SUPPORTED_INTERFACE_VERSIONS: frozenset[int] = frozenset({1})
"""Every version that this SDK can drive."""


def negotiate_version(offered: Iterable[int], /, *, backend: str = "the backend") -> int:
    """Returns the highest interface version that the SDK and a backend share.

    Args:
        offered: The versions that the backend implements (``BackendInfo.interface_versions``).
        backend: The backend's name, for the message.

    Raises:
        InterfaceVersionError: There is no common version.
    """
    offered = frozenset(offered)
    common = offered & SUPPORTED_INTERFACE_VERSIONS
    if not common:
        older = bool(offered) and max(offered) < min(SUPPORTED_INTERFACE_VERSIONS)
        raise InterfaceVersionError(
            f"{backend} implements interface versions {sorted(offered)}, "
            f"this SDK drives {sorted(SUPPORTED_INTERFACE_VERSIONS)}",
            remedy="Upgrade the backend's package." if older or not offered else "Upgrade genai-iface.",
        )
    return max(common)
