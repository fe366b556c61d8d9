# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Memory: what a cache takes, what there is, what is refused, and that closing gives it back."""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import (
    Capability,
    GenAIError,
    InsufficientMemoryError,
    InvalidInputError,
    TextGenerationPipeline,
    estimate_cache_bytes,
    load_model,
    memory,
)
from genai_iface.models import default_folder
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel
from tests.marks import BACKENDS, needs_ort
from tests.models import write_folder

GIB = 2**30

FORMS: dict[str, dict[str, Any]] = {
    f"{style}-{layout}-{dtype}": {"style": style, "layout": layout, "dtype": dtype}
    for style in ("scatter", "concat_nodes")
    for layout in ("bnsh", "bsh")
    for dtype in ("float32", "float16", "bfloat16")
} | {
    "concat": {"style": "concat"},
    "layers of different shapes": {"num_kv_heads": (2, 4), "head_dim": (8, 16), "v_head_dim": (16, 8)},
    "fixed capacity": {"capacity": 32},
    "circular": {"mode": "circular", "capacity": 16},
    "linear and circular": {"mode": ("linear", "circular"), "capacity": (None, 16)},
}
# The ONNX Runtime backend frees fixed buffers from their size.
GROWING = {name: fields for name, fields in FORMS.items() if name != "fixed capacity"}


# The estimate


@pytest.mark.parametrize("fields", FORMS.values(), ids=FORMS)
def test_the_estimate_is_what_a_cache_of_the_reference_backend_reports(tmp_path: Path, fields: dict[str, Any]) -> None:
    folder = write_folder(tmp_path / "model", **fields)
    model = load_model(folder)
    for rows, length in ((1, 1), (3, 12), (2, 32)):
        cache = model.create_cache(batch_size=rows, capacity=length)
        assert estimate_cache_bytes(folder, rows, length) == cache.nbytes
        cache.close()
    model.close()


@needs_ort
@pytest.mark.parametrize(
    "fields",
    [
        *(fields for name, fields in FORMS.items() if name != "fixed capacity"),
        {"style": "shared", "position_ids": True},
    ],
    ids=[*(name for name in FORMS if name != "fixed capacity"), "shared"],
)
def test_the_estimate_is_what_a_filled_cache_of_onnx_runtime_reports(tmp_path: Path, fields: dict[str, Any]) -> None:
    folder = write_folder(tmp_path / "model", **fields)
    options = {"growth_positions": 1, "optimize": "none" if fields.get("dtype") == "bfloat16" else "runtime"}
    try:
        model = load_model(folder, backend="ort", options=options)
    except GenAIError as error:
        assert fields.get("dtype") == "bfloat16", error
        pytest.skip("this runtime has no bfloat16 kernels on the processor")
    cache = model.create_cache(batch_size=3, capacity=12)
    model.forward(np.full((3, 12), 5), cache)
    assert cache.nbytes == estimate_cache_bytes(folder, 3, 12)
    model.close()


@needs_ort
@pytest.mark.parametrize("length", [1, 63, 65, 300])
def test_growing_buffers_take_at_most_a_step_more(length: int) -> None:
    model = load_model(default_folder(), backend="ort", options={"growth_positions": 64})
    cache = model.create_cache(batch_size=2)
    model.forward(np.full((2, length), 5), cache, logits="none")
    least = estimate_cache_bytes(default_folder(), 2, length)
    assert least <= cache.nbytes <= least + 2 * 64 * cache.bytes_per_token
    model.close()


@pytest.mark.parametrize(("rows", "length"), [(0, 1), (-1, 1), (1, -1)])
def test_an_estimate_of_nothing_is_refused(rows: int, length: int) -> None:
    with pytest.raises(InvalidInputError, match=r"(batch_size|length)=(0|-1)"):
        estimate_cache_bytes(default_folder(), rows, length)


# What is refused


def pipeline(*, grows: bool = True, **arguments: Any) -> TextGenerationPipeline:
    capabilities = ALL_CAPABILITIES | {Capability.GROWTH} if grows else ALL_CAPABILITIES
    model = FakeModel(258, capabilities=capabilities)
    return TextGenerationPipeline.from_parts(model, ByteTokenizer(), **arguments)


def model_of(pipe: TextGenerationPipeline) -> FakeModel:
    model = pipe.model
    assert isinstance(model, FakeModel)
    return model


def test_a_call_beyond_the_limit_fails_before_anything_is_made_and_shows_why() -> None:
    with pipeline(memory_limit=3 * 20 * 8) as pipe:
        pipe.generate(["abcd"] * 3, max_new_tokens=16)
        with pytest.raises(
            InsufficientMemoryError, match=r"3 rows x 21 tokens x 8 bytes per token = 0.00 GiB"
        ) as caught:
            pipe.generate(["abcd"] * 3, max_new_tokens=17)
        assert (caught.value.needed, caught.value.available) == (3 * 21 * 8, 3 * 20 * 8)
        assert "memory_limit" in caught.value.remedy
        assert len(model_of(pipe).caches) == 1


def test_beams_count_as_rows() -> None:
    with pipeline(memory_limit=4 * 10 * 8) as pipe:
        pipe.generate("ab", max_new_tokens=8, num_beams=4, num_return_sequences=3)
        with pytest.raises(InsufficientMemoryError, match="5 rows x 10 tokens"):
            pipe.generate("ab", max_new_tokens=8, num_beams=5)


