"""Google Cloud's REST APIs, for the executor of service-account keys and for the secret target. They need `gcp`.

Nothing is imported here: google-auth is loaded by who uses it.
"""
