"""How each kind of credential becomes unnecessary: the best key is none."""

from collections.abc import Mapping

from keyturn.contracts import CredentialKind

# What the vendors recommend in the place of long-lived keys: AWS IAM's and Google Cloud's best practices, Microsoft's
# workload identity federation, PostgreSQL's client authentication, NIST SP 800-63B.
KEYLESS: Mapping[CredentialKind, str] = {
    "access_key": "AWS needs no access key for what runs in AWS (a role), in a pipeline (OIDC federation), on other "
    "machines (IAM Roles Anywhere), or for people (IAM Identity Center).",
    "service_account_key": "Google Cloud and Azure need no key for what runs there (an attached service account, a "
    "managed identity) or elsewhere (workload identity federation).",
    "system_account_password": "Databases take client certificates, and managed ones their cloud's own tokens (IAM or "
    "Entra authentication): neither is a stored password.",
    "user_password": "People sign in by single sign-on with passkeys: no password is left to rotate.",
}
