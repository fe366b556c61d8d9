# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface devices``: every registered backend, and where it can run."""

from __future__ import annotations

import argparse
from typing import Any

from genai_iface.cli.json_output import add_json_argument, print_json
from genai_iface.errors import GenAIError
from genai_iface.registry import list_backends, load_backend

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "devices",
        help="list backends and their devices",
        description="Lists every registered backend with its devices, versions and capabilities, or the reason why "
        "it cannot be loaded.",
    )
    add_json_argument(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    backends = [_describe(name) for name in list_backends()]
    if arguments.json:
        print_json("devices", {"backends": backends})
    elif not backends:
        print('No backend is registered. Reinstall the package: pip install --force-reinstall "genai-iface"')
    else:
        print("\n\n".join(map(_as_text, backends)))
    return 0


def _describe(name: str) -> dict[str, Any]:
    """What a backend says of itself, or why it cannot be loaded."""
    try:
        backend = load_backend(name)
        info = backend.info()
        devices = backend.devices()
    except GenAIError as error:
        return {"name": name, "error": str(error)}
    return {
        "name": name,
        "version": info.version,
        "runtime": info.runtime,
        "runtime_version": info.runtime_version,
        "interface_versions": sorted(info.interface_versions),
        "devices": [
            {"identifier": device.identifier, "kind": device.kind, "config": dict(device.config)} for device in devices
        ],
        "dtypes": sorted(info.dtypes),
        "capabilities": sorted(map(str, info.capabilities)),
        "limits": dict(info.limits),
    }


def _as_text(backend: dict[str, Any]) -> str:
    if "error" in backend:
        return f"{backend['name']}\n  not available: {backend['error']}"
    devices = []
    for device in backend["devices"]:
        config = ", ".join(f"{key}={value}" for key, value in device["config"].items())
        devices.append(f"{device['identifier']} ({config})" if config else device["identifier"])
    lines = {
        "runtime": f"{backend['runtime']} {backend['runtime_version']}",
        "version": f"{backend['version']}, interface {', '.join(map(str, backend['interface_versions']))}",
        "devices": ", ".join(devices) or "none",
        "dtypes": ", ".join(backend["dtypes"]),
        "capabilities": ", ".join(backend["capabilities"]),
        "limits": ", ".join(f"{key}={value}" for key, value in backend["limits"].items()),
    }
    width = max(map(len, lines))
    return "\n".join([backend["name"], *(f"  {key:<{width}}  {value}" for key, value in lines.items() if value)])
