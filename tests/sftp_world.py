"""A real sshd for restic's sftp, without a port and without a daemon.

ssh's ProxyCommand starts ``sshd -i`` for each connection, on pipes. restic starts whatever ``ssh`` is first in PATH:
here a script that names the test's own configuration, because ssh finds the user's by the password file, not by $HOME.
"""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path

import pytest

SSHD = "/usr/sbin/sshd"


def make_host(directory: Path, patch: pytest.MonkeyPatch) -> Path:
    """Make ``sftp:nas:`` mean this machine for every restic started from now on; the directory of its files:
    ``known_hosts`` and ``authorized_keys``."""
    directory.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    (directory / "authorized_keys").write_text((directory / "user.pub").read_text())
    (directory / "known_hosts").write_text("nas " + (directory / "host.pub").read_text())
    (directory / "sshd.conf").write_text(
        f"HostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "Subsystem sftp internal-sftp\n"
    )
    (directory / "ssh.conf").write_text(
        f"Host nas\n  User {getpass.getuser()}\n  ProxyCommand {SSHD} -i -f {directory}/sshd.conf\n"
        f"  IdentityFile {directory}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {directory}/known_hosts\n"
        "  GlobalKnownHostsFile none\n"
    )
    programs = directory / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {directory}/ssh.conf "$@"\n')
    (programs / "ssh").chmod(0o755)
    patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it of root; its service makes it elsewhere
    return directory
