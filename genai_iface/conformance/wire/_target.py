# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The interface over a connection: every call of backend, model and cache is a request. Nothing is checked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genai_iface.config import GenerationConfig
from genai_iface.conformance.wire._connection import Connection, HarnessError
from genai_iface.conformance.wire._generator import WireGenerator
from genai_iface.conformance.wire._messages import fields_of, need, numbers_of, tensor_of
from genai_iface.types import (
    BackendInfo,
    CacheSpec,
    Device,
    LayerCacheSpec,
    LogitsMode,
    ModelSpec,
    StateSpec,
    UpdateMode,
)

__all__ = ["WireBackend", "WireCache", "WireModel"]


class WireBackend:
    """Implements ``Backend``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._models: dict[str, WireModel] = {}

    def info(self) -> BackendInfo:
        """What the harness said of its backend when it was greeted."""
        self._connection.ensure()
        said = dict(need(self._connection.said, "backend", dict))
        for name in ("interface_versions", "capabilities", "dtypes"):
            said[name] = frozenset(said.get(name, ()))
        try:
            return BackendInfo(**said)
        except TypeError as error:
            raise HarnessError(f"The harness's hello describes no backend: {error}") from error

    def devices(self) -> Sequence[Device]:
        """The devices of the harness's hello."""
        self._connection.ensure()
        return [Device(item["identifier"], item["kind"]) for item in need(self._connection.said, "devices", list)]

    def load(
        self,
        folder: str | PathLike[str],
        /,
        *,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> WireModel:
        """Loads a folder in the harness."""
        return WireModel(self._connection, {"folder": fspath(folder), "device": device, "options": dict(options or {})})

    def generator(
        self,
        folder: str | PathLike[str],
        /,
        *,
        config: GenerationConfig,
        capacity: int | None = None,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> WireGenerator:
        """Makes a generator in the harness, whose loop it is; the folder is loaded once."""
        key = repr((fspath(folder), device, options))
        if key not in self._models:
            self._models[key] = self.load(folder, device=device, options=options)
        return WireGenerator(self._connection, self._models[key].call, fields_of(config), capacity)


class WireModel:
    """Implements ``Model``, and ``SupportsSave``. After a harness died it is loaded anew with the next call."""

    def __init__(self, connection: Connection, arguments: Mapping[str, Any]) -> None:
        self._connection, self._arguments = connection, arguments
        self._generation = -1
        self._is_closed = False
        self._loaded: Mapping[str, Any] = {}
        self._load()

    def _load(self) -> None:
        self._generation = self._connection.ensure()
        self._loaded = self._connection.call("load", **self._arguments)

    def call(self, name: str, **arguments: Any) -> Mapping[str, Any]:
        """A request about this model."""
        if self._connection.ensure() != self._generation and not self._is_closed:
            self._load()
        return self._connection.call(name, model=need(self._loaded, "model", int), **arguments)

    @property
    def spec(self) -> ModelSpec:
        """What the harness said of the model when it was loaded."""
        said = need(self._loaded, "spec", dict)
        try:
            cache = said["cache"]
            layers = tuple(LayerCacheSpec(**layer) for layer in cache["layers"])
            states = tuple(StateSpec(**{**item, "shape": tuple(item["shape"])}) for item in cache.get("states", ()))
            kept = CacheSpec(cache["style"], cache["layout"], layers, states)
            return ModelSpec(said["vocab_size"], said["context_length"], kept)
        except (KeyError, TypeError) as error:
            raise HarnessError(f"The harness's load describes no model: {error}") from error

    @property
    def device(self) -> Device:
        """Where the harness runs it."""
        said = need(self._loaded, "device", dict)
        return Device(str(said.get("identifier")), str(said.get("kind")))

    @property
    def capabilities(self) -> frozenset[str]:
        """What this model can do."""
        return frozenset(need(self._loaded, "capabilities", list))

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> WireCache:
        """Makes a cache in the harness."""
        reply = self.call("create_cache", batch_size=batch_size, capacity=capacity)
        return WireCache(self._connection, self._generation, reply)

    def forward(
        self,
        input_ids: ArrayLike,
        cache: WireCache,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        """One step in the harness."""
        reply = self.call(
            "forward",
            cache=cache.handle,
            input_ids=numbers_of(input_ids, "input_ids"),
            counts=None if counts is None else numbers_of(counts, "counts"),
            logits=logits,
        )
        cache.learn(reply)
        return tensor_of(reply, "logits", self._connection)

    def save_cache(self, cache: WireCache, path: str | PathLike[str], /) -> None:
        """Saves a cache from the harness."""
        self.call("save_cache", cache=cache.handle, path=fspath(path))

    def load_cache(self, path: str | PathLike[str], /, *, capacity: int | None = None) -> WireCache:
        """Loads a cache in the harness."""
        reply = self.call("load_cache", path=fspath(path), capacity=capacity)
        return WireCache(self._connection, self._generation, reply)

    def close(self) -> None:
        """Closes it in the harness, if that still has it."""
        if self._connection.ensure() == self._generation:
            self.call("close_model")
        self._is_closed = True


class WireCache:
    """Implements ``KVCache``, ``SupportsFork`` and ``SupportsInspect``."""

    def __init__(self, connection: Connection, generation: int, reply: Mapping[str, Any]) -> None:
        self._connection, self._generation = connection, generation
        self._handle = need(reply, "cache", int)
        self._state: Mapping[str, Any] = {}
        self.learn(reply)

    @property
    def handle(self) -> int:
        """The harness's name for it; -1, which no cache has, if it was lost with an earlier start."""
        return self._handle if self._connection.ensure() == self._generation else -1

    def learn(self, reply: Mapping[str, Any]) -> None:
        """Keeps what a reply says of the cache."""
        self._state = need(reply, "state", dict)

    def _call(self, name: str, **arguments: Any) -> Mapping[str, Any]:
        reply = self._connection.call(name, cache=self.handle, **arguments)
        if "state" in reply:
            self.learn(reply)
        return reply

    @property
    def batch_size(self) -> int:
        """B."""
        return int(need(self._state, "batch_size", int))

    @property
    def capacity(self) -> int:
        """C."""
        return int(need(self._state, "capacity", int))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.array(need(self._state, "lengths", list), np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return int(need(self._state, "nbytes", int))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token of a row."""
        return int(need(self._state, "bytes_per_token", int))

    @property
    def update_mode(self) -> UpdateMode:
        """What the harness observed."""
        mode: UpdateMode = need(self._state, "update_mode", str)
        return mode

    def can_rewind_to(self, lengths: ArrayLike, /) -> bool:
        """Asks the harness."""
        return bool(need(self._call("can_rewind_to", lengths=numbers_of(lengths, "lengths")), "can", bool))

    def rewind_to(self, lengths: ArrayLike, /) -> None:
        """Shortens rows."""
        self._call("rewind_to", lengths=numbers_of(lengths, "lengths"))

    def reorder(self, indices: ArrayLike, /) -> None:
        """Moves rows."""
        self._call("reorder", indices=numbers_of(indices, "indices"))

    def reset(self, rows: ArrayLike | None = None, /) -> None:
        """Empties rows."""
        self._call("reset", rows=None if rows is None else numbers_of(rows, "rows"))

    def fork(self) -> WireCache:
        """A copy in the harness."""
        return WireCache(self._connection, self._generation, self._call("fork"))

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """Keys and values of a row."""
        reply = self._call("read", layer=int(layer), row=int(row))
        return tensor_of(reply, "keys", self._connection), tensor_of(reply, "values", self._connection)

    def close(self) -> None:
        """Frees it in the harness, if that still has it."""
        if self._connection.ensure() == self._generation:
            self._call("close_cache")
