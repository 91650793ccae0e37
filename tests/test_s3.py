"""Pictures in buckets, from a real S3 server on this machine."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from program import Result, example, looked_at, names_of, scene, tree

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

# Warnings of the server and the driver, and connections that the driver keeps until the process ends.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()
"""
Coda = Callable[..., Result]
KEYS = ("photos/img10.png", "photos/img2.png", "photos/sub/c.png", "photos/notes.txt")


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A client of the server, whose bucket holds KEYS; the driver finds it as a user's environment says."""
    import s3fs

    # In a process of its own: its threads are none of this one's.
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin
    assert server.stdout
    with server, server.stdin, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": server.stdout.readline().strip(),
            "AWS_ACCESS_KEY_ID": "KEYSECRET",
            "AWS_SECRET_ACCESS_KEY": "SECRET",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="photos-of-a-test")
        for seed, key in enumerate(KEYS):
            stream = io.BytesIO()
            Image.fromarray(scene(seed=seed)).save(stream, "PNG")
            client.put_object(Bucket="photos-of-a-test", Key=key, Body=stream.getvalue())
        s3fs.S3FileSystem().ls("photos-of-a-test")  # the driver starts a thread that stays
        yield client
        client.close()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("bucket")
def test_a_folder_of_a_bucket_is_explained_and_resumed(coda: Coda, tmp_path: Path) -> None:
    assert names_of(looked_at(coda, "s3://photos-of-a-test/photos/")) == [
        "s3://photos-of-a-test/photos/img2.png",
        "s3://photos-of-a-test/photos/img10.png",
    ]
    result = coda("explain", "s3://photos-of-a-test/photos", "-r", "--write", "json", cwd=tmp_path)
    files = tree(tmp_path / "coda-out")
    assert list(files) == ["img10.coda.json", "img2.coda.json", "sub/c.coda.json"]
    assert "SECRET" not in result.out + result.err + b"".join(files.values()).decode()
    assert "3 skipped" in coda("explain", "s3://photos-of-a-test/photos", "-r", "--write", "json", cwd=tmp_path).err


def test_results_go_to_a_bucket_and_are_resumed(coda: Coda, tmp_path: Path, bucket: Any) -> None:
    run = ("explain", "s3://photos-of-a-test/photos/", "-o", "s3://photos-of-a-test/out/", "--class", "0")
    result = coda(*run)
    listed = bucket.list_objects_v2(Bucket="photos-of-a-test", Prefix="out/")["Contents"]
    names = [f"s3://photos-of-a-test/{each['Key']}" for each in listed]
    assert sorted(result.out.splitlines()) == names
    assert [name.rpartition("/")[2] for name in names if name.endswith("json")] == ["img10.coda.json", "img2.coda.json"]
    bucket.delete_object(Bucket="photos-of-a-test", Key="out/img2.coda.json")
    assert "1 explained, 1 skipped" in coda(*run).err
    assert "2 skipped" in coda(*run, "--if-exists", "skip").err
    again = bucket.list_objects_v2(Bucket="photos-of-a-test", Prefix="out/")["Contents"]
    assert {each["Key"] for each in again} == {each["Key"] for each in listed}
    assert not (tmp_path / "coda-out").exists()


def test_the_example_explains_a_bucket_into_a_tar_there(bucket: Any, capsys: pytest.CaptureFixture[str]) -> None:
    del bucket
    run = example("bucket").main
    run("s3://photos-of-a-test/photos/", "s3://photos-of-a-test/explained.tar")
    lines = capsys.readouterr().out.splitlines()
    names = sorted(line.split()[0].removeprefix("s3://photos-of-a-test/photos/") for line in lines)
    assert names == ["img10.png", "img2.png"]
    run("s3://photos-of-a-test/photos/", "s3://photos-of-a-test/explained.tar")
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_takes_no_results(coda: Coda, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    said = coda("explain", "a.png", "-o", "s3://no-such-bucket/out", status=2).error
    assert said.startswith("s3://no-such-bucket/out: cannot write there")


@pytest.mark.usefixtures("bucket")
def test_a_pattern_and_a_list_of_a_bucket(coda: Coda) -> None:
    assert names_of(looked_at(coda, "s3://photos-of-a-test/photos/img?.png")) == [
        "s3://photos-of-a-test/photos/img2.png"
    ]
    result = looked_at(
        coda,
        "-",
        input="s3://photos-of-a-test/photos/gone.png\ns3://photos-of-a-test/photos/img2.png\ns3://no-such-bucket/a.png\n",
        status=1,
    )
    assert names_of(result) == [
        "s3://photos-of-a-test/photos/gone.png",
        "s3://photos-of-a-test/photos/img2.png",
        "s3://no-such-bucket/a.png",
    ]
    assert result.errors == [
        f"s3://{key}: nothing is at this address"
        for key in ("photos-of-a-test/photos/gone.png", "no-such-bucket/a.png")
    ]


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_a_line(coda: Coda) -> None:
    assert coda("explain", "s3://no-such-bucket/*.png", status=2).error.startswith("s3://no-such-bucket/*.png: no")
