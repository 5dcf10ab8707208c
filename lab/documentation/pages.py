"""The pages that are written from the code and from other files, by their path below docs/."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from keyturn.lab.documentation.commands import commands_page
from keyturn.lab.documentation.errors import errors_page
from keyturn.lab.documentation.http import http_page
from keyturn.lab.documentation.log_events import log_events_page
from keyturn.lab.documentation.metrics import metrics_page
from keyturn.lab.documentation.settings import settings_page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COPIES = {
    "project/readme.md": "README.md",
    "project/changelog.md": "CHANGELOG.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/security.md": "SECURITY.md",
}


def copy_page(name: str) -> str:
    """Return a Markdown file of the top folder as a page of docs/project, whose links lead to the same places."""

    def move_link(link: re.Match[str]) -> str:
        path, hash_, anchor = link[1].partition("#")
        page = {source: Path(target).name for target, source in COPIES.items()}.get(path)
        if path == "docs/README.md":
            page = "../index.md"
        place = page or (f"../{path[5:]}" if path.startswith("docs/") else f"../../{path}")
        return f"]({place}{hash_}{anchor})"

    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\((?!https?:|#)([^)]*)\)", move_link, text)


def index() -> str:
    """Return the site's first page: docs/README.md, whose lists of links are its navigation as well.

    The generated pages come first in the section of their folder; what is said of `make docs`, and what
    stands for its pages there, is for readers of the repository.
    """
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    for page, source in COPIES.items():
        text = text.replace(f"](../{source})", f"]({page})")
    text = re.sub(r"\n`make docs`.*\n|- Every setting, .*\n", "", text)
    generated = "\n".join(f"- [{title}]({name})" for name, title in TITLES.items())
    text = text.replace("## Reference\n\n", f"## Reference\n\n{generated}\n")
    navigation = []
    for section in text.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        listed = "\n".join(re.findall(r"\[[^]]*\]\(([^)#]+)\.md\)", section))
        navigation.append(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```")
    return "\n\n".join([text.strip(), *navigation]) + "\n"


TITLES = {
    "reference/settings.md": "Settings",
    "reference/commands.md": "Commands",
    "reference/http.md": "HTTP interfaces",
    "reference/metrics.md": "Metrics",
    "reference/log-events.md": "Log events",
    "reference/errors.md": "Errors",
}
PAGES: Mapping[str, Callable[[], str]] = {
    "index.md": index,
    "reference/settings.md": settings_page,
    "reference/commands.md": commands_page,
    "reference/http.md": http_page,
    "reference/metrics.md": metrics_page,
    "reference/log-events.md": log_events_page,
    "reference/errors.md": errors_page,
    **{page: partial(copy_page, name) for page, name in COPIES.items()},
}


def write() -> None:
    """Write every page; one that did not change keeps its time, so that only what changed is built anew."""
    for name, render in PAGES.items():
        file, text = DOCS / name, render()
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
