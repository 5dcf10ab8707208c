"""Waivers: keys that are exempt from rotation until a date, for a reason, by a named approver."""
