"""Sphinx: `sphinx-build -W docs build/docs`, with the extra `docs` installed. Needs no network."""

from __future__ import annotations

import re
from typing import Any

import octavo

project = "octavo"
author = "the octavo developers"
copyright = "the octavo developers"
release = octavo.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["README.md"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the signature has them, the text says more
autodoc_member_order = "bysource"
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "code"  # `name` in docstrings, as in Markdown

html_theme = "furo"
html_title = "octavo"


def _plain(text: str) -> str:
    """A line of prose whose |x|, a * b and name_ mean themselves; `code` is left alone, in plurals (`X`s) too."""
    pieces = re.split(r"(``.+?``|`.+?`)", text)
    plain = [p if p.startswith("`") else re.sub(r"([*|])|(?<=\w)(_)(?!\w)", r"\\\1\2", p) for p in pieces]
    after_code = [before.startswith("`") and p[:1].isalnum() for before, p in zip(["", *plain], plain, strict=False)]
    return "".join(f"\\ {p}" if separate else p for p, separate in zip(plain, after_code, strict=True))


def _as_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: indented paragraphs are equations, and stars and bars are characters."""
    found: list[str] = []
    literal: int | None = None  # the indentation of the paragraph that a literal block belongs to
    for before, line in zip(["", *lines], lines, strict=False):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        above = next((text for text in reversed(found) if text.strip()), "")
        outer = len(above) - len(above.lstrip())
        starts = (
            line.strip() and not before.strip() and above and indent > outer and not line.lstrip().startswith(">>>")
        )
        if literal is None and starts:
            literal = outer
            found += [" " * outer + "::", ""]
        found.append(line if literal is not None or line.lstrip().startswith((">>>", "...")) else _plain(line))
    lines[:] = found


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _as_rst, priority=400)  # before napoleon reads the sections
