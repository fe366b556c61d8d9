# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A small Ray on this machine, for tests; and the processes in it, which they kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.serving.served import until

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed; pip install '.[ray,serve]'")


@contextmanager
def cluster(num_cpus: int) -> Iterator[Any]:
    """Ray with so many CPUs, whatever there are; it is stopped at the end, with all of its processes."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        _node_ip_address="127.0.0.1",
        configure_logging=False,
        log_to_driver=False,
    )
    try:
        yield ray
    finally:
        ray.shutdown()


def processes(name: str) -> list[int]:
    """Living processes below this one that Ray calls so."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_text(encoding="utf-8", errors="replace") if folder.name.isdigit() else ""
            state = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] if line else "Z"
        except OSError:
            continue
        if name in line and state != "Z" and _is_ours(int(folder.name)):
            found.append(int(folder.name))
    return found


def kill_one(name: str) -> None:
    """Ends a process at once, and waits until it is gone."""
    pid = processes(name)[0]
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in processes(name))


def _is_ours(pid: int) -> bool:
    """Whether a process descends from this one."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False
