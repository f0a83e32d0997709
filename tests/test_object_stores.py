"""Films, stores and embeddings in buckets of S3 and Google Cloud Storage, over HTTP."""

import json
import pathlib
import time

import fsspec
import numpy as np
import object_stores
import pytest
import running

from cxr_embeddings.input_pipeline.embeddings.table import read_table
from cxr_embeddings.input_pipeline.films.listing import list_inputs
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

for package in ("s3fs", "gcsfs", "moto", "flask_cors", "gcp_storage_emulator"):
    pytest.importorskip(package, reason=f"{package} is not installed: it comes with dev")
pytestmark = pytest.mark.slow
FILMS, LATERALS = 10, 4
ALONE = ("--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1")


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """A stand-in of MIMIC-CXR with films of 200 kB."""
    folder = tmp_path_factory.mktemp("films") / "mimic"
    write_mimic(folder, films=FILMS, laterals=LATERALS, damaged=0, seed=5, size_range=(300, 320))
    return folder


@pytest.fixture(scope="module", params=["s3", "gs"])
def filled(request, mimic):
    """A bucket that holds these films, and the proxy before it."""
    with object_stores.bucket(request.param) as (address, proxy):
        fs = fsspec.filesystem(request.param)
        for path in filter(pathlib.Path.is_file, mimic.rglob("*")):
            fs.put_file(str(path), f"{address}/mimic/{path.relative_to(mimic)}")
        yield address, proxy


@pytest.fixture
def bucket(filled):
    """The same, without trouble, and with an empty record of requests."""
    filled[1].trouble = lambda method, target: None
    filled[1].seen.clear()
    return filled


@pytest.fixture(scope="module")
def embed(save_bundle):
    """embed.py with a tiny network, in this process or, `apart`, as the words of a command."""

    def embed(source, output, *more, apart=False):
        weights = (f"--weights={save_bundle('native', 32)}", "--config.input.workers=2")
        words = ("embed", f"--input={source}", f"--output={output}", *weights, *more)
        return running.command(*words) if apart else running.call(*words)

    return embed


@pytest.fixture(scope="module")
def expected(embed, mimic, tmp_path_factory):
    """The embeddings of the films on the disk, by the last part of their ids."""
    folder = tmp_path_factory.mktemp("local")
    result = embed(mimic / "files", folder)
    assert result.returncode == 0, result.stderr
    return by_name(folder, folder / "cache")


def by_name(folder, cache):
    table = read_table(str(folder), str(cache))
    names = (image_id.rpartition("/")[2] for image_id in table.image_id)
    return dict(zip(names, np.asarray(table.embedding).tolist(), strict=True))


def written(store):
    return len(store["films.csv"].splitlines()) - 1


def fetched(address, folder):
    """A copy of a folder of a bucket, with its checksums checked."""
    fsspec.filesystem(address.partition(":")[0]).get(f"{address}/", str(folder), recursive=True)
    assert running.is_intact(folder)
    return running.tree(folder)


def test_a_film_is_listed_once_and_read_once(bucket, embed, mimic, expected, tmp_path):
    (address, proxy), output = bucket, f"{bucket[0]}/once"
    result = embed(f"{address}/mimic/files", output)
    assert result.returncode == 0, result.stderr
    sizes = {p.name: p.stat().st_size for p in mimic.rglob("*.dcm")}
    for name, size in sizes.items():
        assert [e.size for e in proxy.asked(name) if "list" not in e.target] == [size], name
        assert not proxy.asked(name, "HEAD")
    films = [e for e in proxy.asked("prefix=mimic/files/") if "/files/&" in e.target]
    assert len(films) == 1, films
    writes = [e for method in ("PUT", "POST") for e in proxy.asked("", method)]
    assert len(writes) == len(sizes) + 5  # the manifest twice, two tables, the checksums
    assert by_name(output, tmp_path / "cache") == expected
    before = fetched(output, tmp_path / "copy")

    lost, damaged = sorted(name for name in before if name.endswith(".tfrecord"))[:2]
    fs = fsspec.filesystem(address.partition(":")[0])
    fs.rm_file(f"{output}/{lost}")
    fs.pipe_file(f"{output}/{damaged}", before[damaged][:-9])
    proxy.seen.clear()
    result = embed(f"{address}/mimic/files", output)
    assert f"{'already done':13}{len(sizes) - 2:8}" in result.stdout, result.stderr
    assert len([e for e in proxy.asked(".dcm") if e.size in sizes.values()]) == 2
    assert fetched(output, tmp_path / "again") == before


def test_of_a_film_that_its_header_skips_only_the_header_is_read(bucket, embed, mimic):
    address, proxy = bucket
    result = embed(f"{address}/mimic/files", f"{address}/views", "--config.input.views=AP,PA")
    assert f"{'skipped':13}{LATERALS:8}" in result.stdout, result.stderr
    sizes = {p.name: p.stat().st_size for p in mimic.rglob("*.dcm")}
    moved = {name: [e.size for e in proxy.asked(name)] for name in sizes}
    heads = [name for name, size in sizes.items() if moved[name] == [min(size, 1 << 16)]]
    assert len([name for name in heads if sizes[name] > 1 << 16]) == LATERALS
    for name in sizes.keys() - heads:
        assert moved[name] == [1 << 16, sizes[name] - (1 << 16)]


