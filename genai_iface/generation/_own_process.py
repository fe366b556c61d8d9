# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Refuses what a forked process has only in name: threads do not come along, and locks stay as they were."""

from __future__ import annotations

import os

from genai_iface.errors import InvalidInputError

__all__ = ["OwnProcess"]


class OwnProcess:
    """Remembers the process that made something.

    Args:
        what: The thing, for messages.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._process = os.getpid()

    @property
    def is_other(self) -> bool:
        """Whether this is another process, a fork of that one."""
        return os.getpid() != self._process

    def check(self) -> None:
        """Raises InvalidInputError in another process; takes no lock before it does."""
        if self.is_other:
            raise InvalidInputError(
                f"The {self._what} was made in process {self._process} and is used in {os.getpid()}, a fork of it, "
                "where its threads do not run",
                remedy='Make it after the fork, or start processes with multiprocessing\'s method "spawn".',
            )
