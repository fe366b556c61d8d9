# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Runs what Transformers' own exporter makes of every decoder: ``python -m tools.exporter_table``."""
