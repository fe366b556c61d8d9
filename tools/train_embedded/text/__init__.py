# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the embedded model reads: operator schemas and docstrings as English, and questions with answers."""
