"""What model calls cost: records and prices."""
