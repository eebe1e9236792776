"""The directive `command-reference`: the help of every verb of the command line, as sections of a page.

The text comes from the verbs themselves when the pages are built, so it cannot differ from `worldmodel VERB --help`.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from worldmodel.cli import command_line
from worldmodel.cli.verbs import VERBS, usage

COLUMNS = 100  # width of the help texts


def help_text(verb: str) -> str:
    """The output of `worldmodel VERB --help`."""
    output = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": str(COLUMNS), "NO_COLOR": "1"}),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        command_line.parse([*verb.split(), "--help"])
    text = output.getvalue().strip()
    if not text:
        raise RuntimeError(f"`worldmodel {verb} --help` printed nothing.")
    return text


class CommandReference(SphinxDirective):
    """The list of verbs, then a section for each of them."""

    def run(self) -> list[nodes.Node]:
        """The nodes of the sections."""
        sections: list[nodes.Node] = [nodes.literal_block(text=usage(), language="text")]
        for verb, row in VERBS.items():
            section = nodes.section(ids=["worldmodel-" + verb.replace(" ", "-")])
            section += nodes.title(text=f"worldmodel {verb}")
            section += nodes.paragraph(text=row.help[0].upper() + row.help[1:] + ".")
            section += nodes.literal_block(text=help_text(verb), language="text")
            sections.append(section)
        return sections


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command-reference", CommandReference)
    return {"parallel_read_safe": True}
