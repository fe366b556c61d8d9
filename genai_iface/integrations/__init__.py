# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Beside other projects, a room for each; what a room needs of its project is loaded when it is used."""
