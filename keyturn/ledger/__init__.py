"""What model calls cost and how they ended: prices, records, sums, and the limits that follow from them."""
