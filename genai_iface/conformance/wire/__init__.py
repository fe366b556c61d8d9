# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Any program as a target of the kit: JSON lines over its standard input and output, as docs/spec/wire.md says.

    genai-iface conformance --command "node harness.mjs"

``serve`` is the other side for programs in Python.
"""

from genai_iface.conformance.wire._adapter import WireAdapter
from genai_iface.conformance.wire._connection import SCHEMA, WIRE_VERSION, HarnessError
from genai_iface.conformance.wire._errors import as_error, from_error
from genai_iface.conformance.wire._serve import serve
from genai_iface.conformance.wire._tensors import decode_tensor, encode_tensor

__all__ = [
    "SCHEMA",
    "WIRE_VERSION",
    "HarnessError",
    "WireAdapter",
    "as_error",
    "decode_tensor",
    "encode_tensor",
    "from_error",
    "serve",
]
