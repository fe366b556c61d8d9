# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a check gets: the adapter's backend, golden models loaded on it, and helpers that clean up."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.conformance._failure import NotApplicable, close
from genai_iface.conformance._golden import Golden, open_golden
from genai_iface.conformance.adapter import (
    Adapter,
    SupportsLoading,
    SupportsOperators,
    SupportsPipeline,
    profile_of,
)
from genai_iface.protocols import Backend, KVCache, Model, Pipeline
from genai_iface.types import BackendInfo

if TYPE_CHECKING:
    from genai_iface.conformance.decoder.fresh import FreshModel
    from genai_iface.generation import ModelGenerator

__all__ = ["Context", "FreshSubject", "Subject", "padded"]

PAD = -1
"""What stands behind the real tokens of a row: no legal id, so that whoever looks at it shows."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A golden model, loaded.

    Attributes:
        model: On the adapter's backend.
        golden: What it must give.
    """

    model: Model[Any]
    golden: Golden

    def near(self, got: NDArray[Any], row: int, length: int, what: str) -> None:
        """Fails unless logits (V,) are those after the first tokens of a golden row."""
        close(got, self.golden.after(row, length), self.golden.tolerance, what)


@dataclass(frozen=True, slots=True)
class FreshSubject(Subject):
    """A model that was made for this run, loaded.

    Attributes:
        made: Its logits after any tokens.
    """

    made: FreshModel


class Context:
    """One run of the kit.

    Args:
        adapter: The vendor's adapter, which gives the backend under test.
        dtype: Of the golden models.
        factor: Tightens tolerances, at most 1.
        seed: Of the models and programs that are made for this run.
    """

    def __init__(self, adapter: Adapter, *, dtype: str = "float32", factor: float = 1.0, seed: int = 0) -> None:
        self.adapter = adapter
        self.dtype = dtype
        self.factor = factor
        self.seed = seed
        self._fresh: dict[tuple[str, int], FreshSubject] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.profile = profile_of(adapter)
        self.backend: Backend = adapter.backend()
        self.info: BackendInfo = self.backend.info()
        self._subjects: dict[tuple[str, str], Subject] = {}
        self._opened: list[Any] = []

    @property
    def operators(self) -> SupportsOperators | None:
        """What runs single nodes: the adapter, else the backend, else nothing."""
        for thing in (self.adapter, self.backend):
            if isinstance(thing, SupportsOperators):
                return thing
        return None

    @property
    def form(self) -> str:
        """The form of golden folders that this adapter takes."""
        if isinstance(self.adapter, SupportsLoading):
            return self.adapter.golden_form()
        can = self.info.capabilities
        if Capability.CACHE_SCATTER in can:
            return "scatter"
        return "concat" if Capability.CACHE_CONCAT in can else "checkpoint"

    def golden(self, name: str = "base", dtype: str | None = None) -> Golden:
        """A golden model in the adapter's form.

        Raises:
            NotApplicable: The model has no such form.
        """
        return open_golden(name, self.form, dtype or self.dtype, factor=self.factor)

    def subject(self, name: str = "base", dtype: str | None = None) -> Subject:
        """A golden model, loaded once for the whole run.

        Raises:
            NotApplicable: The model has no such form, or the backend does not declare the dtype.
        """
        dtype = dtype or self.dtype
        if dtype not in self.info.dtypes:
            raise NotApplicable(f"the backend does not declare {dtype}")
        key = name, dtype
        if key not in self._subjects:
            golden = self.golden(name, dtype)
            self._subjects[key] = Subject(self.load(golden), golden)
        return self._subjects[key]

    def fresh(self, name: str = "base", number: int = 0) -> FreshSubject:
        """A model that was made for this run, loaded once.

        Args:
            name: The golden model whose shape it has.
            number: Which of several of that shape.

        Raises:
            NotApplicable: The golden model has no such form.
        """
        # Other checks need no float64 decoder.
        from genai_iface.conformance.decoder.fresh import make_fresh  # noqa: PLC0415

        key = name, number
        if key not in self._fresh:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="genai-iface-fresh-")
            place = Path(self._folder.name) / str(number)
            made = make_fresh(self.golden(name), self.seed + number, place, factor=self.factor)
            self._fresh[key] = FreshSubject(self.load(made.golden), made.golden, made)
        return self._fresh[key]

    def load(self, golden: Golden) -> Model[Any]:
        """Loads a golden folder anew."""
        if isinstance(self.adapter, SupportsLoading):
            return self.adapter.load(golden.folder)
        return self.backend.load(golden.folder)

    def cache(self, subject: Subject, batch_size: int = 1, capacity: int | None = None) -> KVCache:
        """A new cache, closed when the check ends."""
        cache: KVCache = subject.model.create_cache(batch_size=batch_size, capacity=capacity)
        self._opened.append(cache)
        return cache

    def keep(self, opened: Any) -> Any:
        """Closes something when the check ends."""
        self._opened.append(opened)
        return opened

    def generator(self, subject: Subject, **arguments: Any) -> ModelGenerator[Any]:
        """The SDK's generator over the model, closed when the check ends."""
        # Levels 0 to 3 need no loop.
        from genai_iface.generation import ModelGenerator  # noqa: PLC0415

        generator: ModelGenerator[Any] = ModelGenerator(subject.model, **arguments)
        self._opened.append(generator)
        return generator

    @property
    def owns_loop(self) -> bool:
        """Whether the adapter brings its own pipeline."""
        return isinstance(self.adapter, SupportsPipeline)

    def pipeline(self, folder: Path | None = None, **arguments: Any) -> Pipeline:
        """A pipeline over the text model: the adapter's own, else the SDK's over the adapter's model.

        Args:
            folder: A copy of the text model's folder, None for the golden one.
            arguments: For the SDK's only.
        """
        golden = self.golden("text")
        if folder is not None:
            golden = dataclasses.replace(golden, folder=folder)
        if isinstance(self.adapter, SupportsPipeline):
            pipeline = self.adapter.pipeline(golden.folder)
        else:
            # Opening a folder needs libraries that importing the interface must not load.
            from genai_iface.folder import open_folder  # noqa: PLC0415
            from genai_iface.pipeline import TextGenerationPipeline  # noqa: PLC0415

            opened = open_folder(golden.folder)
            model = self.load(golden)
            config = opened.generation_config
            pipeline = TextGenerationPipeline.from_parts(model, opened.tokenizer, config, **arguments)
        self._opened.append(pipeline)
        return pipeline

    def end_check(self) -> None:
        """Closes what the last check opened."""
        while self._opened:
            self._opened.pop().close()

    def close(self) -> None:
        """Closes everything."""
        self.end_check()
        while self._subjects:
            self._subjects.popitem()[1].model.close()
        while self._fresh:
            self._fresh.popitem()[1].model.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def padded(rows: Sequence[Sequence[int] | NDArray[np.int64]], pad: int = PAD) -> Mapping[str, NDArray[np.int64]]:
    """Rows of tokens as ``ids`` (B, S) and ``counts`` (B,)."""
    counts = np.array([len(row) for row in rows], np.int64)
    ids = np.full((len(rows), max(1, int(counts.max()))), pad, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return {"ids": ids, "counts": counts}
