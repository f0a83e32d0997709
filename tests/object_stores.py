"""Buckets over HTTP: servers of S3 and of Google Cloud Storage, behind a proxy of ours.

The proxy counts what is asked and moved, and does what these servers never do: it refuses, is slow,
breaks connections, and is away.
"""

import contextlib
import http.client
import http.server
import logging
import os
import threading
import time
import urllib.parse
from typing import NamedTuple

import fsspec
import pytest
import running

# Before gcsfs is imported: the emulator lacks the newer service that says of what kind a bucket is.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
BUCKET = "hospital"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


class Exchange(NamedTuple):
    """A request that the proxy has seen."""

    method: str
    target: str  # path and query, unquoted
    status: int  # of the answer; 0: the connection was broken
    size: int  # bytes of the answer's body


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to a server of this machine.

    Attributes:
        seen: what was asked, in the order of the answers.
        trouble: (method, target) -> None; a status to refuse with; 0 to break the connection; or a
            float, the seconds to be late.
    """

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), Passing)
        self.behind, self.seen, self.trouble = port, [], lambda method, target: None

    def handle_error(self, *_):
        """Says nothing of clients that went away."""

    def asked(self, part, method="GET"):
        """The requests of a method with a part in their targets."""
        return [one for one in self.seen if one.method == method and part in one.target]


class Passing(http.server.BaseHTTPRequestHandler):
    """A connection to the proxy."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Keeps no log."""

    def parts(self):
        """The body of the request; gcsfs does not say in advance how long it is."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        del self.headers["Transfer-Encoding"]

    def answer(self):
        body = b"".join(self.parts())
        target = urllib.parse.unquote(self.path)
        status, headers, data = self.server.trouble(self.command, target), [], b""
        if isinstance(status, float):
            time.sleep(status)
        if status is None or isinstance(status, float):
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", self.server.behind)
            ) as behind:
                behind.request(self.command, self.path, body, dict(self.headers))
                answer = behind.getresponse()
                status, headers, data = answer.status, answer.getheaders(), answer.read()
        self.server.seen.append(Exchange(self.command, target, status, len(data)))
        self.close_connection = not status
        if not status:
            return
        self.send_response_only(status)
        length = next((v for k, v in headers if k.lower() == "content-length"), len(data))
        for name, value in headers:
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else len(data))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer


@contextlib.contextmanager
def server(kind):
    """The port of a server in this process, with an empty bucket: "s3" or "gs"."""
    with contextlib.ExitStack() as stack:
        if kind == "s3":
            from moto.moto_server.threaded_moto_server import ThreadedMotoServer

            logging.getLogger("werkzeug").setLevel(logging.ERROR)
            moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
            moto.start()
            stack.callback(moto.stop)
            port = moto.get_host_and_port()[1]
            connection = http.client.HTTPConnection("127.0.0.1", port)
            with contextlib.closing(connection):
                connection.request("PUT", f"/{BUCKET}")
                assert connection.getresponse().status == 200
        else:
            from gcp_storage_emulator.server import create_server

            port = running.free_port()
            stack.enter_context(create_server("127.0.0.1", port, True, BUCKET))
        yield port


@contextlib.contextmanager
def bucket(kind):
    """The address of an empty bucket and the proxy before it; this process and others find it."""
    with server(kind) as port, Proxy(port) as proxy, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{proxy.server_port}"
        said = {"AWS_ENDPOINT_URL": address, "STORAGE_EMULATOR_HOST": address, **CREDENTIALS}
        said |= {"FSSPEC_GS_TOKEN": "anon"}
        for name, value in said.items():
            patch.setenv(name, value)
        patch.setattr(fsspec.config, "conf", {"gs": {"token": "anon"}})
        fsspec.get_filesystem_class(kind).clear_instance_cache()
        yield f"{kind}://{BUCKET}", proxy
        fsspec.get_filesystem_class(kind).clear_instance_cache()
        proxy.shutdown()
