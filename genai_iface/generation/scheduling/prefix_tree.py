# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which of many token sequences begins as a new one does, and for how long: a radix tree over token ids."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

__all__ = ["PrefixTree"]

K = TypeVar("K", bound=Hashable)


class _Node(Generic[K]):
    """An edge and what follows it.

    Attributes:
        label: The tokens of the edge that leads here.
        children: By the first token of their edges.
        keys: Sequences that go through here, or end here.
    """

    __slots__ = ("children", "keys", "label")

    def __init__(self, label: tuple[int, ...], keys: set[K]) -> None:
        self.label = label
        self.children: dict[int, _Node[K]] = {}
        self.keys = keys


class PrefixTree(Generic[K]):
    """Sequences by key. Finding costs as much as the prefix is long, however many sequences there are."""

    def __init__(self) -> None:
        self._root: _Node[K] = _Node((), set())
        self._sequences: dict[K, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._sequences)

    def size(self, key: K) -> int:
        """How many tokens a sequence has."""
        return len(self._sequences[key])

    def insert(self, key: K, tokens: Sequence[int]) -> None:
        """Adds a sequence, in place of the one that had this key."""
        self.remove(key)
        sequence = tuple(tokens)
        self._sequences[key] = sequence
        node, at = self._root, 0
        node.keys.add(key)
        while at < len(sequence):
            child = node.children.get(sequence[at])
            if child is None:
                node.children[sequence[at]] = _Node(sequence[at:], {key})
                return
            size = _common(child.label, sequence, at)
            if size < len(child.label):
                child = self._split(node, child, size)
            child.keys.add(key)
            node, at = child, at + size

    def remove(self, key: K) -> None:
        """Takes a sequence out, if there is one of this key."""
        sequence = self._sequences.pop(key, None)
        if sequence is None:
            return
        node, at = self._root, 0
        node.keys.discard(key)
        while at < len(sequence):
            child = node.children[sequence[at]]
            child.keys.discard(key)
            if not child.keys:
                # Whatever lies below was this sequence's alone.
                del node.children[sequence[at]]
                return
            at += len(child.label)
            node = child

    def matches(self, tokens: Sequence[int]) -> Iterator[tuple[int, frozenset[K]]]:
        """What shares a beginning with a sequence: (how many tokens, the keys), the longest first."""
        found: list[tuple[int, frozenset[K]]] = []
        node, at = self._root, 0
        while at < len(tokens):
            child = node.children.get(tokens[at])
            if child is None:
                break
            size = _common(child.label, tokens, at)
            at += size
            found.append((at, frozenset(child.keys)))
            if size < len(child.label):
                break
            node = child
        yield from reversed(found)

    @staticmethod
    def _split(parent: _Node[K], child: _Node[K], size: int) -> _Node[K]:
        """Cuts the edge that leads to a child after ``size`` tokens; gives the node in the middle."""
        middle = _Node(child.label[:size], set(child.keys))
        child.label = child.label[size:]
        middle.children[child.label[0]] = child
        parent.children[middle.label[0]] = middle
        return middle


def _common(label: tuple[int, ...], tokens: Sequence[int], at: int) -> int:
    """How many tokens of an edge a sequence has from a place on."""
    most = min(len(label), len(tokens) - at)
    if label[:most] == tuple(tokens[at : at + most]):
        return most
    return next(size for size in range(most) if label[size] != tokens[at + size])
