# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the report on families and methods: ``python -m tools.build_report``."""
