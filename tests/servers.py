"""Object stores on loopback, in this process: moto's S3 and a small GCS behind a front that logs, fails and leaves."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from gcsfs.core import GCSFileSystem
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import BaseWSGIServer, make_server

Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], Any]
App = Callable[[Environ, Start], Iterable[bytes]]


@dataclass(frozen=True)
class Request:
    """What a client asked for: `path` as it was sent, `query` decoded."""

    method: str
    path: str
    query: Mapping[str, str]

    @classmethod
    def of(cls, environ: Environ) -> Request:
        url = urlsplit(environ["RAW_URI"])
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        return cls(environ["REQUEST_METHOD"], url.path, query)

    @property
    def listed(self) -> str | None:
        """The prefix that is listed, or None when this is no listing."""
        on_gs = self.method == "GET" and re.fullmatch(r"/storage/v1/b/[^/]+/o", self.path) is not None
        return self.query.get("prefix", "") if on_gs or "list-type" in self.query else None


@dataclass(frozen=True)
class Fault:
    """A server's answer that is none: an HTTP status, or None to hang up; `late` when the store did it all the same."""

    status: str | None = "500 Internal Server Error"
    late: bool = False
    body: str = ""


FAULTS = [
    Fault(status, late)
    for status in ("500 Internal Server Error", "503 Service Unavailable", None)
    for late in (False, True)
]


@dataclass
class Front:
    """A server on loopback, and what happens between it and its clients.

    Attributes:
        app: the store.
        log: every request.
        fault: says of a request which fault it meets.
        edit: changes a request before the store sees it.
        edit_answer: changes the body of an answer.
    """

    app: App
    log: list[Request] = field(default_factory=list)
    fault: Callable[[Request], Fault | None] = lambda request: None
    edit: Callable[[Environ], Any] = lambda environ: None
    edit_answer: Callable[[bytes], bytes] = lambda body: body
    port: int = 0
    _server: BaseWSGIServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen: at a free port the first time, at the same one later."""
        if not self.port:  # fsspec keeps its clients, and with them the address of a server before this one
            for client in (S3FileSystem, GCSFileSystem):
                client.clear_instance_cache()
        self._server = make_server("127.0.0.1", self.port, self, threaded=True, request_handler=_Quiet)
        self.port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Go away; what is stored stays."""
        if self._server is not None:
            server, self._server = self._server, None
            server.shutdown()
            server.server_close()

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        request = Request.of(environ)
        self.log.append(request)
        fault = self.fault(request)
        _take_body(environ)
        if fault is None or fault.late:
            self.edit(environ)
            answer: list[Any] = []
            body = b"".join(self.app(environ, lambda *given: answer.append(given)))
            if fault is None:
                edited = self.edit_answer(body)
                headers = [
                    (name, str(len(edited)) if name.lower() == "content-length" and edited != body else value)
                    for name, value in answer[0][1]
                ]
                start(answer[0][0], headers)
                return [edited]
        if fault.status is None:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start(fault.status or "500 hung up", [("Content-Length", str(len(fault.body)))])
        return [fault.body.encode()]


def _take_body(environ: Environ) -> None:
    """Read the whole body: a client that is answered before it was heard sees a broken connection."""
    stream, length = environ["wsgi.input"], environ.get("CONTENT_LENGTH")
    body = stream.read() if environ.get("wsgi.input_terminated") else stream.read(int(length or 0))
    environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))


class _Quiet(MotoRequestHandler):
    def log(self, *args: object) -> None:
        """The front keeps a log of its own."""


def s3() -> Front:
    """moto's S3."""
    return Front(DomainDispatcherApplication(create_backend_app))


# --- a small Google Cloud Storage ---


@dataclass
class Object:
    data: bytes
    generation: int
    updated: datetime


