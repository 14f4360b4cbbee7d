"""From a URL to a byte stream that is ready for HTTP/2, or one sentence that says why not.

Rule: every way in which the way to the other machine can be broken (the URL, the name, TCP, TLS, the
certificate, ALPN) is told apart here and nowhere else, in words that lead a person to the cause.
Nothing is ever sent in the clear to an https:// address, and no certificate goes unchecked: there is
no switch for it.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from functools import lru_cache

import httpx
import trio

from backrest.errors import BackrestError

ASKING_S = 3.0  # for the one question whether a port speaks TLS: an answer takes a round trip or two


class NetError(BackrestError, httpx.TransportError):
    """The way to the other machine is broken, or what answers there is not what was expected.

    The text is one sentence for a person. ``retry_at_once``: the cause is over by its nature (a proxy that
    reloads), so a new connection may be tried without waiting. ``absent``: no program listens at that address.
    It is also an httpx error, so that whoever uses the transport through httpx catches it as they catch the others.
    """

    def __init__(self, message: str, *, retry_at_once: bool = False, absent: bool = False) -> None:
        httpx.TransportError.__init__(self, message)
        self.retry_at_once = retry_at_once
        self.absent = absent


class GoAway(NetError):
    """The server announced the end of the connection (GOAWAY), in peace or not: reconnect now.

    After a reload of Caddy nothing ever comes again on such a stream, so there is nothing to wait for.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_at_once=True)


@lru_cache(maxsize=64)  # an instance dials the same few, again and again
def parse_url(text: str) -> httpx.URL:
    """Check an address that a person typed. NetError says what is wrong with it.

    A user or password in it is refused: it would end up in logs, states and configurations in the clear,
    and the sync protocol has no use for it. So are a query and a fragment: nothing would read them.
    """
    text = text.strip()
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as exc:
        raise NetError(f"{_shown(text)!r} is not a URL: {exc}") from None
    if url.scheme not in ("http", "https"):
        if "://" in text:
            raise NetError(
                f"the URL {_shown(text)!r} must begin with https:// or http://, not {url.scheme}://"
            )
        raise NetError(f"the URL {_shown(text)!r} must begin with https:// or http://")
    if not url.host:
        raise NetError(f"the URL {_shown(text)!r} names no host")
    if "%" in url.host and ":" not in url.host:  # httpx escapes what no host name can hold, a space for one
        raise NetError(f"the URL {_shown(text)!r} has characters in its host that no host name can have")
    if url.port is not None and not 0 < url.port < 65536:
        raise NetError(f"the URL {_shown(text)!r} has a port out of range: 1 to 65535")
    if url.userinfo:
        raise NetError("the URL must not hold a user name or a password")
    if url.query or url.fragment:
        raise NetError(f"the URL {_shown(text)!r} must end with its path: no '?' and no '#'")
    return url


def rpc_url(base: str, path: str) -> str:
    """The URL of an RPC below an instance's URL, which may have a path of its own (https://host/prefix/)."""
    url = parse_url(base)
    return str(url.copy_with(path=url.path.rstrip("/") + "/" + path.lstrip("/")))


