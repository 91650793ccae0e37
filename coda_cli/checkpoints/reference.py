"""A network by its name and hash, as it travels to another process, which loads it for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coda_cli.checkpoints.loading import Net, load
from coda_cli.checkpoints.manifest import Checkpoint, known
from coda_cli.core.abilities import is_ordinary
from coda_cli.core.cuts import AUTO
from coda_cli.errors import CheckpointError, UsageError
from coda_cli.machine.devices import pick
from coda_cli.vocabulary import Precision


@dataclass(frozen=True)
class Reference:
    """Says which network is meant.

    Attributes:
        source: its name, or its file, which has the same path on all machines.
        sha256: that of the file.
        checkpoint: its description.
        options: keywords of ``load`` but for the device.
    """

    source: str
    sha256: str
    checkpoint: Checkpoint
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def to(cls, net: Net, source: str | None = None, **options: Any) -> Reference:
        """Make what stands for a network that is loaded here.

        Args:
            net: the network.
            source: what it was loaded from; found out unless given.
            options: keywords of ``load`` that it was loaded with; the type of its weights and its cut are its own.

        Returns:
            What is sent instead of its weights.

        Raises:
            UsageError: it is in no file.
        """
        if source is None:
            source = next((name for name, entry in known().items() if entry.path == net.path), None)
        if source is None:
            if not net.path.is_file():
                raise UsageError(
                    f"{net.checkpoint.name} is in no file that other processes could load; coda.save it, and name that"
                )
            source = str(net.path.absolute())
        cut = net.cut if is_ordinary(net.model) else AUTO
        dtype = next(net.model.parameters()).dtype
        return cls(source, net.sha256, net.checkpoint, {**options, "cut": cut, "dtype": dtype})

    def load(self, device: str, precision: Precision) -> Net:
        """Load the network in this process.

        Args:
            device: where it is to compute, as ``machine.devices.pick`` takes it.
            precision: what is computed in.

        Returns:
            The network.

        Raises:
            CheckpointError: it cannot be loaded, or is another one here.
            UsageError: there is no such device here.
        """
        net = load(self.source, device=pick(device, precision), **self.options)
        if (net.sha256, net.checkpoint) != (self.sha256, self.checkpoint):
            raise CheckpointError(
                f"is another network where it was loaded again (sha256 {net.sha256[:12]}, not {self.sha256[:12]}, or "
                "another description); coda.save it, and name that file",
                item=self.source,
            )
        return net
