"""The prices of models of one's own, from a file."""

import tomllib
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from keyturn.errors import SettingsInvalid
from keyturn.ledger.prices import Rate
from keyturn.workers.endpoints import ModelEntry


class _RateCardFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    models: dict[str, ModelEntry]


def read_rate_card(file: Path) -> dict[str, Rate]:
    """Return the models in a TOML file of `[models."NAME"]` tables; raises SettingsInvalid.

    A table may have `input`, `output`, `cached_input` and `cache_write`, in US dollars a million tokens, and
    `context_window` in tokens.
    """
    try:
        card = _RateCardFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal))
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise SettingsInvalid(f"KEYTURN_RATE_CARD: {file} is not a rate card: {reason}") from None
    return {model: Rate(**entry.model_dump()) for model, entry in card.models.items()}
