"""Adapter versions: immutable folders named by their content. It knows PEFT's layout and brie.json, not names.

A version's digest is the sha256 of its base, its normalised config and its tensors, so the same adapter trained or
imported twice is one version, and a version that changed on disk is noticed before it answers anything.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brie_core.durable import publish_folder, remove_folder, staging_folder, sync_file
from brie_core.errors import InvalidAdapter, NotFound
from brie_core.store.card import card
from brie_core.weights.base_model import file_digest, read_json
from brie_core.weights.lora import DECISIVE, Adaptable, LoraAdapter, check_values, read_adapter

MANIFEST, CARD = "brie.json", "README.md"
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_Identities = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """A published version."""

    digest: str
    folder: Path
    manifest: Mapping[str, Any]


class AdapterStore:
    """The adapter versions of one BRIE_HOME."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "adapters"
        self._tmp = home / "tmp"
        self._just_published: dict[str, _Identities] = {}
        """The files of versions that this process has published, and not read since."""

    def publish(self, source: Path, base: Adaptable, provenance: Mapping[str, Any]) -> AdapterVersion:
        """Check the PEFT folder `source` against its base and keep it as a version; raises InvalidAdapter.

        Visible by one rename, brie.json written last; the same adapter published again is the version that is there.
        """
        read_adapter(source, base.linear_modules)  # for errors that speak of the caller's folder
        _check_base(source, base)
        with staging_folder(self._tmp, "adapter") as staged:
            built = staged / "version"
            built.mkdir()
            for name in (_CONFIG, _WEIGHTS):
                shutil.copyfile(source / name, built / name)
            with ThreadPoolExecutor(2, "brie-publish") as threads:  # most of the time goes into the weights' bytes
                synced = threads.submit(sync_file, built / _WEIGHTS)
                hashed = threads.submit(file_digest, built / _WEIGHTS)
                adapter = read_adapter(built, base.linear_modules)  # the copy counts: the source may still change
                check_values(adapter)
                digest = adapter_digest(adapter, base.digest)
                files = [_file(built / _CONFIG, file_digest(built / _CONFIG)), _file(built / _WEIGHTS, hashed.result())]
                synced.result()
            manifest = _manifest(digest, base, adapter, provenance) | {"files": dict(files)}
            (built / CARD).write_text(card(manifest))
            (built / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            if publish_folder(built, self._folder / digest):
                self._just_published[digest] = _identities(self._folder / digest)
            else:
                self._repair(built, digest, base)
        return self.open(digest)

    def _repair(self, built: Path, digest: str, base: Adaptable) -> None:
        """The version is there already: keep it, unless it was damaged on disk since."""
        try:
            self.verify(self.open(digest), base)
        except (InvalidAdapter, NotFound):
            self.remove(digest)
            publish_folder(built, self._folder / digest)

    def open(self, digest: str) -> AdapterVersion:
        """A version that is there; raises NotFound."""
        folder = self._folder / digest
        if not _is_digest(digest) or not (folder / MANIFEST).is_file():
            raise NotFound(
                f"There is no adapter version {digest!r}.", param="version", code="adapter_version_not_found"
            )
        return AdapterVersion(digest, folder, read_json(folder / MANIFEST))

    def verify(self, version: AdapterVersion, base: Adaptable) -> None:
        """Read the version's files whole: unchanged since publishing, and of this base, or InvalidAdapter.

        The first time after this very process has hashed and published them, it is enough that nothing has touched the
        files since: any write, by whatever means, changes a file's ctime, which no program can set.
        """
        if version.manifest["base"]["digest"] != base.digest:
            raise InvalidAdapter(
                f"Adapter version {version.digest[:12]} was trained on {version.manifest['base']['id']}, "
                f"with other weights than {base.id} has here.",
                param="model",
                code="adapter_base_mismatch",
            )
        published = self._just_published.pop(version.digest, None)
        if published is not None and published == _identities(version.folder):
            return
        for name, entry in version.manifest["files"].items():
            file = version.folder / name
            if not file.is_file() or file_digest(file) != entry["sha256"]:
                raise InvalidAdapter(
                    f"{name} of adapter version {version.digest[:12]} is damaged on disk: it will not be served.",
                    param="model",
                    code="adapter_corrupt",
                )

    def remove(self, digest: str) -> None:
        """Take a version away in one step; streams that already answer from it are not disturbed."""
        if _is_digest(digest):
            self._just_published.pop(digest, None)
            remove_folder(self._folder / digest, self._tmp)


def adapter_digest(adapter: LoraAdapter, base_digest: str) -> str:
    """The version's name: sha256 over what decides its answers: base, config, and tensors in name order."""
    identity = {name: adapter.config.get(name) or None for name in DECISIVE} | {"base": base_digest}
    if isinstance(identity["target_modules"], list):
        identity["target_modules"] = sorted(identity["target_modules"])
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    with adapter.file.open("rb", buffering=0) as file:
        for tensor in sorted((t for m in adapter.modules for t in (m.a, m.b)), key=lambda tensor: tensor.name):
            digest.update(json.dumps([tensor.name, tensor.dtype, tensor.shape]).encode())
            digest.update(tensor.read_raw(file).data)
    return digest.hexdigest()


def _identities(folder: Path) -> _Identities:
    """What changes when anybody writes to, or replaces, one of a version's files."""
    stats = [(folder / name).stat() if (folder / name).exists() else None for name in (_CONFIG, _WEIGHTS, MANIFEST)]
    return tuple(
        stat and (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats
    )


def _manifest(digest: str, base: Adaptable, adapter: LoraAdapter, provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": 1,
        "version": digest,
        "created_at": int(time.time()),
        "base": {"id": base.id, "digest": base.digest},
        "lora": {name: adapter.config.get(name) for name in DECISIVE},
        "num_parameters": sum(m.rank * (m.a.shape[1] + m.b.shape[0]) for m in adapter.modules),
        **provenance,
    }


def _file(file: Path, sha256: str) -> tuple[str, dict[str, Any]]:
    return file.name, {"bytes": file.stat().st_size, "sha256": sha256}


def _check_base(source: Path, base: Adaptable) -> None:
    """A folder that Brie published elsewhere says which base it belongs to; one from PEFT is judged by its shapes."""
    manifest = source / MANIFEST
    if not manifest.is_file():
        return
    try:
        digest = read_json(manifest)["base"]["digest"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidAdapter(f"{MANIFEST} is unreadable: {error!r}", code="adapter_config_invalid") from error
    if digest != base.digest:
        raise InvalidAdapter(
            f"The adapter's brie.json names a base with weights {str(digest)[:12]}; "
            f"those of {base.id} here are {base.digest[:12]}.",
            code="adapter_base_mismatch",
        )


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")
