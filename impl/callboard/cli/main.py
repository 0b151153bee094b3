"""Entry point of the `callboard` command."""

from __future__ import annotations

import click

from callboard import __version__
from callboard.cli.query import lookup, members, status
from callboard.cli.serve import serve


@click.group(context_settings={"auto_envvar_prefix": "CALLBOARD", "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="callboard")
def main() -> None:
    """A placement service for virtual actors. Every option can be given as CALLBOARD_<COMMAND>_<OPTION> too."""


main.add_command(serve)
main.add_command(status)
main.add_command(members)
main.add_command(lookup)

if __name__ == "__main__":
    main()
