"""The program ``backrest``: the table of its commands. Each lives in the file of its noun and is imported
when used.
"""

from __future__ import annotations

import click

from backrest import __version__
from backrest.cli.base import Root, shared_options

# name: (module of backrest.cli, what it does)
COMMANDS = {
    "init": ("init", "Give this machine an identity and a configuration."),
    "serve": ("serve", "Run the daemon: accept clients, stay connected to hubs."),
    "identity": ("identity", "The key by which peers know this machine."),
    "status": ("status", "Show this instance and each peer."),
    "token": ("token", "Pairing tokens, which let a client in (on the hub)."),
    "host": ("host", "The hubs that this machine reports to (on the client)."),
    "client": ("client", "The clients that report to this machine (on the hub)."),
    "push": ("push", "Change a client's repositories and plans from here."),
    "repo": ("repo", "The restic repositories."),
    "plan": ("plan", "What is backed up, and where to."),
    "backup": ("backup", "Run a plan's backup now."),
    "index": ("backup", "Read a repository's snapshots into the history."),
    "unlock": ("backup", "Remove the locks that a killed restic left in a repository."),
    "ops": ("ops", "The history: what was done, here and on the clients."),
    "audit": ("audit", "Who paired, was refused, was let in, changed what."),
    "config": ("config", "Show, check or replace the configuration."),
    "oplog": ("oplog", "Check, repair or shrink the file of the history."),
}

EPILOG = """
The options above may also stand behind a command. Every command that lists takes --json.
Exit codes: 0 done, 1 failed, 2 wrong usage; `status --check` uses those of Nagios.

Completion: put  eval "$(_BACKREST_COMPLETE=bash_source backrest)"  into ~/.bashrc (zsh_source for zsh;
for fish:  _BACKREST_COMPLETE=fish_source backrest | source).
"""

cli = Root(
    "backrest",
    table=COMMANDS,
    params=[*shared_options(at_root=True)],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="See and steer the restic backups of all your machines from one place.",
    epilog=EPILOG,
)
click.version_option(__version__, "--version", prog_name="backrest")(cli)


def main() -> None:
    """The console script."""
    cli.main(prog_name="backrest")


if __name__ == "__main__":
    main()
