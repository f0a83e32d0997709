"""Connections to the service: with a certificate that is one, and closed where no request comes."""

from __future__ import annotations

import asyncio
import ssl

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

SECONDS = 10.0  # between two looks


def check_certificate(certificate: str, key: str) -> None:
    """Raises OSError unless both are there and belong together."""
    try:
        ssl.create_default_context().load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise OSError(
            f"{certificate} and {key} cannot be used ({getattr(error, 'strerror', '') or error}); "
            "expected a certificate and its key without a password, as PEM files"
        ) from error


class Impatient(H11Protocol):
    """HTTP/1.1 as uvicorn has it, which itself waits for the head of a request for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(SECONDS, self._look, None)

    def _look(self, last: RequestResponseCycle | None) -> None:
        """Closes it where no request has come since the last look, and none is at work."""
        if self.cycle is last and (last is None or last.response_complete):
            self.transport.close()
        elif not self.transport.is_closing():
            self.loop.call_later(SECONDS, self._look, self.cycle)
