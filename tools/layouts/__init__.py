# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The report on layouts: the folders of ``tests/layouts`` here and on other stacks."""
