"""``coda verify`` and ``coda rerun``: records proven again from their pictures and networks, or repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.cli.console import console, counted
from coda_cli.cli.options import (
    Arch,
    ClassNames,
    Device,
    Ema,
    Force,
    Json,
    Mean,
    Quiet,
    Size,
    Std,
    Text,
    Verbose,
)
from coda_cli.cli.said import said_of_network
from coda_cli.errors import CodaError, ExitCode

if TYPE_CHECKING:
    from coda_cli.explanation.runs.stored import Stored
    from coda_cli.schema.runs import NeuronProof, Proof, TargetProof

Records = Annotated[
    list[str],
    typer.Argument(
        metavar="RECORD...",
        help="Records, folders of coda explain, its tar or Parquet files, pictures it drew, lines of --json.",
    ),
]
PicturesFolder = Annotated[
    Path | None,
    typer.Option(
        "--pictures",
        metavar="DIR",
        help="Look for the pictures in this folder [default: where the records say].",
        exists=True,
        file_okay=False,
    ),
]
AllowPrivate = Annotated[
    bool,
    typer.Option("--allow-private", help="Also read pictures at addresses that lead into a private network."),
]
# Not the option of other commands: a record names its network, and CODA_MODEL must not replace it.
Network = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME|FILE", help="Take the network from here [default: the name in the record]."
    ),
]


def verify(
    records: Records,
    pictures: PicturesFolder = None,
    allow_private: AllowPrivate = False,
    model: Network = None,
    json: Json = False,
    arch: Arch = None,
    ema: Ema = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    text: Text = None,
    device: Device = "auto",
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Prove records again, in float64, from the pictures and networks they name.

    The picture, also in an archive or at an address, and the network are found and their hashes compared; then the same
    targets are decomposed with the same view. Logit, sums, constants, the sums over nine cells, inside regions and at
    layers, the neurons, the highest classes and a kept map must be those of the record, as far as rounding in its own
    precision allows, and must add up. Exit code 1: something is missing, cannot be read, or the picture was changed; 3:
    the network is another one; 4: a record is not proven.

    \b
    coda verify coda-out/
    coda verify photo.coda.json --pictures photos/ -m network.safetensors
    """
    from coda_cli.explanation.runs.again import Networks
    from coda_cli.explanation.runs.pictures import Pictures
    from coda_cli.explanation.runs.verdicts import verify as verify_one

    networks = Networks(model, device, {**said_of_network(), "arch": arch, "ema": ema})
    found = Pictures(pictures, allow_private=allow_private)
    _hold_all(records, partial(verify_one, networks=networks, pictures=found), json, "proven")


