"""Wake-ups over Redis; the database stays the truth."""