def test_an_answer_without_a_limit_is_checked_for_what_is_sure_if_the_cache_grows() -> None:
    with pipeline(memory_limit=8 * 8) as pipe:
        pipe.generate("abc")
        with pytest.raises(InsufficientMemoryError, match="1 rows x 9 tokens"):
            pipe.generate("abcdefgh")
    with pipeline(memory_limit=8 * 8, grows=False) as pipe, pytest.raises(InsufficientMemoryError, match="256 tokens"):
        pipe.generate("abc")


def test_the_slots_of_a_scheduler_are_rows_of_one_cache() -> None:
    with pipeline(memory_limit=4 * 20 * 8) as pipe, pipe.scheduler(slots=4, thread=False) as scheduler:
        assert scheduler.submit("abcd", max_new_tokens=16).result().finish_reasons
        with pytest.raises(InsufficientMemoryError, match="4 rows x 21 tokens"):
            scheduler.submit("abcd", max_new_tokens=17)
    with pipeline(memory_limit=4 * 20 * 8, grows=False) as pipe:
        with pytest.raises(InsufficientMemoryError, match="4 rows x 256 tokens"):
            pipe.scheduler(slots=4)
        assert not model_of(pipe).caches
        pipe.scheduler(slots=4, capacity=20, thread=False)


def test_without_a_limit_the_systems_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genai_iface.generation._memory.available_memory", lambda: 5 * 8)
    with pipeline() as pipe, pytest.raises(InsufficientMemoryError, match="6 tokens"):
        pipe.generate("abcd", max_new_tokens=2)
    monkeypatch.setattr("genai_iface.generation._memory.available_memory", lambda: None)
    with pipeline() as pipe:
        assert pipe.generate("abcd", max_new_tokens=2).token_ids


def test_a_negative_limit_is_illegal() -> None:
    with pytest.raises(InvalidInputError, match="memory_limit=-1"):
        pipeline(memory_limit=-1)


def test_layers_with_buffers_of_their_own_are_shown_per_row(tmp_path: Path) -> None:
    spec = load_model(write_folder(tmp_path / "model", mode="circular", capacity=16)).spec.cache
    with pytest.raises(InsufficientMemoryError, match=rf"2 rows x {spec.nbytes(1, 40)} bytes per row for 40 tokens"):
        memory.check_cache_fits(spec, 2, 40, available=0)
    with pytest.raises(InsufficientMemoryError, match=r"of which it has 1\.00 GiB"):
        memory.check_cache_fits(spec, 2**20, 40, available=0, held=GIB)


# What there is


def test_this_machine_says_what_it_has() -> None:
    known = memory.available_memory()
    if sys.platform in ("linux", "darwin", "win32"):
        assert known is not None
        assert 2**20 < known < 2**60


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       16000 kB\nMemAvailable:    8000 kB\n"}


def test_linux_without_control_groups(tmp_path: Path) -> None:
    assert memory._on_linux(tmp_path / "nothing") is None
    assert memory._on_linux(write(tmp_path, MEMINFO)) == 8000 * 1024


@pytest.mark.parametrize("top", ["max", "3000000"])
def test_linux_with_a_control_group_of_a_container(tmp_path: Path, top: str) -> None:
    files = MEMINFO | {
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/box/memory.max": "4000000\n",
        "sys/fs/cgroup/pod/box/memory.current": "3500000\n",
        "sys/fs/cgroup/pod/box/memory.stat": "anon 1000\ninactive_file 200000\n",
        "sys/fs/cgroup/pod/memory.max": top,
        "sys/fs/cgroup/pod/memory.current": "2900000\n",
    }
    assert memory._on_linux(write(tmp_path, files)) == (700000 if top == "max" else 100000)


def test_linux_with_control_groups_of_the_first_kind(tmp_path: Path) -> None:
    files = MEMINFO | {
        "proc/self/cgroup": "5:cpu,cpuacct:/box\n4:memory:/box\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "3500000\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 100000\n",
    }
    assert memory._on_linux(write(tmp_path, files)) == 600000


# Closing gives it back


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert match
    return int(match[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the resident size is read from /proc")
@pytest.mark.parametrize("backend", BACKENDS)
def test_200_rounds_of_loading_generating_and_closing_leave_nothing(tmp_path: Path, backend: str) -> None:
    """A round needs megabytes for weights and caches; kept ones would add up to far more than the bound."""
    folder = write_folder(tmp_path / "model", hidden=256, num_heads=8, num_kv_heads=8, head_dim=64, max_positions=512)
    assert estimate_cache_bytes(folder, 1, 100) > 2**19
    sizes = []
    for _ in range(200):
        with TextGenerationPipeline(folder, backend=backend) as pipe:
            pipe.generate(["abc" * 30, "de"], max_new_tokens=4, ignore_eos=True)
            with pipe.scheduler(slots=4, capacity=400) as scheduler:
                scheduler.submit("abc" * 30, max_new_tokens=4).result()
        gc.collect()
        sizes.append(resident_bytes())
    # The allocator settles in the first rounds; from then on the size must not follow the rounds.
    settled, last = np.median(sizes[40:60]), np.median(sizes[-20:])
    assert last - settled < 32 * 2**20, f"from {settled / 2**20:.1f} to {last / 2**20:.1f} MiB"
