"""The demo: the standard library's documentation, read from this machine, embedded and searched."""
