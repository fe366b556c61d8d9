# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Who satisfies the protocols: a proof for the type checker, which also runs.

mypy checks this file with the package (``files`` in pyproject.toml); an assignment to a variable of
a protocol's type is the claim. The same assignments run here, so that the classes do exist and work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface import (
    Backend,
    BackendInfo,
    Device,
    GenerationConfig,
    Generator,
    KVCache,
    Model,
    Pipeline,
    SupportsGenerator,
    TextGenerationPipeline,
    Tokenizer,
    load_backend,
)
from genai_iface.folder import FolderTokenizer
from genai_iface.generation import Engine, ModelGenerator, ScheduledRequest
from genai_iface.generation._engines import Engines, ModelEngines
from genai_iface.generation.beam.search import BeamSearch
from genai_iface.generation.runtime.engines import RuntimeEngines
from genai_iface.generation.runtime.loop import RuntimeLoop
from genai_iface.types import LogitsMode, ModelSpec, UpdateMode
from tests.fakes import ByteTokenizer, FakeCache, FakeModel
from tests.generation.runtime.fake_runtime import FakeRuntime


class OwnCache(KVCache):
    """(a) A cache that inherits the protocol and adds something of its own."""

    def __init__(self, inner: FakeCache) -> None:
        self.inner = inner

    @property
    def batch_size(self) -> int:
        return self.inner.batch_size

    @property
    def capacity(self) -> int:
        return self.inner.capacity

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.inner.lengths

    @property
    def nbytes(self) -> int:
        return self.inner.nbytes

    @property
    def bytes_per_token(self) -> int:
        return self.inner.bytes_per_token

    @property
    def update_mode(self) -> UpdateMode:
        return self.inner.update_mode

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        return self.inner.can_rewind_to(lengths)

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        self.inner.rewind_to(lengths)

    def reorder(self, indices: ArrayLike, /) -> None:
        self.inner.reorder(indices)

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        self.inner.reset(rows)

    def close(self) -> None:
        self.inner.close()


class OwnModel(Model[OwnCache]):
    """(a) A model that inherits the protocol and takes only its own caches."""

    def __init__(self) -> None:
        self.inner = FakeModel(258)

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    @property
    def device(self) -> Device:
        return self.inner.device

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> OwnCache:
        return OwnCache(self.inner.create_cache(batch_size=batch_size, capacity=capacity))

    def forward(
        self,
        input_ids: ArrayLike,
        cache: OwnCache,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        return self.inner.forward(input_ids, cache.inner, counts=counts, logits=logits)

    def close(self) -> None:
        self.inner.close()


class OwnBackend(Backend):
    """(a) A backend that inherits the protocol."""

    def info(self) -> BackendInfo:
        capabilities = OwnModel().capabilities
        return BackendInfo("own", "1", "none", "1", frozenset({1}), capabilities, frozenset({"float32"}))

    def devices(self) -> Sequence[Device]:
        return [Device("cpu", "cpu")]

    def load(
        self,
        folder: str | PathLike[str],
        /,
        *,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Model[OwnCache]:
        return OwnModel()


class DuckBackend:
    """(b) A backend that inherits nothing; its model and cache (``tests.fakes``) inherit nothing either."""

    def info(self) -> BackendInfo:
        capabilities = FakeModel().capabilities
        return BackendInfo("duck", "1", "none", "1", frozenset({1}), capabilities, frozenset({"float32"}))

    def devices(self) -> list[Device]:
        return [Device("cpu", "cpu")]

    def load(
        self,
        folder: str | PathLike[str],
        /,
        *,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> FakeModel:
        return FakeModel(258)


def test_a_backend_with_its_own_cache_class() -> None:
    backend: Backend = OwnBackend()
    model: Model[OwnCache] = OwnModel()
    cache: KVCache = model.create_cache(batch_size=2)
    assert cache.batch_size == 2
    loaded: Model[Any] = backend.load("anywhere")
    pipeline: Pipeline = TextGenerationPipeline.from_parts(loaded, ByteTokenizer())
    assert len(pipeline.generate("a", max_new_tokens=3).token_ids[0]) == 3


def test_a_backend_that_inherits_nothing() -> None:
    backend: Backend = DuckBackend()
    model: Model[FakeCache] = FakeModel()
    cache: KVCache = model.create_cache()
    assert cache.lengths.tolist() == [0]
    pipeline: Pipeline = TextGenerationPipeline.from_parts(backend.load("anywhere"), ByteTokenizer())
    assert len(pipeline.generate("a", max_new_tokens=3).token_ids[0]) == 3


def test_what_the_sdk_brings_itself() -> None:
    tokenizer_class: type[Tokenizer] = FolderTokenizer
    tokenizer: Tokenizer = ByteTokenizer()
    generator: Generator = ModelGenerator(OwnModel(), tokenizer=tokenizer)
    generator.append_tokens([1, 2])
    generator.generate_next_token()
    assert generator.token_count() == 3
    assert tokenizer_class.__name__ == "FolderTokenizer"


def test_a_runtime_that_owns_its_loop() -> None:
    runtime = FakeRuntime()
    backend: Backend = runtime
    supports: SupportsGenerator = runtime
    generator: Generator = supports.generator("anywhere", config=GenerationConfig())
    assert generator.token_count() == 0
    assert isinstance(backend, SupportsGenerator)


def test_the_engines() -> None:
    engine: Engine = ModelGenerator(FakeModel(), capacity=8)
    kinds: tuple[type[Engine], ...] = (BeamSearch, RuntimeLoop, ScheduledRequest)
    makers: tuple[type[Engines], ...] = (ModelEngines, RuntimeEngines)
    assert engine.metrics.num_prompt_tokens == 0
    assert len(kinds) + len(makers) == 5


def test_the_numpy_backend() -> None:
    backend: Backend = load_backend("numpy")
    assert backend.info().name == "numpy"
