"""Client secrets of applications in Microsoft Entra ID, over Microsoft Graph v1.0.

Formats: https://learn.microsoft.com/graph/api/application-addpassword and application-removepassword,
https://learn.microsoft.com/graph/api/resources/passwordcredential, and for the use of a secret
https://learn.microsoft.com/graph/api/reportroot-list-appcredentialsigninactivities (beta).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pydantic import SecretStr

from keyturn.azure.calls import AzureCalls, TokenProvider, default_tokens
from keyturn.azure.settings import AzureSettings, azure_settings
from keyturn.execution.contracts import KeyUse
from keyturn.execution.errors import AccountMismatch, CloudRefused, CloudUnavailable, NewKeyMissing, UserGone
from keyturn.execution.protocols import CloudKey
from keyturn.executors.entra.forms import ACCOUNT, UNKNOWN_USE, is_guid, key_of, label_of, stored_in, tenant_in, use_in

# For 4 to 18 seconds a new secret works at some hosts of the sign-in service and not at others (reported): one
# success shows one host; after three in a row, consumers are unlikely to meet one that does not know it.
SUCCESSES = 3
# What removePassword answers, with 400 and a code for anything, where the host that it reached has no such secret.
_NONE_FOUND = "No credentials found to be removed"


class _Application(NamedTuple):
    object_id: str
    app_id: str
    secrets: Sequence[Mapping[str, Any]]
    is_of_one_tenant: bool


# Of a sign-in with a secret that was created seconds ago, and of one whose start is ahead of a host's clock
# (learn.microsoft.com/entra/identity-platform/reference-error-codes). Others, such as a disabled application, stay.
_NOT_KNOWN_YET = {"AADSTS7000215", "AADSTS7000222", "AADSTS90006", "AADSTS90024", "AADSTS90033"}


class EntraSecrets:
    """Client secrets of the applications of one tenant; a user is an application, by its appId or its object ID.

    Certificates (`keyCredentials`) are not rotated: a job that names one finds no such key.

    Args:
        settings: those of the environment, unless given.
        token: where access tokens come from; azure-identity's chain, unless given.
    """

    # Entra takes hundreds, and only two where personal accounts may sign in: addPassword is then refused. The IDs of
    # all that are there before the new one must fit into one value of the audit trail: 13 of 36 characters in 500.
    most_keys = 14
    # Reads come from replicas of the directory. Microsoft states no bound for their lag, and others report seconds:
    # two minutes are a guess on the safe side. Only an attempt after one whose answer was lost waits for it.
    visible_within = state_shown_within = timedelta(minutes=2)
    # A client secret cannot be disabled: the old one works until it is removed.
    has_inactive_state = False

    def __init__(self, settings: AzureSettings | None = None, token: TokenProvider | None = None) -> None:
        self._settings = settings or azure_settings()
        self._calls = AzureCalls(token or default_tokens())
        self._scope = f"{self._settings.graph_url}/.default"
        self._ids: dict[str, tuple[str, str]] = {}  # by user: object ID and appId, which an application keeps for life
        self._known: set[str] = set()  # the client secrets that have signed in often enough

    async def account(self) -> str:
        """Return the tenant of the token that the executor calls with; AZURE_TENANT_ID if the token names none."""
        tenant = tenant_in(await self._calls.token(self._scope)) or self._settings.tenant_id
        if tenant is None:
            raise CloudRefused("AZURE_TENANT_ID is not set, and the executor's token names no tenant")
        return tenant

    def account_named_in(self, account_id: str) -> str | None:
        """Return the tenant in `tenants/TENANT/applications/ID`; None if it names an application only."""
        named = ACCOUNT.fullmatch(account_id)
        return None if named is None or named["tenant"] is None else named["tenant"].lower()

    def user_of(self, account_id: str, own: str) -> str:
        """Return the application's ID: of an appId, as inventories have it, of `applications/ID`, or with a tenant."""
        named = ACCOUNT.fullmatch(account_id)
        if named is None:
            raise AccountMismatch("the job's account is no application: neither its appId nor its object ID")
        if named["tenant"] is not None and named["tenant"].lower() != own.lower():
            raise AccountMismatch(f"the job's account is no application of the tenant {own}")
        return str(named["id"] or named["app_id"]).lower()

    async def list_keys(self, user: str) -> list[CloudKey]:
        """Return the application's client secrets, oldest first; one that has expired is inactive."""
        keys = [key_of(entry) for entry in (await self._application(user)).secrets]
        return sorted(keys, key=lambda key: key.created_at)

    async def create(self, user: str, *, job_id: str) -> tuple[str, SecretStr]:
        """Create a client secret, whose name holds the job's ID: one whose answer was lost is found by that."""
        object_id, app_id = await self._ids_of(user)
        expires = datetime.now(UTC) + timedelta(days=self._settings.secret_days)
        wanted = {"displayName": label_of(job_id), "endDateTime": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}
        url = f"{self._url(object_id)}/addPassword"
        reply = await self._calls.ask(
            "addPassword", "POST", url, scope=self._scope, json={"passwordCredential": wanted}
        )
        if reply.status == 404:  # the application was read a moment ago
            raise CloudUnavailable("addPassword: 404, the directory is not consistent yet")
        created = reply.expect(200, 201)
        if not isinstance(created, dict) or not is_guid(created.get("keyId")) or not created.get("secretText"):
            raise reply.unreadable()
        secret = {
            "tenantId": await self.account(),
            "clientId": app_id,
            "keyId": created["keyId"],
            "clientSecret": str(created["secretText"]),
        }
        return created["keyId"], SecretStr(json.dumps(secret))

    def key_in(self, secret: SecretStr) -> str | None:
        """Return the keyId in a stored secret."""
        stored = stored_in(secret)
        return None if stored is None else stored["keyId"]

    async def verify(self, user: str, secret: SecretStr) -> str:
        """Sign in with the secret, as its consumers do; returns what it signed in as.

        Three times in a row at first, as each may be answered by another host; once, if this process has seen that.

        Raises:
            NewKeyMissing: it is no client secret of this application in this tenant.
            CloudUnavailable: the sign-in service refused it once, as it does for some seconds after its creation.
        """
        stored = stored_in(secret)
        if stored is None:
            raise NewKeyMissing("the stored secret is no client secret of Entra")
        tenant = await self.account()
        app_id = stored["clientId"].lower()
        if app_id != user:
            user = (await self._ids_of(user))[1].lower()
        if app_id != user or stored["tenantId"].lower() != tenant.lower():
            raise NewKeyMissing("the stored secret is of another application or tenant")
        form = {
            "grant_type": "client_credentials",
            "client_id": app_id,
            "client_secret": stored["clientSecret"],
            "scope": self._scope,
        }
        url = f"{self._settings.authority}/{tenant}/oauth2/v2.0/token"
        often = 1 if stored["keyId"] in self._known else SUCCESSES
        for number in range(1, often + 1):
            reply = await self._calls.ask("token", "POST", url, form=form)
            if reply.status != 200 or not isinstance(reply.body, dict) or not reply.body.get("access_token"):
                self._known.discard(stored["keyId"])
                what = f"sign-in {number} of {often}: {reply.status} {reply.code}"
                if reply.status in {400, 401} and reply.code.startswith("AADSTS") and reply.code not in _NOT_KNOWN_YET:
                    raise CloudRefused(what)  # such as a disabled application: another secret would be refused, too
                raise CloudUnavailable(what)
        self._known.add(stored["keyId"])
        return f"application {app_id} of the tenant {tenant}"

    async def use_of(self, user: str, key_id: str) -> KeyUse:
        """Return the secret's last sign-in, and for which resource, by a report that is beta and lags.

        Unknown where the report is switched off or not there, may not be read, or has no readable row of the secret:
        a secret without a row was never used, or was used before the report or not long ago. The report is one
        tenant's: of an application that signs in to others, a row shows a use, and its absence shows nothing.
        """
        if self._settings.sign_in_report == "off" or not is_guid(key_id):
            return UNKNOWN_USE
        url = f"{self._settings.graph_url}/beta/reports/appCredentialSignInActivities"
        params = {"$filter": f"keyId eq '{key_id}'"}
        reply = await self._calls.ask("sign-in report", "GET", url, scope=self._scope, params=params)
        if reply.status in {400, 403, 404, 501}:
            return UNKNOWN_USE
        use = use_in(reply.expect(200), key_id)
        is_whole = use.is_known and (await self._application(user)).is_of_one_tenant
        return use if is_whole else use.model_copy(update={"is_known": False})

    async def set_active(self, user: str, key_id: str, is_active: bool) -> None:
        """Do nothing: a client secret has no such state."""

    async def delete(self, user: str, key_id: str) -> None:
        """Remove a client secret for ever. Access tokens that it was used for stay valid until they expire."""
        if not is_guid(key_id):
            return
        try:
            url = f"{self._url((await self._ids_of(user))[0])}/removePassword"
            reply = await self._calls.ask("removePassword", "POST", url, scope=self._scope, json={"keyId": key_id})
            if reply.status in {400, 404}:
                # The host that answered may lack a secret that others still have: what is listed decides.
                left = [entry.get("keyId") for entry in (await self._application(user)).secrets]
                if key_id not in left:
                    return
                if reply.status == 404 or _NONE_FOUND in reply.message:
                    raise CloudUnavailable(f"removePassword: {reply.status}, the directory is not consistent yet")
            reply.expect(200, 204)
        except UserGone:
            return  # and its secrets with it

    async def close(self) -> None:
        """Close the connection to Graph."""
        await self._calls.close()

    async def _application(self, user: str) -> _Application:
        """Look an application up by its appId, then by its object ID; raises UserGone if it is neither."""
        for path in (f"applications(appId='{user}')", f"applications/{user}"):
            reply = await self._calls.ask(
                "application",
                "GET",
                f"{self._settings.graph_url}/v1.0/{path}",
                scope=self._scope,
                params={"$select": "id,appId,passwordCredentials,signInAudience"},
            )
            if reply.status == 404:
                continue
            found = reply.expect(200)
            entries = found.get("passwordCredentials") if isinstance(found, dict) else None
            if not isinstance(entries, list) or not is_guid(found.get("id")) or not is_guid(found.get("appId")):
                raise reply.unreadable()
            self._ids[user] = found["id"], found["appId"]
            is_of_one_tenant = found.get("signInAudience") in {None, "AzureADMyOrg"}
            secrets = [one for one in entries if isinstance(one, dict)]
            return _Application(found["id"], found["appId"], secrets, is_of_one_tenant)
        raise UserGone("the application does not exist, or does not exist any more")

    async def _ids_of(self, user: str) -> tuple[str, str]:
        if user not in self._ids:
            await self._application(user)
        return self._ids[user]

    def _url(self, object_id: str) -> str:
        return f"{self._settings.graph_url}/v1.0/applications/{object_id}"
