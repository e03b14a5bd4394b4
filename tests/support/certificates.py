"""TLS as tests need it: certificates, and contexts of servers that have them."""

from __future__ import annotations

import ssl
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "tls"
CA, SERVER, CLIENT = FOLDER / "ca.pem", FOLDER / "server.pem", FOLDER / "client.pem"
CLIENT_KEY = FOLDER / "client.key"


def server_context(wants_client: bool = False) -> ssl.SSLContext:
    """Make the context of a server; with `wants_client` it refuses clients without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SERVER, FOLDER / "server.key")
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(CA)
    return context
