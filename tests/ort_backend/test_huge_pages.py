# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Large pages for packed weights: asked for what was allocated within the context, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface_ort import huge_pages
from genai_iface_ort.huge_pages import HugePages

PAGE = 2 << 20
SMAPS = """\
55a0c0000000-55a0c0800000 rw-p 00000000 00:00 0                          [heap]
Rss:                8192 kB
7f0000000000-7f0004000000 rw-p 00000000 00:00 0
Rss:               65536 kB
7f0010000000-7f0010800000 rw-p 00000000 00:00 0
Rss:                  16 kB
7f0020000000-7f0024000000 r--p 00000000 fe:00 77                         /models/model.onnx.data
Rss:               65536 kB
7f0030000000-7f0034000000 rw-p 00000000 00:00 0                          [stack]
Rss:               65536 kB
"""
BEFORE = (
    "55a0c0000000-55a0c0800000 rw-p 00000000 00:00 0                          [heap]\nRss:                8192 kB\n"
)


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[int, int, int]]]:
    """What the kernel was asked for, on a system that is made up."""
    asked: list[tuple[int, int, int]] = []
    maps, size = tmp_path / "smaps", tmp_path / "hpage_pmd_size"
    maps.write_text(BEFORE)
    size.write_text(f"{PAGE}\n")
    monkeypatch.setattr(huge_pages, "_MAPS", maps)
    monkeypatch.setattr(huge_pages, "_PAGE_SIZE", size)
    monkeypatch.setattr(huge_pages, "_PAGEMAP", tmp_path / "pagemap")
    monkeypatch.setattr(huge_pages, "_advise", lambda *span: not asked.append(span))
    yield asked


def load(tmp_path: Path, *, is_wanted: bool = True, text: str = SMAPS) -> str:
    with HugePages(is_wanted) as pages:
        (tmp_path / "smaps").write_text(text)
    return pages.note


def test_new_memory_in_use_is_moved(advised: list[tuple[int, int, int]], tmp_path: Path) -> None:
    note = load(tmp_path)
    # Not the old heap, the unused reservation, the file or the stack.
    assert advised == [(0x7F0000000000, 0x7F0004000000, 25)]
    assert note == "huge pages: 64 MiB of packed weights lie in pages of 2 MiB"


def test_only_the_new_part_of_a_region_that_grew_and_whole_pages(
    advised: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    grown = SMAPS.replace("55a0c0800000", "55a0c4301000").replace("8192 kB", "68612 kB")
    load(tmp_path, text=grown)
    assert advised[0] == (0x55A0C0800000, 0x55A0C4200000, 25)


def test_an_old_kernel_is_asked_to_do_it_later(
    advised: list[tuple[int, int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "_advise", lambda begin, end, advice: advice == 14)
    assert "in its own time" in load(tmp_path)
    monkeypatch.setattr(huge_pages, "_advise", lambda *_: False)
    (tmp_path / "smaps").write_text(BEFORE)
    assert load(tmp_path) == "huge pages: the kernel refuses them"


def test_nothing_is_done_unasked_or_for_little(advised: list[tuple[int, int, int]], tmp_path: Path) -> None:
    assert load(tmp_path, is_wanted=False) == ""
    (tmp_path / "smaps").write_text(BEFORE)
    note = load(tmp_path, text=SMAPS.replace("7f0004000000", "7f0000400000").replace("65536", "4096"))
    assert note.startswith("huge pages: none, for less than 32 MiB of new memory")
    assert advised == []


def test_a_system_without_them_says_so(advised: list[tuple[int, int, int]], tmp_path: Path) -> None:
    (tmp_path / "hpage_pmd_size").unlink()
    assert load(tmp_path) == "huge pages: the system has none"
    assert (load(tmp_path, is_wanted=False), advised) == ("", [])


def write_page_map(tmp_path: Path, used: list[tuple[int, int]]) -> None:
    """Entries of 8 bytes for each small page; the highest bit says that it is in memory."""
    with (tmp_path / "pagemap").open("wb") as file:
        file.truncate((0x7F0034000000 >> 12) * 8)
        for begin, end in used:
            file.seek((begin >> 12) * 8)
            file.write(np.full((end - begin) >> 12, 1 << 63, np.uint64).tobytes())


def test_of_a_region_that_is_used_in_parts_the_used_pages_are_moved(
    advised: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    half = SMAPS.replace("Rss:               65536 kB\n7f0010000000", "Rss:               36000 kB\n7f0010000000")
    old = BEFORE + "7f0000000000-7f0004000000 rw-p 00000000 00:00 0\nRss:               2048 kB\n"
    (tmp_path / "smaps").write_text(old)
    write_page_map(tmp_path, [(0x7F0000000000, 0x7F0000200000)])
    with HugePages(True) as pages:
        (tmp_path / "smaps").write_text(half)
        # What was there before stays; a large page of which a tenth is missing is still moved.
        write_page_map(tmp_path, [(0x7F0000000000, 0x7F0002000000), (0x7F0003000000, 0x7F00033D0000)])
    assert [span[:2] for span in advised] == [(0x7F0000200000, 0x7F0002000000), (0x7F0003000000, 0x7F0003400000)]
    assert pages.note.startswith("huge pages: 34 MiB")


def test_where_the_kernel_has_too_few_the_note_says_it(
    advised: list[tuple[int, int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "_advise", lambda begin, *_: begin == 0x7F0000000000)
    write_page_map(tmp_path, [(0x7F0000000000, 0x7F0001000000), (0x7F0001800000, 0x7F0003000000)])
    assert load(tmp_path).endswith(
        "16 MiB of packed weights lie in pages of 2 MiB; for 24 MiB the kernel has none left"
    )


def test_after_an_error_nothing_is_done(advised: list[tuple[int, int, int]], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), HugePages(True):
        (tmp_path / "smaps").write_text(SMAPS)
        raise RuntimeError
    assert advised == []


def test_on_this_system_memory_keeps_its_content() -> None:
    if not huge_pages._page_size():
        pytest.skip("this system has no large pages")
    random = np.random.default_rng(0)
    parts: list[Any] = []
    with HugePages(True) as pages:
        # Below 4 MiB NumPy does not ask for large pages itself.
        parts += [random.integers(0, 255, 3 << 20, np.uint8) for _ in range(24)]
    assert pages.note.startswith("huge pages: ")
    again = np.random.default_rng(0)
    assert all(np.array_equal(part, again.integers(0, 255, 3 << 20, np.uint8)) for part in parts)
