"""Entry point of the `callboard` command."""

from __future__ import annotations

import click

from callboard import __version__
from callboard.cli.namespaces import COMMANDS as NAMESPACE_COMMANDS
from callboard.cli.operate import backup, engine, replica_group, restore
from callboard.cli.query import lookup, members, status
from callboard.cli.serve import serve


@click.group(context_settings={"auto_envvar_prefix": "CALLBOARD", "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="callboard")
def main() -> None:
    """A placement service for virtual actors. Every option can be given as CALLBOARD_<COMMAND>_<OPTION> too."""


for command in (serve, status, members, lookup, backup, restore, engine, replica_group, *NAMESPACE_COMMANDS):
    main.add_command(command)

if __name__ == "__main__":
    main()
