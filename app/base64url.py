"""Bytes as text for an address or a header, and back: what was given out is read, and nothing that is like it."""

from base64 import urlsafe_b64decode, urlsafe_b64encode


def encoded(given: bytes) -> str:
    return urlsafe_b64encode(given).rstrip(b"=").decode()


def decoded(text: str) -> bytes | None:
    """Return the bytes of which `encoded` makes this text; None where there are none."""
    try:
        given = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:  # binascii.Error and UnicodeEncodeError are such errors
        return None
    return given if encoded(given) == text else None  # decoding passes over what is no letter of it, and spare bits
