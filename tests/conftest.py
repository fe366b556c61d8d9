# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Shared by all tests: what is skipped where, and why. The models that they run are in ``tests.models``."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

# No test asks a hub by accident; those that do have one of their own, on the loopback address.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Workers share the cores. The threads that each would start for every core wait for one another by counting, on each
# other's time: OpenBLAS reads this when it is loaded, and processes that tests start inherit it.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in the background with Ctrl-C ignored, and every process started here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PARITY_MODULES = ("torch", "transformers", "mobius")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--slow"):
        from hypothesis import settings  # a run of a few tests does without

        settings.register_profile("slow", parent=settings.default)
        settings.load_profile("slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "parity": missing_modules(),
        "slow": "" if config.getoption("--slow") else "slow: give --slow to run it",
        "gpu": "" if has_cuda_device() else "gpu: no CUDA device found",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def waiting_threads_sleep() -> Iterator[None]:
    """In a worker, the threads of ONNX Runtime do not count either while they wait; it has no variable for that."""
    if not IS_WORKER or find_spec("onnxruntime") is None:
        yield
        return
    import onnxruntime  # a run of a few tests does without

    class Settings(onnxruntime.SessionOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.add_session_config_entry("session.intra_op.allow_spinning", "0")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", Settings)
        yield


def pytest_collection() -> None:
    # A seventh of collection would go into looking for garbage among tests that all stay.
    gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()
    # Loading a model collects garbage; looking through all collected tests each time would take most of a run.
    gc.collect()
    gc.freeze()


def missing_modules() -> str:
    missing = [name for name in PARITY_MODULES if find_spec(name) is None]
    return f"parity: not installed: {', '.join(missing)}; pip install '.[parity]'" if missing else ""


def has_cuda_device() -> bool:
    """Asks the driver; no runtime is imported for it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
