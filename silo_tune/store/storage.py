"""Bytes on a local path, NFS or an fsspec URL, with the one operation that correctness rests on: exclusive creation."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import stat
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import fsspec

from silo_tune.errors import BadInput, RunFailed, one_line
from silo_tune.machine import from_here
from silo_tune.planner.outcome import renamed

RETRY_SECONDS = (0.2, 1.0, 3.0)
# Clients of object stores have tried again themselves, for a minute or more, before they fail.
CLIENT_RETRY_SECONDS = (1.0,)
# Waiting does not help with these.
FINAL = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EDQUOT)
# Nor is there ever a run at such a place.
NO_PLACE = (errno.ENAMETOOLONG, errno.ELOOP)
# A reason of a failure may hold half a character: part of a file's name that is no Unicode. JSON reads it back so.
LOOSE = "surrogatepass"
# These are answers, not failures.
ANSWERS = (FileNotFoundError, FileExistsError)
REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within that quota",
    errno.EROFS: "make that file system writable again",
    errno.EACCES: "allow writing there",
    errno.EPERM: "allow writing there",
}

P = ParamSpec("P")
T = TypeVar("T")


class StorageError(RunFailed):
    """The run's storage failed, after retries; nothing committed is lost."""


class Corrupt(Exception):
    """A sealed file whose content is not what was written."""


