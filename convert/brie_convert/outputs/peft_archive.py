"""The format peft: an adapter version's folder as one archive, the same bytes each time. It knows names, no numbers."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from brie_convert.file_names import safe_name
from brie_convert.manifest import ExportRequest, Made, Sources
from brie_convert.progress import Progress, span
from brie_core.errors import EngineFailure
from brie_core.weights.base_model import file_digest

_TIME = (1980, 1, 1, 0, 0, 0)
"""The first that the format knows."""
_MODE = 0o100644
_UNIX = 3
_CHUNK = 2**20


class PeftArchiveOutput:
    """See `pipeline.Output`."""

    def __init__(self, request: ExportRequest, _sources: Sources) -> None:
        assert request.adapter is not None
        self._name, self._source = safe_name(request.model), request.adapter.folder
        self._files = sorted(path for path in self._source.iterdir() if path.is_file())

    def most_bytes(self) -> int:
        """The files as they are: numbers that were trained hardly shrink."""
        return sum(path.stat().st_size for path in self._files)

    def build(self, folder: Path, scratch: Path, progress: Progress) -> Made:
        """Write, and read back against the files' digests; raises EngineFailure."""
        archive = folder / f"{self._name}-peft.zip"
        advance = span(progress, "writing the archive", 0.1, 0.8)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as written:
            for done, path in enumerate(self._files, start=1):
                self._add(written, path)
                advance(done / len(self._files))
        progress("reading the archive back", 0.8)
        return Made([archive.name], {"verification": {"entries": self._read_back(archive)}})

    def _entry(self, path: Path) -> str:
        return f"{self._name}/{path.name}"

    def _add(self, written: zipfile.ZipFile, path: Path) -> None:
        entry = zipfile.ZipInfo(self._entry(path), _TIME)
        entry.external_attr, entry.create_system, entry.file_size = _MODE << 16, _UNIX, path.stat().st_size
        with path.open("rb") as source, written.open(entry, "w") as target:
            while chunk := source.read(_CHUNK):
                target.write(chunk)

    def _read_back(self, archive: Path) -> dict[str, Any]:
        """The digest of each entry, which is its file's."""
        found = {}
        with zipfile.ZipFile(archive) as written:
            for entry in written.infolist():
                with written.open(entry) as stream:
                    found[entry.filename] = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        if found != {self._entry(path): file_digest(path) for path in self._files}:
            raise EngineFailure("The archive does not hold the adapter's files.", code="export_verification_failed")
        return found
