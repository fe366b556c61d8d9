# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden models of the conformance kit: ``python -m tools.golden_models``.

Nothing here uses a backend or the kit: graphs are written node by node, references are computed by
a float64 implementation of its own (``reference.py``).
"""
