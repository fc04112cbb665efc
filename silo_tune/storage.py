"""Bytes on a local path, NFS or an fsspec URL, with the one operation that correctness rests on: exclusive creation."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import fsspec

from silo_tune.errors import BadInput, RunFailed

RETRY_SECONDS = (0.2, 1.0, 3.0)
# Waiting does not help with these.
FINAL = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EDQUOT, errno.ENAMETOOLONG)
# These are answers, not failures.
ANSWERS = (FileNotFoundError, FileExistsError)

P = ParamSpec("P")
T = TypeVar("T")


class StorageError(RunFailed):
    """The run's storage failed, after retries; nothing committed is lost."""


class Corrupt(Exception):
    """A sealed file whose content is not what was written."""


def seal(body: Mapping[str, Any]) -> bytes:
    """JSON bytes of a table with the sha256 of its content, so that a flipped bit shows."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]}{", " if body else ""}"sha256": "{digest}"}}'.encode()


def unseal(data: bytes) -> dict[str, Any]:
    """The table of sealed bytes. Raises Corrupt."""
    try:
        body = json.loads(data)
        claimed = body.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Corrupt(f"not a sealed JSON table: {error}") from None
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if hashlib.sha256(text.encode()).hexdigest() != claimed:
        raise Corrupt("its checksum does not match its content")
    return body  # type: ignore[no-any-return]


def _temporary(path: str) -> str:
    head, tail = os.path.split(path)
    return os.path.join(head, f".{tail}.{uuid.uuid4().hex[:12]}.tmp")


def _create_local(fs: Any, path: str, data: bytes) -> None:
    # open("xb") would be exclusive too, but shows a half-written file under its final name.
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.link(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _create_object(fs: Any, path: str, data: bytes) -> None:
    # A conditional put. A retried request may be refused because of its own first write.
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        fs.invalidate_cache()
        if fs.cat_file(path) != data:
            raise


# Backends whose exclusive creation was tested; a backend without one is refused by name.
CREATE_EXCLUSIVE: dict[str, Callable[[Any, str, bytes], None]] = {
    "file": _create_local,
    "local": _create_local,
    "s3": _create_object,
    "s3a": _create_object,
}


def _persistent(operation: Callable[P, T]) -> Callable[P, T]:
    """Try an operation again while storage fails, then raise StorageError. Every operation may safely run twice."""

    @functools.wraps(operation)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        storage, name = args[0], args[1]
        assert isinstance(storage, Storage)
        # Clients of object stores have error classes of their own, not all of them an OSError.
        failures: type[Exception] = OSError if storage.local else Exception
        for pause in (*RETRY_SECONDS, None):
            try:
                return operation(*args, **kwargs)
            except ANSWERS:
                raise
            except failures as error:
                if pause is None or getattr(error, "errno", None) in FINAL:
                    raise StorageError(
                        f"storage failed at {storage.shown(str(name))}: {error}; what is committed is safe: mend the "
                        f"storage and run the same command again"
                    ) from error
                time.sleep(pause)
        raise AssertionError

    return tried


class Storage:
    """Files under one root.

    Args:
        url: a local path or an fsspec URL.

    Raises:
        BadInput: the backend is unknown, its package is missing, or it cannot create a file exclusively.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BadInput(f"cannot open {url!r}: {error}") from None
        protocols = (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
        protocol = next((name for name in protocols if name in CREATE_EXCLUSIVE), None)
        if protocol is None:
            raise BadInput(
                f"storage {protocols[0]!r} of {url!r} has no tested exclusive creation, which two drivers of one run "
                f"need to stay correct; choose from {', '.join(sorted(CREATE_EXCLUSIVE))}"
            )
        self.local = protocol in ("file", "local")
        self._create = CREATE_EXCLUSIVE[protocol]

    def path(self, name: str) -> str:
        """Full path of a name below the root."""
        return f"{self.root}/{name}" if name else self.root

    def shown(self, name: str) -> str:
        """The path as a user would write it."""
        return f"{self.url.rstrip('/')}/{name}"

    @_persistent
    def read(self, name: str) -> bytes:
        """Whole content. Raises FileNotFoundError."""
        if self.local:
            with open(self.path(name), "rb") as file:
                return file.read()
        return self.fs.cat_file(self.path(name))  # type: ignore[no-any-return]

    @_persistent
    def create(self, name: str, data: bytes) -> None:
        """Write a file that must not exist yet; it appears whole or not at all. Raises FileExistsError."""
        self._parent(name)
        self._create(self.fs, self.path(name), data)

    @_persistent
    def replace(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all, over what may be there."""
        self._parent(name)
        if not self.local:
            self.fs.pipe_file(self.path(name), data)
            return
        temporary = _temporary(self.path(name))
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, self.path(name))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    @_persistent
    def exists(self, name: str) -> bool:
        return os.path.exists(self.path(name)) if self.local else bool(self.fs.exists(self.path(name)))

    @_persistent
    def delete(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(name)) if self.local else self.fs.rm_file(self.path(name))

    @_persistent
    def names(self, folder: str) -> list[str]:
        """Sorted names of the files in a folder; none when there is no such folder."""
        try:
            if self.local:
                found = os.listdir(self.path(folder))
            else:
                self.fs.invalidate_cache()
                found = [path.rsplit("/", 1)[-1] for path in self.fs.ls(self.path(folder), detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if name)

    @_persistent
    def age(self, name: str) -> float:
        """Seconds since the file was last written. Raises FileNotFoundError."""
        if self.local:
            return time.time() - os.path.getmtime(self.path(name))
        self.fs.invalidate_cache()
        return time.time() - float(self.fs.modified(self.path(name)).timestamp())

    @_persistent
    def quarantine(self, name: str) -> str:
        """Move a corrupt file aside as NAME.corrupt-N, so that its name can be created anew. Returns the new name."""
        number = 1
        while self.exists(f"{name}.corrupt-{number}"):
            number += 1
        aside = f"{name}.corrupt-{number}"
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if self.local:
                os.rename(self.path(name), self.path(aside))
            else:
                self.fs.mv(self.path(name), self.path(aside))
        return aside

    def _parent(self, name: str) -> None:
        if not self.local:
            return
        folder = os.path.dirname(self.path(name))
        try:
            os.makedirs(folder, exist_ok=True)
        except FileNotFoundError:
            raise NotADirectoryError(errno.ENOTDIR, "no folder can be made here", folder) from None
        except FileExistsError:  # a file in the way is no sign that `name` was created
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the way of a folder", folder) from None
