# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Models by id: from huggingface_hub's cache, or downloaded into it. Only the files that one model needs are fetched.

Everything of the client's own holds: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, its progress bars.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import huggingface_hub
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from onnx import ModelProto

from genai_iface.errors import InvalidInputError
from genai_iface.folder._files import TEMPLATES_FOLDER, TOKENIZER_FILES, open_root, read_json
from genai_iface.folder._tensors import external_names
from genai_iface.folder.resolve._choose import choose
from genai_iface.folder.resolve._listing import MAX_DEPTH, Listing, list_folder
from genai_iface.folder.resolve._variants import Variant, find_variants

__all__ = ["Fetched", "fetch_checkpoint", "fetch_model", "list_repository"]

T = TypeVar("T")

# What the client's transport raises; which library that is depends on the client's version.
_TRANSPORT: type[Exception] = HfHubHTTPError.__mro__[1]

# The parts of a model besides its graph and weights; other files of a repository are not needed here.
_BESIDE = (
    "config.json",
    "generation_config.json",
    "genai_config.json",
    "export.json",
    "manifest.json",
    "component.json",
    "metadata.json",
    *TOKENIZER_FILES,
)
_OF_CHECKPOINT = (*_BESIDE, "tokenizer.model", "vocab.json", "merges.txt", "LICENSE", "LICENSE.txt", "LICENSE.md")
_TRIES = 3
# A graph whose weights are files of their own is worth a look before a variant is chosen.
_SMALL_GRAPH = 8 * 2**20
_DEFAULT = "main"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model of a repository, on this machine.

    Attributes:
        snapshot: The folder of the cache that holds the repository's files.
        variant: The model in it.
        notes: What was decided on the way.
    """

    snapshot: Path
    variant: Variant
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Remote:
    """A repository as the hub lists it, at one commit."""

    repo_id: str
    revision: str
    commit: str
    listing: Listing


class _UnreachableError(Exception):
    """The hub cannot be asked."""


def fetch_model(repo_id: str, wanted: str | None, revision: str | None) -> Fetched:
    """Brings one model of a repository to this machine.

    Args:
        repo_id: ORG/NAME.
        wanted: The variant, None for the fullest.
        revision: A branch, tag or commit; None for the main branch.

    Raises:
        InvalidInputError: There is no such repository, revision or variant; access is refused; or the hub cannot be
            reached and the cache does not have it.
        UnsupportedModelError: It is in a form that cannot be run.
    """
    try:
        remote = _ask(repo_id, revision)
    except _UnreachableError as error:
        snapshot = _cached(repo_id, revision, why=str(error))
        listing = replace(list_folder(snapshot), name=f"{repo_id} in the cache")
        note = f"{repo_id}: from the cache, {error}"
        return Fetched(snapshot, choose(listing, find_variants(listing), wanted), (note,))
    variant = choose(remote.listing, find_variants(remote.listing), wanted)
    snapshot = _download(remote, [*_beside(remote.listing, variant), variant.file])
    _download(remote, _data_of(snapshot, variant, remote.listing))
    return Fetched(snapshot, variant, (f"{repo_id}: {variant.file} at commit {remote.commit[:12]}",))


def list_repository(repo_id: str, revision: str | None) -> Listing:
    """The files of a repository, without fetching models; those of the cache if the hub cannot be asked.

    Raises:
        InvalidInputError: As ``fetch_model``.
    """
    try:
        return _ask(repo_id, revision).listing
    except _UnreachableError as error:
        return replace(list_folder(_cached(repo_id, revision, why=str(error))), name=f"{repo_id} in the cache")


def fetch_checkpoint(repo_id: str, revision: str | None) -> Path:
    """Brings the safetensors, configuration and tokenizer of a repository to this machine.

    Returns:
        The folder of the cache with these files.

    Raises:
        InvalidInputError: As ``fetch_model``; or there are no weights that are read.
    """
    try:
        remote = _ask(repo_id, revision)
    except _UnreachableError as error:
        return _cached(repo_id, revision, why=str(error))
    names = [name for name in remote.listing.sizes if "/" not in name or name.startswith(f"{TEMPLATES_FOLDER}/")]
    weights = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    if any(name.startswith("model") for name in weights):
        # Some repositories hold the same weights a second time, in their makers' own form.
        weights = [name for name in weights if not name.startswith("consolidated")]
    if not weights:
        raise InvalidInputError(
            f"The repository {repo_id} holds no weights in safetensors form",
            remedy="Take a checkpoint with model.safetensors; pickled weights are not read. An ONNX model is run as it "
            f"is: genai-iface generate --model {repo_id} PROMPT.",
        )
    beside = [name for name in names if name in _OF_CHECKPOINT or name.endswith((".jinja", "adapter_config.json"))]
    return _download(remote, [*beside, *weights])


# The hub.


def _ask(repo_id: str, revision: str | None) -> _Remote:
    """Lists a repository at the commit that a revision stands for now.

    Raises:
        _UnreachableError: There is no answer, by order or by accident.
        InvalidInputError: The answer is no.
    """
    api = huggingface_hub.HfApi(library_name="genai-iface")
    given = revision or _DEFAULT

    def ask() -> tuple[str, dict[str, int]]:
        commit = str(api.repo_info(repo_id, revision=given).sha)
        entries = api.list_repo_tree(repo_id, revision=commit, recursive=True)
        return commit, {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}

    commit, sizes = _answered(repo_id, given, ask)
    # As deep as in a folder: what lies deeper belongs to something else.
    near = {name: size for name, size in sorted(sizes.items()) if name.count("/") <= MAX_DEPTH}
    remote = _Remote(repo_id, given, commit, Listing(repo_id, near, lambda name: None))

    def read(name: str) -> Mapping[str, Any] | None:
        return read_json(open_root(_download(remote, [name])), name) if name in near else None

    def fetch(name: str) -> Path | None:
        is_here = isinstance(huggingface_hub.try_to_load_from_cache(repo_id, name, revision=commit), str)
        return open_root(_download(remote, [name])) if is_here or near[name] <= _SMALL_GRAPH else None

    return replace(remote, listing=replace(remote.listing, read_json=read, fetch=fetch))


def _download(remote: _Remote, names: Iterable[str]) -> Path:
    """Fetches files that are not in the cache yet; what broke off goes on where it broke.

    Returns:
        The snapshot's folder.
    """
    wanted = [_escaped(name) for name in dict.fromkeys(names)]
    if not wanted:
        return Path(constants.HF_HUB_CACHE)

    def fetch() -> Path:
        # By the name of the revision, so that the cache knows later what it stood for.
        return Path(
            huggingface_hub.snapshot_download(
                remote.repo_id, revision=remote.revision, allow_patterns=wanted, library_name="genai-iface"
            )
        )

    for left in reversed(range(_TRIES)):
        try:
            return open_root(_answered(remote.repo_id, remote.revision, fetch))
        except _UnreachableError as error:
            if not left:
                raise InvalidInputError(
                    f"The download of {remote.repo_id} broke off: {error}",
                    remedy="Run the same command again; it goes on where it stopped.",
                ) from error
    raise AssertionError("unreachable")


def _answered(repo_id: str, revision: str, ask: Callable[[], T]) -> T:
    """Asks the hub, and puts its refusals into words."""
    where = f"{constants.ENDPOINT}/{repo_id}"
    try:
        return ask()
    except GatedRepoError as error:
        raise InvalidInputError(
            f"The repository {repo_id} is open only to those who accepted its terms",
            remedy=f"Accept them at {where}, and put a token of yours into HF_TOKEN, or run: hf auth login.",
        ) from error
    except RevisionNotFoundError as error:
        raise InvalidInputError(
            f"The repository {repo_id} has no revision {revision!r}", remedy=f"Look at its branches and tags: {where}."
        ) from error
    except RepositoryNotFoundError as error:
        raise InvalidInputError(
            f"There is no folder {repo_id!r} here, and no repository of that name at {constants.ENDPOINT} to be seen",
            remedy="Check the name. For a private repository put a token into HF_TOKEN, or run: hf auth login.",
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _UnreachableError(_why(error)) from error
    except EntryNotFoundError as error:
        raise InvalidInputError(
            f"A file of {repo_id} is missing at the hub: {_short(error)}", remedy=f"Look at its files: {where}."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500 or status == 429:
            raise _UnreachableError(f"{constants.ENDPOINT} answers with status {status}") from error
        raise InvalidInputError(
            f"{constants.ENDPOINT} refuses {repo_id} with status {status}: {_short(error)}",
            remedy="Check HF_TOKEN, and that the token may read this repository.",
        ) from error
    except HFValidationError as error:
        raise InvalidInputError(
            f"{repo_id!r} is no id of a repository: {_short(error)}", remedy="Use ORG/NAME."
        ) from error
    except (_TRANSPORT, OSError, RuntimeError) as error:
        # The last: when one file of several has failed, the client is closed under the others.
        raise _UnreachableError(_why(error)) from error


def _why(error: Exception) -> str:
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    cause = error.__cause__ or error
    return f"{constants.ENDPOINT} cannot be reached ({type(cause).__name__}: {_short(cause)})"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _escaped(name: str) -> str:
    """A pattern that only this name fits."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