def seal(body: Mapping[str, Any]) -> bytes:
    """JSON bytes of a table with the sha256 of its content, so that a flipped bit shows."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False)
    digest = hashlib.sha256(text.encode(errors=LOOSE)).hexdigest()
    return f'{text[:-1]}{", " if body else ""}"sha256": "{digest}"}}'.encode(errors=LOOSE)


def unseal(data: bytes) -> dict[str, Any]:
    """The table of sealed bytes, by today's names. Raises Corrupt."""
    try:
        body = json.loads(data)
        claimed = body.pop("sha256")
        text = json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise Corrupt(f"not a sealed JSON table: {one_line(error)}") from None
    if hashlib.sha256(text.encode(errors=LOOSE)).hexdigest() != claimed:
        raise Corrupt("its checksum does not match its content")
    return renamed(body)


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
    except FileExistsError:
        # Storage may lose the answer of a link that was made: what is tried again then stands in its own way.
        if not _holds(path, data):
            raise
    except FileNotFoundError:
        raise _vanished(temporary) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _holds(path: str, data: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read() == data
    except FileNotFoundError:  # it was there, and somebody was faster to remove it
        return False


def _vanished(temporary: str) -> OSError:
    """Another driver took a temporary file for a dead one's. No answer to `create`: it is written again."""
    return OSError(errno.ESTALE, "the temporary file is gone", temporary)


def _create_object(fs: Any, path: str, data: bytes) -> None:
    # A conditional put. A retried request may be refused because of its own first write.
    try:
        fs.pipe_file(path, data, mode="create")
    except OSError as error:
        if not _already_there(error):
            raise
        try:
            standing = fs.cat_file(path)
        except FileNotFoundError:  # it was there, and somebody was faster to remove it
            standing = None
        if standing != data:
            raise FileExistsError(errno.EEXIST, "exists already", path) from None


def _already_there(error: OSError) -> bool:
    # s3fs knows AWS's answer to a refused condition by a field that other S3 servers leave out.
    answer = getattr(error.__cause__, "response", None) or {}
    return isinstance(error, FileExistsError) or answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412")


# Backends whose exclusive creation was tested; a backend without one is refused by name.
CREATE_EXCLUSIVE: dict[str, Callable[[Any, str, bytes], None]] = {
    "file": _create_local,
    "local": _create_local,
    "s3": _create_object,
    "s3a": _create_object,
    "gs": _create_object,
    "gcs": _create_object,
}


def _open(url: str) -> tuple[str, Any, str]:
    """The protocol of a URL, its file system and the path there. Raises BadInput."""
    protocol, _, rest = url.partition("://") if "://" in url else ("file", "", url)
    place = rest.partition("/")[0]
    if "://" in url and "@" in place:  # first, so that no message shows the URL
        raise BadInput(
            f"the {protocol}:// URL of the run has a user or a key before {place.rpartition('@')[2]!r}, and a run's "
            f"URL is written to files and logs: take it out, and give credentials in the environment "
            f"(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS)"
        )
    if protocol not in CREATE_EXCLUSIVE:
        raise BadInput(
            f"cannot open {url!r}: storage {protocol!r} of this URL has no tested exclusive creation, which two "
            f"drivers of one run need to stay correct; choose from {', '.join(sorted(CREATE_EXCLUSIVE))}"
        )
    if CREATE_EXCLUSIVE[protocol] is _create_object and not place:
        raise BadInput(f"cannot open {url!r}: it names no bucket; write {protocol}://BUCKET/FOLDER")
    try:
        kind = _file_system(protocol)
    except ImportError as error:
        package, extra = ("gcsfs", "gs") if protocol in ("gs", "gcs") else ("s3fs", "s3")
        raise BadInput(f"{url!r} needs {package} ({error}): pip install 'silo-tune[{extra}]'") from None
    # A listing that is kept would hide what other processes write.
    fs = kind(use_listings_cache=False, **kind._get_kwargs_from_urls(url))
    return protocol, fs, kind._strip_protocol(from_here(url)).rstrip("/")


def _file_system(protocol: str) -> Any:
    if protocol in ("gs", "gcs"):
        # gcsfs's default class writes to zonal buckets over gRPC, where it creates over what is there.
        from gcsfs.core import GCSFileSystem

        # It logs a traceback for every request that fails; what must be said is in our own error.
        logging.getLogger("gcsfs").addHandler(logging.NullHandler())
        return GCSFileSystem
    return fsspec.get_filesystem_class(protocol)


def _persistent(operation: Callable[P, T]) -> Callable[P, T]:
    """Try an operation again while storage fails, then raise StorageError. Every operation may safely run twice."""

    @functools.wraps(operation)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        storage, name = args[0], args[1]
        assert isinstance(storage, Storage)
        # Clients of object stores have error classes of their own, not all of them an OSError.
        failures: type[Exception] = OSError if storage.local else Exception
        for pause in (*(RETRY_SECONDS if storage.local else CLIENT_RETRY_SECONDS), None):
            try:
                return operation(*args, **kwargs)
            except ANSWERS:
                raise
            except failures as error:
                code, why = getattr(error, "errno", None), getattr(error, "strerror", None) or error
                if code in NO_PLACE:
                    raise BadInput(f"no run can be at {storage.url!r}: {why}; name another place") from error
                if pause is None or code in FINAL:
                    raise StorageError(
                        f"storage failed at {storage.shown(str(name))}: {why}; what is committed is safe: "
                        f"{REMEDIES.get(code or 0, 'fix the storage')} and run the same command again"
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
        protocol, self.fs, self.root = _open(url)
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
        except FileNotFoundError:
            raise _vanished(temporary) from None
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def adopt(self, name: str, other: Storage, data: bytes) -> None:
        """Have the file of that name of another storage too: a link where both are one disk, else a copy of its data.

        No storage ever writes into a file that is there: what one of them removes or replaces stays in the other.
        """
        if self.local and other.local:
            with contextlib.suppress(OSError):  # another disk, or one without links
                self._parent(name)
                os.link(other.path(name), self.path(name))
                return
        self.replace(name, data)

    @_persistent
    def exists(self, name: str) -> bool:
        if not self.local:
            return bool(self.fs.exists(self.path(name)))
        if os.path.exists(self.path(name)):
            return True
        # It also says no when storage fails; a decided run must never be taken for a new one.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(self.path(name))
        return False

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
    def age(self, name: str, at: str | None = None) -> float:
        """Seconds since the file was last written, by this machine's clock. Raises FileNotFoundError.

        Args:
            at: a file that was written just now; with it the storage's own clock says both times, and how far this
                machine's is off does not matter.
        """
        now = time.time() if at is None else self.modified(at)
        return now - self.modified(name)

    def modified(self, name: str) -> float:
        """When the file was last written, in seconds of the storage's own clock. Raises FileNotFoundError."""
        if self.local:
            return os.path.getmtime(self.path(name))
        self.fs.invalidate_cache()
        return float(self.fs.modified(self.path(name)).timestamp())

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
        except FileExistsError:
            # Raised too when storage fails to say that it is a folder: asked again. No sign that `name` was created.
            if not stat.S_ISDIR(os.stat(folder).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "a file is in the way of a folder", folder) from None
