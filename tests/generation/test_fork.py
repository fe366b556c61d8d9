# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A pipeline or scheduler in a forked process says so at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.marks import BACKENDS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

PROGRAM = """
import os, signal, sys, warnings
from genai_iface import InvalidInputError, TextGenerationPipeline
warnings.simplefilter("ignore")
pipe = TextGenerationPipeline(backend=sys.argv[1])
scheduler = pipe.scheduler()
request = scheduler.submit("A", max_new_tokens=2000)
session = None
stream = pipe.stream("A", max_new_tokens=5)
next(stream)
# Somebody holds the locks at the moment of the fork.
scheduler._changed.acquire()
child = os.fork()
if not child:
    signal.alarm(20)
    uses = {
        "generate": lambda: pipe.generate("A", max_new_tokens=1),
        "stream": lambda: next(stream),
        "score": lambda: pipe.score("A", "B"),
        "perplexity": lambda: pipe.perplexity("A B C"),
        "save_prefix": lambda: pipe.save_prefix("A", "never"),
        "chat": lambda: pipe.chat(capacity=64),
        "scheduler": lambda: pipe.scheduler(),
        "submit": lambda: scheduler.submit("A"),
        "step": lambda: scheduler.step(),
        "result": lambda: request.result(),
        "cancel": lambda: request.cancel(),
    }
    for name, use in uses.items():
        try:
            use()
        except InvalidInputError as error:
            assert "a fork of it" in str(error), error
        else:
            print(name, "went through", flush=True)
            os._exit(3)
    scheduler.close()
    pipe.close()
    os._exit(0)
scheduler._changed.release()
_, status = os.waitpid(child, 0)
assert pipe.generate("A", max_new_tokens=1).token_ids
pipe.close()
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_fork(backend: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, backend], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.stdout.strip(), ended.returncode) == ("0", 0), ended