# The cache.


def _cached(repo_id: str, revision: str | None, *, why: str) -> Path:
    """The snapshot that is on this machine.

    Raises:
        InvalidInputError: There is none.
    """
    given = revision or _DEFAULT
    home = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    commit = given
    reference = home / "refs" / given
    if ".." not in PurePosixPath(given).parts and reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    snapshot = home / "snapshots" / commit
    if not commit or "/" in commit or commit == ".." or not snapshot.is_dir():
        at = f" at revision {revision!r}" if revision else ""
        raise InvalidInputError(
            f"{repo_id}{at} is neither a folder here nor in the cache {constants.HF_HUB_CACHE!r}, and it cannot be "
            f"downloaded: {why}",
            remedy="Check the name; or allow the download: unset HF_HUB_OFFLINE, look at HF_ENDPOINT and the network.",
        )
    return open_root(snapshot)


# What belongs to a model.


def _beside(listing: Listing, variant: Variant) -> list[str]:
    """Configurations, tokenizer and templates in the folders of a variant."""
    folders = {variant.folder, "", *variant.companions}
    folders |= {str(parent) for parent in PurePosixPath(variant.folder).parents if str(parent) != "."}
    found = []
    for name in listing.sizes:
        folder, _, file = name.rpartition("/")
        if (folder in folders and file in _BESIDE) or (
            file.endswith(".jinja") and folder.removesuffix(TEMPLATES_FOLDER).rstrip("/") in folders
        ):
            found.append(name)
    return found


def _data_of(snapshot: Path, variant: Variant, listing: Listing) -> list[str]:
    """The files of external data that the graph names, as far as the repository has them."""
    model = ModelProto()
    try:
        model.ParseFromString((snapshot / variant.file).read_bytes())
    except (DecodeError, OSError):
        return []  # whoever opens the model will say what is wrong with it
    prefix = f"{variant.folder}/" if variant.folder else ""
    names = (os.path.normpath(prefix + name).replace(os.sep, "/") for name in external_names(model))
    return [name for name in names if name in listing.sizes]
