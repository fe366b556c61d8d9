# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all: written under a temporary name, then renamed.

A temporary name says which process makes it, so that what a killed one left is cleared by the next that writes there.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from genai_iface.errors import GenAIError, InvalidInputError, OutputError

__all__ = ["clear_stale", "new_file", "temporary_name", "writing_to"]

# Room, quotas and permissions; other errors may come from what is read meanwhile.
_CANNOT_WRITE = frozenset(
    getattr(errno, name)
    for name in ("EACCES", "EDQUOT", "EEXIST", "EFBIG", "EIO", "ENOSPC", "ENOTEMPTY", "EPERM", "EROFS", "ENAMETOOLONG")
    if hasattr(errno, name)
)
_NAME = re.compile(r"\..*\.genai-([0-9a-f]{8})-(\d{1,10})-(\d{1,20})-[0-9a-f]{16}\.tmp", re.DOTALL)
_LONGEST_STEM = 60


@contextmanager
def new_file(path: str | PathLike[str], /) -> Iterator[Path]:
    """A path beside ``path`` that takes its name when the block ends well, and is removed otherwise.

    Args:
        path: Only a regular file is replaced.

    Raises:
        InvalidInputError: There cannot be a file of that name, or something else than a file has it.
        OutputError: It cannot be written.
    """
    target = _file_target(path)
    if not target.parent.is_dir():
        raise OutputError(
            f"{str(target)!r} cannot be written: No such file or directory",
            remedy=f"Make the folder {str(target.parent)!r} first.",
        )
    clear_stale(target.parent)
    temporary = target.with_name(temporary_name(target.name))
    try:
        with writing_to(target):
            yield temporary
            # Something else may have taken the name meanwhile.
            _file_target(path)
            temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing_to(target: Path, /) -> Iterator[None]:
    """Turns errors of the system's that mean "this cannot be written" into one that says so.

    Raises:
        OutputError: The block ended with such an error, or with one that was caused by it.
    """
    try:
        yield
    except GenAIError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in _CANNOT_WRITE):
            cause = cause.__cause__
        if not isinstance(cause, OSError):
            raise
        raise OutputError(
            f"{str(target)!r} cannot be written: {cause.strerror or cause}",
            remedy="Choose a writable place with room; nothing was left there.",
        ) from error


def temporary_name(name: str, /) -> str:
    """A hidden name that nothing has and that says which process made it."""
    made_by = f"{_host()}-{os.getpid()}-{_start_of(os.getpid()) or 0}"
    return f".{name[:_LONGEST_STEM]}.genai-{made_by}-{secrets.token_hex(8)}.tmp"


def _file_target(path: str | PathLike[str]) -> Path:
    text = os.fspath(path)
    remedy = "Give the path of a file, new or to be replaced."
    if not text or "\0" in text or Path(text).name in ("", ".."):
        raise InvalidInputError(f"{text!r} cannot name a file", remedy=remedy)
    target = Path(text)
    try:
        found = target.lstat()
    except FileNotFoundError:
        return target
    except (OSError, ValueError) as error:
        raise OutputError(f"{text!r} cannot be written: {error}", remedy=remedy) from error
    if not stat.S_ISREG(found.st_mode):
        kinds = {
            stat.S_IFDIR: "a folder",
            stat.S_IFLNK: "a link",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
            stat.S_IFIFO: "a pipe",
            stat.S_IFSOCK: "a socket",
        }
        kind = kinds.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise InvalidInputError(f"{text!r} is {kind}; only regular files are replaced", remedy=remedy)
    return target


def clear_stale(folder: Path) -> None:
    """Removes what processes of this machine left that run no more."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        found = _NAME.fullmatch(entry.name)
        if found is None or found[1] != _host() or _runs(int(found[2]), int(found[3])):
            continue
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink()


def _runs(process: int, start: int) -> bool:
    """Whether a process still runs; a number that was given to another one meanwhile does not count."""
    now = _start_of(process)
    if now is not None:
        return start in (0, now)
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _start_of(process: int) -> int | None:
    """When a process began, in ticks since the system's start; None where that is not known or it does not run."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        # The second field is the program's name in brackets and may hold anything; the start is the 22nd.
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _host() -> str:
    """The machine and the space of process numbers: a number of another one means nothing here."""
    space = ""
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return f"{zlib.crc32(f'{socket.gethostname()} {space}'.encode()):08x}"
