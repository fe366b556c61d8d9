# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: the graph on disk becomes the graph that ONNX Runtime runs fastest."""
