"""Whose address counts, and what is counted together: for every limit that there is by address."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(peer: str, headers: Mapping[str, str], trusted: Sequence[str | Network] = ()) -> str:
    """Whose address counts: the last X-Forwarded-For entry when the connection comes from loopback or a trusted
    proxy (address or network), else the socket's.

    The last entry is the one our proxy wrote; those before it are what its client claimed.
    """
    forwarded = headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    if not forwarded or not _is_trusted(peer, trusted):
        return peer
    try:
        return str(ipaddress.ip_address(forwarded))
    except ValueError:
        return peer


def _is_trusted(peer: str, trusted: Sequence[str | Network]) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer == ""  # a Unix socket: only this user's processes reach it
    return address.is_loopback or any(
        address in (ipaddress.ip_network(entry, strict=False) if isinstance(entry, str) else entry)
        for entry in trusted
    )


def limit_key(address: str) -> str:
    """The unit that is limited: an IPv4 address, or an IPv6 /64 (what one household or server gets)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
        ip = ip.ipv4_mapped
    return str(ip)
