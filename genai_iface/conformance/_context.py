# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a check gets: the adapter's backend, golden models loaded on it, and helpers that clean up."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig
from genai_iface.conformance._failure import ConformanceFailure, NotApplicable, close
from genai_iface.conformance._golden import Golden, open_golden, state_names
from genai_iface.conformance.adapter import (
    Adapter,
    SupportsForm,
    SupportsLoading,
    SupportsOperators,
    SupportsPipeline,
    SupportsText,
    profile_of,
)
from genai_iface.conformance.forms import MADE_FORMS, write_form
from genai_iface.protocols import Backend, Generator, KVCache, Model, Pipeline, SupportsGenerator, Tokenizer
from genai_iface.types import BackendInfo

if TYPE_CHECKING:
    from genai_iface.conformance.decoder.fresh import FreshModel
__all__ = ["Context", "FreshSubject", "Subject", "padded", "runtime_generator"]

PAD = -1
"""What stands behind the real tokens of a row: no legal id, so that whoever looks at it shows."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A golden model, loaded.

    Attributes:
        model: On the adapter's backend; in a profile without models nothing.
        golden: What it must give.
    """

    model: Model[Any]
    golden: Golden

    @property
    def vocab_size(self) -> int:
        """V."""
        return int(self.golden.logits.shape[-1])

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

    def near(self, got: NDArray[Any], row: int, length: int, what: str) -> None:
        """The same, by the tolerance of drawn weights."""
        self.made.check_logits(got, self.golden.tokens[row, :length].tolist(), what)


class _Kept:
    """A model that stays open for the checks to come when a pipeline closes it."""

    def __init__(self, model: Model[Any]) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def close(self) -> None:
        """Does nothing."""


