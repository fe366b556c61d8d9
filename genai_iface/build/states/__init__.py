# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: networks that keep states, traced into LinearAttention and CausalConvWithState; other ways of decoding."""
