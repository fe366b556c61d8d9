# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: one checkpoint, made into graphs by every producer, run on every runtime, compared with torch.

``judge`` says what became of a cell and whose fault a row is and needs nothing but numpy; ``run`` does the work.
"""