class Context:
    """One run of the kit.

    Args:
        adapter: The vendor's adapter, which gives the backend under test.
        dtype: Of the golden models.
        factor: Tightens tolerances, at most 1.
        seed: Of the models and programs that are made for this run.
        long: Whether rows are also driven past 4096 tokens, up to 8192.
    """

    def __init__(
        self, adapter: Adapter, *, dtype: str = "float32", factor: float = 1.0, seed: int = 0, long: bool = False
    ) -> None:
        self.adapter = adapter
        self.dtype = dtype
        self.factor = factor
        self.seed = seed
        self.long = long
        self._fresh: dict[tuple[str, int], FreshSubject] = {}
        self._made: dict[Path, Path] = {}
        self._read: dict[Path, tuple[Tokenizer, GenerationConfig]] = {}
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
        for thing in (self.adapter, self.backend):
            if isinstance(thing, SupportsForm):
                return thing.golden_form()
        can = self.info.capabilities
        if Capability.CACHE_SCATTER in can:
            return "scatter"
        return "concat" if Capability.CACHE_CONCAT in can else "checkpoint"

    def golden(self, name: str = "base", dtype: str | None = None) -> Golden:
        """A golden model in the adapter's form.

        Raises:
            NotApplicable: The model has no such form.
        """
        made = MADE_FORMS.get(self.form)
        golden = open_golden(name, made.source if made else self.form, dtype or self.dtype, factor=self.factor)
        return self._in_form(golden) if made else golden

    def _in_form(self, golden: Golden) -> Golden:
        """The same model in a form that is made, once for the whole run."""
        if golden.folder not in self._made:
            # A fresh model has the names of the golden one.
            target = self._scratch() / f"{self.form}-{len(self._made)}" / golden.name
            self._made[golden.folder] = write_form(golden.folder, self.form, target)
        return dataclasses.replace(golden, folder=self._made[golden.folder], form=self.form)

    def _scratch(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="genai-iface-golden-")
        return Path(self._folder.name)

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
        from genai_iface.conformance.decoder.fresh_states import make_fresh_states  # noqa: PLC0415

        key = name, number
        if key not in self._fresh:
            kept = MADE_FORMS[self.form].source if self.form in MADE_FORMS else self.form
            golden = open_golden(name, kept, self.dtype, factor=self.factor)
            make = make_fresh_states if name in state_names() else make_fresh
            made = make(golden, self.seed + number, self._scratch() / str(number), factor=self.factor)
            golden = self._in_form(made.golden) if self.form in MADE_FORMS else made.golden
            self._fresh[key] = FreshSubject(self.load(golden), golden, made)
        return self._fresh[key]

    def load(self, golden: Golden) -> Model[Any]:
        """Loads a golden folder anew, where the profile shows models."""
        if self.profile != "step":
            return cast("Model[Any]", None)
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

    def generator(self, subject: Subject, **arguments: Any) -> Generator:
        """A generator, closed when the check ends: the SDK's over the model, or the runtime's own.

        Args:
            subject: What it runs.
            arguments: ``config`` and ``capacity``; for the SDK's, any others of ``ModelGenerator``.
        """
        generator: Generator
        if self.profile == "generator":
            # Limits of length are the caller's to watch.
            config = dataclasses.replace(arguments.pop("config", GenerationConfig()), max_new_tokens=None)
            generator = runtime_generator(self, subject.golden, config=config, **arguments)
        else:
            # Levels 0 to 3 need no loop.
            from genai_iface.generation import ModelGenerator  # noqa: PLC0415

            generator = ModelGenerator(subject.model, **arguments)
        self._opened.append(generator)
        return generator

    @property
    def owns_loop(self) -> bool:
        """Whether the adapter brings its own pipeline."""
        return isinstance(self.adapter, SupportsPipeline)

    def pipeline(self, folder: Path | None = None, **arguments: Any) -> Pipeline:
        """A pipeline over the text model: the adapter's own, else the SDK's over what the adapter shows.

        Args:
            folder: A copy of the text model's folder, None for the golden one.
            arguments: For the SDK's over a model only.
        """
        golden = self.golden("text")
        if folder is not None:
            golden = dataclasses.replace(golden, folder=folder)
        pipeline: Any
        if self.profile == "text":
            if not isinstance(self.adapter, SupportsText):
                raise ConformanceFailure("The adapter names the profile 'text' and has no method text_pipeline()")
            pipeline = self.adapter.text_pipeline(golden.folder)
        elif isinstance(self.adapter, SupportsPipeline):
            pipeline = self.adapter.pipeline(golden.folder)
        elif self.profile == "generator":
            from genai_iface.pipeline import TextGenerationPipeline  # noqa: PLC0415 - as below

            pipeline = TextGenerationPipeline(golden.folder, backend=self.backend)
        else:
            from genai_iface.pipeline import TextGenerationPipeline  # noqa: PLC0415 - as below

            tokenizer, config = self._texts(golden.folder)
            model = self.load(golden) if folder is not None else cast("Model[Any]", _Kept(self.subject("text").model))
            pipeline = TextGenerationPipeline.from_parts(model, tokenizer, config, **arguments)
        self._opened.append(pipeline)
        return pipeline  # type: ignore[no-any-return]  # that of the profile "text" shows less

    def _texts(self, folder: Path) -> tuple[Tokenizer, GenerationConfig]:
        """What a folder says about texts; that of the golden folder is read once for the whole run."""
        # Opening a folder needs libraries that importing the interface must not load.
        from genai_iface.folder import open_texts  # noqa: PLC0415

        if folder not in self._read:
            self._read[folder] = open_texts(folder)
        return self._read[folder]

    def end_check(self) -> None:
        """Closes what the last check opened."""
        while self._opened:
            close = getattr(self._opened.pop(), "close", None)
            # The protocol of generators has no close().
            if close is not None:
                close()

    def close(self) -> None:
        """Closes everything."""
        self.end_check()
        for kept in (self._subjects, self._fresh):
            for subject in kept.values():
                if subject.model is not None:
                    subject.model.close()
            kept.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def runtime_generator(
    context: Context, golden: Golden, *, config: GenerationConfig | None = None, capacity: int | None = None
) -> Generator:
    """A generator of a backend that owns its loop."""
    backend = context.backend
    if not isinstance(backend, SupportsGenerator):
        raise ConformanceFailure("The backend declares generators and has no method generator()")
    return backend.generator(golden.folder, config=config or GenerationConfig(), capacity=capacity)


def padded(rows: Sequence[Sequence[int] | NDArray[np.int64]], pad: int = PAD) -> Mapping[str, NDArray[np.int64]]:
    """Rows of tokens as ``ids`` (B, S) and ``counts`` (B,)."""
    counts = np.array([len(row) for row in rows], np.int64)
    ids = np.full((len(rows), max(1, int(counts.max()))), pad, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return {"ids": ids, "counts": counts}
