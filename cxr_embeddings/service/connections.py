"""The port of the service, and connections on it: none is held by a client that sends nothing."""

from __future__ import annotations

import asyncio
import socket
import ssl

from uvicorn.protocols.http.h11_impl import H11Protocol


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address, on which nothing is taken yet. Raises OSError with what to do."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        said = error.strerror if isinstance(error, OSError) else error
        raise OSError(
            f"cannot listen on port {port} of {host}: {said}; see --port and --host"
        ) from error
    return listener


def check_certificate(certificate: str, key: str) -> None:
    """Raises OSError unless both are there and belong together."""
    try:
        ssl.create_default_context().load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise OSError(
            f"--tls_certificate={certificate} and --tls_key={key} cannot be used "
            f"({getattr(error, 'strerror', '') or error}); expected PEM files of a certificate and "
            "of its key without a password"
        ) from error


def protocol(seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 as uvicorn has it, but the head of a request has to come within some seconds."""

    class Impatient(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._late = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:  # a head is there
                self._cancel()
            elif self._late is None:
                self._late = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            super().connection_lost(exc)

        def _cancel(self) -> None:
            if self._late is not None:
                self._late.cancel()
            self._late = None

    return Impatient
