"""File descriptors: as many as we may have, and some that connections never get.

What accepts connections takes descriptors on behalf of others, and with the last one gone nothing works: no command
reaches the daemon, no file opens, no restic starts.
"""

from __future__ import annotations

import logging
import resource

log = logging.getLogger("backrest.net")

# 10,000 clients and as many again. Where the hard limit is a billion, as in containers, the whole of it would make each
# program that we start, and that closes all it might have open, take minutes.
MOST = 65_536

# For the admin socket, files, restic's pipes, connections to hubs, and for connections that are just ending.
KEPT = 64
ENDING = 16

# A limit so low that there is nothing to share: some connections, whatever it takes.
FEWEST = 8


def raise_limit() -> None:
    """The soft limit, often 1,024 for the sake of old programs, becomes the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # macOS allows less than it says
            log.warning("the limit of %d file descriptors stays: %s", soft, error)


def connections_within() -> int:
    """How many connections the limit in force has room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max((MOST if soft == resource.RLIM_INFINITY else soft) - KEPT - ENDING, FEWEST)
