# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A backend for graphs that were traced with a single prompt and take one row: prompts run one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.capabilities import Capability
from genai_iface.errors import UnsupportedCapabilityError
from genai_iface.protocols import Backend, Model
from genai_iface.types import BackendInfo, Device, LogitsMode, ModelSpec

__all__ = ["OneRowBackend"]

# What needs rows beside each other; saved caches are left to folders that stay.
_WITHOUT = frozenset({Capability.BATCH, Capability.RAGGED, Capability.REORDER, Capability.SAVE})


@dataclass(frozen=True, slots=True)
class OneRowBackend:
    """Another backend, whose models say that they take one row. Implements ``Backend``.

    Attributes:
        backend: The backend that runs them.
    """

    backend: Backend

    def info(self) -> BackendInfo:
        """What the other backend is."""
        return self.backend.info()

    def devices(self) -> Sequence[Device]:
        """The other backend's devices."""
        return self.backend.devices()

    def load(
        self, folder: str | PathLike[str], /, *, device: str | None = None, options: Mapping[str, Any] | None = None
    ) -> OneRowModel:
        """Loads a model folder."""
        return OneRowModel(self.backend.load(folder, device=device, options=options))


class OneRowModel:
    """Implements ``Model``.

    Args:
        model: The loaded model, whose graph takes one row.
    """

    def __init__(self, model: Model[Any]) -> None:
        self._model = model

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._model.spec

    @property
    def device(self) -> Device:
        """Where it runs."""
        return self._model.device

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do, without what needs several rows."""
        return self._model.capabilities - _WITHOUT

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> Any:
        """Makes an empty cache of one row.

        Raises:
            UnsupportedCapabilityError: It would have several.
        """
        if batch_size != 1:
            raise UnsupportedCapabilityError(
                f"The graph was traced with one row and cannot take {batch_size}",
                capability=Capability.BATCH,
                remedy="Export with sample inputs of two rows.",
            )
        return self._model.create_cache(batch_size=1, capacity=capacity)

    def forward(
        self,
        input_ids: ArrayLike,
        cache: Any,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        """Appends tokens to the row and returns logits."""
        return self._model.forward(input_ids, cache, counts=counts, logits=logits)

    def close(self) -> None:
        """Frees the model."""
        self._model.close()
