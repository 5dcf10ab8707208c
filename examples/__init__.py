"""Small programs that stand for yours."""
