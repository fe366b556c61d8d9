# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A small Ray on this machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

__all__ = ["descendants", "local_ray"]

_TRIES = 10
_LATE = "timed out during startup"
# What Ray waits for on a busy machine; each has less by itself. Read when ray is imported, and by its own processes.
_PATIENCE = {
    "RAY_gcs_server_port_wait_time_s": "180",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_timeout_ms": "60000",
}
_OWN_PROCESSES = ("/gcs_server", "/raylet")


@contextmanager
def local_ray(num_cpus: int) -> Iterator[Any]:
    """Ray with so many CPUs, whatever there are; it is stopped at the end, with all of its processes.

    Ray's node waits 15 seconds for its agents to say which ports they have, and Ray 30 seconds for the node; nothing
    sets other limits. On a machine that is busy they may take longer. So the agents do without the dashboard's modules,
    whose imports take most of the time, and Ray is started again where it was late.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    import ray

    for left in reversed(range(_TRIES)):
        try:
            # As where they are not installed.
            with patch.dict(sys.modules, {"ray.dashboard.optional_deps": None}):
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    object_store_memory=100 * 2**20,
                    _node_ip_address="127.0.0.1",
                    configure_logging=False,
                    log_to_driver=False,
                )
            break
        except Exception as error:  # Ray has no class for it
            ray.shutdown()
            for name in _OWN_PROCESSES:
                for pid in descendants(name):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            if not left or _LATE not in str(error):
                raise
    try:
        yield ray
    finally:
        ray.shutdown()


def descendants(name: str) -> list[int]:
    """Living processes below this one that have a name in their command line."""
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


def _is_ours(pid: int) -> bool:
    """Whether a process descends from this one."""
    own = os.getpid()
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            return False
        if pid == own:
            return True
    return False
