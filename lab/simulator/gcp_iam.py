"""Service-account keys, the token endpoint and Policy Analyzer on loopback; no real cloud was called.

- https://docs.cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts.keys
- https://developers.google.com/identity/protocols/oauth2/service-account, for the token endpoint
- https://docs.cloud.google.com/policy-intelligence/docs/activity-analyzer-service-account-authentication
"""

import base64
import functools
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from keyturn.lab.simulator.gcp_answers import MESSAGE, Handler, Refused, decoded, fields_if, page_of
from keyturn.lab.simulator.gcp_monitoring import Monitoring

AUDIENCE = "https://oauth2.googleapis.com/token"
MOST_KEYS = 10


@functools.cache
def _pair(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Key:
    """A key. `hidden` counts the reads that do not show it yet, `unknown` the assertions that do not know it yet."""

    pair: rsa.RSAPrivateKey = field(repr=False)
    created_at: datetime
    creator: str
    disabled: bool = False
    disable_reason: str = ""  # such as SERVICE_ACCOUNT_KEY_DISABLE_REASON_EXPOSED
    expires_at: str = "9999-12-31T23:59:59Z"
    hidden: int = 0
    unknown: int = 0


@dataclass
class Iam:
    """The service accounts of one project, by their email addresses, each with its keys by their IDs.

    Attributes:
        project: its ID.
        accounts: the accounts and their keys.
        activities: what Policy Analyzer has observed, by the keys' IDs.
        monitoring: what Cloud Monitoring has counted.
        disabled_accounts: the email addresses of accounts that are disabled, whose keys work as little.
        constraints: of organization policies that forbid to create a key.
        names_creators: whether a key says who created it.
        hides_for: how many reads do not show a key that is created from now on.
        unknown_for: how many assertions the token endpoint refuses of such a key.
        tokens: the access tokens, and whose they are.
    """

    project: str
    accounts: dict[str, dict[str, Key]] = field(default_factory=dict)
    activities: dict[str, dict[str, Any]] = field(default_factory=dict)
    monitoring: Monitoring = field(default_factory=Monitoring)
    disabled_accounts: set[str] = field(default_factory=set)
    constraints: set[str] = field(default_factory=set)
    names_creators: bool = True
    hides_for: int = 0
    unknown_for: int = 0
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    _created: int = 0

    def handlers(self) -> dict[str, Handler]:
        """Return what answers each call."""
        return {
            "accounts.list": self._list_accounts,
            "keys.list": self._list,
            "keys.create": self._create,
            "keys.disable": functools.partial(self._set_disabled, True),
            "keys.enable": functools.partial(self._set_disabled, False),
            "keys.delete": self._delete,
            "activities.query": self._query,
            "timeSeries.list": self.monitoring.list_series,
        }

    def create_key(self, email: str, *, creator: str = "admin@example.com", at: datetime | None = None) -> str:
        """Create a key beside every request; returns its ID."""
        self._created += 1
        key_id, created_at = secrets.token_hex(20), at or datetime.now(UTC)
        # Generating takes a tenth of a second: four pairs take turns, which the key's ID tells apart.
        key = Key(_pair(self._created % 4), created_at, creator, hidden=self.hides_for, unknown=self.unknown_for)
        self.accounts[email][key_id] = key
        return key_id

    def key_file(self, email: str, key_id: str, token_uri: str = AUDIENCE) -> str:
        """Return the JSON of a key file."""
        pem = self.accounts[email][key_id].pair.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        fields = {"type": "service_account", "project_id": self.project, "private_key_id": key_id}
        fields |= {"private_key": pem.decode(), "client_email": email, "client_id": _unique_id(email)}
        return json.dumps(fields | {"token_uri": token_uri, "universe_domain": "googleapis.com"}, indent=2)

    def token(self, form: dict[str, str]) -> dict[str, Any]:
        """Return an access token for a signed assertion; raises Refused."""
        header, claims, signature = form["assertion"].split(".")
        issuer, key_id = decoded(claims).get("iss", ""), decoded(header).get("kid", "")
        key = self.accounts.get(issuer, {}).get(key_id)
        try:
            if "jwt-bearer" not in form["grant_type"]:
                raise InvalidSignature
            if key is None or key.disabled or key.unknown or decoded(claims)["aud"] != AUDIENCE:
                raise InvalidSignature
            raw = base64.urlsafe_b64decode(signature + "==")
            key.pair.public_key().verify(raw, f"{header}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
            if not time.time() - 300 < decoded(claims)["exp"] < time.time() + 3_900 or not decoded(claims)["scope"]:
                raise InvalidSignature
        except InvalidSignature:
            if key is not None and key.unknown:
                key.unknown -= 1
            refused = Refused(400, "")
            refused.body = {"error": "invalid_grant", "error_description": f"Invalid JWT Signature. {MESSAGE}"}
            raise refused from None
        token = f"ya29.{secrets.token_urlsafe(24)}"
        self.tokens[token] = issuer
        return {"access_token": token, "expires_in": 3_599, "token_type": "Bearer"}

    def _account(self, words: dict[str, str]) -> tuple[str, dict[str, Key]]:
        for email, keys in self.accounts.items():
            if words["account"] in {email, _unique_id(email)}:
                return email, keys
        raise Refused(404, "NOT_FOUND")

    def _entry(self, email: str, key_id: str) -> dict[str, Any]:
        key = self.accounts[email][key_id]
        entry: dict[str, Any] = {"name": f"projects/{self.project}/serviceAccounts/{email}/keys/{key_id}"}
        entry |= {"validAfterTime": f"{key.created_at:%Y-%m-%dT%H:%M:%SZ}", "validBeforeTime": key.expires_at}
        entry |= {"keyAlgorithm": "KEY_ALG_RSA_2048", "keyOrigin": "GOOGLE_PROVIDED", "keyType": "USER_MANAGED"}
        entry |= fields_if(key.disabled, disabled=True) | fields_if(
            bool(key.disable_reason), disableReason=key.disable_reason
        )
        return entry | ({"creator": key.creator} if self.names_creators else {})

    def _list(self, words: dict[str, str], sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        email, keys = self._account(words)
        shown = [self._entry(email, key_id) for key_id, key in keys.items() if not key.hidden]
        for key in keys.values():
            key.hidden = max(0, key.hidden - 1)
        return fields_if(bool(shown) and sent.get("keyTypes") == "USER_MANAGED", keys=shown)

    def _list_accounts(self, _words: dict[str, str], sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        shown = [
            {"name": f"projects/{self.project}/serviceAccounts/{email}", "email": email, "uniqueId": _unique_id(email)}
            | fields_if(email in self.disabled_accounts, disabled=True)
            for email in self.accounts
        ]
        return page_of("accounts", shown, sent, most=100)

    def _create(self, words: dict[str, str], _sent: dict[str, Any], caller: str) -> dict[str, Any]:
        email, keys = self._account(words)
        if self.constraints:
            violations = [{"type": f"constraints/{name}", "description": MESSAGE} for name in self.constraints]
            raise Refused(400, "FAILED_PRECONDITION", {"violations": violations})
        if len(keys) >= MOST_KEYS:
            raise Refused(400, "FAILED_PRECONDITION")
        key_id = self.create_key(email, creator=caller)
        file = base64.b64encode(self.key_file(email, key_id).encode()).decode()
        return self._entry(email, key_id) | {"privateKeyType": "TYPE_GOOGLE_CREDENTIALS_FILE", "privateKeyData": file}

    def _set_disabled(
        self, disabled: bool, words: dict[str, str], _sent: dict[str, Any], _caller: str
    ) -> dict[str, Any]:
        self._key(words).disabled = disabled
        return {}

    def _delete(self, words: dict[str, str], _sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        self._key(words)
        del self._account(words)[1][words["key"]]
        return {}

    def _key(self, words: dict[str, str]) -> Key:
        key = self._account(words)[1].get(words["key"])
        if key is None:
            raise Refused(404, "NOT_FOUND")
        return key

    def observe(self, email: str, key_id: str, *, ended: datetime, used_on: datetime | None = None) -> None:
        """Let Policy Analyzer have observed a key until a day, and its last use on another, if it was used."""
        name = f"//iam.googleapis.com/projects/{self.project}/serviceAccounts/{email}/keys/{key_id}"
        activity = {} if used_on is None else {"lastAuthenticatedTime": f"{used_on:%Y-%m-%d}T07:00:00Z"}
        self.activities[key_id] = {
            "fullResourceName": name,
            "activityType": "serviceAccountKeyLastAuthentication",
            "observationPeriod": {"startTime": "2020-01-01T07:00:00Z", "endTime": f"{ended:%Y-%m-%d}T07:00:00Z"},
            "activity": activity | {"serviceAccountKey": {"fullResourceName": name}},
        }

    def _query(self, _words: dict[str, str], sent: dict[str, Any], _caller: str) -> dict[str, Any]:
        if "filter" not in sent:
            return page_of("activities", list(self.activities.values()), sent, most=1_000)
        asked = re.fullmatch(r'activities\.full_resource_name ?= ?"(//[^"]+)"', sent["filter"])
        if asked is None:
            raise Refused(400, "INVALID_ARGUMENT")
        found = [one for one in self.activities.values() if one["fullResourceName"] == asked[1]]
        return fields_if(bool(found), activities=found)


def _unique_id(email: str) -> str:
    return f"1{int.from_bytes(email.encode()) % 10**20:020}"
