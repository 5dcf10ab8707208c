"""Secrets of GitHub Actions, encrypted for GitHub's public key with libsodium (crypto_box with an anonymous sender).

Source: docs.github.com, REST API endpoints for GitHub Actions secrets, Encrypting secrets for the REST API, and Rate
limits for the REST API.
"""

import base64
import re
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

from nacl.public import PublicKey, SealedBox
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from keyturn.execution.errors import CloudRefused, CloudUnavailable, SecretNotStored, TargetUnusable
from keyturn.execution.rest import Answer, RestApi, is_passing, settings_from_environment
from keyturn.settings import SETTINGS_FROM_ENVIRONMENT, Key, secure_url

API_VERSION = "2022-11-28"  # every answer of this version has what is read here, on GitHub Enterprise Server, too
MAX_BYTES = 48 * 1024  # of a secret
PAGE, MOST_PAGES = 100, 20  # repositories a page; an organization's secret for more is one for all of them
_OWNER = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_SECRET = re.compile(r"(?!GITHUB_)[A-Z_][A-Z0-9_]{0,254}", re.IGNORECASE)
_NEVER_READ = "GitHub never returns the value of a secret"


class GitHubSettings(BaseSettings):
    """Which GitHub, and by which token."""

    model_config = SETTINGS_FROM_ENVIRONMENT

    token: Key = Field(
        alias="GITHUB_TOKEN", description="A fine-grained personal access token of the executor, or an app's token."
    )
    url: Annotated[str, AfterValidator(secure_url)] = Field(
        default="https://api.github.com",
        alias="GITHUB_API_URL",
        description="GitHub's REST API; https://HOST/api/v3 for GitHub Enterprise Server.",
    )


class Place(NamedTuple):
    """The path of a set of secrets, and the name of one in it; whether they are an organization's."""

    secrets: str
    name: str
    is_organization: bool = False


class ActionsSecrets:
    """Secrets of GitHub Actions. What is written twice is the same secret, encrypted anew."""

    def __init__(self, settings: GitHubSettings | None = None) -> None:
        settings = settings or settings_from_environment(GitHubSettings)
        self._token = settings.token
        self._api = RestApi("GitHub", settings.url, headers=self._headers, passing=_is_passing)

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the value of a secret. Which repositories an organization's secret is for stays as it is.

        A new secret of an organization is for no repository yet: which may read it, a person decides.

        Raises:
            TargetUnusable, SecretNotStored: the path is none, or the secret is too long; nothing was stored.
            CloudRefused: the token has no right to it, or the repository or the environment does not exist.
            CloudUnavailable: call again.
        """
        place, text = place_in(name), secret.get_secret_value().encode()
        if len(text) > MAX_BYTES:
            raise SecretNotStored(f"GitHub takes {MAX_BYTES} bytes, and the secret has more")
        body = await self._access(place) if place.is_organization else {}
        key = await self._api.ask("GET", f"{place.secrets}/public-key")
        key_id, public_key = key.member("key_id"), key.member("key")
        body |= {"encrypted_value": _encrypt(public_key, text), "key_id": str(key_id)}
        await self._api.ask("PUT", f"{place.secrets}/{place.name}", body=body, accept=(200, 201, 204))

    async def current(self, name: str) -> SecretStr | None:
        """Raise CloudRefused: GitHub returns no secret, and an answer of None would say that there is none."""
        raise CloudRefused(_NEVER_READ)

    async def restore(self, name: str) -> None:
        """Raise CloudRefused: the secret before is written again from a target that can be read."""
        raise CloudRefused(f"{_NEVER_READ}: the one before cannot be restored from it")

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def _access(self, place: Place) -> dict[str, Any]:
        """Return who may read an organization's secret: a write that leaves the repositories out clears their list."""
        found = await self._api.ask("GET", f"{place.secrets}/{place.name}", accept=(200, 404))
        if found.status == 404:
            return {"visibility": "selected", "selected_repository_ids": []}
        visibility = found.member("visibility")
        if visibility not in {"all", "private", "selected"}:
            raise CloudUnavailable("GitHub does not say who may read the secret")
        if visibility != "selected":
            return {"visibility": visibility}
        ids: list[int] = []
        for page in range(1, MOST_PAGES + 1):
            params = {"per_page": str(PAGE), "page": str(page)}
            answer = await self._api.ask("GET", f"{place.secrets}/{place.name}/repositories", params=params)
            listed, total = answer.member("repositories"), answer.member("total_count")
            if not isinstance(listed, list) or not isinstance(total, int):
                raise CloudUnavailable("GitHub does not say which repositories may read the secret")
            ids += [int(repository["id"]) for repository in listed]
            if len(ids) >= total:
                return {"visibility": visibility, "selected_repository_ids": ids}
            if not listed:
                break
        raise CloudRefused(f"the secret is for more than {PAGE * MOST_PAGES} repositories, or their list is not whole")

    def _headers(self) -> dict[str, str]:
        return {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {self._token.get_secret_value()}",
            "User-Agent": "keyturn",  # GitHub refuses requests without one
            "X-GitHub-Api-Version": API_VERSION,
        }


def _is_passing(answer: Answer) -> bool:
    """Whether a failure passes by itself: GitHub answers 403 as well as 429 where a rate limit is reached."""
    if answer.status != 403:
        return is_passing(answer)
    limited = answer.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in answer.headers
    return limited or "rate limit" in str(answer.member("message"))


def place_in(name: str) -> Place:
    """Return where the secret of a path is; raises TargetUnusable."""
    parts = name.split("/")
    secret = parts[-1]
    owners = parts[:2] if parts[0] != "orgs" else parts[1:2]
    if not _SECRET.fullmatch(secret) or not all(map(_OWNER.fullmatch, owners)) or {".", ".."} & set(parts):
        raise TargetUnusable(
            "a GitHub secret is named OWNER/REPO/NAME, OWNER/REPO/environments/ENV/NAME or orgs/ORG/NAME, "
            "its NAME of letters, digits and _, no digit first, and not GITHUB_"
        )
    if len(parts) == 3 and parts[0] == "orgs":
        return Place(f"/orgs/{parts[1]}/actions/secrets", secret, is_organization=True)
    if len(parts) == 3:
        return Place(f"/repos/{parts[0]}/{parts[1]}/actions/secrets", secret)
    environment = "/".join(parts[3:-1])  # whose name may have slashes
    if len(parts) < 5 or parts[2] != "environments" or not environment:
        raise TargetUnusable("a GitHub environment's secret is named OWNER/REPO/environments/ENV/NAME")
    return Place(f"/repos/{parts[0]}/{parts[1]}/environments/{quote(environment, safe='')}/secrets", secret)


def _encrypt(public_key: Any, text: bytes) -> str:
    try:
        box = SealedBox(PublicKey(base64.b64decode(str(public_key), validate=True)))
    except (ValueError, TypeError):  # nacl's errors are of these
        box = None
    if box is None:
        raise CloudUnavailable("GitHub returned no public key")
    return base64.b64encode(box.encrypt(text)).decode()
