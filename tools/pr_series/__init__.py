# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The review as a series of pull requests: trees on top of each other, each with its own tests."""
