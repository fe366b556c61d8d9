# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Other servers for the same model, and what each wants to be asked."""

from __future__ import annotations

import http.client
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load.target import Target, own_command

__all__ = ["Peer", "Read", "llama_cpp_python_server", "llama_server", "ours", "read_stream", "transformers_server"]

_TIMEOUT = 300
_CONTEXT = 1024
"""Tokens of each slot of llama.cpp's server."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that answers /v1/completions.

    Attributes:
        name: In the result.
        model: As requests name it.
        command: Starts it at a port.
        ready: Answers with 200 once it can be asked.
        body: What a request for a number of greedy tokens has beside model and prompt; the end of the text ends none.
        tells_usage: Whether a stream ends with the number of its tokens; else it has to end for its length.
    """

    name: str
    model: str
    command: Callable[[int], Sequence[str]]
    ready: str = "/health"
    body: Callable[[int], Mapping[str, Any]] = field(
        default=lambda tokens: {"max_tokens": tokens, "ignore_eos": True, "stream_options": {"include_usage": True}}
    )
    tells_usage: bool = True


@dataclass(frozen=True, slots=True)
class Read:
    """One answer.

    Attributes:
        tokens: As the server counts them.
        first_seconds: Until the first text.
        seconds: Until the end.
    """

    tokens: int
    first_seconds: float
    seconds: float


def ours(folder: Path, *, slots: int, threads: int) -> Peer:
    """Our server."""
    options = {"num_threads": threads}
    return Peer("ours", folder.name, lambda port: own_command(str(folder), port, options, slots=slots, queue=256))


def transformers_server(checkpoint: Path, *, threads: int, batching: bool) -> Peer:
    """``transformers serve``, with or without its continuous batching.

    Raises:
        RuntimeError: It is not installed.
    """
    _need("transformers", "openai")
    start = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    command = ["env", f"OMP_NUM_THREADS={threads}", sys.executable, "-c", start, "serve", str(checkpoint)]
    command += ["--continuous-batching"] if batching else []
    return Peer(
        "transformers-batching" if batching else "transformers",
        str(checkpoint),
        lambda port: [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"],
        body=lambda tokens: {
            "generation_config": json.dumps({"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}),
            "max_tokens": tokens,
        },
    )


def llama_server(gguf: Path, *, slots: int, threads: int) -> Peer:
    """llama.cpp's server, as the package xllamacpp carries it.

    Raises:
        RuntimeError: It is not installed.
    """
    _need("xllamacpp")
    command = [sys.executable, "-m", "benchmarks.load.llama_server", str(gguf)]
    context = str(slots * _CONTEXT)
    return Peer(
        "llama.cpp",
        gguf.name,
        lambda port: [*command, "--port", str(port), "--slots", str(slots), "--threads", str(threads), "-c", context],
    )


def llama_cpp_python_server(gguf: Path, checkpoint: Path, *, threads: int) -> Peer:
    """The server of llama-cpp-python, which runs one request after the other.

    Raises:
        RuntimeError: It is not installed.
    """
    _need("llama_cpp", "sse_starlette", "starlette_context", "pydantic_settings")
    added = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    # It has no ignore_eos.
    never = {str(token["id"]): -100 for token in added}
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--n_ctx", str(_CONTEXT)]
    command += ["--n_threads", str(threads), "--n_threads_batch", str(threads), "--interrupt_requests", "false"]
    return Peer(
        "llama-cpp-python",
        gguf.name,
        lambda port: [*command, "--model_alias", gguf.name, "--host", "127.0.0.1", "--port", str(port)],
        ready="/v1/models",
        body=lambda tokens: {"max_tokens": tokens, "logit_bias": never},
        tells_usage=False,
    )


def _need(*names: str) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RuntimeError(f"{name} is not installed: pip install {name}")


def read_stream(target: Target, peer: Peer, prompt: str, tokens: int) -> Read:
    """Asks for a number of tokens, and reads them as they come.

    Raises:
        RuntimeError: It answers with an error, or with another number of tokens.
    """
    body = {"model": peer.model, "prompt": prompt, "temperature": 0, "stream": True, **peer.body(tokens)}
    started = time.perf_counter()
    first, counted = None, 0
    with closing(http.client.HTTPConnection("127.0.0.1", target.port, timeout=_TIMEOUT)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{peer.name} answers with {answer.status}: {answer.read(300)!r}")
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise RuntimeError(f"{peer.name} answers with {event['error']}")
            if first is None and any(choice.get("text") for choice in event["choices"]):
                first = time.perf_counter() - started
            counted = (event.get("usage") or {}).get("completion_tokens", counted)
            if not peer.tells_usage and any(choice["finish_reason"] == "length" for choice in event["choices"]):
                counted = tokens
    seconds = time.perf_counter() - started
    if first is None or counted != tokens:
        raise RuntimeError(f"{peer.name} gave {counted} tokens where {tokens} were asked for")
    return Read(counted, first, seconds)
