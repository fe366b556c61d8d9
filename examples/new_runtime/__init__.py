# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A new runtime behind the interface: the code of the tutorial docs/new-runtime.md."""
