"""The command `worldmodel`: see `worldmodel.cli.command_line`."""

from worldmodel.cli.command_line import main as main
