"""Who may speak to the door, and from where: decisions over a request's head. Pure.

A browser lets any web page send requests to this machine. Two things of such a request cannot be forged
by the page: `Host` (a name that was re-bound to a loopback address keeps its name) and `Origin`.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping

from msgspec import Struct

from difs.doors.answers import Refused

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/healthz"})
"""Paths that need no token."""
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
"""In every answer."""


class Token(Struct, frozen=True):
    """What is known of a token."""

    name: str
    """Whose it is."""
    digest: str
    """Its SHA-256 in hexadecimal."""
    is_admin: bool = False


class Rules(Struct, frozen=True):
    """What the door lets in."""

    hosts: frozenset[str] = LOOPBACK_HOSTS
    """Names that `Host` may have."""
    any_address: bool = False
    """Whether `Host` may be any IP address: it is no name that could be re-bound."""
    needs_token: bool = False
    tokens: tuple[Token, ...] = ()


class Caller(Struct, frozen=True):
    """Who is let in, and what for."""

    name: str = ""
    """Of its token; empty where none is needed."""
    account: str = ""
    """The token's digest: another token of the same name is another caller."""
    is_admin: bool = False
    """Whether it may load, evict and go before all others."""


def judge(rules: Rules, method: str, path: str, headers: Mapping[str, str]) -> Caller | Refused:
    """Return who speaks, or why nobody may; header names are in lower case."""
    host = headers.get("host", "")
    if not _is_ours(rules, host):
        words = "this Host is not served here; name it in http.hosts if it is yours"
        return Refused(403, "foreign_host", words, retryable=False)
    if not _is_from_here(method, host, headers):
        words = "requests from other web pages are not taken"
        return Refused(403, "foreign_origin", words, retryable=False)
    if not rules.needs_token:
        return Caller(is_admin=True)  # a program of this machine, as on the broker's own socket
    if path in OPEN_PATHS:
        return Caller()
    found = owner(rules.tokens, token_in(headers.get("authorization", "")))
    if found is None:
        words = "a token is needed: Authorization: Bearer TOKEN, or Basic with it as the password"
        return Refused(401, "unauthorised", words, retryable=False)
    return Caller(found.name, found.digest, found.is_admin)


def _is_ours(rules: Rules, header: str) -> bool:
    host = host_of(header)
    if host is None:
        return False
    if host in rules.hosts:
        return True
    return rules.any_address and _is_address(host)


def host_of(header: str) -> str | None:
    """Return the name or address in a `Host` header, without its port; None where it has no form."""
    text = header.strip().lower()
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        port = port.removeprefix(":") if port.startswith(":") or not port else "bad"
        good = bool(bracket) and _is_address(host)
    else:
        host, _, port = text.partition(":")
        good = bool(host) and ":" not in port
    return host.rstrip(".") if good and (not port or port.isdecimal()) else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_from_here(method: str, host: str, headers: Mapping[str, str]) -> bool:
    """Whether no foreign web page sent this; programs other than browsers send neither header."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != host.strip().lower():
        return False
    site = headers.get("sec-fetch-site", "none")
    is_visit = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return site in ("none", "same-origin") or is_visit


# ---- tokens ---------------------------------------------------------------------------------------


def token_in(authorization: str) -> str:
    """Return the token of an `Authorization` header; empty where there is none."""
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        text = base64.b64decode(rest.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
    return text.partition(":")[2]


def digest(token: str) -> str:
    """Return what is kept of a token: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def owner(tokens: tuple[Token, ...], token: str) -> Token | None:
    """Return what is known of a token; takes as long whichever it is, and if it is none's."""
    given, found = digest(token), None
    for known in tokens:
        if hmac.compare_digest(given, known.digest):
            found = known
    return found if token else None


def revoked(rules: Rules, accounts: Iterable[str]) -> frozenset[str]:
    """Return which of the accounts that were let in would not be any more."""
    if not rules.needs_token:
        return frozenset()
    return frozenset(accounts) - {token.digest for token in rules.tokens}
