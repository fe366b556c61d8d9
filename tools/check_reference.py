# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Checks a built site: its reference shows the public edge, each name once, and nothing else.

Called as ``python -m tools.check_reference SITE``.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from tests.house.edge import edge, modules, origin, rooms
from tools.check_site import read


def shown(site: Path) -> Counter[str]:
    """Where each name that has an entry in the reference is defined; members of classes are left out."""
    found: Counter[str] = Counter()
    for page in sorted((site / "reference").rglob("*.html")):
        for entry in read(page).ids:
            module, _, name = entry.rpartition(".")
            if (module in rooms() or module in modules()) and entry not in rooms() and entry not in modules():
                found[origin(module, name)] += 1
    return found


def faults(site: Path) -> list[str]:
    """What is shown and not exported, exported and not shown, or shown twice."""
    exported = {origin(room, name) for room, names in edge().items() for name in names}
    entries = shown(site)
    return [
        *(f"{name} is shown and not exported" for name in sorted(entries.keys() - exported)),
        *(f"{name} is exported and not shown" for name in sorted(exported - entries.keys())),
        *(f"{name} is shown {count} times" for name, count in sorted(entries.items()) if count > 1),
    ]


def main() -> int:
    """Prints the faults; 1 if there are any."""
    found = faults(Path(sys.argv[1]))
    for line in found:
        print(line)
    print(f"{len(found)} faults in the reference")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
