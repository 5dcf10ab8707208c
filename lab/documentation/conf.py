"""The site's configuration, for `python -m sphinx -c documentation docs build/site`."""

from typing import Any

project = "Keyturn"
author = "The Keyturn authors"
html_title = "Keyturn"
html_theme = (
    "furo"  # its fonts are the reader's own, and its scripts lie beside the pages: nothing comes from elsewhere
)
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_last_updated_fmt = None
extensions = ["myst_parser"]
myst_heading_anchors = 4  # as GitHub names them, so that a link with an anchor works in both places
exclude_patterns = ["README.md"]  # index.md is written from it, with the navigation
suppress_warnings = ["myst.header"]  # a page may start with the comment that says what writes it
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"


def _list_decisions(_app: Any, page: str, source: list[str]) -> None:
    """Add the decisions to the navigation below their table: on GitHub, the table alone is shown."""
    if page == "adr/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"


def setup(app: Any) -> None:
    """Connect what Sphinx calls while it reads."""
    app.connect("source-read", _list_decisions)
