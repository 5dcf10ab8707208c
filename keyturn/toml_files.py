"""Files in TOML that operators write."""

import tomllib
from pathlib import Path
from typing import Any

from keyturn.errors import KeyturnError


def read_toml(file: Path, fault: type[KeyturnError]) -> dict[str, Any]:
    """Return a file's tables; raises `fault` with what is wrong, and none of its content but the place."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))  # editors of Windows write a mark before the text
    except OSError as error:
        raise fault(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise fault(f"{file} is not UTF-8: save it with this encoding (PowerShell: -Encoding utf8)") from None
    except (ValueError, RecursionError) as error:
        raise fault(f"{file} is not TOML: {error}") from None
