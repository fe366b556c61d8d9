# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Saved files appear whole or not at all, replace nothing but files, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genai_iface import InvalidInputError, OutputError, TextGenerationPipeline
from genai_iface._new_files import new_file, temporary_name


@pytest.fixture(scope="module")
def pipe() -> TextGenerationPipeline:
    return TextGenerationPipeline()


@pytest.mark.parametrize("name", ["", "/", ".", "..", "a/..", "a\0b"])
def test_names_that_no_file_can_have(pipe: TextGenerationPipeline, name: str) -> None:
    cache = pipe.model.create_cache()
    for save in (lambda: pipe.save_prefix([5, 6], name), lambda: pipe.model.save_cache(cache, name)):
        with pytest.raises(InvalidInputError, match=r"cannot name a file|is a folder"):
            save()


def test_only_regular_files_are_replaced(pipe: TextGenerationPipeline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    kinds = {str(tmp_path / name): kind for name, kind in (("folder", "folder"), ("link", "link"), ("pipe", "pipe"))}
    for name, kind in {**kinds, "/dev/null": "device"}.items():
        before = os.lstat(name)
        with pytest.raises(InvalidInputError, match=f"is a {kind}; only regular files are replaced"):
            pipe.save_prefix([5, 6], name)
        assert os.lstat(name).st_ino == before.st_ino
    pipe.save_prefix([5, 6], tmp_path / "file")
    assert pipe.generate([[5, 6, 7]], prefix=tmp_path / "file", max_new_tokens=1).token_ids
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link", "pipe"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("old")
    with pytest.raises(ZeroDivisionError), new_file(place) as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), new_file(tmp_path / "no" / "file") as new:
        new.write_text("x")


KILLED = """
import os, signal, sys
from genai_iface._new_files import new_file
with new_file(sys.argv[1]) as place:
    place.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    place = tmp_path / "file"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    # What another machine, a process that runs, or somebody else made stays.
    mine = tmp_path / temporary_name("file")
    parts = left.name.split(".genai-")
    elsewhere = tmp_path / f"{parts[0]}.genai-{'0' * 8}{parts[1][8:]}"
    other = tmp_path / ".file.tmp"
    for path in (mine, elsewhere, other):
        path.write_text("x")
    with new_file(place) as new:
        new.write_text("whole")
    assert place.read_text() == "whole"
    assert sorted(tmp_path.iterdir()) == sorted([mine, elsewhere, other, place])


def test_a_number_that_another_process_has_now(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("the system does not say when a process began")
    # This process's number with another start: the one that wrote it has gone.
    host, _, start, rest = temporary_name("file").split(".genai-")[1].split("-")
    stale = tmp_path / f".file.genai-{host}-{os.getpid()}-{int(start) + 1}-{rest}"
    stale.write_text("x")
    with new_file(tmp_path / "file") as new:
        new.write_text("x")
    assert not stale.exists()
