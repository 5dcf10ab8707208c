"""The names of service accounts, their projects and their keys, as jobs and Google have them."""

import re
from typing import NamedTuple

# https://docs.cloud.google.com/iam/docs/service-account-overview#service-account-credentials has the forms of email
# addresses; a project of a domain is `example.com:project`, and its account's address has them the other way round.
_USER_CREATED = re.compile(r"[a-z0-9-]{1,63}@([a-z][a-z0-9-]{5,29})((?:\.[a-z0-9-]{1,63})*)\.iam\.gserviceaccount\.com")
# Default accounts: of Compute Engine by the project's number, of App Engine by its ID, which older ones have changed.
_DEFAULT = re.compile(r"[a-z0-9.:-]{1,128}@(?:developer|appspot|cloudservices)\.gserviceaccount\.com")
_UNIQUE_ID = re.compile(r"[0-9]{15,25}")  # 21 digits today; an asset's name has it in place of the address
_RESOURCE = re.compile(
    r"(?://iam\.googleapis\.com/)?projects/([A-Za-z0-9.:-]{1,128}|-)/serviceAccounts/([^/]{1,256})(?:/keys/[^/]+)?"
)


class ServiceAccountName(NamedTuple):
    """A service account: its email address or unique ID, and its project's ID, or None if the name does not say."""

    user: str
    project: str | None


def read_account(account_id: str) -> ServiceAccountName | None:
    """Return the service account that an account ID names; None if it names none.

    It is an email address, `projects/P/serviceAccounts/EMAIL` or the full resource name, which starts with
    `//iam.googleapis.com/`; in place of the address, the unique ID will do.
    """
    resource = _RESOURCE.fullmatch(account_id)
    user = account_id if resource is None else resource[2]
    email = _USER_CREATED.fullmatch(user)
    if email is None and _DEFAULT.fullmatch(user) is None and _UNIQUE_ID.fullmatch(user) is None:
        return None
    # `-` is a wildcard, and a number is the project's other name, which cannot be compared with an ID.
    if resource is not None and resource[1] != "-" and not resource[1].isdigit():
        return ServiceAccountName(user, resource[1])
    if email is None:
        return ServiceAccountName(user, None)
    domain = email[2].removeprefix(".")
    return ServiceAccountName(user, f"{domain}:{email[1]}" if domain else email[1])


def key_id_in(name: str) -> str:
    """Return the key's ID in its resource name `projects/P/serviceAccounts/E/keys/K`, or in the ID alone."""
    return name.rpartition("/")[2]
