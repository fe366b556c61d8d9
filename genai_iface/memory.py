# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory a cache takes, how much there is, and refusing what does not fit before anything is allocated."""

from __future__ import annotations

import os
import sys
from os import PathLike
from pathlib import Path

from genai_iface.errors import InsufficientMemoryError, InvalidInputError
from genai_iface.types import CacheSpec

__all__ = ["available_memory", "check_cache_fits", "estimate_cache_bytes"]

_GIB = 2**30
_CGROUPS = "sys/fs/cgroup"


def estimate_cache_bytes(folder: str | PathLike[str], /, batch_size: int, length: int) -> int:
    """The bytes of a cache that holds so many tokens in each of so many rows.

    It follows from the graph alone: heads, head sizes, element type and fixed or circular buffers of every layer. A
    cache whose buffers grow holds a little more, up to its backend's growth step; one of the ``ort`` backend frees
    buffers whose size the graph fixes from that size, and may hold less.

    Args:
        folder: The model folder.
        batch_size: Rows, at least 1.
        length: Tokens per row, prompt and output together, at least 0.

    Raises:
        InvalidInputError: A number is out of range, or the folder cannot be read.
        UnsupportedModelError: The graph is not understood.
    """
    # Reading a folder needs libraries that importing the interface must not load.
    from genai_iface.folder import open_folder  # noqa: PLC0415

    for name, value, least in (("batch_size", batch_size, 1), ("length", length, 0)):
        if value < least:
            raise InvalidInputError(f"{name}={value} is not legal", remedy=f"Pass at least {least}.")
    return open_folder(folder).spec.cache.nbytes(batch_size, length)


def check_cache_fits(
    cache: CacheSpec, /, batch_size: int, length: int, *, available: int | None, held: int = 0
) -> None:
    """Refuses a cache that needs more memory than there is.

    Args:
        cache: The shape of the cache, layer by layer.
        batch_size: The rows of the cache.
        length: Tokens per row.
        available: Bytes that there are; None if that is not known, which lets everything pass.
        held: Bytes of it that the cache has already.

    Raises:
        InsufficientMemoryError: It does not fit; the message shows the arithmetic.
    """
    needed = cache.nbytes(batch_size, length)
    if available is None or needed - held <= available:
        return
    per_row = f"{length} tokens x {cache.bytes_per_token} bytes per token"
    if needed != batch_size * length * cache.bytes_per_token:
        # Some layers have buffers of a size of their own.
        per_row = f"{needed // batch_size} bytes per row for {length} tokens"
    has = f", of which it has {held / _GIB:.2f} GiB" if held else ""
    raise InsufficientMemoryError(
        f"The cache needs {batch_size} rows x {per_row} = {needed / _GIB:.2f} GiB{has}, and "
        f"{available / _GIB:.2f} GiB are available",
        needed=needed,
        available=available,
    )


def available_memory() -> int | None:
    """Bytes of the processor's memory that this process can still get without swapping, or None where unknown.

    Linux: what the kernel counts as available, or less if a control group (a container) allows less. Windows: the
    available physical memory. macOS: all physical memory, an upper bound, because the system does not say how
    much of it can be had. Elsewhere: None.
    """
    if sys.platform == "win32":
        return _on_windows()
    if sys.platform == "linux":
        return _on_linux()
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _on_linux(root: Path = Path("/")) -> int | None:
    found = [_kernel_says(root / "proc/meminfo"), *_groups_say(root)]
    return min((size for size in found if size is not None), default=None)


def _kernel_says(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _groups_say(root: Path) -> list[int | None]:
    """What the control groups of this process leave, its own and all above it."""
    found: list[int | None] = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / _CGROUPS if not controllers else root / _CGROUPS / "memory"
        files = ("memory.max", "memory.current", "inactive_file")
        if controllers:
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        group = base / name.lstrip("/")
        # Within a container the group's own name may lead nowhere, and its files stand at the top.
        folders = (group, *(parent for parent in group.parents if parent.is_relative_to(base)))
        found.extend(_group_says(folder, *files) for folder in folders)
    return found


def _group_says(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    limits, used = _lines(folder / limit), _lines(folder / usage)
    if not limits or not used or not limits[0].isdigit():
        return None
    # Pages of files count as used, and are given back when memory is asked for.
    cached = [int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.split()[0] == reclaimable]
    return max(int(limits[0]) - int(used[0]) + sum(cached), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


if sys.platform == "win32":
    import ctypes

    class _MemoryStatus(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("memory_load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "available", "total_page", "available_page")),
            *((name, ctypes.c_ulonglong) for name in ("total_virtual", "available_virtual", "extended")),
        ]

    def _on_windows() -> int | None:
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return None
        return int(status.available)
