"""``python -m coda_cli`` is ``coda``."""

from coda_cli.cli.app import main

if __name__ == "__main__":
    main()
