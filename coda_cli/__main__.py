"""``python -m coda_cli`` is ``coda``."""

from coda_cli.cli.app import process

if __name__ == "__main__":
    process()
