# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which number is which kind of case: one in ten is a checkpoint, where what reads checkpoints is installed."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from tools.robustness.case import Escape, run_case
from tools.robustness.sources import write_sources

__all__ = ["Kinds"]

_READERS = ("torch", "transformers", "gguf", "accelerate")
_ONE_IN = 10


class Kinds:
    """Runs cases of either kind.

    Args:
        work: A folder for what cases start from and for the case at hand.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._reads_checkpoints = all(find_spec(name) for name in _READERS)

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return write_sources(self._work / "sources")

    @cached_property
    def _checkpoints(self) -> dict[str, Path]:
        from tools.robustness.checkpoints import write_checkpoints  # noqa: PLC0415 - loads torch

        return write_checkpoints(self._work / "checkpoints")

    def prepare(self, number: int) -> None:
        """Makes what a case starts from; its time is not the case's."""
        _ = self._checkpoints if self._is_checkpoint(number) else self._folders

    def run(self, seed: int, number: int) -> tuple[str, str, list[Escape]]:
        """What was changed, how far it got, what escaped."""
        if self._is_checkpoint(number):
            from tools.robustness.checkpoints import run_checkpoint_case  # noqa: PLC0415 - loads torch

            return run_checkpoint_case(self._checkpoints, self._work, seed, number)
        return run_case(self._folders, self._work, seed, number)

    def _is_checkpoint(self, number: int) -> bool:
        return self._reads_checkpoints and number % _ONE_IN == _ONE_IN - 1
