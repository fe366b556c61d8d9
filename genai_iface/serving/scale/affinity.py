# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which replica has probably run the beginning of a prompt, as far as a router can know: by what it sent where."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["PrefixAffinity", "prefix_keys"]

R = TypeVar("R", bound=Hashable)

_BLOCK = 256
_MOST_KEYS = 512
_FIELDS = ("tools", "instructions", "messages", "input", "prompt")


def prefix_keys(body: bytes) -> tuple[bytes, ...]:
    """One key for each block of characters of a request's prompt; equal keys mean equal prompts up to there.

    Args:
        body: A request of one of the routes that generate. Whatever else it is has no keys.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(request, dict):
        return ()
    # As it stands in the prompt: tools and instructions come before what is said.
    text = "".join(_text(request[name]) for name in _FIELDS if name in request)
    digest, keys = hashlib.blake2b(digest_size=16), []
    for start in range(0, min(len(text) - _BLOCK + 1, _BLOCK * _MOST_KEYS), _BLOCK):
        digest.update(text[start : start + _BLOCK].encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return tuple(keys)


def _text(value: Any) -> str:
    """A value so that an equal beginning of it gives an equal beginning of the text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


class PrefixAffinity(Generic[R]):
    """Remembers who ran which prefixes, and chooses between them and whoever has least to do.

    Args:
        max_blocks: Most blocks that are remembered of each replica, as an estimate of what its cache holds; the least
            recently used go first.
        slack: Requests by which a replica may have more to do than the idlest one and still get what it has the prefix
            of.
    """

    def __init__(self, *, max_blocks: int = 4096, slack: int = 4) -> None:
        self._max_blocks = max_blocks
        self._slack = slack
        self._blocks: dict[R, OrderedDict[bytes, None]] = {}

    def rank(self, keys: Sequence[bytes], loads: Mapping[R, int]) -> list[R]:
        """Replicas for a prompt, the best first.

        Args:
            keys: Of the prompt.
            loads: Requests that run or wait, by replica; who is not in it is not asked.
        """
        least = min(loads.values(), default=0)

        def cost(replica: R) -> tuple[int, int, int]:
            is_busy = loads[replica] - least > self._slack
            held = 0 if is_busy else self._held(replica, keys)
            # Of equals the one that has fewest prefixes, so that new ones spread.
            return (-held, loads[replica], len(self._blocks.get(replica, ())))

        return sorted(loads, key=cost)

    def note(self, keys: Sequence[bytes], replica: R) -> None:
        """Takes note of a prompt that was sent to a replica."""
        blocks = self._blocks.setdefault(replica, OrderedDict())
        # From the end, so that a beginning goes after what follows it.
        for key in reversed(keys):
            blocks[key] = None
            blocks.move_to_end(key)
        while len(blocks) > self._max_blocks:
            blocks.popitem(last=False)

    def forget_others(self, replicas: Mapping[R, Any]) -> None:
        """Forgets replicas that are no more: what takes their place begins with nothing."""
        for gone in self._blocks.keys() - replicas.keys():
            del self._blocks[gone]

    def _held(self, replica: R, keys: Sequence[bytes]) -> int:
        blocks = self._blocks.get(replica)
        if not blocks:
            return 0
        low, high = 0, len(keys)
        # Who holds a block was sent all that come before it, and these go later.
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if keys[middle - 1] in blocks else (low, middle - 1)
        return low
