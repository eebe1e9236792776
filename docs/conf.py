"""Sphinx configuration. Build with `make docs`."""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "extensions"))

from worldmodel.common.version import VERSION  # noqa: E402

project = "worldmodel"
author = "The worldmodel developers"
copyright = author
version = release = VERSION

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_reference",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings are Google style; `name` in single backticks is code.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autoclass_content = "class"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True}
add_module_names = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"worldmodel {VERSION}"
html_copy_source = False
html_show_sphinx = False


def escape_docstring(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code` in backticks; escape the other signs that reStructuredText interprets."""
    for i, line in enumerate(lines):
        line = re.sub(r"(`[^`]+`)(\w?)", lambda m: m[1] + ("\\ " if m[2] else "") + m[2], line)  # `Name`s
        pieces = re.split(r"(`[^`]*`)", line)
        for j in range(0, len(pieces), 2):
            pieces[j] = re.sub(r"(?<!\\)([*|]|(?<=\w)_(?!\w))", r"\\\1", pieces[j])
        line = "".join(pieces)
        lines[i] = re.sub(r"(^\s*|: )(\w)\.(?=$| )", r"\1\2\\.", line)  # "N.", not the first item of a list


def setup(app):
    """Connect after napoleon, which has the default priority of 500."""
    app.connect("autodoc-process-docstring", escape_docstring, priority=600)
