"""The desk's templates, and what every page shows."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from keyturn.application.outcomes import days_in_words
from keyturn.desk.people import Person, SignIn
from keyturn.desk.schemas import in_path
from keyturn.desk.settings import ROLES
from keyturn.moments import in_utc, relative_to

STATIC = Path(__file__).parent / "static"


class Rendering:
    """Renders pages for whoever `sign_in` found."""

    def __init__(self, sign_in: SignIn) -> None:
        self._sign_in = sign_in
        self._templates = Environment(
            loader=PackageLoader("keyturn.desk"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "id_in_path": in_path,
            "moment": in_utc,
            "iso": lambda moment: moment if isinstance(moment, str) else moment.isoformat(),
            "ago": lambda moment: relative_to(datetime.now(UTC), moment),
            "days": days_in_words,
            "words": lambda name: str(name).replace("_", " "),
            "usd": _usd,
            "query": lambda fields: urlencode(fields, doseq=True),
        }

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page."""
        person: Person | None = getattr(request.state, "person", None)
        common = {"person": person, "roles": ROLES, "by_token": self._sign_in.by_token, "path": request.url.path}
        return HTMLResponse(self._templates.get_template(template).render(**common, **values), status)


def _usd(value: Decimal | None) -> str:
    """Return an amount with as many decimals as tell it from nothing."""
    if value is None:
        return "not known"
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4f}"
