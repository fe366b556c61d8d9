# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What runs a folder: a registered backend, an adapter of the conformance kit, or a program on the wire."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from genai_iface.build.matrix import forms
from genai_iface.build.matrix.graph_rows import MOST_BYTES, GraphRows, bytes_of
from genai_iface.build.matrix.judge import Cell, StepSeen, cell_of
from genai_iface.build.matrix.oracle import GREEDY, Oracle, by_generator, by_model
from genai_iface.build.matrix.producers import CONTROL
from genai_iface.capabilities import Capability
from genai_iface.conformance import load_adapter
from genai_iface.conformance.wire import HarnessError, WireAdapter
from genai_iface.errors import BackendNotFoundError, GenAIError, InvalidInputError
from genai_iface.folder import ModelFolder, open_folder

__all__ = ["Runtime", "as_runtime", "run_cell"]

_PROGRAM = "command:"
# The process around it has a limit, and ends it.
_REPLY = 900.0


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime by name.

    Attributes:
        name: In tables.
        target: A registered backend, module:attribute of an adapter, or "command:" and a program with its arguments.
    """

    name: str
    target: str

    @contextmanager
    def adapter(self) -> Iterator[Any]:
        """What it is driven by, for as long as the block runs."""
        if not self.target.startswith(_PROGRAM):
            yield load_adapter(self.target)
            return
        adapter = WireAdapter(self.target.removeprefix(_PROGRAM), time_limit=_REPLY)
        try:
            yield adapter
        finally:
            adapter.close()


def as_runtime(text: str) -> Runtime:
    """NAME, or NAME=TARGET.

    Raises:
        InvalidInputError: The text is neither, or the runtime is not installed.
    """
    name, equals, target = text.partition("=")
    if not name or (equals and not target):
        raise InvalidInputError(
            f"{text!r} is no runtime",
            remedy="Give a registered backend, NAME=module:attribute or NAME=command:PROGRAM.",
        )
    runtime = Runtime(name, target or name)
    if not runtime.target.startswith(_PROGRAM):
        with runtime.adapter() as adapter:
            adapter.backend()
    return runtime


def run_cell(runtime: Runtime, producer: str, folder: str, oracle: str, scratch: str) -> dict[str, Any]:
    """Runs a producer's folder on a runtime, and compares it with torch; for a process of its own.

    Args:
        runtime: What runs it.
        producer: What made it.
        folder: Where the graph is; the checkpoint for the control.
        oracle: The file with what torch computes.
        scratch: A folder for files that the runtime wants beside the graph; it is empty afterwards.

    Returns:
        The cell, for JSON.
    """
    room = Path(scratch)
    room.mkdir(parents=True, exist_ok=True)
    engine = runtime.name
    try:
        with runtime.adapter() as adapter:
            run = _Run(adapter, producer, Path(folder), room)
            engine = run.engine
            if reason := run.why_not():
                return Cell(runtime.name, engine, "not applicable", reason).as_dict()
            return cell_of(runtime.name, engine, run.steps(Oracle.load(Path(oracle)))).as_dict()
    except BackendNotFoundError:
        raise
    except (GenAIError, HarnessError) as error:
        said = error.what if isinstance(error, GenAIError) else str(error)
        reason = " ".join(said.replace(folder, "the folder").replace(scratch, "the folder").split())[:300]
        by = "" if runtime.name in reason or engine in reason else f"{runtime.name}: "
        return Cell(runtime.name, engine, "refused", by + reason).as_dict()
    finally:
        shutil.rmtree(room, ignore_errors=True)


class _Run:
    """One cell: which form of the folder the runtime takes, and by which way."""

    def __init__(self, adapter: Any, producer: str, folder: Path, room: Path) -> None:
        self._adapter, self._producer, self._folder, self._room = adapter, producer, folder, room
        self._backend = adapter.backend()
        info = self._backend.info()
        self._can: frozenset[str] = info.capabilities
        self._runtime = str(info.runtime)
        # onnxruntime-node and onnxruntime-genai are onnxruntime too.
        self.engine = self._runtime.partition("-")[0]
        forms_of = getattr(self._backend, "golden_form", None) or getattr(adapter, "golden_form", None)
        self._form = "" if forms_of is None else str(forms_of())

    @property
    def _is_program(self) -> bool:
        return isinstance(self._adapter, WireAdapter)

    @property
    def _reads_genai(self) -> bool:
        return self._form == "ort-genai"

    @cached_property
    def _opened(self) -> ModelFolder:
        return open_folder(self._folder)

    def why_not(self) -> str:
        """Why the runtime does not take this form at all; empty if it does."""
        reads_checkpoints = (
            self._form == "checkpoint" or "checkpoint" in self._runtime or self._runtime == "transformers"
        )
        if reads_checkpoints != (self._producer == CONTROL):
            return "it runs checkpoints, no graphs" if reads_checkpoints else "it runs graphs, no checkpoints"
        if reads_checkpoints:
            return ""
        if self._reads_genai:
            return "" if (self._folder / "genai_config.json").is_file() else forms.why_not_genai(self._opened)
        cache = self._opened.spec.cache
        if self._is_program:
            return self._why_not_over_the_wire()
        if Capability.GENERATOR in self._can and self._form == "concat":
            return "" if cache.style == "concat" and not cache.states else "it takes past and present tensors only"
        styles = {name for name in self._can if name.startswith("cache_") and name != Capability.CACHE_CIRCULAR}
        if cache.layers and f"cache_{cache.style}" not in styles:
            takes = ", ".join(sorted(name.removeprefix("cache_") for name in styles))
            return f"it drives caches of the style {takes}, and this one is {cache.style}"
        if cache.states and Capability.STATE not in self._can:
            return "it keeps keys and values, and no states"
        return ""

    def _why_not_over_the_wire(self) -> str:
        if not forms.why_not_harness(self._opened):
            return ""
        if not self._adapter.connection.said.get("operators"):
            return "its harness drives TensorScatter caches only, and runs no graph by itself"
        size = sum(path.stat().st_size for path in self._folder.iterdir() if path.is_file())
        return f"a graph of {size} bytes would go over the wire with every token" if size > MOST_BYTES else ""

    def steps(self, oracle: Oracle) -> Iterator[StepSeen]:
        """Runs it."""
        if self._is_program:
            yield from self._over_the_wire(oracle)
        elif Capability.GENERATOR in self._can and "cache_scatter" not in self._can:
            folder = self._for_generator()
            for row in range(len(oracle.prompts)):
                capacity = len(oracle.prompts[row]) + oracle.tokens.shape[1] + 1
                generator = self._backend.generator(folder, config=GREEDY, capacity=capacity)
                yield from by_generator(generator, oracle, row)
        else:
            model = self._backend.load(self._folder)
            try:
                yield from by_model(model, oracle)
            finally:
                model.close()

    def _for_generator(self) -> Path:
        if not self._reads_genai:
            return self._folder
        if (self._folder / "genai_config.json").is_file():
            return forms.without_end(self._folder, self._room / "genai")
        return forms.for_genai(self._opened, self._room / "genai")

    def _over_the_wire(self, oracle: Oracle) -> Iterator[StepSeen]:
        if not forms.why_not_harness(self._opened):
            model = self._backend.load(forms.for_harness(self._opened, self._room / "harness"))
            yield from by_model(model, oracle)
        else:
            yield from GraphRows(self._adapter, self._opened, bytes_of(self._opened)).steps(oracle)
