# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""How long ``import genai_iface`` takes beyond numpy, as one JSON line of processor milliseconds.

python -m benchmarks.import_time
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

_CODE = """
import numpy, time
begin = time.process_time()
import genai_iface
print(1000 * (time.process_time() - begin))
"""


def main() -> None:
    """Imports it in ten fresh processes."""
    times = [
        float(subprocess.run([sys.executable, "-c", _CODE], check=True, capture_output=True, text=True).stdout)
        for _ in range(10)
    ]
    print(
        json.dumps(
            {"benchmark": "import", "median_ms": round(statistics.median(times), 1), "least_ms": round(min(times), 1)}
        )
    )


if __name__ == "__main__":
    main()
