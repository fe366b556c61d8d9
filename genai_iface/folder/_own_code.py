# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that bring code of their own, or name code of others: it is never run, and the error says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genai_iface.errors import UnsupportedModelError
from genai_iface.folder._files import read_json

__all__ = ["refuse_foreign_kernels", "refuse_own_code"]

_MAX_SHOWN = 4


def refuse_own_code(root: Path) -> None:
    """To be called where Transformers does not know a model: says it if code of the checkpoint's own is the reason.

    A checkpoint may bring code that is not needed, because Transformers has its own by now; that code is ignored.

    Raises:
        UnsupportedModelError: config.json has an ``auto_map``.
    """
    config = read_json(root, "config.json") or {}
    named = config.get("auto_map")
    if not isinstance(named, Mapping) or not named:
        return
    code = ", ".join(f"{key!s:.40} is {value!s:.80}" for key, value in list(named.items())[:_MAX_SHOWN])
    raise UnsupportedModelError(
        f"The checkpoint {root.name!r} needs code of its own, which is never run (auto_map in config.json: {code}); "
        f"Transformers does not know its model type {str(config.get('model_type'))[:40]!r}",
        remedy="Take a checkpoint whose model type Transformers knows, or a newer Transformers. If you trust the code, "
        "export the model to ONNX with it yourself, and give the exported folder.",
    )


def refuse_foreign_kernels(root: Path) -> None:
    """Transformers would fetch attention that config.json names like a repository, and run it.

    Raises:
        UnsupportedModelError: It names one.
    """
    for name, value in _fields(read_json(root, "config.json") or {}):
        if name.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
            raise UnsupportedModelError(
                f"The checkpoint {root.name!r} names code of a repository, which is never fetched or run "
                f"(config.json, {name}: {value[:80]!r})",
                remedy=f"Remove {name!r} from config.json; it changes how attention is computed, and not what.",
            )


def _fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All fields, those of parts such as ``text_config`` too."""
    pending: list[Any] = [config]
    while pending:
        part = pending.pop()
        if isinstance(part, Mapping):
            yield from part.items()
            pending.extend(part.values())