def test_a_store_in_a_bucket_is_that_of_a_disk(bucket, embed, mimic, tmp_path):
    address, proxy = bucket
    given = ("--config.image.preset=native", "--config.image.size=32", *ALONE)
    given += ("--config=configs/mimic.py", "--config.output.films_per_shard=3")
    stores = f"{address}/store", str(tmp_path / "store")
    for source, store in zip((f"{address}/mimic", mimic), stores, strict=True):
        result = running.call("preprocess", f"--input={source}", f"--output={store}", *given)
        assert result.returncode == 0, result.stderr
    shards = {name: data for name, data in running.tree(stores[1]).items() if ".tfrecord" in name}
    copy = fetched(stores[0], tmp_path / "copy")
    assert {name: data for name, data in copy.items() if ".tfrecord" in name} == shards
    assert len([e for e in proxy.asked(".dcm") if e.status == 206]) == written(copy)
    tables = []
    for store in stores:
        assert embed(store, f"{store}-embedded").returncode == 0
        tables.append(by_name(f"{store}-embedded", tmp_path / "cache"))
    assert tables[0] == tables[1]

    proxy.seen.clear()
    fsspec.filesystem(address.partition(":")[0]).rm_file(f"{stores[0]}/{min(shards)}")
    running.call("preprocess", f"--input={address}/mimic", f"--output={stores[0]}", *given)
    assert 0 < len([e for e in proxy.asked(".dcm") if e.status == 206]) <= 3
    assert fetched(stores[0], tmp_path / "again") == copy


def test_a_server_that_refuses_or_is_slow_costs_no_film(bucket, embed, expected, tmp_path):
    (address, proxy), met, kinds = bucket, set(), (429, 503, 0, 0.5)

    def trouble(method, target):
        """Every film, and every write, is met by one trouble at first."""
        if (".dcm" in target or method in ("PUT", "POST")) and (method, target) not in met:
            met.add((method, target))
            return kinds[len(met) % 4]
        return None

    proxy.trouble = trouble
    result = embed(f"{address}/mimic/files", f"{address}/trouble")
    assert result.returncode == 0, result.stdout + result.stderr
    assert {e.status for e in proxy.seen} >= {0, 429, 503}
    assert by_name(f"{address}/trouble", tmp_path / "cache") == expected
    fetched(f"{address}/trouble", tmp_path / "copy")


def test_a_server_goes_away_and_comes_back(bucket, embed, expected, tmp_path):
    (address, proxy), gone = bucket, []

    def trouble(method, target):
        if len(proxy.asked(".dcm")) > 3 and not gone:
            gone.append(time.monotonic())
        return 0 if gone and time.monotonic() < gone[0] + 6 else None

    proxy.trouble = trouble
    result = embed(f"{address}/mimic/files", f"{address}/away")
    assert result.returncode == 0, result.stdout + result.stderr
    assert sum(not e.status for e in proxy.seen) > 2
    assert by_name(f"{address}/away", tmp_path / "cache") == expected


def test_two_runs_at_once_do_the_work_twice_and_leave_one_folder(bucket, embed, tmp_path):
    """A bucket has no locks: docs/runs.md says what that means."""
    address, _ = bucket
    words = embed(f"{address}/mimic/files", f"{address}/both", apart=True)
    runs = [running.subprocess.Popen(words, cwd=running.REPOSITORY) for _ in range(2)]
    assert [run.wait(200) for run in runs] == [0, 0]
    assert embed(f"{address}/mimic/files", f"{address}/one").returncode == 0
    both, one = (fetched(f"{address}/{name}", tmp_path / name) for name in ("both", "one"))
    assert {n: d for n, d in both.items() if n.endswith(".tfrecord")} == {
        n: d for n, d in one.items() if n.endswith(".tfrecord")
    }
    assert json.loads(both["manifest.json"])["complete"]
    refused = embed(f"{address}/mimic/files", f"{address}/both", "--config.output.format=npz")
    assert "was made by another run" in refused.stderr


def test_five_thousand_films_are_five_pages():
    """Of S3: gcp-storage-emulator gives all names at once."""
    from moto.s3.models import s3_backends

    with object_stores.bucket("s3") as (address, proxy):
        behind = s3_backends["123456789012"]["aws"]  # moto's own account; by HTTP it takes a minute
        for i in range(5000):
            behind.put_object(object_stores.BUCKET, f"many/{i:05}.dcm", b"x")
        assert len(list_inputs(f"{address}/many").files) == 5000
        assert [e.target for e in proxy.seen if "prefix=many/&" not in e.target] == []
        assert len(proxy.seen) == 5
