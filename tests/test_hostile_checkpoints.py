"""Checkpoints as others send them: whatever they hold, they are read bit by bit or refused in one line, at once."""

from __future__ import annotations

import collections
import io
import json
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import Coda
from foreign import RANK_4, rank_4_state
from torch import Tensor

from coda_cli.checkpoints import descriptions, headers, manifest, pickles, torch_files
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.checkpoints.published_descriptions import published_checkpoint
from coda_cli.checkpoints.saving import save
from coda_cli.checkpoints.torch_files import TorchFile
from coda_cli.core import arguments, networks
from coda_cli.core.arguments import check_side
from coda_cli.core.networks import build
from coda_cli.errors import CheckpointError

SECONDS = 5.0  # of the processor, generous: each refusal takes milliseconds


def everything_in(path: Path) -> object:
    with TorchFile(path) as file:
        return file.everything()


def refused(path: Path, read: Callable[..., object] = load, **options: Any) -> str:
    """What loading, or another way to read a file, is refused with: one short line, at once."""
    before = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read(path, **options)
    said = str(caught.value)
    assert time.process_time() - before < SECONDS
    assert "\n" not in said
    assert len(said) < 1000
    return said


# ---- the reader gives the bits that torch gives ----------------------------------------------------------------------


def _many() -> dict[str, Any]:
    base = torch.arange(24.0)
    floats = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    whole = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
    return {
        "types": {str(t): torch.randn(3, 2).to(t) for t in floats},
        "whole": {str(t): torch.tensor([0, 1, 1]).to(t) for t in whole},
        "shared": [base[2:8], base.view(4, 6).t(), base.expand(2, 24)],
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "ordered": collections.OrderedDict(a=torch.ones(1), b=None),
        "plain": (1, -7, 2**40, -(2**40), 2.5, True, False, None, "Größe", "x" * 300, [], (), {},
                  (1, (2, (3, 4, 5, 6)))),
    }  # fmt: skip


def same(a: object, b: object) -> bool:
    if isinstance(b, Tensor):
        return isinstance(a, Tensor) and a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(b, dict):
        return isinstance(a, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))  # type: ignore[arg-type]
    return type(a) is type(b) and a == b


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_torch_file_gives_what_torch_gives(tmp_path: Path, is_zip: bool, protocol: int) -> None:
    path = tmp_path / "many.pt"
    torch.save(_many(), path, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    with TorchFile(path) as file:
        assert same(file.everything(), torch.load(path, weights_only=False))


# ---- pickles ---------------------------------------------------------------------------------------------------------

TORCH_HEAD = (
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."
    b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."
)


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


POISON = (
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}" + text("__kwdefaults__") + b"}" + text("x") + b"K\x01ss\x86b0"
    b"ctorch\nUntypedStorage\nN}" + text("nbytes") + b"cfoo\nbar\ns\x86b0}."
)  # fmt: skip
HOSTILE = {
    "memo": b"\x80\x02cfoo\nbar\nr\xff\xff\xff\x7f.",
    "poison": POISON,
    "a long text": b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
    "long bytes": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7fa.",
    "a long integer": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 100 + b".",
    "deep tuples": b"\x80\x02)" + b"\x85" * 300_000 + b".",
    "deep lists": b"\x80\x02" + b"](" * 200_000 + b"e" * 200_000 + b".",
    "many marks": b"\x80\x02" + b"(" * 600_000 + b".",
    "the same pairs again and again": b"\x80\x02](" + b"NN\x86" * 100_000 + b"eq\x000"
    + b"ccollections\nOrderedDict\nh\x00\x85R0" * 50_000 + b"N.",
    "keys that collide": b"\x80\x02}(" + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N"
                                                  for i in range(1, 90_000)) + b"u.",
    "a key that is a tuple": b"\x80\x02}(N\x85Nu.",
    "a call of a result": b"\x80\x02cos\ngetattr\n)R)R.",
    "an extension": b"\x80\x02\x82\x01.",
    "nothing on the stack": b"\x80\x02R.",
    "no such memo": b"\x80\x02h\x05.",
    "items for no list": b"\x80\x02NK\x01a.",
    "entries for no dictionary": b"\x80\x02NK\x01K\x02s.",
    "an object of no class": b"\x80\x02N)\x81.",
    "a subclass of no function": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(NN)NtR.",
    "a dictionary of no pairs": b"\x80\x02ccollections\nOrderedDict\n](K\x01K\x02e\x85R.",
    "no storage": b"\x80\x02NQ.",
    "half a character": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
}  # fmt: skip


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "as torch's"])
@pytest.mark.parametrize("code", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pickle_is_refused_at_once_and_changes_nothing(tmp_path: Path, code: bytes, wrapped: bool) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(TORCH_HEAD + code + b"\x80\x02]." if wrapped else code)
    nbytes = torch.UntypedStorage.nbytes
    said = refused(path, arch=RANK_4)
    assert "not a torch file" in said or "holds no state dict" in said
    assert torch._utils._rebuild_tensor_v2.__kwdefaults__ is None  # type: ignore[attr-defined]
    assert torch.UntypedStorage.nbytes is nbytes


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"\x80\x02NK\x01a.", "it adds items to what is no list"),
        (b"\x80\x02NK\x01K\x02s.", "it adds entries to what is no dictionary"),
    ],
    ids=["items", "entries"],
)
def test_what_no_torch_file_does_is_said(tmp_path: Path, code: bytes, said: str) -> None:
    (tmp_path / "a.pkl").write_bytes(TORCH_HEAD + code + b"\x80\x02].")
    assert said in refused(tmp_path / "a.pkl", arch=RANK_4)


