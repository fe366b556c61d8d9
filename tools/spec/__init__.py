# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The specification's machinery: its clauses, its pictures and its test vectors."""