@dataclass
class Gcs:
    """Objects by bucket and name, by the JSON API: insert, get, list, delete, move; with `ifGenerationMatch`.

    The precondition is held as Google documents it: 0 means "no live object of that name", and it is checked in one
    step with the write, for a resumable upload at its beginning and at its end. That Google's own servers hold it is
    their word; the tests show what a client asks for and what it makes of the answer.

    Attributes:
        skew: how far this server's clock is ahead.
    """

    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    skew: timedelta = timedelta()
    _uploads: dict[str, tuple[str, str, str | None, bytearray]] = field(default_factory=dict)
    _generations: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        request, body = Request.of(environ), environ["wsgi.input"].read()
        with self._lock:
            status, headers, answer = self._answer(request, environ, body)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        start(f"{status} -", [*headers.items(), ("Content-Length", str(len(data)))])
        return [data]

    def _answer(self, request: Request, environ: Environ, body: bytes) -> tuple[int, dict[str, str], Any]:
        path, query = request.path, request.query
        if match := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
            return self._upload(unquote(match[1]), request, environ, body)
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)/o", path):
            return 200, {}, self._listing(unquote(match[1]), query)
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)/moveTo/o/([^/]+)", path):
            bucket, old, new = map(unquote, match.groups())
            if (bucket, old) not in self.objects:
                return _error(404, "Not Found")
            return 200, {}, self._write(bucket, new, self.objects.pop((bucket, old)).data)
        match = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)", path)
        if match is None:
            return _error(501, f"{request.method} {path} is not known here")
        bucket, name = unquote(match[1]), unquote(match[2])
        if (bucket, name) not in self.objects:
            return _error(404, "Not Found")
        if request.method == "DELETE":
            del self.objects[bucket, name]
            return 204, {}, b""
        if query.get("alt") == "media":
            return 200, {"Content-Type": "application/octet-stream"}, self.objects[bucket, name].data
        return 200, {}, self._resource(bucket, name)

    def _upload(self, bucket: str, request: Request, environ: Environ, body: bytes) -> tuple[int, dict[str, str], Any]:
        query = request.query
        condition = query.get("ifGenerationMatch")
        if "upload_id" in query:
            return self._go_on(query["upload_id"], request.method, environ, body)
        if query["uploadType"] == "multipart":
            header = f"Content-Type: {environ['CONTENT_TYPE']}\n\n".encode()
            # Between the blank line of the second part's headers and the closing boundary: bytes as they are.
            boundary = b"--" + re.findall(r'boundary="?([^"]+)"?', environ["CONTENT_TYPE"])[0].encode()
            meta = message_from_bytes(header + body[:4096]).get_payload(0)
            name = json.loads(meta.get_payload())["name"]  # type: ignore[union-attr, arg-type]
            second = body.split(boundary, 2)[2]
            data = second.split(b"\n\n", 1)[1].rsplit(b"\n" + boundary + b"--", 1)[0]
            return self._insert(bucket, name, data, condition)
        if not self._holds(bucket, query["name"], condition):
            return _error(412, "At least one of the pre-conditions you specified did not hold.")
        upload = uuid.uuid4().hex
        self._uploads[upload] = bucket, query["name"], condition, bytearray()
        place = f"http://{environ['HTTP_HOST']}{environ['RAW_URI']}&upload_id={upload}"
        return 200, {"Location": place}, {}

    def _go_on(self, upload: str, method: str, environ: Environ, body: bytes) -> tuple[int, dict[str, str], Any]:
        if upload not in self._uploads:
            return _error(404, "Not Found")
        if method == "DELETE":
            del self._uploads[upload]
            return 499, {}, b""
        bucket, name, condition, so_far = self._uploads[upload]
        last, total = map(int, re.findall(r"bytes \d+-(\d+)/(\d+)", environ["HTTP_CONTENT_RANGE"])[0])
        so_far += body
        if last + 1 < total:
            return 308, {"Range": f"bytes=0-{last}"}, b""
        return self._insert(bucket, name, bytes(so_far), condition)

    def _holds(self, bucket: str, name: str, condition: str | None) -> bool:
        standing = self.objects.get((bucket, name))
        return condition is None or int(condition) == (standing.generation if standing else 0)

    def _insert(self, bucket: str, name: str, data: bytes, condition: str | None) -> tuple[int, dict[str, str], Any]:
        if not self._holds(bucket, name, condition):
            return _error(412, "At least one of the pre-conditions you specified did not hold.")
        return 200, {}, self._write(bucket, name, data)

    def _write(self, bucket: str, name: str, data: bytes) -> dict[str, Any]:
        self._generations += 1
        self.objects[bucket, name] = Object(data, self._generations, datetime.now(UTC) + self.skew)
        return self._resource(bucket, name)

    def _listing(self, bucket: str, query: Mapping[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, folders = [], set()
        for owner, name in sorted(self.objects):
            if owner != bucket or not name.startswith(prefix):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(self._resource(bucket, name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def _resource(self, bucket: str, name: str) -> dict[str, Any]:
        found = self.objects[bucket, name]
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(found.data)),
            "generation": str(found.generation),
            "updated": found.updated.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }


def _error(code: int, message: str) -> tuple[int, dict[str, str], Any]:
    return code, {}, {"error": {"code": code, "message": message}}
