# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The other side of the protocol, for harnesses in Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from genai_iface.conformance.wire._errors import from_error
from genai_iface.errors import GenAIError

__all__ = ["serve"]


def serve(answer: Callable[[str, dict[str, Any]], Mapping[str, Any]], /) -> None:
    """Answers requests until the kit says "close" or its end of the pipe closes.

    Args:
        answer: Takes a call and its arguments, returns the result. A ``GenAIError`` becomes the reply's error; any
            other ends the harness, as it should.
    """
    # What libraries print is no message.
    replies, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        identifier, call = request.pop("id"), request.pop("call")
        if call == "close":
            break
        reply: dict[str, Any]
        try:
            reply = {"result": answer(call, request)}
        except GenAIError as error:
            reply = {"error": from_error(error)}
        print(json.dumps({"id": identifier} | reply), file=replies, flush=True)
