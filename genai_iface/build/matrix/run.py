# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The matrix of one checkpoint: a row for each producer, a cell for each runtime, each in a process of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genai_iface.build.matrix.apart import Limits, LostError, run_apart
from genai_iface.build.matrix.judge import Cell, Fault, fault_of
from genai_iface.build.matrix.oracle import make_oracle
from genai_iface.build.matrix.producers import CONTROL, PRODUCERS
from genai_iface.build.matrix.runtimes import Runtime, run_cell
from genai_iface.errors import GenAIError, UnsupportedModelError

__all__ = ["Row", "read_rows", "run_matrix"]


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a checkpoint by way of one producer.

    Attributes:
        name: Of the checkpoint.
        producer: Its name.
        form: How the graph keeps its cache, and what else it has; empty if there is none.
        problem: Why there is no graph; empty if there is.
        cells: One for each runtime.
        fault: Whose fault it is, if something is wrong.
        seconds: Of the clock.
    """

    name: str
    producer: str
    form: str = ""
    problem: str = ""
    cells: tuple[Cell, ...] = ()
    fault: Fault = field(default=Fault("nobody", ""))
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Row:
        """From JSON."""
        cells = tuple(Cell(**cell) for cell in data["cells"])
        return cls(**{**data, "cells": cells, "fault": Fault(**data["fault"])})


def read_rows(file: Path) -> dict[tuple[str, str], Row]:
    """The last row of each name and producer; a line that was cut off by the end of a run is left out."""
    rows: dict[tuple[str, str], Row] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = Row.of(json.loads(line))
        except ValueError:
            continue
        rows[row.name, row.producer] = row
    return rows


def run_matrix(
    name: str,
    checkpoint: Path,
    work: Path,
    *,
    producers: Sequence[str],
    runtimes: Sequence[Runtime],
    limits: Limits | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Row]:
    """Runs what has no row yet in the working folder, and yields all rows as they come.

    Args:
        name: What the rows call the checkpoint.
        checkpoint: Its folder.
        work: For rows, graphs and logs; a second run goes on from there.
        producers: Names.
        runtimes: What runs each graph.
        limits: Of each process.
        progress: Called with what is being done.

    Raises:
        UnsupportedModelError: Torch itself computes nothing of it.
    """
    job = _Job(name, checkpoint, work, tuple(runtimes), limits or Limits(), progress)
    done = read_rows(job.rows)
    every = [CONTROL, *producers]
    waiting = [producer for producer in every if (name, producer) not in done]
    if waiting:
        job.prepare()
    for producer in every:
        if producer in waiting:
            row = job.row(producer)
            with job.rows.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row.as_dict()) + "\n")
        else:
            row = done[name, producer]
        yield row
    shutil.rmtree(job.room, ignore_errors=True)


class _Job:
    def __init__(
        self,
        name: str,
        checkpoint: Path,
        work: Path,
        runtimes: tuple[Runtime, ...],
        limits: Limits,
        progress: Callable[[str], None],
    ) -> None:
        self.name, self.runtimes, self.limits = name, runtimes, limits
        self.checkpoint, self.rows, self.room = checkpoint.resolve(), work / "rows.jsonl", work / "rooms" / name
        self.progress = progress
        self.oracle = self.room / "oracle.npz"

    def prepare(self) -> None:
        """What torch computes."""
        self.room.mkdir(parents=True, exist_ok=True)
        if self.oracle.exists():
            return
        self.progress(f"{self.name}: decoding with torch")
        try:
            found = self._apart(_oracle, (str(self.checkpoint), str(self.oracle)), "oracle")
        except LostError as lost:
            found = {"problem": str(lost)}
        if found["problem"]:
            raise UnsupportedModelError(
                f"Torch computes nothing of {self.name!r}: {found['problem']}", remedy="Try it with Transformers alone."
            )

    def row(self, producer: str) -> Row:
        """Makes the graph and runs it everywhere."""
        begin = time.monotonic()
        form, problem = self._made(producer)
        cells: list[Cell] = []
        for runtime in () if problem else self.runtimes:
            self.progress(f"{self.name}: {producer} on {runtime.name}")
            folder = self.checkpoint if producer == CONTROL else self._folder(producer)
            scratch = self.room / "scratch"
            arguments = (runtime, producer, str(folder), str(self.oracle), str(scratch))
            try:
                cell = Cell(**self._apart(run_cell, arguments, f"{producer}-{runtime.name}"))
            except LostError as lost:
                cell = Cell(runtime.name, runtime.name, "crashed", str(lost).replace(str(self.room), "..."))
            cells.append(cell)
        fault = Fault("producer", problem) if problem else fault_of(cells)
        seconds = round(time.monotonic() - begin, 1)
        return Row(self.name, producer, form, problem, tuple(cells), fault, seconds)

    def _folder(self, producer: str) -> Path:
        return self.room / producer.replace(" ", "-")

    def _made(self, producer: str) -> tuple[str, str]:
        """The form of the graph and why there is none; it is made if it is not there."""
        if producer == CONTROL:
            return CONTROL, ""
        source, folder = PRODUCERS[producer].source, self._folder(producer)
        given = self.checkpoint
        if source is not None:
            given = self._folder(source)
            _, problem = self._made(source)
            if problem:
                return "", f"there is no folder of {source!r}: {problem}"
        failed = folder.with_suffix(".failed")
        if failed.exists():
            return "", failed.read_text(encoding="utf-8")
        if not folder.exists():
            self.progress(f"{self.name}: {producer}")
            unfinished = folder.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            try:
                problem = str(self._apart(_produce, (producer, str(given), str(unfinished)), producer)["problem"])
            except LostError as lost:
                problem = f"crashed: {lost}"
            if problem:
                problem = problem.replace(str(unfinished), "the folder").replace(str(given), "checkpoint")
                problem = problem.replace(str(self.room), "...")
                failed.write_text(problem, encoding="utf-8")
                return "", problem
            unfinished.replace(folder)
        try:
            return str(self._apart(_form, (str(folder),), f"{producer}-form")["form"]), ""
        except LostError as lost:
            return f"not read: {lost}", ""

    def _apart(
        self, function: Callable[..., Mapping[str, Any]], arguments: tuple[Any, ...], what: str
    ) -> dict[str, Any]:
        return run_apart(function, arguments, limits=self.limits, log=self.room / f"{what.replace(' ', '-')}.log")


def _oracle(checkpoint: str, path: str) -> dict[str, Any]:
    try:
        make_oracle(Path(checkpoint), Path(path))
    except GenAIError as error:
        return {"problem": error.what}
    return {"problem": ""}


def _produce(producer: str, source: str, out: str) -> dict[str, Any]:
    try:
        PRODUCERS[producer].make(Path(source), Path(out))
    except GenAIError as error:
        return {"problem": " ".join(error.what.split())}
    return {"problem": ""}


def _form(folder: str) -> dict[str, Any]:
    """What a graph is, in a few words."""
    from genai_iface.folder import open_folder

    try:
        opened = open_folder(folder)
    except GenAIError as error:
        return {"form": f"not read by this SDK: {' '.join(error.what.split())[:200]}"}
    cache = opened.spec.cache
    parts = [f"{cache.style} {cache.layout}" if cache.layers else "no keys and values"]
    parts += ["states"] if cache.states else []
    return {"form": ", ".join([*parts, f"opset {opened.signature.opset}"])}
