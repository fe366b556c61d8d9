# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Large memory pages for the weights that ONNX Runtime has packed (Linux).

A decode step reads every weight once, so on the processor it runs at the speed of memory. With pages of
4 kB the translation of addresses takes a good part of that; most systems give large pages only to memory
that asks for them, and ONNX Runtime does not ask.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

__all__ = ["HugePages"]

_MAPS = Path("/proc/self/smaps")
_PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
# From linux/mman.h: collapse now (Linux 6.1 on), or let the kernel do it in its own time.
_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25
# Processors translate about this much without a miss; below it there is nothing to gain.
_LEAST_BYTES = 32 << 20
# Stacks and the like are reserved and hardly used; large pages would fill them up.
_LEAST_USE = 0.9
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+) *(.*)")


class _Region(NamedTuple):
    begin: int
    end: int
    resident: int


class HugePages:
    """Moves the anonymous memory that is allocated within the context, and still used at its end, to large pages.

    Where the system has none, nothing happens.

    Args:
        is_wanted: False does nothing.

    Attributes:
        note: What was done, in one line; empty if nothing was.
    """

    def __init__(self, is_wanted: bool) -> None:
        self.note = ""
        self._page = _page_size() if is_wanted else 0
        self._before: list[_Region] = []

    def __enter__(self) -> HugePages:
        if self._page:
            self._before = list(_anonymous_regions())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._page or error is not None:
            return
        spans = [
            (-(-begin // self._page) * self._page, end // self._page * self._page)
            for region in _anonymous_regions()
            if region.resident >= _LEAST_USE * (region.end - region.begin)
            for begin, end in _without(region, self._before)
        ]
        spans = [(begin, end) for begin, end in spans if begin < end]
        total = sum(end - begin for begin, end in spans)
        if total < _LEAST_BYTES:
            return
        done = sum(end - begin for begin, end in spans if _advise(begin, end, _MADV_COLLAPSE))
        later = 0 if done else sum(_advise(begin, end, _MADV_HUGEPAGE) for begin, end in spans)
        if done:
            self.note = f"huge pages: {done >> 20} MiB of packed weights lie in pages of {self._page >> 20} MiB"
        elif later:
            self.note = f"huge pages: the kernel was asked to move {total >> 20} MiB of packed weights in its own time"
        else:
            self.note = "huge pages: the kernel refuses them"


def _page_size() -> int:
    """Bytes of a large page; 0 where there are none."""
    try:
        return int(_PAGE_SIZE.read_text()) if _MAPS.exists() else 0
    except OSError:
        return 0


def _anonymous_regions() -> Iterator[_Region]:
    """The process's private writable memory that belongs to no file."""
    header = None
    for line in _MAPS.read_text().splitlines():
        if match := _HEADER.fullmatch(line):
            begin, end, access, inode, name = match.groups()
            is_anonymous = access == "rw-p" and inode == "0" and name in ("", "[heap]")
            header = (int(begin, 16), int(end, 16)) if is_anonymous else None
        elif header and line.startswith("Rss:"):
            yield _Region(*header, int(line.split()[1]) << 10)
            header = None


def _without(region: _Region, known: list[_Region]) -> Iterator[tuple[int, int]]:
    """The parts of a region that none of the known ones covers; those are in ascending order."""
    begin = region.begin
    for other in known:
        if other.end <= begin or other.begin >= region.end:
            continue
        if other.begin > begin:
            yield begin, other.begin
        begin = max(begin, other.end)
    if begin < region.end:
        yield begin, region.end


def _advise(begin: int, end: int, advice: int) -> bool:
    """Whether the kernel took the advice for the whole span."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    result: int = madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(advice))
    return result == 0
