# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible endpoint as a target: completions of the text model, which its server must have loaded."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from genai_iface.conformance._failure import NotApplicable
from genai_iface.conformance.text._result import Completion
from genai_iface.conformance.text._target import TextPipeline
from genai_iface.errors import BackendError, InvalidInputError, UnsupportedCapabilityError
from genai_iface.results import Chunk, FinishReason
from genai_iface.types import BackendInfo, Device

__all__ = ["UrlAdapter"]

# What the protocol has, by our name.
_SAME = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias")
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


class UrlAdapter:
    """A server that speaks OpenAI's protocol for completions.

    Args:
        url: Its address, with or without /v1.
        model: The name under which it serves the golden model "text".
        time_limit: Most seconds for one reply.
        key: The API key, if it wants one.

    Raises:
        InvalidInputError: The address is none, or not one of http.
    """

    profile = "text"

    def __init__(self, url: str, model: str, *, time_limit: float = 60.0, key: str = "") -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInputError(f"{url!r} is not the address of a server", remedy="Give http://127.0.0.1:PORT.")
        if not model:
            raise InvalidInputError("The model's name is empty", remedy="Give the name that the server lists.")
        self._base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._host = parts.hostname
        self._model, self._time_limit, self._key = model, time_limit, key
        self._runtime: str | None = None

    @property
    def name(self) -> str:
        """The server and the model; a server elsewhere by its host."""
        return self._model if self._host in _LOCAL_HOSTS else f"{self._model} at {self._host}"

    def backend(self) -> _Endpoint:
        """What the server says of itself."""
        if self._runtime is None:
            with closing(self._open("models", None)) as reply:
                listed = [item.get("id") for item in json.load(reply).get("data", [])]
                self._runtime = reply.headers.get("Server", "unknown")
            if self._model not in listed:
                raise InvalidInputError(
                    f"The server has no model {self._model!r}", remedy=f"It lists: {', '.join(map(str, listed))}."
                )
        return _Endpoint(self._runtime)

    def golden_form(self) -> str:
        """The form whose folders name the references; the server has its own."""
        return "checkpoint"

    def text_pipeline(self, folder: Path, /) -> TextPipeline:
        """Completions of the served model.

        Raises:
            NotApplicable: Another model than the text one is asked for.
        """
        if folder.parent.name != "text":
            raise NotApplicable("an endpoint serves the model 'text' only")
        return TextPipeline(self)

    def complete(self, prompt: str | Sequence[int], fields: Mapping[str, Any], /) -> Completion:
        """One completion."""
        body = self._body(prompt, fields)
        with closing(self._open("completions", body)) as reply:
            said = json.load(reply)
        try:
            (choice,) = said["choices"]
            return Completion(str(choice["text"]), str(choice["finish_reason"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BackendError(
                f"The server's completion cannot be read: {error!r} in {str(said)[:200]}",
                remedy="See OpenAI's protocol.",
            ) from error

    def stream(self, prompt: str, fields: Mapping[str, Any], /) -> Iterator[Chunk]:
        """A completion in pieces, as server-sent events."""
        with closing(self._open("completions", {**self._body(prompt, fields), "stream": True})) as reply:
            for line in reply:
                data = line.decode("utf-8").strip().removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                if not data or not line.startswith(b"data:"):
                    continue
                for choice in json.loads(data).get("choices", ()):
                    reason: FinishReason | None = choice.get("finish_reason")
                    yield Chunk(choice.get("text") or "", (), finish_reason=reason)

    def close(self) -> None:
        """Does nothing: the server stays."""

    def _body(self, prompt: str | Sequence[int], fields: Mapping[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._model, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
        # The protocol draws at temperature 1 if nothing is said.
        draws = fields.get("do_sample", bool({"temperature", "top_p", "seed"} & fields.keys()))
        body["temperature"] = fields.get("temperature", 1.0) if draws else 0.0
        names = {"max_new_tokens": "max_tokens", "stop_strings": "stop"}
        for name, value in fields.items():
            if name in ("do_sample", "temperature"):
                continue
            if name not in _SAME and name not in names:
                raise UnsupportedCapabilityError(
                    f"OpenAI's protocol has no {name}", remedy="A target by its address cannot be asked for it."
                )
            body[names.get(name, name)] = list(value) if isinstance(value, tuple) else value
        return body

    def _open(self, what: str, body: Mapping[str, Any] | None) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(  # noqa: S310 - http or https, as the constructor checks
            f"{self._base}/{what}", None if body is None else json.dumps(body).encode(), headers
        )
        try:
            reply: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=self._time_limit)  # noqa: S310
        except urllib.error.HTTPError as error:
            _raise_for(error, what)
        except (OSError, http.client.HTTPException) as error:
            raise BackendError(
                f"The server at {self._base} does not answer: {error}", remedy="Start it, and check the address."
            ) from error
        return reply


class _Endpoint:
    """Implements ``Backend`` as far as there is one."""

    def __init__(self, runtime: str) -> None:
        self._runtime = runtime

    def info(self) -> BackendInfo:
        """Its server, as its replies name it."""
        return BackendInfo(
            name="endpoint",
            version="1",
            runtime=self._runtime,
            runtime_version="unknown",
            interface_versions=frozenset({1}),
            capabilities=frozenset(),
            dtypes=frozenset({"float32"}),
        )

    def devices(self) -> Sequence[Device]:
        """Unknown."""
        return [Device("server", "unknown")]

    def load(self, folder: Any, /, *, device: str | None = None, options: Mapping[str, Any] | None = None) -> NoReturn:
        """Refuses: the server has loaded its model."""
        raise UnsupportedCapabilityError("An endpoint loads no models", remedy="Start its server with the text model.")


def _raise_for(error: urllib.error.HTTPError, what: str) -> NoReturn:
    with closing(error):
        text = error.read(400).decode("utf-8", "replace")
    kind = InvalidInputError if 400 <= error.code < 500 else BackendError
    raise kind(f"The server refused {what} with {error.code}: {text}", remedy="See its log.") from error
