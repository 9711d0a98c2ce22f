"""The address of a node of Memcached, as `FEEDLAB_MEMCACHED` names it."""

import ssl
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from app.config import name_that_dns_can_have

TLS = "memcacheds://"


class Node(NamedTuple):
    """The address of a node: host and port, or a socket's path. `tls`: the context for TLS; None without TLS."""

    address: tuple[str, int] | str
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, text: str) -> "Node":
        """Read `host:port`, `/path` or `memcacheds://host:port?ssl_ca_certs=/authority.pem`.

        Without the last part the authorities that this machine trusts are trusted. Raises OSError where the file cannot
        be read, and ValueError.
        """
        if text.startswith("/"):
            return cls(text)
        url = urlsplit(text if text.startswith(TLS) else f"//{text}")
        if not url.hostname or not url.port or "@" in url.netloc:
            raise ValueError("no host and port can be read in it, and nobody signs in to Memcached")
        name_that_dns_can_have(url.hostname)
        authority = parse_qs(url.query).get("ssl_ca_certs", [None])[0]
        return cls((url.hostname, url.port), ssl.create_default_context(cafile=authority) if url.scheme else None)
