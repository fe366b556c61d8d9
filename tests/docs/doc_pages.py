# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the code blocks of a Markdown page and runs them as a reader would, from top to bottom.

The blocks of a page share one fresh folder, and its Python blocks one namespace. How a block is treated
follows from the page's source alone:

- ``python``: executed. ``bash``: executed as a script. ``console``: every ``$ `` line is a command, what
  follows it is what the command prints.
- ``text`` directly below one of these: what it prints. ``...`` stands for anything.
- ``json`` and ``toml``: parsed.
- ``<!-- not run: REASON -->`` above a block: it is left out, and the tests list it with its reason.
- ``<!-- needs: MODULE ... -->`` anywhere: the page is left out where a module is missing.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

RUN = ("python", "bash", "console")
SHOWN = ("text", "cpp")
LANGUAGES = (*RUN, *SHOWN, "json", "toml")

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^\n]+?) -->\s*\Z")
_NEEDS = re.compile(r"^<!-- needs: (?P<modules>[\w ]+?) -->$", re.MULTILINE)
# These change the machine, or need a copy of the repository.
_OUTSIDE = re.compile(r"\b(apt|curl|git|pip|pytest|python -m (benchmarks|tools))\b")


@dataclass
class Block:
    """One fenced block.

    Attributes:
        language: The word after the fence.
        code: Its lines, without the indentation of the fence.
        line: Number of its first line of code.
        not_run: Why it is not run, or empty.
        output: What it prints, if the page shows that.
    """

    language: str
    code: str
    line: int
    not_run: str = ""
    output: str | None = None


@dataclass(frozen=True)
class Page:
    """A Markdown file and its blocks in order."""

    path: Path
    blocks: list[Block] = field(default_factory=list)
    needs: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def runs(self) -> bool:
        return any(block.language in RUN and not block.not_run for block in self.blocks)


def read_page(path: Path) -> Page:
    """Finds the blocks of a page."""
    text = path.read_text(encoding="utf-8")
    blocks: list[Block] = []
    end = 0
    for match in _FENCE.finditer(text):
        before = text[end : match.start()]
        end = match.end()
        block = Block(match["language"], textwrap.dedent(match["code"]), text.count("\n", 0, match.start("code")) + 1)
        if reason := _NOT_RUN.search(before):
            block.not_run = reason["reason"]
        if block.language == "text" and not before.strip() and blocks and blocks[-1].language in ("python", "bash"):
            blocks[-1].output = block.code
        blocks.append(block)
    needs = {module for found in _NEEDS.finditer(text) for module in found["modules"].split()}
    if any(re.search(r"""["' ]ort\b""", block.code) for block in blocks if block.language in RUN):
        needs.add("onnxruntime")
    return Page(path, blocks, frozenset(needs))


def run_page(page: Page, folder: Path, printed: Callable[[], tuple[str, str]]) -> None:
    """Runs the blocks of a page.

    Args:
        page: The page.
        folder: Where they run; the current directory.
        printed: Returns what went to stdout and stderr since it was last called.

    Raises:
        AssertionError: A block printed something else than the page shows, or complained.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in page.blocks:
        where = f"{page.name}:{block.line}"
        if block.not_run:
            continue
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.code, str(page.path), "exec")
            exec(code, namespace)
            out, err = printed()
            assert err == "", f"{where} wrote to stderr: {err}"
            # A block that prints nothing shows its reader nothing.
            assert bool(out.strip()) == ("print(" in block.code), f"{where} printed {out!r}"
            if block.output is not None:
                _compare(where, block.output, out)
        elif block.language == "bash":
            status, out = _shell(block.code, folder)
            assert status == 0, f"{where} exited with {status}: {out}"
            if block.output is not None:
                _compare(where, block.output, out)
        elif block.language == "console":
            for command, output in commands(block.code):
                status, out = _shell(command, folder)
                # The page shows a failure by its message.
                shows_failure = output.startswith(("genai-iface: ", "usage: ")) or "verdict: they differ" in output
                assert (status != 0) == shows_failure, f"{where}: {command} exited with {status}: {out}"
                if output:
                    _compare(f"{where}: {command}", output, out)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "toml":
            tomllib.loads(block.code)


def commands(code: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output shown below it."""
    found: list[tuple[str, str]] = []
    for line in code.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0]}\n{line}", "")
        else:
            assert found, f"a console block begins with a command, not with {line!r}"
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


def _shell(script: str, folder: Path) -> tuple[int, str]:
    """Exit status, and stdout and stderr as they came."""
    assert not _OUTSIDE.search(script), f"not in a fresh folder, so mark it as not run: {script}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


def _compare(where: str, shown: str, printed: str) -> None:
    """White space may differ; ``...`` stands for anything."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(shown.strip() + "\n", printed.strip() + "\n", flags)
    assert same, f"{where}\nthe page shows\n{shown}\nit printed\n{printed}"
