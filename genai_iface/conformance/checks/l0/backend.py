# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 0: what a backend says of itself, and how it loads."""

from __future__ import annotations

import hashlib
import inspect
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import NotApplicable, equal, expect, raises
from genai_iface.conformance._golden import GOLDEN
from genai_iface.conformance.registry import PROFILES, check
from genai_iface.errors import GenAIError, InvalidInputError
from genai_iface.protocols import Backend
from genai_iface.types import BackendInfo, DType
from genai_iface.version import negotiate_version

__all__ = ["expect_signatures"]


def expect_signatures(thing: object, protocol: type, names: tuple[str, ...]) -> None:
    """Fails unless every method takes the protocol's parameters, in their order and kinds."""
    for name in names:
        method = getattr(thing, name, None)
        expect(callable(method), f"{type(thing).__name__} has no method {name}()")
        wanted = list(inspect.signature(getattr(protocol, name)).parameters.values())[1:]
        have = inspect.signature(method)  # type: ignore[arg-type]
        by_name = have.parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in by_name.values())
        for place, parameter in enumerate(wanted):
            what = f"the parameter {parameter.name} of {name}()"
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional = [p for p in by_name.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
                var = any(p.kind is p.VAR_POSITIONAL for p in by_name.values())
                expect(var or place < len(positional), f"{what} is missing", signature=str(have))
                continue
            got = by_name.get(parameter.name)
            expect(takes_any or got is not None, f"{what} is missing", signature=str(have))
            if got is not None:
                expect(got.default is not got.empty, f"{what} has no default", signature=str(have))


@check("L0.backend.signatures", profiles=("step", "generator"), spec=["Interface.1"])
def signatures(context: Context) -> None:
    """The backend has the methods of the protocol, with its parameters."""
    expect_signatures(context.backend, Backend, ("info", "devices", "load"))


@check("L0.backend.info", profiles=PROFILES, spec=["Backend.info.3"])
def info(context: Context) -> None:
    """The information is a BackendInfo whose fields have their types."""
    got: Any = context.backend.info()
    expect(isinstance(got, BackendInfo), "info() does not return a BackendInfo", got=type(got).__name__)
    for name in ("name", "version", "runtime", "runtime_version"):
        value = getattr(got, name)
        expect(isinstance(value, str) and value != "", f"BackendInfo.{name} is not text", got=repr(value))
    limits = got.limits
    bad = {key: value for key, value in limits.items() if not isinstance(value, int) or value < 1}
    expect(not bad, "BackendInfo.limits holds what is not a positive integer", got=bad)


@check("L0.backend.info_stable", profiles=PROFILES, spec=["Backend.info.3"])
def info_stable(context: Context) -> None:
    """The information is the same each time, before and after a model was loaded."""
    context.subject()
    equal(context.backend.info(), context.info, "info() after loading a model")


@check(
    "L0.backend.interface_version",
    profiles=PROFILES,
    core="Without a common version no other promise has a meaning.",
    spec=["Version.2"],
)
def interface_version(context: Context) -> None:
    """The backend shares an interface version with the SDK."""
    try:
        negotiate_version(context.info.interface_versions)
    except GenAIError as error:
        expect(False, str(error), offered=sorted(context.info.interface_versions))


@check("L0.backend.capability_names", profiles=PROFILES, spec=["Capability.1"])
def capability_names(context: Context) -> None:
    """Declared capabilities are names of the interface, or a vendor's own with the prefix x-."""
    known = {str(name) for name in Capability}
    bad = sorted(name for name in context.info.capabilities if name not in known and not name.startswith("x-"))
    expect(not bad, "unknown capabilities are declared", names=bad)


@check("L0.backend.dtypes", spec=["Backend.info.1"])
def dtypes(context: Context) -> None:
    """Every declared dtype loads a golden model."""
    declared = context.info.dtypes
    expect(declared, "no dtype is declared")
    bad = sorted(set(declared) - set(get_args(DType)))
    expect(not bad, "unknown dtypes are declared", dtypes=bad)
    for dtype in sorted(declared):
        try:
            spec = context.subject("base", dtype).model.spec
        except NotApplicable:
            continue
        equal({layer.dtype for layer in spec.cache.layers}, {dtype}, f"the cache dtype of the {dtype} model")


@check("L0.backend.devices", spec=["Backend.devices.1", "Model.device.1"])
def devices(context: Context) -> None:
    """At least one device is listed, none twice, and load() accepts each."""
    found = context.backend.devices()
    expect(found, "devices() is empty")
    identifiers = [device.identifier for device in found]
    equal(len(set(identifiers)), len(identifiers), "the number of different identifiers")
    for device in found:
        expect(device.kind, f"device {device.identifier!r} has no kind")
        model = context.keep(context.backend.load(context.golden().folder, device=device.identifier))
        equal(model.device.identifier, device.identifier, "Model.device after load(device=...)")


@check("L0.load.unknown_device", spec=["Backend.load.2"])
def unknown_device(context: Context) -> None:
    """A device that devices() does not list is refused."""
    folder = context.golden().folder
    raises(InvalidInputError, lambda: context.backend.load(folder, device="no-such-device:9"), "an unknown device")


@check("L0.load.unknown_option", spec=["Backend.load.2"])
def unknown_option(context: Context) -> None:
    """An unknown option is refused, not ignored."""
    folder = context.golden().folder
    raises(InvalidInputError, lambda: context.backend.load(folder, options={"no_such_option": 1}), "an unknown option")


@check("L0.load.missing_folder", spec=["Backend.load.3", "Errors.1"])
def missing_folder(context: Context) -> None:
    """A folder that does not exist is an InvalidInputError."""
    with tempfile.TemporaryDirectory() as path:
        raises(InvalidInputError, lambda: context.backend.load(Path(path) / "absent"), "a folder that does not exist")


@check("L0.load.empty_folder", spec=["Backend.load.3", "Errors.1"])
def empty_folder(context: Context) -> None:
    """A folder without a model is an InvalidInputError."""
    with tempfile.TemporaryDirectory() as path:
        raises(InvalidInputError, lambda: context.backend.load(path), "an empty folder")


@check("L0.load.broken_model", spec=["Backend.load.3"])
def broken_model(context: Context) -> None:
    """A model file of random bytes is refused with an error of the interface."""
    with _copy(context) as folder:
        name = "model.safetensors" if context.form == "checkpoint" else "model.onnx"
        (folder / name).write_bytes(hashlib.sha512(b"no model").digest() * 9)
        raises(GenAIError, lambda: context.backend.load(folder), "a broken model file")


@check("L0.load.path_types", spec=["Backend.load.4"])
def path_types(context: Context) -> None:
    """load() takes the folder as text and as a path object."""
    folder = context.golden().folder
    for path in (str(folder), folder):
        equal(context.keep(context.backend.load(path)).spec.vocab_size, context.subject().model.spec.vocab_size, "V")


@check("L0.load.folder_unchanged", spec=["Backend.load.1"])
def folder_unchanged(context: Context) -> None:
    """Loading and running leaves the folder as it was."""
    with _copy(context) as folder:
        before = _listing(folder)
        model = context.backend.load(folder)
        cache = model.create_cache(capacity=4)
        model.forward([[1, 2]], cache)
        cache.close()
        model.close()
        equal(_listing(folder), before, "the content of the folder")


@check("L0.load.outside", core="A folder from a stranger must not read its user's files.", spec=["Backend.load.1"])
def outside(context: Context) -> None:
    """External data that leads out of the folder is refused."""
    if context.form == "checkpoint":
        raise NotApplicable("a checkpoint has no external data")
    with tempfile.TemporaryDirectory() as path:
        inner = Path(path) / "model"
        shutil.copytree(GOLDEN / "escape", inner)
        (inner / "weights.bin").rename(Path(path) / "weights.bin")
        raises(GenAIError, lambda: context.backend.load(inner), "external data outside of the folder")


@contextmanager
def _copy(context: Context) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path) / "model"
        shutil.copytree(context.golden().folder, folder)
        yield folder


def _listing(folder: Path) -> dict[str, Any]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
