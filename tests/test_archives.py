"""Pictures in archives: found, named, explained and resumed as in a folder; a hostile archive is a line and no harm."""

from __future__ import annotations

import bz2
import gzip
import io
import stat
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from program import Result, check_whole, looked_at, names_of, photo, scene, tree

from coda_cli.errors import MediaError, UsageError
from coda_cli.machine import budget
from coda_cli.media import archives, files
from coda_cli.media.sources import Item, resolve
from coda_cli.media.stills import reading

Coda = Callable[..., Result]
KINDS = ("p.zip", "p.tar", "p.tar.gz", "p.tgz", "p.tar.bz2")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scene(seed=seed)).save(stream, "PNG")
    return stream.getvalue()


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """A file in a tar, as it lies there."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info.tobuf() + content + bytes(-len(content) % 512)


def pack(name: str, files: dict[str, bytes]) -> Path:
    """An archive of the kind that its name says."""
    path = Path(name)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for inside, content in files.items():
                archive.writestr(inside, content)
        return path
    data = b"".join(member(inside, content) for inside, content in files.items()) + bytes(1024)
    packed = gzip.compress(data) if path.suffix in (".gz", ".tgz") else data
    path.write_bytes(bz2.compress(data) if path.suffix == ".bz2" else packed)
    return path


def found(*sources: str) -> tuple[list[Item], list[str]]:
    """The inputs, and what is said of what is left out."""
    said: list[str] = []
    return resolve(sources, on_left_out=said.append), said


def refusal(source: str) -> str:
    with pytest.raises(UsageError) as caught:
        resolve([source])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def failure(item: Item) -> str:
    with pytest.raises(MediaError) as caught, reading(item.content):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- as a folder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archive", KINDS)
def test_an_archive_gives_what_a_folder_of_its_name_gives(coda: Coda, tmp_path: Path, archive: str) -> None:
    files = {"b.png": png(1), "sub/a.png": png(2), "notes.txt": b"none", "sub/deep/c.png": png(3)}
    pack(archive, files)
    folder = tmp_path / "other" / archive
    for inside, content in files.items():
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        (folder / inside).write_bytes(content)
    coda("explain", archive, "-o", "packed")
    coda("explain", archive, "-r", "-o", "../unpacked", cwd=tmp_path / "other")
    packed, unpacked = tree(tmp_path / "packed"), tree(tmp_path / "unpacked")
    assert list(packed) == list(unpacked)
    records = [coda("explain", archive, "-r", "--json", "--write", "none", cwd=where).records
               for where in (tmp_path, tmp_path / "other")]  # fmt: skip
    for one, other in zip(*(sorted(r, key=lambda x: x["source"]["path"]) for r in records), strict=True):
        assert one["source"] == other["source"]
        assert one["explained"] == other["explained"]
    check_whole(tmp_path / "packed")


@pytest.mark.parametrize("archive", KINDS)
def test_a_second_run_over_an_archive_does_nothing_twice(coda: Coda, tmp_path: Path, archive: str) -> None:
    pack(archive, {"a.png": png(1), "b.png": png(2)})
    coda("explain", archive)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "coda-out").iterdir()}
    assert "2 skipped" in coda("explain", archive).err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "coda-out").iterdir()} == before


def test_a_shard_keeps_the_keys_of_its_samples(coda: Coda, tmp_path: Path) -> None:
    for n in range(3):
        pack(f"shard-{n:03d}.tar", {f"{n}{k}.png": png(k) for k in range(2)} | {f"{n}0.cls": b"7", f"{n}0.json": b"{}"})
    items, said = found("shard-{000..002}.tar")
    assert [item.path.stem for item in items] == ["00", "01", "10", "11", "20", "21"]
    assert said[0] == "shard-000.tar: left out 2 files of other kinds (1 .cls, 1 .json)"
    coda("explain", "shard-{000..002}.tar", "--write", "json", "-o", "out")
    assert list(tree(tmp_path / "out")) == [f"{n}{k}.coda.json" for n in range(3) for k in range(2)]


def test_names_are_those_of_the_archive_and_of_the_entry(coda: Coda) -> None:
    pack("p.zip", {"./sub/a.png": png()})
    assert names_of(looked_at(coda, "p.zip")) == ["p.zip/sub/a.png"]


def test_braces_stand_for_several_sources_unless_a_file_has_that_name() -> None:
    for name in ("a1.png", "a2.png", "b10.png", "x{1..2}.png"):
        photo(Path(name))
    assert [item.name for item in found("{a2,a1,b10}.png")[0]] == ["a2.png", "a1.png", "b10.png"]
    assert [item.name for item in found("{a{2..1},b10}.png")[0]] == ["a2.png", "b10.png", "a1.png"]
    assert [item.name for item in found("x{1..2}.png")[0]] == ["x{1..2}.png"]
    assert "b8.png: no such file" in refusal("b{8..10}.png")
    assert "stands for more than" in refusal("b{0..999999999}.png")
    assert "stands for more than" in refusal("b" + "{0..999}" * 2 + ".png")


def test_archives_in_lists_fail_alone(coda: Coda) -> None:
    pack("good.zip", {"a.png": png()})
    Path("bad.zip").write_bytes(b"no archive")
    result = looked_at(coda, "-", input="bad.zip\ngood.zip\n", status=1)
    assert names_of(result) == ["bad.zip", "good.zip/a.png"]
    assert result.error == "bad.zip: is no ZIP archive, or is broken or cut off (File is not a zip file)"


def test_an_archive_in_a_folder_is_not_looked_into() -> None:
    photo(Path("p/a.png"))
    pack("p/more.zip", {"b.png": png()})
    assert [item.name for item in found("p")[0]] == ["p/a.png"]


def test_a_compressed_archive_is_read_in_any_order_and_mostly_once(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [bytes([n]) * (1000 + n) for n in range(40)]
    pack("p.tar.gz", {f"{n}.png": content for n, content in enumerate(contents)})
    opened: list[str] = []
    honest = gzip.open

    def counted(path: Path, mode: str) -> object:
        opened.append(str(path))
        return honest(path, mode)

    monkeypatch.setitem(archives._COMPRESSED, ".tar.gz", counted)
    items, _ = found("p.tar.gz")
    read: dict[int, bytes] = {}

    def some(first: int) -> None:
        for n in range(first, 40, 4):
            stored = items[n].stored
            assert stored
            read[n] = stored.read()

    threads = [threading.Thread(target=some, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [read[n] for n in range(40)] == contents
    assert len(opened) == 2  # once for the list, once for the files
    again = [items[n].stored.read() for n in (39, 3, 4)]  # type: ignore[union-attr]
    assert again == [contents[n] for n in (39, 3, 4)]


# ---- hostile ---------------------------------------------------------------------------------------------------------


def test_names_that_lead_out_links_and_devices_are_left_out() -> None:
    Path("p.tar").write_bytes(
        member("../up.png", png())
        + member("/etc/top.png", png())
        + member("link.png", kind=tarfile.SYMTYPE, link="/etc/passwd")
        + member("hard.png", kind=tarfile.LNKTYPE, link="a.png")
        + member("device.png", kind=tarfile.CHRTYPE)
        + member("pipe.png", kind=tarfile.FIFOTYPE)
        + member(".hidden/b.png", png())
        + member("a.png", png())
        + bytes(1024)
    )
    items, said = found("p.tar")
    assert [item.name for item in items] == ["p.tar/a.png"]
    assert said == ["p.tar: left out 2 entries (their names lead out of the archive), 4 entries (links or devices)"]


@pytest.mark.parametrize("output", ["out", "out.tar"])
def test_folders_with_names_too_long_for_a_disk_are_shortened(coda: Coda, output: str) -> None:
    """In an archive a name may have any length; one that no disk takes must not end the run for all others."""
    deep = "/".join(["e" * 240] * 30)
    pack("p.tar", {"a.png": png(), "b.png": png()})
    pack("p.zip", {f"{folder}/x.png": png() for folder in ("d" * 300, "d" * 301, deep, f"{deep}/more", "plain")})
    result = coda("explain", "p.zip", "--write", "json", "-o", output)
    names = sorted(line.removeprefix(f"{output}/").removesuffix("/x.coda.json") for line in result.lines)
    assert names[-1] == "plain"
    assert len(set(names)) == 5
    assert all("~" in name and len(name) <= 200 for name in names[:-1])
    assert "5 skipped" in coda("explain", "p.zip", "--write", "json", "-o", output).err


def test_a_path_too_long_for_a_disk_fails_alone(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DEEPEST", 1 << 20)
    pack("p.zip", {"/".join(["e" * 240] * 30) + "/x.png": png(), "b.png": png()})
    result = coda("explain", "p.zip", "--write", "json", status=1)
    assert result.lines == ["coda-out/b.coda.json"]
    assert "File name too long" in result.error
    assert "1 explained, 1 failed" in result.err


def test_a_zip_with_backslashes_has_the_folders_that_these_mean() -> None:
    pack("p.zip", {"sub\\a.png": png(), "..\\up.png": png()})
    items, said = found("p.zip")
    assert [(item.name, item.subfolder) for item in items] == [("p.zip/sub/a.png", Path("sub"))]
    assert said == ["p.zip: left out 1 entry (their names lead out of the archive)"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "p.tar",
            b"PK\3\4 a ZIP",
            "is no tar archive, whatever its name says: it is a ZIP archive, which is read from a",
        ),
        ("p.tar", gzip.compress(b"x", mtime=0), "it is compressed with gzip; decompress it first"),
        ("p.tar.gz", bz2.compress(b"x"), "it is compressed with bzip2; decompress it first"),
        (
            "p.tar.bz2",
            member("a.png") + bytes(1024),
            "it is a tar archive, which is read from a file whose name ends in .tar",
        ),
        ("p.zip", b"Rar!\x1a\7\0", "is no ZIP archive, whatever its name says: it is a RAR archive; unpack it first"),
        ("p.parquet", member("a.png") + bytes(1024), "is no Parquet file, whatever its name says: it is a tar archive"),
    ],
)
def test_what_is_no_archive_of_its_name_says_what_it_is(name: str, content: bytes, says: str) -> None:
    Path(name).write_bytes(content)
    assert says in refusal(name)


def test_a_link_in_a_zip_is_left_out() -> None:
    with zipfile.ZipFile("p.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../a.png", png())
    assert refusal("p.zip") == "p.zip: no pictures in this archive"


@pytest.mark.parametrize("archive", ["p.zip", "p.tar", "p.tar.gz"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_entries_with_one_name_the_last_counts(archive: str) -> None:
    if archive == "p.zip":
        with zipfile.ZipFile(archive, "w") as file:
            for seed in (1, 2):
                file.writestr("a.png", png(seed))
    else:
        data = member("a.png", png(1)) + member("./a.png", png(2)) + bytes(1024)
        Path(archive).write_bytes(gzip.compress(data) if archive.endswith("gz") else data)
    items, said = found(archive)
    assert said == [f"{archive}: left out 1 entry (later ones have their names)"]
    (item,) = items
    with reading(item.content) as picture:
        assert (picture.rgb == scene(seed=2)).all()


def patched(path: Path, mark: bytes, offset: int, new: bytes) -> None:
    """Overwrite bytes behind every mark."""
    data, at = bytearray(path.read_bytes()), -1
    while (at := data.find(mark, at + 1)) >= 0:
        data[at + offset : at + offset + len(new)] = new
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("offset", "new", "says"),
    [
        (8, b"\1\0", "is encrypted; unpack the archive first"),
        (10, b"\x09\0", "is compressed in a way that coda does not read (method 9); unpack the archive first"),
        (16, b"\0\0\0\0", "is broken in its archive (its length or checksum is wrong)"),
        (24, struct.pack("<I", 10), "is broken in its archive (its length or checksum is wrong)"),
        (24, struct.pack("<I", 600_000_000), "has more than the 512 MB that are read"),
        (42, struct.pack("<I", 7), "is broken in its archive (no entry begins where the list says)"),
        (42, struct.pack("<I", 1 << 30), "is broken in its archive (unpack requires a buffer of 30 bytes)"),
    ],
)
def test_a_broken_entry_of_a_zip_fails_alone(offset: int, new: bytes, says: str) -> None:
    patched(pack("p.zip", {"a.png": png()}), b"PK\1\2", offset, new)
    (item,), _ = found("p.zip")
    assert failure(item) == f"p.zip/a.png: {says}"


def test_a_bomb_in_a_zip_gives_no_more_than_it_says() -> None:
    path = pack("p.zip", {"a.png": bytes(50_000_000)})
    patched(path, b"PK\1\2", 24, struct.pack("<I", 1000))  # the list says that it has a kilobyte
    (item,), _ = found("p.zip")
    assert failure(item) == "p.zip/a.png: is broken in its archive (its length or checksum is wrong)"


@pytest.mark.parametrize("archive", ["p.zip", "p.tar", "p.tar.gz", "p.tar.bz2"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_an_archive_that_is_cut_off_is_a_line(archive: str, share: float) -> None:
    noise = np.random.default_rng(0).bytes(3000)
    whole = pack(archive, {f"{n}.png": noise for n in range(4)}).read_bytes()
    Path(archive).write_bytes(whole[: int(share * len(whole))])
    if archive == "p.tar" and share in (0.7, 0.99):  # between two entries, and in the padding at the end
        items, said = found(archive)
        assert len(items) == {0.7: 3, 0.99: 4}[share]
        missing = "p.tar: left out what may follow: the mark of its end is missing"
        assert said == ([missing] if share == 0.7 else [])
        return
    kind = "ZIP" if archive == "p.zip" else "tar"
    assert refusal(archive).startswith(f"{archive}: is no {kind} archive, or is broken or cut off (")


@pytest.mark.parametrize("archive", ["p.tar", "p.tar.gz"])
@pytest.mark.parametrize("how", ["cut", "broken"])
def test_a_header_that_is_cut_off_or_broken_is_not_taken_for_the_end(archive: str, how: str) -> None:
    """The library takes any header but the first that it cannot read for the end, and pictures would be lost unseen."""
    first, second = member("a.png", png()), member("b.png", png())
    broken = second[:300] if how == "cut" else second[:148] + b"nonsense" + second[156:] + bytes(1024)
    Path(archive).write_bytes(gzip.compress(first + broken) if archive.endswith("gz") else first + broken)
    says = f"{archive}: is no tar archive, or is broken or cut off (what stands behind an entry is none)"
    assert refusal(archive) == says


def test_a_file_that_shrinks_after_it_was_listed_is_a_line() -> None:
    path = pack("p.tar", {"a.png": png()})
    (item,), _ = found("p.tar")
    path.write_bytes(path.read_bytes()[:600])
    assert failure(item) == "p.tar/a.png: is cut off in its archive"


@pytest.mark.parametrize("archive", ["p.zip", "p.tar", "p.tar.gz"])
def test_more_entries_than_can_be_held_are_refused(monkeypatch: pytest.MonkeyPatch, archive: str) -> None:
    monkeypatch.setattr(budget, "ENTRIES", 10)
    pack(archive, {f"{n}.txt": b"" for n in range(11)})
    assert refusal(archive) == f"{archive}: has more than 10 entries; split it, or unpack it first"


def test_a_long_list_of_a_zip_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "DIRECTORY_BYTES", 500)
    pack("p.zip", {f"{n}.png": b"" for n in range(11)})
    assert "entries; split it" in refusal("p.zip")


def test_a_compressed_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "EXPANDED_BYTES", 1_000_000)
    pack("p.tar.gz", {f"{n}.png": bytes(1_000_000) for n in range(9)})
    assert refusal("p.tar.gz") == "p.tar.gz: expands to more than 1 MB; if you trust it, unpack it first"


def test_a_length_that_leads_nowhere_ends() -> None:
    info = tarfile.TarInfo("a.png")
    for size in (b"\x80" + (1 << 60).to_bytes(11, "big"), b"\xff" + (256**11 - 1024).to_bytes(11, "big")):
        header = bytearray(info.tobuf())
        header[124:136] = size
        header[148:156] = b"        "
        header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
        Path("p.tar").write_bytes(bytes(header) + bytes(2048))
        assert "broken or cut off" in refusal("p.tar")
        Path("p.tar.gz").write_bytes(gzip.compress(bytes(header) + bytes(2048)))
        assert "p.tar.gz: " in refusal("p.tar.gz")


def test_nothing_is_written_beside_an_archive(coda: Coda, tmp_path: Path) -> None:
    pack("p.zip", {"a.png": png(), "b.png": b"no picture"})
    result = coda("explain", "p.zip", "-o", "out", status=1)
    assert result.error == "p.zip/b.png: not a picture in a format coda can read"
    assert {path.name for path in tmp_path.iterdir()} == {"p.zip", "out"}
