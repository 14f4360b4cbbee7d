"""How the daemon is to run: what its flags and its environment said, already checked."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

# Loopback: whoever wants to be reached says so, or puts a proxy in front.
DEFAULT_BIND = "127.0.0.1:9898"

# Often enough to notice a dead peer within minutes, and to keep proxies from closing an idle stream.
DEFAULT_HEARTBEAT_S = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``backrest serve`` was told. Paths are absolute."""

    config_file: Path
    data_dir: Path
    bind_addresses: tuple[str, ...] = (DEFAULT_BIND,)
    """As formats.parse_bind gives them; ":9898" is all interfaces."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    ca_file: str | None = None
    """Certificates that known hosts are checked against, instead of the system's."""
    heartbeat_s: float = DEFAULT_HEARTBEAT_S
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks besides loopback whose X-Forwarded-For is believed."""
    restic_command: str | None = None
    instance_id: str | None = None
    """For the first run only; afterwards the configuration has it."""
    admin_address: str | None = None
    """HOST:PORT to serve the admin API at too, besides its socket."""
    admin_token_file: Path | None = None
    """What whoever asks there must show; None: the one in the data directory."""
    admin_hosts: tuple[str, ...] = ()
    """Names under which that address is reached, besides localhost."""
    admin_insecure: bool = False
    """The token may cross a network in clear."""

    @property
    def binds(self) -> tuple[str, ...]:
        """The addresses as net.h2server.serve takes them."""
        return tuple(
            _all_interfaces() + bind if bind.startswith(":") else bind for bind in self.bind_addresses
        )


def _all_interfaces() -> str:
    # One dual-stack socket where there is IPv6, as Go does for ":9898".
    return "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - asked for by the user
