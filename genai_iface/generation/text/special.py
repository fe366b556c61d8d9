# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Special tokens as stop strings see them: their text is not given out, but it may end a sequence."""

from __future__ import annotations

from genai_iface.generation.text.stopping import StopStrings
from genai_iface.protocols import Tokenizer

__all__ = ["Marks", "SpecialTexts"]


class SpecialTexts:
    """The text of single special tokens.

    Args:
        tokenizer: Says which tokens it leaves out of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._num_ids = tokenizer.vocab_size
        self._known: dict[int, str] = {}

    def of(self, token: int, /) -> str:
        """The text that decoding leaves out of a text, empty for a token that is not special."""
        if token >= self._num_ids:
            return ""
        if token not in self._known:
            whole = self._tokenizer.decode([token], skip_special_tokens=False)
            is_left_out = bool(whole) and not self._tokenizer.decode([token])
            self._known[token] = whole if is_left_out else ""
        return self._known[token]


class Marks:
    """Where special tokens stand in a text that is held back.

    There are two texts: the *plain* one, which is given out, and the *whole* one, with special tokens. A stop string
    may end either.
    """

    def __init__(self) -> None:
        # Places in the plain text, ascending, and what stands there in the whole one.
        self._marks: list[tuple[int, str]] = []

    def add(self, place: int, special: str, /) -> None:
        """Adds a special token's text, if it has one, after ``place`` characters of the plain text."""
        if special:
            self._marks.append((place, special))

    def find_end(self, plain: str, stop: StopStrings, /) -> str | None:
        """The text up to the stop string that is complete first, or None if there is none."""
        in_plain = stop.find(plain)
        in_whole = stop.find(self._whole(plain)) if self._marks else None
        if in_whole is not None and (in_plain is None or in_whole[1] <= self._in_whole(in_plain[1])):
            start, end = in_whole
            kept = self._whole(plain)[start:end] if stop.is_included else ""
            return plain[: self._in_plain(start)] + kept
        return None if in_plain is None else plain[: in_plain[1 if stop.is_included else 0]]

    def settled(self, plain: str, stop: StopStrings, /) -> int:
        """How many characters of a plain text cannot belong to a stop string any more; their marks are forgotten."""
        settled = len(plain) - stop.overlap(plain)
        if not self._marks:
            return settled
        whole = self._whole(plain, upto=len(plain))
        overlap = stop.overlap(whole)
        if overlap:
            settled = min(settled, self._in_plain(len(whole) - overlap))
        # A mark at the very place is part of the overlap, or of nothing that may come.
        self._marks = [
            (place - settled, special)
            for place, special in self._marks
            if place > settled or (overlap and place == settled)
        ]
        return settled

    def _whole(self, plain: str, upto: int | None = None) -> str:
        pieces, at = [], 0
        for place, special in self._marks:
            if upto is None or place <= upto:
                pieces += [plain[at:place], special]
                at = place
        return "".join([*pieces, plain[at:]])

    def _in_whole(self, end: int) -> int:
        """The place in the whole text of one in the plain text."""
        return end + sum(len(special) for place, special in self._marks if place < end)

    def _in_plain(self, at: int) -> int:
        """The place in the plain text of one in the whole text; within a special token, where that stands."""
        passed = 0
        for place, special in self._marks:
            if at <= place + passed:
                break
            if at < place + passed + len(special):
                return place
            passed += len(special)
        return at - passed
