"""The build of a wheel: the manual pages are made of the commands' own help, so they say what this version does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPages(BuildHookInterface):  # type: ignore[type-arg]
    """Puts manual pages into the data of the wheel, where installers put share/man."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the pages, in a process of its own: the build has imported none of coda, and shall not.

        Args:
            version: which kind of build; "editable" gets no pages.
            build_data: what the build takes beside the package's files.
        """
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()  # removed with this object, when the wheel is there
        paths = [self.root, os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "NO_COLOR": "1"}
        command = [sys.executable, "-m", "coda_cli.cli.man", self._folder.name, self.metadata.version]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        for page in sorted(Path(self._folder.name).iterdir()):
            build_data["shared_data"][str(page)] = f"share/man/man1/{page.name}"
