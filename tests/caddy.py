"""A real Caddy before a hub, set up by the repository's own Caddyfile, for tests.

Only the name, the ports and what a test machine must not have (port 80, a certificate from the internet, a CA
installed on the machine) are changed. Everything it writes is in a folder of its own, so runs may overlap.

    async with running_caddy(("127.0.0.1", 9898)) as caddy:
        open_stream(rpc_url(caddy.url, ...), headers=..., ca_file=caddy.ca_file)
        await caddy.reload()
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
import trio

CADDYFILE = Path(__file__).parent.parent / "Caddyfile"
START_S = 20.0  # a slow machine with other work to do; it takes 0.1 s otherwise
STOP_S = 10.0


class Caddy:
    """``url`` is where it listens, ``ca_file`` the CA of its certificate. Use `running_caddy`."""

    def __init__(self, folder: Path, binary: str, upstream: tuple[str, int], nursery: trio.Nursery) -> None:
        self._binary = binary
        self._config = folder / "Caddyfile"
        self._admin = f"unix/{folder}/admin.sock"
        self._env = {"HOME": str(folder), "PATH": os.environ["PATH"], "XDG_DATA_HOME": str(folder / "data")}
        self._env["XDG_CONFIG_HOME"] = str(folder / "config")
        self._process: trio.Process | None = None
        self._ended = trio.Event()
        self._nursery = nursery
        self.log: deque[str] = deque(maxlen=100)  # the last lines of its log
        self.port = _free_port()
        self.url = f"https://localhost:{self.port}"
        self.ca_file = folder / "data/caddy/pki/authorities/local/root.crt"
        self.set_upstream(upstream)

    def set_upstream(self, upstream: tuple[str, int]) -> None:
        """Another address of the hub, from the next `reload` or `restart` on."""
        text = CADDYFILE.read_text()
        for old, new in (
            ("\nbackrest.example.com {", f"\nlocalhost:{self.port} {{"),
            ("h2c://127.0.0.1:9898 ", f"h2c://{upstream[0]}:{upstream[1]} "),
        ):
            assert text.count(old) == 1, f"the Caddyfile holds {old!r} not once"
            text = text.replace(old, new)
        # With "debug" the log says when the certificate is in use; until then TLS handshakes fail.
        self._write(text)

    def _write(self, sites: str) -> None:
        options = f"debug\nadmin {self._admin}\nlocal_certs\nskip_install_trust\nauto_https disable_redirects"
        self._config.write_text("{\n" + options + "\n}\n" + sites)

    async def reload_with(self, sites: str) -> None:
        """Serve these sites (in a Caddyfile's words) instead of the repository's."""
        self._write(sites)
        await self.reload()

    async def start(self) -> None:
        # The second comes after the first when the certificate is made, and before it when it is loaded.
        waiting = {"serving initial configuration", "added certificate to cache"}
        command = [self._binary, "run", "--config", str(self._config), "--adapter", "caddyfile"]
        null = subprocess.DEVNULL
        self._process = await trio.lowlevel.open_process(
            command, env=self._env, stdin=null, stdout=null, stderr=subprocess.PIPE
        )
        self._ended = trio.Event()
        ready = trio.Event()
        self._nursery.start_soon(self._follow, self._process, waiting, ready, self._ended)
        with trio.fail_after(START_S):
            await ready.wait()
        if waiting:
            pytest.fail("Caddy did not start: " + "".join(self.log))

    async def _follow(
        self, process: trio.Process, waiting: set[str], ready: trio.Event, ended: trio.Event
    ) -> None:
        """Reads the log to its end, for the pipe must not fill; ``ready`` once it said all of ``waiting``."""
        assert process.stderr is not None
        rest = b""
        async with process.stderr:
            async for data in process.stderr:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self.log.append(line.decode() + "\n")
                    if line.startswith(b"{"):
                        waiting.discard(str(orjson.loads(line).get("msg")))
                    if not waiting:
                        ready.set()
        await process.wait()
        ready.set()
        ended.set()

    async def reload(self) -> None:
        """As ``systemctl reload caddy``; returns when the new configuration is in force."""
        command = [self._binary, "reload", "--force", "--config", str(self._config), "--adapter", "caddyfile"]
        with trio.fail_after(START_S):
            await trio.run_process(
                [*command, "--address", self._admin], env=self._env, capture_stdout=True, capture_stderr=True
            )

    async def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        with trio.CancelScope(shield=True):
            process.send_signal(sign)
            with trio.move_on_after(STOP_S):
                await self._ended.wait()
            process.kill()
            await self._ended.wait()

    async def restart(self, sign: signal.Signals = signal.SIGTERM) -> None:
        await self.stop(sign)
        await self.start()


@asynccontextmanager
async def running_caddy(upstream: tuple[str, int]) -> AsyncGenerator[Caddy, None]:
    """Caddy before the hub at ``upstream``. Without Caddy the test is skipped; with CI=true it fails."""
    binary = shutil.which("caddy")
    if binary is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("caddy is not installed")
    error: BaseException | None = None
    with tempfile.TemporaryDirectory(prefix="caddy-") as folder:  # short: a socket's path ends at 107 bytes
        async with trio.open_nursery() as nursery:
            caddy = Caddy(Path(folder), binary, upstream, nursery)
            try:
                await caddy.start()
                yield caddy
            except BaseException as exc:  # past the nursery, which would wrap it in a group
                error = exc
            finally:
                await caddy.stop()
    if error is not None:
        raise error


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
