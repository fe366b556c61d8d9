# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2: what only some runtimes can do: fork, save, inspect."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, padded
from genai_iface.conformance._failure import ConformanceFailure, close, equal, expect, raises
from genai_iface.conformance.registry import check
from genai_iface.errors import InvalidInputError

__all__: list[str] = []

_FORK = (Capability.FORK,)
_SAVE = (Capability.SAVE,)


@check("L2.fork.independent", requires=_FORK, spec=["SupportsFork.fork.1"])
def fork_independent(context: Context) -> None:
    """A fork and its origin do not notice what is done to the other."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache: Any = context.cache(subject, capacity=16)
    subject.model.forward(tokens[:1, :5], cache, logits="none")
    fork = context.keep(cache.fork())
    equal((fork.lengths.tolist(), fork.capacity), ([5], 16), "(lengths, capacity) of a fork")
    subject.model.forward(tokens[:1, 5:7], fork, logits="none")
    for _ in range(4):
        # The same places as the fork's: whatever is shared is overwritten now.
        subject.model.forward([[7]], cache, logits="none")
    for length in (8, 9):
        got = subject.model.forward(tokens[:1, length - 1 : length], fork)
        subject.near(got[0, 0], 0, length, "logits of a fork after its origin took other tokens")
    equal((cache.lengths.tolist(), fork.lengths.tolist()), ([9], [9]), "lengths of origin and fork")


@check("L2.fork.origin", requires=_FORK, spec=["SupportsFork.fork.1"])
def fork_origin(context: Context) -> None:
    """The origin does not notice what is done to its fork, closing included."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache: Any = context.cache(subject, capacity=16)
    subject.model.forward(tokens[:1, :5], cache, logits="none")
    fork = context.keep(cache.fork())
    subject.model.forward(tokens[:1, 5:6], cache, logits="none")
    subject.model.forward([[7, 8, 9]], fork, logits="none")
    fork.reset()
    subject.model.forward([[9, 8, 7]], fork, logits="none")
    fork.close()
    for length in (7, 8):
        got = subject.model.forward(tokens[:1, length - 1 : length], cache)
        subject.near(got[0, 0], 0, length, "logits of the origin after its fork was used and closed")


@check(
    "L2.inspect.shapes",
    requires=[Capability.INSPECT, Capability.BATCH, Capability.RAGGED],
    spec=["SupportsInspect.read.1"],
)
def inspect_shapes(context: Context) -> None:
    """read() gives keys and values (Hkv, L, D) in the layer's dtype, of a row's own length."""
    subject = context.subject()
    cache: Any = context.cache(subject, 2, 8)
    step = padded([[1, 2, 3, 4, 5], [6, 7]])
    subject.model.forward(step["ids"], cache, counts=step["counts"], logits="none")
    for row, length in enumerate((5, 2)):
        for index, layer in enumerate(subject.model.spec.cache.layers):
            keys, values = cache.read(index, row)
            equal(keys.shape, (layer.num_kv_heads, length, layer.key_head_dim), f"shape of keys of row {row}")
            equal(values.shape, (layer.num_kv_heads, length, layer.value_head_dim), f"shape of values of row {row}")
            equal({str(keys.dtype), str(values.dtype)}, {layer.dtype}, "the dtype of keys and values")
    raises(InvalidInputError, lambda: cache.read(0, 2), "reading a row that does not exist")


@check("L2.inspect.copies", requires=[Capability.INSPECT], spec=["SupportsInspect.read.2"])
def inspect_copies(context: Context) -> None:
    """read() copies: writing to what it gave changes nothing."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache: Any = context.cache(subject, capacity=8)
    subject.model.forward(tokens[:1, :4], cache, logits="none")
    for array in cache.read(0, 0):
        if array.flags.writeable:
            array[...] = 0
    got = subject.model.forward(tokens[:1, 4:5], cache)
    subject.near(got[0, 0], 0, 5, "logits after a caller overwrote what read() gave")


@check("L2.inspect.prefix", requires=[Capability.INSPECT], spec=["Model.forward.6"])
def inspect_prefix(context: Context) -> None:
    """Keys and values of a prefix do not depend on how it was split into steps."""
    subject = context.subject()
    tokens = subject.golden.tokens
    whole: Any = context.cache(subject, capacity=8)
    subject.model.forward(tokens[:1, :6], whole, logits="none")
    pieces: Any = context.cache(subject, capacity=8)
    for place in range(6):
        subject.model.forward(tokens[:1, place : place + 1], pieces, logits="none")
    for layer in range(len(subject.model.spec.cache.layers)):
        for kind, got, expected in zip(("keys", "values"), pieces.read(layer, 0), whole.read(layer, 0), strict=True):
            close(got, expected, subject.golden.tolerance, f"{kind} of layer {layer}, token by token")


@check("L2.save.round_trip", requires=_SAVE, spec=["SupportsSave.load_cache.1"])
def save_round_trip(context: Context) -> None:
    """A loaded cache goes on exactly as the saved one."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=16)
    subject.model.forward(tokens[:1, :6], cache, logits="none")
    model: Any = subject.model
    with tempfile.TemporaryDirectory() as path:
        file = Path(path) / "cache.safetensors"
        model.save_cache(cache, file)
        loaded = context.keep(model.load_cache(file, capacity=12))
        equal((loaded.lengths.tolist(), loaded.capacity), ([6], 12), "(lengths, capacity) of a loaded cache")
        expected = subject.model.forward(tokens[:1, 6:7], cache)
        got = subject.model.forward(tokens[:1, 6:7], loaded)
        close(got, expected, 0.0, "logits of a loaded cache, against the saved one")
        equal([item.name for item in Path(path).iterdir()], ["cache.safetensors"], "files left behind")


