# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A small Ray on this machine, for tests; and the processes in it, which they kill."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec

import pytest

from benchmarks.load.local_ray import descendants, local_ray
from tests.serving.served import until

__all__ = ["kill_one", "local_ray", "needs_ray", "processes"]

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed; pip install '.[ray,serve]'")

processes = descendants
"""Living processes below this one that Ray calls so."""


def kill_one(name: str) -> None:
    """Ends a process at once, and waits until it is gone."""
    pid = processes(name)[0]
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in processes(name))
