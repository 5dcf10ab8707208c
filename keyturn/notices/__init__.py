"""Notices: what people hear of rotations, jobs, runs and waivers, derived from what is on record.

Nothing that decides or rotates writes a notice: `sources` reads the audit trails and the tables of jobs, runs and
waivers, and gives each event a notice with an ID that follows from its row. A notice is therefore written once, whoever
reads first, and costs the hot paths nothing. `routing` says where each goes, `store` groups those into messages, and a
workflow delivers each message.
"""
