# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m genai_iface``."""

import sys

from genai_iface.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
