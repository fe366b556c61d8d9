# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Who is let in."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

__all__ = ["ApiKeys"]


class ApiKeys:
    """Keys, compared in a time that does not depend on them.

    Args:
        keys: Legal ones; none lets everybody in.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        # Digests have one length, so that not even the length of a key shows.
        self._digests = [_digest(key) for key in keys]

    def let_in(self, authorization: str | None) -> bool:
        """Whether the value of the header ``Authorization`` holds a legal key."""
        if not self._digests:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        # All of them are compared, whichever it is.
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(found) and scheme.lower() == "bearer"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
