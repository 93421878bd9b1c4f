"""One file for each command. A command's docstring is its help; heavy imports go inside its function."""
