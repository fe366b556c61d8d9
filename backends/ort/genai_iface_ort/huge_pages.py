# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Large memory pages for the weights that ONNX Runtime has packed (Linux).

A decode step reads every weight once, so on the processor it runs at the speed of memory. With pages of
4 kB the translation of addresses takes a good part of that; most systems give large pages only to memory
that asks for them, and ONNX Runtime does not ask.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

__all__ = ["HugePages"]

_MAPS = Path("/proc/self/smaps")
_PAGEMAP = Path("/proc/self/pagemap")
_PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
# From linux/mman.h: collapse now (Linux 6.1 on), or let the kernel do it in its own time.
_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25
# Processors translate about this much without a miss; below it there is nothing to gain.
_LEAST_BYTES = 32 << 20
# Packed weights take at most so many times the room of the files: of four bits, float32 may be made.
_MOST_GROWTH = 8
_TOO_LITTLE = (
    f"huge pages: none, for less than {_LEAST_BYTES >> 20} MiB of new memory could lie in them, with which there is "
    "nothing to gain"
)
# What is reserved and hardly used, as stacks are, would be filled up by large pages.
_LEAST_USE = 0.9
# In an entry of the page map: the page is in memory.
_PRESENT = np.uint64(1 << 63)
_ENTRY_BYTES = 8
# So much of the memory is looked at in one go.
_STRIDE = 1 << 30
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+) *(.*)")


class _Region(NamedTuple):
    begin: int
    end: int
    resident: int


class HugePages:
    """Moves the anonymous memory that comes into use within the context, and is still used at its end, to large pages.

    Of a region that is used in parts, as an allocator's heap is, the large pages that are used are moved. Memory that
    was freed before is given back to the system first, so that what the weights take of it counts as new.

    Args:
        is_wanted: False does nothing.
        file_bytes: Of the files that the weights come from. Where they cannot become large enough nothing is looked
            at, for that takes longer than such a model takes to load; None if that is not known.

    Attributes:
        note: What was done, or why nothing was, in one line; empty if it was not wanted.
    """

    def __init__(self, is_wanted: bool, file_bytes: int | None = None) -> None:
        self._page = _page_size() if is_wanted else 0
        self.note = "huge pages: the system has none" if is_wanted and not self._page else ""
        if self._page and file_bytes is not None and file_bytes * _MOST_GROWTH < _LEAST_BYTES:
            self._page, self.note = 0, _TOO_LITTLE
        self._before: frozenset[int] = frozenset()

    def __enter__(self) -> HugePages:
        if self._page:
            _give_back_freed()
            self._before = frozenset(_pages_in_use(self._page))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._page or error is not None:
            return
        spans = list(_joined((at for at in _pages_in_use(self._page) if at not in self._before), self._page))
        total = sum(end - begin for begin, end in spans)
        if total < _LEAST_BYTES:
            self.note = _TOO_LITTLE
            return
        done = sum(end - begin for begin, end in spans if _advise(begin, end, _MADV_COLLAPSE))
        later = 0 if done else sum(_advise(begin, end, _MADV_HUGEPAGE) for begin, end in spans)
        if done:
            self.note = f"huge pages: {done >> 20} MiB of packed weights lie in pages of {self._page >> 20} MiB"
            if done < total:
                self.note += f"; for {(total - done) >> 20} MiB the kernel has none left"
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


def _pages_in_use(page: int) -> Iterator[int]:
    """The addresses of large pages that are in memory, but for a small rest, in ascending order."""
    for region in _anonymous_regions():
        first, last = -(-region.begin // page) * page, region.end // page * page
        is_full = region.resident >= _LEAST_USE * (region.end - region.begin)
        for at in range(first, last, _STRIDE):
            until = min(at + _STRIDE, last)
            shares = _shares_in_memory(at, until, page)
            if shares is not None:
                yield from (at + index * page for index, share in enumerate(shares) if share >= _LEAST_USE)
            elif is_full:
                # Without a page map a region counts as a whole.
                yield from range(at, until, page)


def _joined(addresses: Iterable[int], page: int) -> Iterator[tuple[int, int]]:
    """Runs of neighbours, as their begin and end."""
    begin = end = -1
    for at in addresses:
        if at != end:
            if begin >= 0:
                yield begin, end
            begin = at
        end = at + page
    if begin >= 0:
        yield begin, end


def _shares_in_memory(begin: int, end: int, page: int) -> list[float] | None:
    """Of each large page, the part that is in memory; None where the system does not say."""
    count = (end - begin) // mmap.PAGESIZE
    try:
        with _PAGEMAP.open("rb") as file:
            file.seek(begin // mmap.PAGESIZE * _ENTRY_BYTES)
            entries = np.frombuffer(file.read(count * _ENTRY_BYTES), np.uint64)
    except OSError:
        return None
    if entries.size != count:
        return None
    shares: list[float] = ((entries & _PRESENT) != 0).reshape(-1, page // mmap.PAGESIZE).mean(axis=1).tolist()
    return shares


def _give_back_freed() -> None:
    """Lets the C library return what it keeps of freed memory; not every one can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _advise(begin: int, end: int, advice: int) -> bool:
    """Whether the kernel took the advice for the whole span."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    result: int = madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(advice))
    return result == 0
