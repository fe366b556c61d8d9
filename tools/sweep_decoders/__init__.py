# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Builds a tiny checkpoint of every decoder that Transformers has: ``python -m tools.sweep_decoders``."""
