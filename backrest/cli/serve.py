"""``backrest serve``: from flags and environment to Settings, and then the daemon."""

from __future__ import annotations

import os
from pathlib import Path

import click

from backrest.admin.settings import DEFAULT_BIND, DEFAULT_HEARTBEAT_S, Settings
from backrest.cli.base import Command, parsed, shared
from backrest.cli.formats import parse_bind, parse_duration
from backrest.errors import UserError

# Below a second heartbeats are a load and no help; above a day no proxy keeps the stream open.
SHORTEST_HEARTBEAT_S, LONGEST_HEARTBEAT_S = 1.0, 86400.0


def _heartbeat(text: str) -> float:
    seconds = parse_duration(text)
    if not SHORTEST_HEARTBEAT_S <= seconds <= LONGEST_HEARTBEAT_S:
        raise ValueError("a heartbeat interval is from 1s to 1d")
    return seconds


def _network(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError(f"{text!r} is neither an IP address nor a network (10.0.0.0/8)") from None


def _admin_address(text: str) -> str:
    """As for --bind-address, but a port alone is for this machine only."""
    bind = parse_bind(text)
    return "127.0.0.1" + bind if bind.startswith(":") else bind


_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=Command)
@click.option(
    "--bind-address",
    "bind_addresses",
    multiple=True,
    metavar="ADDR",
    envvar="BACKREST_PORT",
    show_envvar=True,
    callback=parsed(parse_bind),
    help=(
        "HOST:PORT to accept clients at, or a port alone for all interfaces; may be repeated; default "
        f"{DEFAULT_BIND}."
    ),
)
@click.option("--tls-cert", type=_file, help="The certificate chain (PEM), to serve TLS without a proxy.")
@click.option("--tls-key", type=_file, help="Its private key (PEM).")
@click.option(
    "--ca-file",
    type=_file,
    envvar="BACKREST_CA_FILE",
    show_envvar=True,
    help="Certificates (PEM) to check hubs against, instead of the system's (SSL_CERT_FILE works too).",
)
@click.option(
    "--heartbeat-interval",
    "--multihost-heartbeat-interval",
    "heartbeat",
    metavar="DURATION",
    envvar="BACKREST_MULTIHOST_HEARTBEAT_INTERVAL",
    show_envvar=True,
    callback=parsed(_heartbeat),
    help=f"How often to show peers that we are there; default {DEFAULT_HEARTBEAT_S:.0f}s.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDR",
    callback=parsed(_network),
    help="An address or network, besides loopback, whose X-Forwarded-For is believed; may be repeated.",
)
@click.option(
    "--admin-address",
    metavar="ADDR",
    callback=parsed(_admin_address),
    help="HOST:PORT to serve the admin API at, too, for who shows the token; a port alone is 127.0.0.1.",
)
@click.option(
    "--admin-token-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file with the token for --admin-address, made if there is none; default admin-token in the data "
    "directory.",
)
@click.option(
    "--admin-host",
    "admin_hosts",
    multiple=True,
    metavar="NAME",
    help="A name under which --admin-address is reached, besides localhost; may be repeated.",
)
@click.option(
    "--admin-insecure",
    is_flag=True,
    help="Serve an --admin-address that other machines reach without TLS: the token crosses the network in clear.",
)
@click.option("--instance-id", metavar="ID", help="The name of this machine, for a first run without `init`.")
def serve(
    bind_addresses: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    ca_file: Path | None,
    heartbeat: float | None,
    trusted_proxies: tuple[str, ...],
    admin_address: str | None,
    admin_token_file: Path | None,
    admin_hosts: tuple[str, ...],
    admin_insecure: bool,
    instance_id: str | None,
) -> None:
    """Run the daemon: accept clients, stay connected to hubs.

    It stays in the foreground and logs to stderr. SIGTERM and Ctrl-C end it within 5 s; SIGHUP reads the
    configuration again.
    """
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    if admin_address is None and (admin_token_file or admin_hosts or admin_insecure):
        raise click.UsageError(
            "--admin-token-file, --admin-host and --admin-insecure go with --admin-address."
        )
    options = shared()
    paths = options.paths()
    settings = Settings(
        config_file=paths.config_file,
        data_dir=paths.data_dir,
        bind_addresses=bind_addresses or (DEFAULT_BIND,),
        tls_cert=tls_cert and tls_cert.absolute(),
        tls_key=tls_key and tls_key.absolute(),
        ca_file=os.path.abspath(ca_file) if ca_file else None,
        heartbeat_s=heartbeat or DEFAULT_HEARTBEAT_S,
        trusted_proxies=trusted_proxies,
        restic_command=options.restic_cmd,
        instance_id=instance_id,
        admin_address=admin_address,
        admin_token_file=admin_token_file and admin_token_file.absolute(),
        admin_hosts=admin_hosts,
        admin_insecure=admin_insecure,
    )
    _check(settings)
    from backrest import app
    from backrest.cli import logs

    logs.start(options.log_format, debug=options.debug)
    app.run(settings)


def _check(settings: Settings) -> None:
    """What would otherwise only show as a log line later on."""
    if settings.ca_file:
        import ssl

        try:
            ssl.create_default_context(cafile=settings.ca_file)
        except (ssl.SSLError, OSError):
            raise UserError(f"{settings.ca_file} holds no certificates in PEM form") from None
