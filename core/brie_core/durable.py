"""Writing so that a power cut leaves the old state or the new one. It knows files and folders, not what is in them."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_disk_full(error: BaseException) -> bool:
    """Whether there was no room for what was to be written."""
    return isinstance(error, OSError) and error.errno in _FULL


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step: temporary file beside it, fsync, rename, fsync of the folder."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name that outlives its first; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        partial = target.with_suffix(".partial")
        shutil.copyfile(source, partial)
        partial.rename(target)


@contextmanager
def staging_folder(tmp: Path, prefix: str) -> Iterator[Path]:
    """A fresh folder under `tmp` to build something in; whatever was not published is gone afterwards."""
    tmp.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=tmp, prefix=f"{prefix}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish_folder(staged: Path, final: Path) -> bool:
    """Move `staged` to `final` in one rename, after its files reached the disk; False if `final` was there already."""
    for path in sorted(staged.rglob("*")):
        sync_folder(path) if path.is_dir() else sync_file(path)
    sync_folder(staged)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(final)
    except OSError:
        if final.is_dir():
            return False
        raise
    sync_folder(final.parent)
    return True


def remove_folder(folder: Path, tmp: Path) -> None:
    """Take `folder` away in one step, so that nobody ever sees half of it."""
    tmp.mkdir(parents=True, exist_ok=True)
    grave = Path(tempfile.mkdtemp(dir=tmp, prefix="removed-"))
    with suppress(FileNotFoundError):
        folder.rename(grave / folder.name)
    shutil.rmtree(grave, ignore_errors=True)


def sweep(tmp: Path, older_than: float) -> None:
    """Remove what a killed process left in `tmp` before the time `older_than` (seconds since the epoch)."""
    for path in tmp.iterdir() if tmp.is_dir() else ():
        if path.lstat().st_mtime < older_than:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the entries of `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file have reached the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