def place(url: httpx.URL) -> str:
    """Host and port as people write them. The port is always there: in an error it is often the point."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{port_of(url)}"


def port_of(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


async def secure(
    url: httpx.URL, tcp: trio.SocketStream, *, ca_file: str | os.PathLike[str] | None = None
) -> trio.abc.Stream:
    """What the URL's scheme asks for, over a connection of ``reach``: for https:// TLS with ALPN ``h2``. Sets no time
    limit, and closes ``tcp`` when it fails.

    ``ca_file`` (PEM) replaces the system's certificate authorities, as SSL_CERT_FILE does.
    """
    if url.scheme == "http":
        return tcp
    try:
        # Reading a few hundred authorities takes tens of milliseconds: not in the event loop.
        context = await trio.to_thread.run_sync(_tls_context, ca_file)
        host = url.raw_host.decode("ascii")
        tls = trio.SSLStream(tcp, context, server_hostname=host, https_compatible=True)
        await tls.do_handshake()
        if tls.selected_alpn_protocol() != "h2":
            raise NetError(_not_http2(url, "did not agree on it in the TLS handshake (ALPN)"))
    except trio.BrokenResourceError as exc:
        await trio.aclose_forcefully(tcp)
        raise _tls_problem(url, exc.__cause__) from exc
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise
    return tls


def _not_http2(url: httpx.URL, what: str) -> str:
    return f"{place(url)} does not speak HTTP/2, which the sync stream needs: it {what}"


def not_http2(url: httpx.URL, first: bytes) -> NetError:
    """What to say of an answer whose first bytes are not those of HTTP/2."""
    if first.startswith(b"HTTP/"):
        answered = first.split(b"\r", 1)[0][:60].decode("ascii", "replace")
        return NetError(_not_http2(url, f"answered {answered!r}"))
    if first[:2] in (b"\x15\x03", b"\x16\x03"):  # a TLS alert or handshake record
        return uses_tls(url)
    line = first.split(b"\n", 1)[0].strip()[:60].decode("ascii", "replace")
    said = f"answered {line!r}" if line and line.isprintable() else "answered with something else"
    return NetError(_not_http2(url, said))


def uses_tls(url: httpx.URL) -> NetError:
    return NetError(f"{place(url)} speaks TLS: write https:// instead of http://")


async def speaks_tls(url: httpx.URL) -> bool:
    """Whether the port of an http:// URL speaks TLS: most TLS servers close a connection that begins with anything
    else, without a word. Only a handshake goes out, on a connection of its own."""
    context = ssl.SSLContext(
        ssl.PROTOCOL_TLS_CLIENT
    )  # it trusts nobody: a certificate that it refuses is an answer
    with trio.move_on_after(ASKING_S):
        try:
            tcp = await reach(url)
        except NetError:
            return False
        tls = trio.SSLStream(
            tcp, context, server_hostname=url.raw_host.decode("ascii"), https_compatible=True
        )
        try:
            await tls.do_handshake()
            return True
        except trio.BrokenResourceError as exc:
            cause = exc.__cause__
            return (
                isinstance(cause, ssl.SSLError)
                and not isinstance(cause, _CLOSED)
                and _reason(cause) not in _NOT_TLS
            )
        finally:
            await trio.aclose_forcefully(tcp)
    return False


async def reach(url: httpx.URL) -> trio.SocketStream:
    """Connect to the URL's host and port. Sets no time limit. HTTP_PROXY and HTTPS_PROXY are not looked at: see
    DuplexTransport."""
    host = url.raw_host.decode("ascii").replace("%25", "%")  # the zone of a link-local IPv6 address
    try:
        return await trio.open_tcp_stream(host, port_of(url))
    except socket.gaierror as exc:
        if exc.errno == socket.EAI_AGAIN:
            text = (
                f"looking up the name {host} failed; is this machine's network or DNS down? ({exc.strerror})"
            )
        else:
            text = f"the name {host} is unknown to DNS: is it spelled right? ({exc.strerror})"
        raise NetError(text) from exc
    except UnicodeError as exc:
        raise NetError(f"{host!r} cannot be a host name: {exc}") from exc
    except OSError as exc:
        absent = any(cause.errno == errno.ECONNREFUSED for cause in _causes(exc))
        raise NetError(_tcp_problem(url, exc), absent=absent) from exc


_TCP_PROBLEMS = {
    errno.ECONNREFUSED: "refused the connection: nothing listens there (is the port in the URL right?), "
    "or a firewall refuses",
    errno.EHOSTUNREACH: "cannot be reached from here (no route to the host)",
    errno.ENETUNREACH: "cannot be reached from here (no route to its network)",
    errno.ETIMEDOUT: "did not answer: is it up, and does a firewall drop the packets?",
    errno.ECONNRESET: "broke the connection off at once",
}


def _tcp_problem(url: httpx.URL, exc: OSError) -> str:
    """Of several addresses tried, the first one's failure: it is the address that was preferred."""
    causes = _causes(exc)
    for cause in causes:
        if cause.errno in _TCP_PROBLEMS:
            return f"{place(url)} {_TCP_PROBLEMS[cause.errno]}"
    return f"{place(url)} cannot be reached: {causes[0].strerror or causes[0]}"


