"""Snapshots: inventories that Keyturn reads from the clouds themselves, part by part, into one file."""
