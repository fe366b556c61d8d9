# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Changes model folders at random and uses them: only a GenAIError may come back, within bounds of time and memory."""
