# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``SupportsSave`` for any backend whose caches can be read row by row and written row by row."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from numpy.typing import NDArray

from genai_iface.backend_kit.row_lengths import RowLengths
from genai_iface.backend_kit.row_states import RowStates
from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError

if TYPE_CHECKING:
    from genai_iface.folder import ModelFolder

__all__ = ["RestorableCache", "load_cache", "save_cache"]


class RestorableCache(Protocol):
    """What ``save_cache`` and ``load_cache`` need of a cache besides ``KVCache``."""

    @property
    def rows(self) -> RowLengths:
        """The rows' lengths."""
        ...

    def read(self, layer: int, row: int, /) -> tuple[NDArray[Any], NDArray[Any]]:
        """As ``SupportsInspect.read``."""
        ...

    def restore(self, row: int, length: int, tokens: list[NDArray[Any]], /) -> None:
        """Sets a row's length and content from (Hkv, L, D) per layer and kind, the key first."""
        ...


CacheT = TypeVar("CacheT", bound=RestorableCache)
_CacheT_co = TypeVar("_CacheT_co", bound=RestorableCache, covariant=True)


class _CreateCache(Protocol[_CacheT_co]):
    def __call__(self, *, batch_size: int = 1, capacity: int | None = None) -> _CacheT_co: ...


def save_cache(cache: RestorableCache, path: str | PathLike[str], /, *, folder: ModelFolder) -> None:
    """Writes the valid content of a cache to a safetensors file that every backend reads.

    Args:
        cache: The cache, checked by ``check_cache``.
        path: The file; replaced if it is there.
        folder: The model's folder.

    Raises:
        InvalidInputError: The cache is closed, or the file cannot be written.
    """
    from genai_iface.folder import save_cache_file  # noqa: PLC0415 - loads safetensors

    cache.rows.check_open()
    states = _states(cache).present if folder.spec.cache.states else ()
    save_cache_file(path, folder=folder, lengths=cache.rows.lengths, read=cache.read, states=states)


def load_cache(
    path: str | PathLike[str],
    create_cache: _CreateCache[CacheT],
    /,
    *,
    folder: ModelFolder,
    capacity: int | None,
    make_room: Callable[[CacheT, int], object] | None = None,
) -> CacheT:
    """Makes a cache from such a file.

    Args:
        path: The file; any backend may have written it.
        create_cache: ``Model.create_cache``.
        folder: The model's folder.
        capacity: As for ``Model.create_cache``.
        make_room: Gives the cache's buffers room for so many tokens per row; None if ``restore`` does so itself.

    Raises:
        InvalidInputError: The file is broken or of another model, or the capacity is below its longest row.
    """
    from genai_iface.folder import load_saved_cache  # noqa: PLC0415 - loads safetensors

    with load_saved_cache(path, folder=folder) as saved:
        cache = create_cache(batch_size=len(saved.lengths), capacity=capacity)
        longest = int(saved.lengths.max())
        if longest > cache.rows.capacity:
            raise InvalidInputError(
                f"The saved cache has a row of {longest} tokens, capacity={cache.rows.capacity} is too small",
                remedy=f"Pass at least {longest}.",
            )
        if make_room is not None:
            make_room(cache, longest)
        for row, length in enumerate(saved.lengths.tolist()):
            cache.restore(row, length, saved.row(row))
            if saved.spec.states:
                _states(cache).restore(row, length, saved.states(row))
    return cache


def _states(cache: RestorableCache) -> RowStates:
    """The states of a cache of a model that keeps some.

    Raises:
        UnsupportedCapabilityError: The backend keeps them in a way that cannot be written.
    """
    states = cache.rows.states
    if not isinstance(states, RowStates):
        raise UnsupportedCapabilityError(
            "The states of this cache cannot be written to a file", capability=Capability.SAVE, remedy="Use fork()."
        )
    return states
