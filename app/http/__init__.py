"""The edge: the GraphQL endpoint, file streaming, health, tokens, limits on bodies."""
