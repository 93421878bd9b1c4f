"""The `vicinal` command. The only layer that prints: results on stdout, progress and remarks on stderr."""
