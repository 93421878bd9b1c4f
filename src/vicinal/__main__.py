"""`python -m vicinal`: the same as the `vicinal` command."""

from vicinal.cli.main import run

if __name__ == "__main__":
    run()
