"""The page for trying queries, and the packages that it is made of."""