def rerun(
    records: Records,
    pictures: PicturesFolder = None,
    allow_private: AllowPrivate = False,
    model: Network = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write the new results into this folder [default: none]."),
    ] = None,
    json: Json = False,
    force: Force = False,
    arch: Arch = None,
    ema: Ema = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    text: Text = None,
    device: Device = "auto",
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Repeat records from what they say of themselves, and hold the new numbers against the old.

    As coda verify, but in each record's own precision. With --output the files that a record names are written anew. A
    record does not say how its pictures were drawn: they are drawn in the usual way, with the record's scale. The exit
    codes are those of coda verify.

    \b
    coda rerun coda-out/
    coda rerun coda-out/photo.coda.json -o again/
    """
    from coda_cli.explanation.runs.again import Networks
    from coda_cli.explanation.runs.pictures import Pictures
    from coda_cli.explanation.runs.verdicts import Rerun
    from coda_cli.explanation.runs.verdicts import rerun as rerun_one
    from coda_cli.media.files import prepare, refuse_file_name

    if output is not None:
        refuse_file_name(output)
    networks = Networks(model, device, {**said_of_network(), "arch": arch, "ema": ema})
    found = Pictures(pictures, allow_private=allow_private)
    runs = [source for source in records if Path(source).is_dir()]

    def again(stored: Stored) -> Proof:
        """Repeat one record, whose new files go to the same sub-folder as its own."""
        run = next((run for run in runs if Path(stored.where.file).is_relative_to(run)), "")
        written = None if output is None else Rerun(output, run, force)
        return rerun_one(stored, networks, found, written)

    _hold_all(records, again, json, "the same", lambda: prepare(output) if output else None)


def _hold_all(
    sources: Sequence[str],
    hold: Callable[[Stored], Proof],
    json: bool,
    holds: str,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Hold every record against the same computed again, print what is found, and exit with the right code.

    ``before`` is called once there is a record.
    """
    from coda_cli.explanation.runs.stored import Tally, records
    from coda_cli.schema.parts import to_json
    from coda_cli.schema.runs import FailedProof

    codes: set[ExitCode] = set()
    counts = Counter[str]()

    def failed(error: CodaError) -> None:
        """Report a record that cannot be held against anything."""
        console.error(str(error))
        if json:
            console.result(to_json(FailedProof.of(error.item or "", error)))
        usual = error.exit_code in (ExitCode.CHECKPOINT, ExitCode.INEXACT)
        codes.add(error.exit_code if usual else ExitCode.FAILED)
        counts["could not be held against anything"] += error.exit_code != ExitCode.INEXACT
        counts[f"NOT {holds.upper()}"] += error.exit_code == ExitCode.INEXACT

    tally = Tally(failed)
    for n, stored in enumerate(records(sources, tally)):
        if n == 0:
            before()
        try:
            proof = hold(stored)
        except CodaError as error:
            failed(type(error)(error.message if error.item is None else str(error), item=str(stored.where)))
            continue
        counts[holds if proof.proven else f"NOT {holds.upper()}"] += 1
        _tell(proof, json, holds)
        if not proof.proven:
            codes.add(ExitCode.INEXACT)
    if tally.others:
        console.say(f"left out {counted(tally.others, 'JSON file')} without a record of coda explain")
    if tally.failed:
        console.say(f"{counted(tally.failed, 'picture')} could not be explained then; there is nothing to hold of them")
    if sum(counts.values()) > 1:
        console.say("records: " + ", ".join(f"{n} {what}" for what, n in counts.items() if n))
    if codes:
        raise typer.Exit(max(codes))


def _tell(proof: Proof, json: bool, holds: str) -> None:
    """Print what was found about a record."""
    from coda_cli.media.files import shown_name
    from coda_cli.schema.parts import to_json

    if json:
        console.result(to_json(proof))
    else:
        for target in proof.targets:
            console.result(shown_name(_line(proof, target, holds)))
        for neuron in proof.neurons:
            console.result(shown_name(_line_of_neuron(proof, neuron, holds)))
    for note in proof.notes:
        console.detail(f"{proof.record}: {note}")
    for file in proof.files:
        console.detail(f"{proof.record}: wrote {file}")
    if not proof.proven:
        console.error(f"{proof.record}: NOT {holds.upper()}: {'; '.join(proof.reasons[:4])}")


def _line(proof: Proof, target: TargetProof, holds: str) -> str:
    """What was found about a target, in one line."""
    from coda_cli.explanation.runs.regions import ONLY_THE_SUM

    name = target.name if target.versus is None else f"{target.name} − {target.versus.name}"
    kept = "" if target.map_difference is None else f"; maps differ by {target.map_difference:.1e} of all contributions"
    if any(note.startswith(ONLY_THE_SUM) for note in proof.notes):
        kept += "; of its regions only the sum"
    verdict = holds if proof.proven else f"NOT {holds.upper()}"
    return (
        f"{proof.path}: {name}: logit {target.recorded:.6f} recorded in {proof.recorded_precision}, {target.again:.6f} "
        f"in {proof.precision}; largest difference {target.difference:.1e} ({target.number}), allowed "
        f"{target.allowed:.1e}; residual {target.residual:.1e}{kept}: {verdict}"
    )


def _line_of_neuron(proof: Proof, neuron: NeuronProof, holds: str) -> str:
    """What was found about an activation, in one line."""
    where = "all positions" if neuron.position is None else "{},{}".format(*neuron.position)
    verdict = holds if neuron.proven else f"NOT {holds.upper()}"
    return (
        f"{proof.path}: {neuron.layer}, channel {neuron.channel}, {where}: activation {neuron.recorded:.6f} recorded "
        f"in {proof.recorded_precision}, {neuron.again:.6f} in {proof.precision}; largest difference "
        f"{neuron.difference:.1e} ({neuron.number}), allowed {neuron.allowed:.1e}: {verdict}"
    )