# The adapter travels as it is, with what its constructor was given; its imports are found where they were here.
_OTHER_PROCESS = """
import pickle
import sys
path, adapter, dtype, saved, result = pickle.load(sys.stdin.buffer)
sys.path[:] = path
import numpy as np
from genai_iface.conformance._context import Context
context = Context(pickle.loads(adapter), dtype=dtype)
subject = context.subject()
cache = subject.model.load_cache(saved)
np.save(result, subject.model.forward(subject.golden.tokens[:1, 6:7], cache))
cache.close()
context.close()
"""


@check("L2.save.other_process", requires=_SAVE, spec=["SupportsSave.load_cache.1"])
def save_other_process(context: Context) -> None:
    """A cache goes on in another process."""
    subject = context.subject()
    tokens = subject.golden.tokens
    cache = context.cache(subject, capacity=16)
    subject.model.forward(tokens[:1, :6], cache, logits="none")
    model: Any = subject.model
    try:
        adapter = pickle.dumps(context.adapter)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConformanceFailure(
            "the adapter cannot be given to another process: define its class in a module and keep what cannot be "
            "pickled out of it, or give it __reduce__",
            error=f"{type(error).__name__}: {error}",
        ) from error
    with tempfile.TemporaryDirectory() as path:
        saved, result = str(Path(path) / "cache.safetensors"), str(Path(path) / "logits.npy")
        model.save_cache(cache, saved)
        work = pickle.dumps((sys.path, adapter, context.dtype, saved, result))
        command = [sys.executable, "-c", _OTHER_PROCESS]
        run = subprocess.run(command, input=work, capture_output=True, check=False)  # noqa: S603 - our own interpreter
        if run.returncode:
            raise ConformanceFailure("the other process failed", output=run.stderr.decode(errors="replace")[-500:])
        subject.near(np.load(result)[0, 0], 0, 7, "logits of a cache that another process loaded")


@check("L2.save.other_model", requires=_SAVE, spec=["SupportsSave.load_cache.2"])
def save_other_model(context: Context) -> None:
    """A cache of a model with other weights is refused, and so is a broken file."""
    subject, other = context.subject(), context.subject("rank3" if context.form == "scatter" else "group3")
    cache = context.cache(subject, capacity=8)
    subject.model.forward(subject.golden.tokens[:1, :4], cache, logits="none")
    model, stranger = (item.model for item in (subject, other))
    with tempfile.TemporaryDirectory() as path:
        file = Path(path) / "cache.safetensors"
        model.save_cache(cache, file)  # type: ignore[attr-defined]
        raises(InvalidInputError, lambda: stranger.load_cache(file), "a cache of another model")  # type: ignore[attr-defined]
        raises(InvalidInputError, lambda: model.load_cache(file, capacity=2), "a capacity below the row")  # type: ignore[attr-defined]
        file.write_bytes(file.read_bytes()[:-9])
        raises(InvalidInputError, lambda: model.load_cache(file), "a file that was cut short")  # type: ignore[attr-defined]


@check("L2.save.closed_model", requires=_SAVE, spec=["SupportsSave.save_cache.2"])
def save_closed_model(context: Context) -> None:
    """A closed model saves no cache, and the file that was there stays."""
    subject = context.subject()
    model: Any = context.load(subject.golden)
    cache = context.keep(model.create_cache(capacity=8))
    model.forward(subject.golden.tokens[:1, :4], cache, logits="none")
    with tempfile.TemporaryDirectory() as path:
        file = Path(path) / "cache.safetensors"
        model.save_cache(cache, file)
        before = file.read_bytes()
        model.close()
        raises(InvalidInputError, lambda: model.save_cache(cache, file), "saving a cache of a closed model")
        expect(file.read_bytes() == before, "a save that was refused changed the file that was there")


@check("L2.save.atomic", requires=_SAVE, spec=["SupportsSave.save_cache.1"])
def save_atomic(context: Context) -> None:
    """A save that fails leaves no half-written file, and keeps the one that was there."""
    subject = context.subject()
    cache = context.cache(subject, capacity=8)
    subject.model.forward(subject.golden.tokens[:1, :4], cache, logits="none")
    model: Any = subject.model
    with tempfile.TemporaryDirectory() as path:
        file = Path(path) / "cache.safetensors"
        model.save_cache(cache, file)
        before = file.read_bytes()
        cache.close()
        raises(InvalidInputError, lambda: model.save_cache(cache, file), "saving a closed cache")
        expect(file.read_bytes() == before, "a failed save changed the file that was there")
        equal([item.name for item in Path(path).iterdir()], ["cache.safetensors"], "files left behind")
