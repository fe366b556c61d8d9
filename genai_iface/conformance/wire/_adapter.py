# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The adapter of a program: what it says in its hello decides name, form of the golden models and profile."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance._failure import NotApplicable
from genai_iface.conformance.forms import FORMS
from genai_iface.conformance.text import TextPipeline
from genai_iface.conformance.wire._connection import Connection, HarnessError
from genai_iface.conformance.wire._target import WireBackend, WireModel
from genai_iface.conformance.wire._tensors import decode_tensor, encode_tensor
from genai_iface.conformance.wire._text import WireText
from genai_iface.errors import InvalidInputError

__all__ = ["WireAdapter"]


class WireAdapter:
    """A program that speaks the wire protocol.

    Args:
        command: The program and its arguments, as a shell would read them; no shell is used.
        time_limit: Most seconds for one reply.

    Raises:
        InvalidInputError: The command is empty or cannot be run.
    """

    def __init__(self, command: str | Sequence[str], *, time_limit: float = 60.0) -> None:
        try:
            words = shlex.split(command) if isinstance(command, str) else list(command)
        except ValueError as error:
            raise InvalidInputError(
                f"The command {command!r} is malformed: {error}", remedy="Mend its quotes."
            ) from error
        if not words:
            raise InvalidInputError("The command of the harness is empty", remedy="Name a program.")
        if not time_limit > 0:
            raise InvalidInputError(f"The time limit {time_limit} is not positive", remedy="Give seconds.")
        self.connection = Connection(words, time_limit=time_limit)
        # One model at a time: checks of one model follow each other.
        self._texts: tuple[Path, WireModel] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process talks with a harness of its own.
        return _again, (self.connection.command, self.connection.time_limit)

    @property
    def expression(self) -> str:
        """Python that makes it again, for programs that the kit prints."""
        return f'__import__("genai_iface.conformance.wire", fromlist="_").WireAdapter({list(self.connection.command)})'

    @property
    def name(self) -> str:
        """The name of the harness's backend."""
        return str(self.backend().info().name)

    @property
    def profile(self) -> str:
        """What the harness lets one see."""
        self.connection.ensure()
        return str(self.connection.said.get("profile", "step"))

    def backend(self) -> WireBackend:
        """The harness's backend."""
        return WireBackend(self.connection)

    def golden_form(self) -> str:
        """The form of golden models that the harness takes."""
        self.connection.ensure()
        form = self.connection.said.get("form")
        if form not in FORMS:
            raise HarnessError(f"The harness's hello names the form {form!r}; there are {', '.join(FORMS)}")
        return str(form)

    def text_pipeline(self, folder: Path, /) -> TextPipeline:
        """The harness's completions with a golden folder, which is loaded once."""
        if self._texts is None or self._texts[0] != folder:
            self._texts = folder, self.load(folder)
        takes = bool(self.connection.said.get("token_ids", True))
        return TextPipeline(WireText(self._texts[1], takes_token_ids=takes))

    def load(self, folder: Path, /) -> WireModel:
        """Loads a golden folder."""
        return self.backend().load(folder)

    def run_node(self, model: bytes, inputs: Mapping[str, NDArray[Any]], /) -> Sequence[NDArray[Any]]:
        """Runs a single node, if the harness says that it can.

        Raises:
            NotApplicable: It says that it cannot.
        """
        self.connection.ensure()
        if not self.connection.said.get("operators"):
            raise NotApplicable("the harness does not show its operators")
        reply = self.connection.call(
            "run_node",
            onnx=encode_tensor(np.frombuffer(model, np.uint8)),
            inputs={name: encode_tensor(array) for name, array in inputs.items()},
        )
        try:
            return [decode_tensor(item, self.connection.folder) for item in reply["outputs"]]
        except (KeyError, TypeError, ValueError) as error:
            raise HarnessError(f"The harness's outputs cannot be read: {error}") from error

    def close(self) -> None:
        """Ends the harness."""
        self.connection.close()


def _again(command: Sequence[str], time_limit: float) -> WireAdapter:
    return WireAdapter(command, time_limit=time_limit)
