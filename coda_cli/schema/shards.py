"""What one shard of a run says of itself when it has ended, and what is known of all shards together."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coda_cli.schema.parts import Part
from coda_cli.schema.pictures import FailedRecord

SCHEMA: Literal["coda.shard"] = "coda.shard"


class ShardRecord(Part):
    """One shard of a run of ``coda explain --shard I/N`` that has ended.

    Attributes:
        schema_name: "coda.shard"; "schema" in the JSON.
        schema_version: 1.
        shard: its number, from 1 on.
        of: how many shards the run has.
        listed: how many pictures the whole run has.
        listing: a hash over the names of all of them, whatever their order; 16 hex digits.
        pictures: how many of them are this shard's.
        explained: how many of these were explained now.
        skipped: how many had results already.
        failed: how many could not be explained.
        failures: those that failed, the first thousand.
        network: the name of the network.
        network_sha256: hex digest of its file.
        settings: as in the records of the pictures.
        versions: of coda.
    """

    schema_name: Literal["coda.shard"] = Field(SCHEMA, alias="schema")
    schema_version: Literal[1] = 1
    shard: int = Field(ge=1)
    of: int = Field(ge=1)
    listed: int = Field(ge=0)
    listing: str
    pictures: int = Field(ge=0)
    explained: int = Field(ge=0)
    skipped: int = Field(ge=0)
    failed: int = Field(ge=0)
    failures: tuple[FailedRecord, ...] = ()
    network: str
    network_sha256: str
    settings: str
    versions: dict[str, str]

    @property
    def run(self) -> tuple[int, int, str, str, str]:
        """What all shards of one run have in common."""
        return self.of, self.listed, self.listing, self.network_sha256, self.settings


class Missing(Part):
    """What the shards of one run did not do.

    listed == pictures with a record of the run's network and settings + failed + absent, where nothing is there twice

    Attributes:
        of: how many shards the run has.
        shards: the numbers of those that have not ended.
        listed: how many pictures the run has.
        failed: how many of them could not be explained, in the shards that have ended.
        absent: how many neither failed nor have a record of the run's network and settings.
        twice: how many records there are beyond one of each picture: the numbers count these pictures twice.
        failures: those that failed, of every shard the first thousand.
    """

    of: int
    shards: tuple[int, ...]
    listed: int
    failed: int
    absent: int
    twice: int = 0
    failures: tuple[FailedRecord, ...]

    @property
    def nothing(self) -> bool:
        """Whether all is done."""
        return not (self.shards or self.failed or self.absent or self.twice)
