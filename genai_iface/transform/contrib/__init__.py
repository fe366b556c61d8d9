# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: contrib operators of ONNX Runtime written in standard ones.

A room of its own, because ``convert`` changes how the cache is kept whatever the operators are, and this changes
operators whatever the cache is; together they would be more than fifteen files.
"""
