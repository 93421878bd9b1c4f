"""A database behind a network door: one protocol-free gateway, and the protocols that speak to it."""
