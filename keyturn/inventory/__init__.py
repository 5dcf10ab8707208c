"""Inventories of keys, as clouds and spreadsheets have them: read a row at a time, each row whole or not at all."""
