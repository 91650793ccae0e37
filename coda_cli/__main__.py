"""``coda``, and ``python -m coda_cli``, which is the same."""

import os
from typing import NoReturn


def run() -> NoReturn:
    """The program. Ctrl-C while it is still being imported ends it in silence, as nothing has begun."""
    try:
        from coda_cli.cli.app import process

        process()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    run()
