"""Messages and how they become bytes: the one definition of what clients and servers say to each other."""
