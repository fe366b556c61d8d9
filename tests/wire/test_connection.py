# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Harnesses that die, hang, talk nonsense or speak another version: each is named for it, and started again."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from genai_iface import (
    BackendError,
    CacheOverflowError,
    CacheRewindError,
    GenAIError,
    InsufficientMemoryError,
    InterfaceVersionError,
    InvalidInputError,
    UnsupportedCapabilityError,
)
from genai_iface.conformance import run_checks
from genai_iface.conformance.wire import HarnessError, WireAdapter, as_error, from_error
from genai_iface.conformance.wire._connection import Connection

START = """
import json, sys
def reply(identifier, **message):
    print(json.dumps({"id": identifier, **message}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    identifier, call = request["id"], request["call"]
    if call == "hello":
        reply(identifier, result={"wire_version": VERSION})
"""
DOES = {
    "dies": "    elif call == 'die':\n        sys.stderr.write('out of luck\\n'); sys.exit(7)\n",
    "hangs": "    elif call == 'die':\n        import time; time.sleep(60)\n",
    "babbles": "    elif call == 'die':\n        print('Loading...', flush=True)\n",
    "mixes up": "    elif call == 'die':\n        reply(identifier + 1, result={})\n",
    "says nothing": "    elif call == 'die':\n        reply(identifier)\n",
    "errs": "    elif call == 'die':\n        reply(identifier, error={'code': 'tired', 'message': 'x'})\n",
}
WORDS = {
    "dies": "ended with exit code 7 in 'die'; its last words: out of luck",
    "hangs": "gave no reply within 0.5 s",
    "babbles": "no message: 'Loading...'",
    "mixes up": "replied to",
    "says nothing": "without a result",
    "errs": "tired",
}
ELSE = "    else:\n        reply(identifier, result={'said': call})\n"


@pytest.fixture
def connect() -> Iterator[Callable[..., Connection]]:
    opened = []

    def start(*what: str, version: int = 1, time_limit: float = 0.5) -> Connection:
        # Python itself takes its time to start.
        code = START.replace("VERSION", str(version)) + "".join(what) + ELSE
        connection = Connection([sys.executable, "-S", "-c", code], time_limit=20.0)
        opened.append(connection)
        if version == 1:
            connection.ensure()
        connection.time_limit = time_limit
        return connection

    yield start
    for connection in opened:
        connection.close()


@pytest.mark.parametrize("kind", DOES)
def test_what_went_wrong_is_said_and_the_next_call_works(kind: str, connect: Callable[..., Connection]) -> None:
    connection = connect(DOES[kind])
    assert connection.call("a") == {"said": "a"}
    with pytest.raises(HarnessError) as caught:
        connection.call("die")
    assert WORDS[kind] in str(caught.value)
    assert not isinstance(caught.value, GenAIError)
    connection.time_limit = 20.0
    assert connection.call("b") == {"said": "b"}
    # An error that is none is no reason to end the harness.
    assert connection.generation == (1 if kind == "errs" else 2)


def test_another_version_is_refused(connect: Callable[..., Connection]) -> None:
    with pytest.raises(InterfaceVersionError, match="wire version 3, the kit 1 and 2"):
        connect(version=3).call("a")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(InvalidInputError, match="cannot be started"):
        WireAdapter("no-such-program-of-ours --x").connection.ensure()
    for command in ("", "'", []):
        with pytest.raises(InvalidInputError):
            WireAdapter(command)


def test_an_adapter_travels_as_its_command() -> None:
    adapter = pickle.loads(pickle.dumps(WireAdapter("node 'a b.mjs'", time_limit=3)))
    assert (adapter.connection.command, adapter.connection.time_limit) == (("node", "a b.mjs"), 3)


@pytest.mark.parametrize(
    "error",
    [
        InvalidInputError("x", remedy="y"),
        InsufficientMemoryError("x", needed=2, available=1),
        UnsupportedCapabilityError("x", capability="fork", remedy="y"),
        CacheOverflowError(1, 9, 8),
        CacheRewindError(0, 3, 9, "the ring has wrapped"),
        BackendError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_as_what_they_were(error: GenAIError) -> None:
    again = as_error(json.loads(json.dumps(from_error(error))))
    kind = InvalidInputError if isinstance(error, InsufficientMemoryError) else type(error)
    assert type(again) is kind
    for name in ("row", "needed", "capacity", "requested", "length", "capability"):
        if name != "needed" or not isinstance(error, InsufficientMemoryError):
            assert getattr(again, name, None) == getattr(error, name, None)


DYING = """
import runpy, sys
import genai_iface_numpy.model as numpy_model
steps = 0
forward = numpy_model.NumpyModel.forward
def dies(self, *args, **kwargs):
    global steps
    steps += 1
    if steps == 2:
        sys.stderr.write("a wild pointer\\n")
        sys.stderr.flush()
        import os; os._exit(139)
    return forward(self, *args, **kwargs)
numpy_model.NumpyModel.forward = dies
sys.argv = ["harness", "numpy"]
runpy.run_path(sys.argv_path, run_name="__main__")
"""


@pytest.mark.slow
def test_a_harness_that_dies_fails_that_check_alone(tmp_path: Path) -> None:
    harness = Path(__file__).parents[2] / "examples/harness_python/harness.py"
    script = tmp_path / "dying.py"
    script.write_text(DYING.replace("sys.argv_path", repr(str(harness))))
    adapter = WireAdapter([sys.executable, str(script)])
    ids = ["L2.write.last_slot", "L2.write.fill_at_once", "L2.lengths.start_at_zero"]
    run = run_checks(adapter, level=2, only=ids)
    adapter.close()
    found = {item.check.id: item for item in run.outcomes if item.status != "not_executed"}
    assert {name: item.status for name, item in found.items()} == dict(
        zip(ids, ("failed", "passed", "passed"), strict=True)
    )
    assert "exit code 139" in found[ids[0]].message
    assert "a wild pointer" in found[ids[0]].message
    assert adapter.connection.generation == 2


def test_the_tensors_that_come_back_are_the_callers() -> None:
    from genai_iface.conformance.wire import decode_tensor, encode_tensor

    for array in (np.arange(6).reshape(2, 3)[:, ::2], np.array(3.5, ">f4"), np.zeros((2, 0), np.float16)):
        again = decode_tensor(json.loads(json.dumps(encode_tensor(array))))
        assert again.shape == array.shape
        assert np.array_equal(again, array)
        assert again.flags.writeable