def _causes(exc: OSError) -> list[OSError]:
    """The failure at each address that was tried."""
    if isinstance(exc.__cause__, ExceptionGroup):
        return [e for e in exc.__cause__.exceptions if isinstance(e, OSError)] or [exc]
    return [exc]


def _tls_context(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """The defaults of Python's ssl module (TLS 1.2 and later, names and chains checked), and ALPN.

    OpenSSL reads SSL_CERT_FILE by itself, but says nothing when the file cannot be read: the failure would
    look like an untrusted certificate.
    """
    source = ca_file
    named = "the CA file"
    if source is None and os.environ.get("SSL_CERT_FILE"):
        source, named = os.environ["SSL_CERT_FILE"], "the CA file of SSL_CERT_FILE,"
    try:
        context = ssl.create_default_context(cafile=source)
    except ssl.SSLError as exc:
        raise NetError(f"{named} {os.fspath(source or '')} holds no certificate in PEM form") from exc
    except OSError as exc:
        raise NetError(f"{named} {os.fspath(source or '')} cannot be read: {exc.strerror}") from exc
    context.set_alpn_protocols(["h2"])
    return context


# The connection was closed in mid-handshake. Which of the two it is depends on the Python and its OpenSSL.
_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


def _tls_problem(url: httpx.URL, cause: BaseException | None) -> NetError:
    where = place(url)
    if isinstance(cause, ssl.SSLCertVerificationError):
        text = f"the certificate of {where} is not valid here: {cause.verify_message.rstrip('.')}"
        if cause.verify_code in _UNKNOWN_AUTHORITY:
            text += " (for a CA of your own, name its file in SSL_CERT_FILE)"
        if cause.verify_code in _OTHER_NAME:
            text += " (the URL must hold a name that the certificate was made for)"
        if cause.verify_code in _OTHER_TIME:
            text += " (it must be renewed there, or the clock of this machine is wrong)"
        return NetError(text)
    if isinstance(cause, _CLOSED) or cause is None:
        return NetError(f"{where} closed the connection during the TLS handshake")
    if isinstance(cause, ssl.SSLError):
        reason = _reason(cause)
        if "NO_APPLICATION_PROTOCOL" in reason:
            return NetError(_not_http2(url, "refused it in the TLS handshake (ALPN)"))
        if reason in _NOT_TLS:
            return NetError(
                f"{where} does not speak TLS: write http:// instead of https:// if it is the hub's port "
                "(or put a proxy before it)"
            )
        if reason in _NO_CERTIFICATE:
            return NetError(
                f"{where} has no certificate for this name, or not yet: is the name in the URL right?"
            )
        return NetError(f"no TLS connection to {where}: {reason.replace('_', ' ').lower() or cause}")
    return NetError(f"{where} broke the connection off during the TLS handshake")


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's name of what went wrong. Python 3.11 has no names for what OpenSSL 3 says of some alerts (ALPN's is
    one), but its words."""
    words = str(error).partition("] ")[2].rpartition(" (_ssl")[0]
    return error.reason or words.upper().replace(" ", "_")


# OpenSSL's codes for a chain that ends at nobody we know: X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT (2),
# DEPTH_ZERO_SELF_SIGNED_CERT (18), SELF_SIGNED_CERT_IN_CHAIN (19), UNABLE_TO_GET_ISSUER_CERT_LOCALLY (20).
_UNKNOWN_AUTHORITY = (2, 18, 19, 20)

# X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_OTHER_NAME = (62, 64)

# X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_OTHER_TIME = (9, 10)

# The alerts of servers that have no certificate to show: Caddy's (Go's), and that of RFC 6066.
_NO_CERTIFICATE = ("TLSV1_ALERT_INTERNAL_ERROR", "TLSV1_UNRECOGNIZED_NAME")

# What OpenSSL calls an answer that is no TLS record; the name differs between its versions.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")


def _shown(text: str) -> str:
    """The URL for an error text, without what may be a password in it, and not a page long."""
    head, at, tail = text.rpartition("@")
    if at:
        scheme, sep, _ = head.partition("://")
        text = (scheme + sep if sep else "") + "...@" + tail
    return text if len(text) <= 200 else text[:200] + "..."
