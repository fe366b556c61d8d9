# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: rows of caches, and the steps that run in them what a model has not seen yet."""
