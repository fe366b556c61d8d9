# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The files beside a graph, wherever exporters put them, and what they say that a graph cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genai_iface.config import GenerationConfig, stored_end_tokens
from genai_iface.folder._files import TOKENIZER_FILES, find_inside, read_json

if TYPE_CHECKING:
    from genai_iface.folder.tokenizer import FolderTokenizer

__all__ = ["SideFiles"]

_GENAI = "genai_config.json"


class SideFiles:
    """Reads each file from the nearest folder that has it.

    Args:
        levels: The folders, the nearest first; at least one.
        texts: One of them, if the tokenizer and its templates have to come from there.
    """

    def __init__(self, levels: Sequence[Path], *, texts: Path | None = None) -> None:
        self._levels = tuple(levels)
        self._texts = texts

    def find(self, name: str) -> Path | None:
        """The real path of the nearest file of that name, None if there is none.

        Raises:
            InvalidInputError: It leaves its folder, or is not a regular file.
        """
        return next((real for level in self._order(name) if (real := find_inside(level, name)) is not None), None)

    def home_of(self, name: str) -> Path:
        """The nearest folder that has that file; the first of all if none has."""
        order = self._order(name)
        return next((level for level in order if find_inside(level, name) is not None), order[0])

    def _order(self, name: str) -> tuple[Path, ...]:
        return self._levels if self._texts is None or name not in TOKENIZER_FILES else (self._texts,)

    def read_json(self, name: str) -> Mapping[str, Any] | None:
        """The nearest JSON object of that name, None if there is none.

        Raises:
            InvalidInputError: It cannot be read.
        """
        return read_json(self.home_of(name), name)

    @cached_property
    def genai(self) -> Mapping[str, Any]:
        """The part ``model`` of genai_config.json, empty if there is none."""
        return _part(self.read_json(_GENAI) or {}, "model")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json; without one, what genai_config.json says, in config.json's words."""
        config = self.read_json("config.json")
        if config is not None:
            return config
        sizes = {"vocab_size": "vocab_size", "context_length": "max_position_embeddings"}
        made = {ours: self.genai[theirs] for theirs, ours in sizes.items() if theirs in self.genai}
        return made | ({"eos_token_id": self.genai["eos_token_id"]} if "eos_token_id" in self.genai else {})

    @property
    def config_name(self) -> str:
        """The file that ``config`` comes from."""
        return "config.json" if self.find("config.json") is not None or not self.genai else _GENAI

    @property
    def notes(self) -> tuple[str, ...]:
        """Which files come from other folders than the graph's."""
        names = ("config.json", _GENAI, "generation_config.json", "tokenizer.json")
        homes = {name: self.home_of(name) for name in names if self.find(name) is not None}
        return tuple(
            f"{name}: from {str(home)!r}, not from the folder of the graph"
            for name, home in homes.items()
            if home != self._levels[0]
        )

    def generation_config(self, tokenizer: Callable[[], FolderTokenizer]) -> GenerationConfig:
        """generation_config.json; its end-of-sequence token else from genai_config.json, config.json or the tokenizer.

        Raises:
            InvalidInputError: A file is broken or holds an illegal value.
        """
        path = self.find("generation_config.json")
        given = GenerationConfig() if path is None else GenerationConfig.from_file(path)
        if given.eos_token_id is not None:
            return given
        ends = stored_end_tokens(self.genai.get("eos_token_id"))
        ends = stored_end_tokens(self.config.get("eos_token_id")) if ends is None else ends
        if ends is None and self.find("tokenizer.json") is not None:
            ends = tokenizer().eos_token_id
        return given if ends is None else given.replace(eos_token_id=ends)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}