def test_what_made_a_tensor_is_no_command_for_a_terminal(tmp_path: Path) -> None:
    code = b"\x80\x02}" + text("a") + b"ctorch\nodd\x1b[31m\xc2\x9b_tensor" + b"r" * 500 + b"\n)Rs."
    (tmp_path / "a.pkl").write_bytes(TORCH_HEAD + code + b"\x80\x02].")
    said = refused(tmp_path / "a.pkl", arch=RANK_4)
    assert "a needs torch.odd\\x1b[31m\\x9b_tensor" in said
    assert len(said) < 300 + len(str(tmp_path))


def test_the_head_of_the_test_above_is_torch_s(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(TORCH_HEAD + b"\x80\x02N.\x80\x02].")
    assert "holds no state dict" in refused(tmp_path / "a.pkl", arch=RANK_4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, 2, device="meta"),
        lambda: torch.ones(2, 2).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
        lambda: torch.ones(2, 2, dtype=torch.complex64),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.ones(2, 2).to(torch.float8_e4m3fn),
    ],
    ids=["meta", "sparse", "quantised", "complex", "nested", "float8"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_no_network_are_refused(tmp_path: Path, make: Callable[[], Tensor]) -> None:
    torch.save(rank_4_state() | {"0.weight_mod.weighting_f.0.weight": make()}, tmp_path / "weights.pkl")
    assert "holds no state dict" in refused(tmp_path / "weights.pkl", arch=RANK_4)


@pytest.mark.parametrize("name", ["", "a\0", "a\n", "a\x9b", "\ud800", "x" * 501])
def test_tensors_with_names_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    torch.save(rank_4_state() | {name: torch.ones(1)}, tmp_path / "weights.pkl")
    assert "a name that is none" in refused(tmp_path / "weights.pkl", arch=RANK_4)


# ---- containers ------------------------------------------------------------------------------------------------------


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(path: Path, content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_zips_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    torch.save(rank_4_state(), path)
    content = entries(path)
    rezip(path, content)
    load(path, arch=RANK_4)  # as it should be, it loads
    rezip(path, content, zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(path, arch=RANK_4)
    rezip(path, content | {"other/data.pkl": b"N."})
    assert "data.pkl" in refused(path, arch=RANK_4)
    rezip(path, content | {"weights/byteorder": b"big"})
    assert "byte order" in refused(path, arch=RANK_4)
    rezip(path, {name: data for name, data in content.items() if not name.endswith("data/3")})
    assert "lacks the numbers" in refused(path, arch=RANK_4)
    rezip(path, {name: data[:-4] if name.endswith("data/3") else data for name, data in content.items()})
    assert "another size" in refused(path, arch=RANK_4)
    rezip(path, {f"{n}": b"" for n in range(100_000)} | content)
    assert "directory has" in refused(path, arch=RANK_4)


def stored(key: str, count: int, kind: str = "FloatStorage") -> bytes:
    """What a pickle says of a tensor of so many numbers."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + b"M%stQ"
    size = count.to_bytes(2, "little")
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage % size + b"K\0M%s\x85K\x01\x85\x89NtR" % size


NUMBERS = (b"K\0", b"K\x02\x85", b"K\x01\x85")  # offset, shape and stride of two numbers


@pytest.mark.parametrize(
    "tensor",
    [
        (b"K\x01", *NUMBERS[1:]), (b"J\xff\xff\xff\xff", b"K\x01\x85", b"K\x01\x85"), (b"N", *NUMBERS[1:]),
        (b"K\0", b"K\x02\x85", b"J\xff\xff\xff\xff\x85"), (b"K\0", b"K\x02\x85", b"K\x02\x85"),
        (b"K\0", b"K\x03\x85", b"K\x01\x85"), (b"K\0", b"K\x02\x85", b")"), (b"K\0", b"(" + b"K\x01" * 9 + b"t",
        b"(" + b"K\x01" * 9 + b"t"), (b"K\0", b"\x88\x85", b"K\x01\x85"),
    ],
    ids=["offset", "before", "no offset", "backwards", "stride", "large", "no stride", "sides", "a truth value"],
)  # fmt: skip
def test_tensors_lie_in_their_storage(tmp_path: Path, tensor: tuple[bytes, bytes, bytes]) -> None:
    path = tmp_path / "weights.pkl"
    for parts, good in ((NUMBERS, True), (tensor, False)):
        honest = stored("0", 2)
        assert honest.count(b"".join((NUMBERS[0], b"M\x02\0\x85", NUMBERS[2]))) == 1
        changed = honest.replace(b"".join((NUMBERS[0], b"M\x02\0\x85", NUMBERS[2])), b"".join(parts))
        rezip(path, {"w/data.pkl": b"\x80\x02}" + text("a") + changed + b"s.", "w/data/0": bytes(8)})
        assert everything_in(path) if good else "a tensor" in refused(path, everything_in)


def test_storages_are_whole_and_counted(tmp_path: Path) -> None:
    """A view of a storage, as old versions wrote it, would be read from its wrong end."""
    path, honest = tmp_path / "weights.pkl", stored("0", 2)
    view = honest.replace(b"M\x02\0tQ", b"M\x02\0(" + text("1") + b"K\x01K\x01ttQ")
    huge = honest.replace(b"M\x02\0tQ", b"\x8a\x0a" + (2**70).to_bytes(10, "little") + b"tQ")
    nothing = honest.replace(b"(" + text("storage"), b"(" + text("another"))
    for changed in (view, huge, nothing):
        assert changed != honest
        path.write_bytes(TORCH_HEAD + b"\x80\x02" + changed + b".\x80\x02](" + text("0") + b"e." + bytes(16))
        assert "refers to what is no storage" in refused(path, arch=RANK_4)
    without = honest.replace(honest[honest.index(b"(" + text("storage")) : honest.index(b"Q") + 1], b"N")
    path.write_bytes(TORCH_HEAD + b"\x80\x02" + without + b".\x80\x02].")
    assert "a tensor without a storage" in refused(path, arch=RANK_4)


def test_numbers_in_the_order_of_another_machine_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(TORCH_HEAD.replace(b"endian\x88", b"endian\x89") + b"\x80\x02N.\x80\x02].")
    assert "byte order" in refused(tmp_path / "a.pkl", arch=RANK_4)


def test_a_zip_that_was_changed_is_refused(tmp_path: Path) -> None:
    """Whether it is its description, a header, or its directory."""
    path = tmp_path / "weights.pkl"
    torch.save(rank_4_state(), path)
    whole = path.read_bytes()
    directory, header = whole.index(b"PK\x01\x02"), whole.index(b"weights/data/3") - 30
    changes = {
        "the checksum of its description": (whole.index(b"weighting_f"), b"weighting_g"),
        "its zip directory is damaged": (header, b"PK\x03\x05"),
        "compressed, locked": (directory + 8, struct.pack("<H", struct.unpack_from("<H", whole, directory + 8)[0] | 1)),
        "or has an entry twice": (directory + 20, struct.pack("<L", 1)),  # bytes when it is packed
    }
    for said, (at, new) in changes.items():
        path.write_bytes(whole[:at] + new + whole[at + len(new) :])
        assert said in refused(path, arch=RANK_4)
    path.write_bytes(whole)
    content = entries(path)
    rezip(path, content | {"weights/code/a.py": b""})
    assert "a TorchScript program" in refused(path, arch=RANK_4)
    rezip(path, content)
    again = path.read_bytes()
    start, end = again.index(b"PK\x01\x02"), again.index(b"PK\x05\x06")
    first = again[start : again.index(b"PK\x01\x02", start + 4)]
    tail = bytearray(again[end:])
    tail[12:16] = struct.pack("<L", end - start + len(first))
    path.write_bytes(again[:end] + first + tail)
    assert "has an entry twice" in refused(path, arch=RANK_4)


def test_a_file_that_fills_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise MemoryError

    torch.save(rank_4_state(), tmp_path / "weights.pkl")
    monkeypatch.setattr(torch_files.PickleReader, "load", full)
    assert "does not fit into memory" in refused(tmp_path / "weights.pkl", arch=RANK_4)


@pytest.mark.parametrize(("first", "second"), [(2, 4), (4, 2)])
def test_one_storage_has_one_size(tmp_path: Path, first: int, second: int) -> None:
    """Otherwise a tensor would reach beyond the numbers of its storage."""
    path = tmp_path / "weights.pkl"
    pickled = b"\x80\x02}(" + text("a") + stored("0", first) + text("b") + stored("0", second) + b"u."
    rezip(path, {"weights/data.pkl": pickled, "weights/data/0": bytes(4 * first)})
    assert "two descriptions of one storage" in refused(path, everything_in)
    data = struct.pack("<q", second) + bytes(4 * second)
    path.write_bytes(TORCH_HEAD + pickled + b"\x80\x02](" + text("0") + b"e." + data)
    assert "a storage of another size" in refused(path, everything_in)


def test_storages_together_are_no_larger_than_the_file(tmp_path: Path) -> None:
    """A directory can list the same bytes under many names: a few kilobytes would become gigabytes."""
    path, names, size = tmp_path / "weights.pkl", "0123456789", 4000
    items = b"".join(text(name) + stored(name, size // 4) for name in names)
    rezip(path, {"w/data.pkl": b"\x80\x02}(" + items + b"u.", "w/data/0": bytes(size)})
    content = path.read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[content.index(b"PK\x01\x02", start + 4) : end]
    more = b"".join(entry.replace(b"w/data/0", f"w/data/{name}".encode()) for name in names[1:])
    tail = bytearray(content[end:])
    tail[12:16] = struct.pack("<L", end - start + len(more))
    path.write_bytes(content[:end] + more + tail)
    assert "a storage of another size" in refused(path, everything_in)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_numbers_that_are_damaged_in_a_zip_are_noticed(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "weights.pkl"
    torch.save(rank_4_state(), path, _use_new_zipfile_serialization=is_zip)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if is_zip:
        assert "checksum" in refused(path, arch=RANK_4)
    else:  # the legacy form has no checksums
        load(path, arch=RANK_4)


@pytest.mark.parametrize("name", ["weights.pkl", "weights.safetensors"])
@pytest.mark.parametrize("head", [b"", b"PK\x03\x04", struct.pack("<Q", 2) + b"{}", TORCH_HEAD])
def test_a_sparse_file_of_20_gb_is_refused_at_once(tmp_path: Path, name: str, head: bytes) -> None:
    with (tmp_path / name).open("wb") as stream:
        stream.write(head)
        stream.truncate(20 << 30)
    assert "too large" in refused(tmp_path / name)


def test_a_sparse_file_below_the_limit_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    content = tiny(path).read_bytes()
    with path.open("wb") as stream:
        stream.write(content)
        stream.truncate(7 << 30)
    assert "damaged or truncated" in refused(path)


def test_files_with_changed_bytes_never_end_in_anything_but_one_line(tmp_path: Path) -> None:
    draw = random.Random(0)
    small = {key: value[:1] for key, value in rank_4_state().items()}
    seeds = []
    for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}):
        stream = io.BytesIO()
        torch.save({"state_dict": small, "more": [1, (2.5, None), {"a": "b"}]}, stream, **options)
        seeds.append(stream.getvalue())
    for _ in range(300):
        content = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 3, 10))):
            at = draw.choice(
                (draw.randrange(min(5000, len(content))), draw.randrange(len(content) - 200, len(content)))
            )
            if draw.random() < 0.7:
                content[at] = draw.randrange(256)
            else:
                content[at : at + draw.randrange(20)] = draw.randbytes(draw.randrange(20))
        (tmp_path / "weights.pkl").write_bytes(content)
        refused(tmp_path / "weights.pkl", arch=RANK_4)


# ---- descriptions ----------------------------------------------------------------------------------------------------

TINY: dict[str, dict[str, Any]] = {
    "coda_net": {"channels": [6, 4, 2], "kernels": [3, 1], "strides": [2, 1], "ranks": [2, 2], "norm": "SQ",
                 "temperature": 1.0},
    "bcos_vit": {"dim": 64, "depth": 1, "classes": 2, "bias": 0.0, "patch": 4},
    "bcos_resnet": {"blocks": [1], "classes": 2, "bottleneck": False, "bias": 0.0},
    "bcos_densenet": {"blocks": [1, 1], "growth": 4, "first": 4, "classes": 2, "bias": 0.0},
    "bcos_convnext": {"dims": [4, 8], "blocks": [1, 1], "classes": 2, "bias": 0.0},
}  # fmt: skip


def tiny(path: Path, architecture: str = "coda_net", change: Callable[[dict[str, Any]], object] | None = None) -> Path:
    """A small file of coda's own, its description changed after it was written."""
    checkpoint = Checkpoint(
        name="tiny",
        architecture=architecture,
        arguments=TINY[architecture],
        classes=("a", "b"),
        preprocessing=Preprocessing(resize=16, crop=16),
    )
    save(build(architecture, TINY[architecture]), checkpoint, path)
    if change:
        described = json.loads(headers.read_metadata(path)[manifest.METADATA_KEY])
        change(described)
        tensors = safetensors.torch.load_file(path)
        # The text goes in by hand: safetensors refuses halves of characters.
        header = json.loads(path.read_bytes()[8 : 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]])
        header["__metadata__"][manifest.METADATA_KEY] = json.dumps(described)
        raw, data = json.dumps(header).encode(), path.read_bytes()[8 + struct.unpack("<Q", path.read_bytes()[:8])[0] :]
        assert tensors
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


BAD_ARGUMENTS = [
    ("bcos_vit", {"depth": 10**9}), ("bcos_vit", {"depth": True}), ("bcos_vit", {"dim": 10**400}),
    ("bcos_vit", {"dim": "64"}), ("bcos_vit", {"patch": 3}), ("bcos_vit", {"patch": 0}), ("bcos_vit", {"bias": 1e400}),
    ("bcos_vit", {"bias": 10**400}), ("bcos_vit", {"temperature": float("nan")}), ("bcos_vit", {"b": []}),
    ("bcos_vit", {"b": -1}), ("bcos_vit", {"hidden": 10**9}), ("bcos_vit", {"stem": [4]}),
    ("coda_net", {"paddings": [20000, 0]}), ("coda_net", {"channels": [6, 4]}), ("coda_net", {"channels": []}),
    ("coda_net", {"channels": [3, 4, 2]}), ("coda_net", {"kernels": [17, 1], "paddings": [0, 0]}),
    ("coda_net", {"strides": [0, 1]}), ("coda_net", {"strides": [10**9, 1]}), ("coda_net", {"norm": ["SQ"]}),
    ("coda_net", {"norm": {}}), ("coda_net", {"temperature": None}), ("coda_net", {"temperature": "1"}),
    ("coda_net", {"temperature": True}), ("coda_net", {"ranks": [2.0, 2]}), ("coda_net", {"antialias": 7}),
    ("coda_net", {"kernels": [1] * 10**4}), ("coda_net", {"groups": 1}), ("bcos_resnet", {"blocks": [10**9]}),
    ("bcos_resnet", {"blocks": [128] * 6}), ("bcos_resnet", {"blocks": [1] * 60}), ("bcos_resnet", {"norm": "x"}),
    ("bcos_resnet", {"bottleneck": "no"}), ("bcos_resnet", {"groups": 0}), ("bcos_resnet", {"max_out": 10**6}),
    ("bcos_resnet", {"scale_factor": 0}), ("bcos_resnet", {"blocks": None}), ("bcos_resnet", {"classes": 10**9}),
    ("bcos_densenet", {"growth": -1}), ("bcos_densenet", {"blocks": [1] * 6}), ("bcos_convnext", {"dims": [4]}),
    ("bcos_convnext", {"dims": [16384, 16384], "blocks": [1, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "changes"), BAD_ARGUMENTS, ids=str)
def test_arguments_out_of_range_are_refused_before_anything_is_built(
    tmp_path: Path, architecture: str, changes: dict[str, Any]
) -> None:
    path = tiny(tmp_path / "net.safetensors", architecture)
    load(path)
    refused(tiny(path, architecture, lambda d: d["arguments"].update(changes)))
    state, pickled = safetensors.torch.load_file(path), tmp_path / "weights.pkl"
    torch.save({key.removeprefix("backbone."): value for key, value in state.items()}, pickled)
    pickled.with_name("weights.pkl.json").write_text(headers.read_metadata(path)[manifest.METADATA_KEY])
    refused(pickled)


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


BAD_FIELDS: list[dict[str, Any]] = [
    {"classes": ["\ud800", "b"]}, {"classes": ["a\0", "b"]}, {"classes": ["\x1b[2J", "b"]}, {"classes": ["a\x9b", "b"]},
    {"classes": ["", "b"]}, {"classes": ["x" * 10**5, "b"]}, {"classes": []}, {"classes": [1, 2]}, {"classes": "ab"},
    {"name": "a\nb"}, {"name": ""}, {"name": 5}, {"name": "\udfff"}, {"architecture": "x" * 10**5},
    {"architecture": []}, {"arguments": []}, {"preprocessing": {"resize": 16, "crop": 10**9}},
    {"preprocessing": {"resize": True, "crop": 16}}, {"preprocessing": {"resize": "16", "crop": 16}},
    {"preprocessing": {"resize": 16, "crop": 16.5}}, {"preprocessing": 7}, {"format": "1"[:0]}, {"format": []},
    {"format": 10**400}, {"accuracy": {"value": 1e400, "pictures": 1, "split": "x"}},
    {"accuracy": {"value": 2, "pictures": 1, "split": "x"}}, {"training": {"a": float("nan")}},
    {"training": {"a": _deep(50)}}, {"training": {"a": "\ud800"}}, {"training": {"a\0": 1}},
    {"training": {"a": 10**30}},
    {"licence": "\x1b"}, {"licence": 5}, {"wnids": ["a\0", "b"]}, {"synonyms": [["\ud800"], []]}, {"x" * 10**5: 1},
    {"\ud800": 1},
]  # fmt: skip


@pytest.mark.parametrize("changes", BAD_FIELDS, ids=lambda c: ascii(c)[:50])
def test_fields_that_are_none_are_refused_by_load_and_show(
    tmp_path: Path, coda: Coda, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tiny(tmp_path / "net.safetensors", change=lambda d: d.update(changes)))
    assert coda("models", "show", "net.safetensors", status=3).error.startswith("net.safetensors: ")


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": 5}, {"__metadata__": {"coda": 5}}, {"a": 5}, {"a": {}}, {"a": {"dtype": "F32", "shape": 5}},
        {"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**70]}},
        {"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}},
        {"a\0": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, [], 5, None, _deep(400),
    ],
    ids=lambda h: ascii(h)[:60],
)  # fmt: skip
def test_headers_that_are_none_are_refused_by_load_and_show(
    tmp_path: Path, coda: Coda, monkeypatch: pytest.MonkeyPatch, header: object
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = json.dumps(header).encode()
    (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
    refused(tmp_path / "net.safetensors")
    coda("models", "show", "net.safetensors", status=3)


def test_deep_and_endless_headers_are_refused(tmp_path: Path) -> None:
    for raw in (b'{"__metadata__":' + b"[" * 10**5, b"[" * 10**6, b"9" * 10**6, b'{"a": NaN}'):
        (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
        assert "not a safetensors file" in refused(tmp_path / "net.safetensors")
    (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", 90_000_000) + b"[" * 1000)
    assert "not a safetensors file" in refused(tmp_path / "net.safetensors")


def test_descriptions_beside_a_file_have_a_depth_and_a_size(tmp_path: Path) -> None:
    torch.save(rank_4_state(), tmp_path / "weights.pkl")
    for content, said in ((b"[" * 10**5, "not valid JSON"), (b" " * (headers.MAX_HEADER + 1), "too large")):
        (tmp_path / "weights.pkl.json").write_bytes(content)
        assert said in refused(tmp_path / "weights.pkl")
    (tmp_path / "note").write_bytes(b"x" * 5000)
    assert descriptions.short_text(tmp_path / "note") == "x" * 1000


def test_integers_in_the_place_of_weights_are_refused(tmp_path: Path) -> None:
    path = tiny(tmp_path / "net.safetensors")
    content = {key: value.to(torch.int32) for key, value in safetensors.torch.load_file(path).items()}
    path.write_bytes(safetensors.torch.save(content, headers.read_metadata(path)))
    assert "expected numbers like" in refused(path)


@pytest.mark.parametrize("architecture", ["bcos_densenet", "bcos_convnext", "bcos_resnet", "coda_net"])
def test_a_crop_that_vanishes_on_the_way_is_refused_and_no_other(architecture: str) -> None:
    model = build(architecture, TINY[architecture]).eval()
    for side in range(1, 20):
        try:
            model(torch.rand(1, 6, side, side))
            works = True
        except (RuntimeError, ValueError):
            works = False
        try:
            check_side(architecture, TINY[architecture], side)
            accepted = True
        except ValueError:
            accepted = False
        assert works == accepted, side


def test_every_published_configuration_is_within_the_ranges() -> None:
    for name, entry in manifest.known().items():
        checkpoint = entry.checkpoint
        with torch.device("meta"):
            build(checkpoint.architecture, checkpoint.arguments)
        check_side(checkpoint.architecture, checkpoint.arguments, checkpoint.preprocessing.crop)
        assert published_checkpoint(name) == checkpoint if not entry.bundled else checkpoint.name == name


# ---- each limit by itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("home", "limit", "most", "said"),
    [
        (torch_files, "MAX_FILE", 100, "the limit is 100"),
        (torch_files, "MAX_DIRECTORY", 10, "its zip directory has"),
        (torch_files, "MAX_BYTES", 10, "bytes of description; the limit is 10"),
        (torch_files, "MAX_NESTING", 0, "it is nested too deeply"),
        (pickles, "MAX_STEPS", 3, "it needs more than 3 steps"),
        (headers, "MAX_HEADER", 10, "not a safetensors file"),
        (headers, "MAX_SIDES", 1, "not a safetensors file"),
        (headers, "MAX_NAME", 3, "not a safetensors file"),
        (descriptions, "MAX_ENTRIES", 1, "more than 1 entries"),
        (descriptions, "MAX_TEXT", 3, "a text is too long"),
        (descriptions, "MAX_NESTING", 0, "nested too deeply"),
        (arguments, "MAX_LAYERS", 0, "expected at most 0 together"),
        (arguments, "MAX_WEIGHTS", 1, "more than 1 weights"),
        (networks, "MAX_PARAMETERS", 1, "parameters; the limit is 1"),
    ],
)
def test_a_sound_file_above_a_limit_is_refused_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: ModuleType, limit: str, most: int, said: str
) -> None:
    """Another check may refuse a hostile file first; a sound one meets only the limit."""
    architecture = "bcos_resnet" if limit == "MAX_LAYERS" else "coda_net"
    own = tiny(tmp_path / "net.safetensors", architecture, lambda d: d.update(licence="free"))
    pickled = tmp_path / "state.pt"
    torch.save({"a": [torch.ones(2)], "b": {"c": 1}}, pickled)

    def everything() -> None:
        load(own)
        with TorchFile(pickled) as file:
            file.everything()

    everything()
    monkeypatch.setattr(home, limit, most)
    with pytest.raises(CheckpointError, match=said):
        everything()


@pytest.mark.parametrize("code", [b"\x80\x02\x8b%s\x01.", b"I%s\n."], ids=["bytes", "digits"])
def test_integers_have_a_length(code: bytes) -> None:
    """Python takes the square of the time for a number that it has to write out."""

    def read(size: int) -> object:
        digits = b"9" * 2 * size
        content = size.to_bytes(4, "little") + b"\x01" * (size - 1) if code.startswith(b"\x80") else digits
        return pickles.PickleReader(code % content).load()

    assert isinstance(read(pickles.MAX_INTEGER_BYTES), int)
    with pytest.raises(pickles.PickleError, match="an integer that is too long"):
        read(pickles.MAX_INTEGER_BYTES + 1)


@pytest.mark.parametrize(
    "code",
    [b"X\x10\0\0\0abc.", b"U\x10abc.", b"C\x10abc.", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.", b"J\x01.", b"G1234."],
)
def test_what_is_longer_than_the_file_ends_too_early(code: bytes) -> None:
    with pytest.raises(pickles.PickleError, match="it ends too early"):
        pickles.PickleReader(b"\x80\x02" + code).load()


PLAIN = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        json.dumps({"a": {**PLAIN, "shape": [True, 2]}}),
        json.dumps({"a": {**PLAIN, "shape": [-1, -2]}}),
        json.dumps({"a": {**PLAIN, "shape": None}}),
        json.dumps({"a": {**PLAIN, "shape": [1] * 9 + [2]}}),
        json.dumps({"a": {**PLAIN, "data_offsets": [0.0, 8.0]}}),
        json.dumps({"a": {**PLAIN, "data_offsets": [0, 8, 8]}}),
        json.dumps({"a": {**PLAIN, "data_offsets": [0, 4]}, "b": {**PLAIN, "data_offsets": [0, 8]}}),
        json.dumps({"a": {**PLAIN, "dtype": 32}}),
        json.dumps({"a": PLAIN, "__metadata__": {"b": 1}}),
        json.dumps({"a": PLAIN, "__metadata__": [1]}),
        json.dumps({"a": {**PLAIN, "more": float("nan")}}),
        json.dumps({"": PLAIN}),
        json.dumps([PLAIN]),
    ],
)
def test_a_header_that_is_none_is_refused_though_the_size_fits(tmp_path: Path, header: str) -> None:
    def written(text: str) -> Path:
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(8))
        return tmp_path / "a.safetensors"

    assert headers.read_header(written(json.dumps({"a": PLAIN}))).shapes == {"a": (2,)}
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        headers.read_header(written(header))


def test_json_has_only_numbers_that_are_finite() -> None:
    assert descriptions.read_json('{"a": [1.5]}') == {"a": [1.5]}
    for constant in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(ValueError, match="no number"):
            descriptions.read_json(f'{{"a": [{constant}]}}')
    # 1e400 is JSON, and becomes infinite as it is read.
    with pytest.raises(ValueError, match="not finite"):
        descriptions.plain_data(descriptions.read_json('{"a": [1e400]}'))


@pytest.mark.parametrize("make", [lambda: torch.zeros(2, dtype=torch.complex64), lambda: torch.ones(3).to_sparse()])
def test_tensors_of_other_kinds_are_named(tmp_path: Path, make: Callable[[], Tensor]) -> None:
    torch.save({"weight": make()}, tmp_path / "weights.pkl")
    assert "holds no state dict of plain tensors: weight needs" in refused(tmp_path / "weights.pkl", arch=RANK_4)


def test_storages_of_the_legacy_form_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    torch.save({"a": torch.ones(3, dtype=torch.complex64)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="numbers that no network has"):
        everything_in(path)
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    everything_in(path)
    at = whole.rindex(struct.pack("<q", 3))
    path.write_bytes(whole[:at] + struct.pack("<q", 2) + whole[at + 8 :])
    with pytest.raises(CheckpointError, match="it ends too early, or is damaged"):
        everything_in(path)


@pytest.mark.parametrize("made", [b"N", b"K\x01", b"]", text("a"), b"cbuiltins\nlist\n"], ids=repr)
def test_attributes_are_set_on_nothing_else(made: bytes) -> None:
    with pytest.raises(pickles.PickleRefusedError, match="it changes what it did not make"):
        pickles.PickleReader(b"\x80\x02" + made + b"}b.").load()


def test_an_entry_of_a_zip_that_reaches_beyond_the_file_is_refused(tmp_path: Path) -> None:
    """Its directory agrees with itself: the entry is said to be longer than what is left of the file."""
    path = tmp_path / "weights.pkl"
    torch.save({"a": torch.ones(3)}, path)
    whole = path.read_bytes()
    start = whole.index(b"PK\x01\x02")
    while b"data/0" not in whole[start + 46 : start + 46 + 40].split(b"PK")[0]:
        start = whole.index(b"PK\x01\x02", start + 4)
    sizes = struct.pack("<LL", 1 << 20, 1 << 20)
    path.write_bytes(whole[: start + 20] + sizes + whole[start + 28 :])
    with pytest.raises(CheckpointError, match="it ends too early"):
        everything_in(path)


def test_an_entry_of_a_zip_that_says_it_is_compressed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    torch.save({"a": torch.ones(3)}, path)
    whole = path.read_bytes()
    start = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: start + 10] + struct.pack("<H", 8) + whole[start + 12 :])
    assert "compressed" in refused(path, everything_in)


def test_layers_that_cannot_be_are_said_with_their_reason() -> None:
    chain = {"channels": [6, 4, 2], "kernels": [3, 9], "strides": [2, 1], "paddings": [0, 0]}
    arguments.check_side("coda_net", chain, 40)
    with pytest.raises(ValueError, match="nothing is left of it for a 9-wide kernel"):
        arguments.check_side("coda_net", chain, 8)
    arguments.check_side("bcos_vit", {"patch": 16}, 32)
    with pytest.raises(ValueError, match="no whole number of patches of 16"):
        arguments.check_side("bcos_vit", {"patch": 16}, 40)
    arguments.check_arguments("coda_net", {"channels": [6, 4, 2]})
    with pytest.raises(ValueError, match="expected 6 for the first"):
        arguments.check_arguments("coda_net", {"channels": [3, 4, 2]})


def test_the_number_of_a_format_is_not_said_with_all_its_digits(tmp_path: Path) -> None:
    assert "newer coda (format 1000000)" in refused(
        tiny(tmp_path / "net.safetensors", "coda_net", lambda d: d.update(format=10**4000))
    )
