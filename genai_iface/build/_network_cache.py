# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The cache of a Transformers network by its name in the installed version.

Transformers 5.24 renamed ``past_key_values`` to ``cache``; 5.40 will drop the old name.
"""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["cache_keyword", "cache_of"]


def cache_keyword(network: Any, cache: Any, /) -> dict[str, Any]:
    """The cache as a keyword argument of ``network.forward``."""
    is_new = "cache" in inspect.signature(network.forward).parameters
    return {"cache" if is_new else "past_key_values": cache}


def cache_of(output: Any, /) -> Any:
    """The cache in an output of a network, None if it has none."""
    names = [name for name in ("cache", "past_key_values") if name in output]
    return output[names[0]] if names else None
