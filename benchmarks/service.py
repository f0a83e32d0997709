"""How fast the service is: throughput with many clients, latency alone and under load, and memory.

Beside it `embed.py` on the same films, and the way of the original container, one by one.
"""

import base64
import concurrent.futures
import glob
import http.client
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

import cxr_embeddings as cxr
from benchmarks.timing import interleave
from cxr_embeddings.input_pipeline.films import decode
from cxr_embeddings.input_pipeline.films.film import InputFile

PORT = 8377
LOAD = 0.8  # of the throughput that was just measured


def run(
    weights: str, films: str, clients: int = 32, requests: int = 400, rounds: int = 3, soak: int = 0
) -> None:
    """Prints the figures for a folder of readable films; `soak` more requests watch the memory."""
    paths = sorted(glob.glob(f"{films}/**/*.dcm", recursive=True))
    bodies = [
        json.dumps({"instances": [{"input_bytes": base64.b64encode(data).decode()}]}).encode()
        for data in (pathlib.Path(path).read_bytes() for path in paths)
    ]
    program = [sys.executable, "scripts/serve.py", f"--weights={weights}", f"--port={PORT}"]
    server = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    try:
        wait_for_health()
        ways = {
            f"service, {clients} clients": lambda: ask_many(bodies, clients, requests)[0],
            "service, 1 client": lambda: ask_many(bodies, 1, requests // 4)[0],
            "embed.py": lambda: embed(weights, paths, requests),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        tails: dict[str, list[np.ndarray]] = {}
        for _ in range(rounds):
            for name, way in ways.items():
                rates[name].append(way())
            many, one = (LOAD * found[-1] for found in list(rates.values())[:2])
            loads = {
                "service": (clients, many),
                "one by one": (1, one),
                "one by one, the service's load": (1, many),
            }
            for name, (callers, rate) in loads.items():
                _, seconds = ask_many(bodies, callers, requests, rate)
                tails.setdefault(name, []).append(np.quantile(seconds, (0.5, 0.99)))
        for name, found in rates.items():
            print(f"{name:22} {statistics.median(found):6.1f} films a second")
        whole, alone = (statistics.median(rates[name]) for name in (next(iter(ways)), "embed.py"))
        print(f"service / embed.py {whole / alone:.2f}")
        for name, found in tails.items():
            median, last = 1000 * np.median(found, axis=0)
            print(f"at {LOAD:.0%} load, {name:30} median {median:6.0f} ms, p99 {last:6.0f} ms")
        latency(weights, bodies, paths)
        if soak:
            before = memory(server.pid)
            ask_many(bodies, clients, soak)
            print(f"memory: {before} MB before, {memory(server.pid)} MB after {soak} requests")
    finally:
        server.terminate()
        server.wait()


def wait_for_health() -> None:
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", PORT)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("the service does not become ready")


def ask_many(
    bodies: list[bytes], clients: int, requests: int, rate: float = math.inf
) -> tuple[float, np.ndarray]:
    """Films a second, and the seconds from when each film was due until its answer.

    Args:
        bodies: of the requests, in turn.
        clients: each with a connection that it keeps; a film that is due waits for a free one.
        requests: in all.
        rate: films a second that are due, as a Poisson process; infinite: all are due at once.
    """
    due = np.cumsum(np.random.default_rng(0).exponential(1 / rate, requests))
    seconds, turn, start = np.empty(requests), iter(range(requests)), time.perf_counter()

    def client(_: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        for i in turn:
            time.sleep(max(0.0, start + due[i] - time.perf_counter()))
            connection.request("POST", "/predict", bodies[i % len(bodies)])
            answer = connection.getresponse()
            data = answer.read()
            assert answer.status == 200, data[:200]
            seconds[i] = time.perf_counter() - start - due[i]

    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        list(threads.map(client, range(clients)))
    return requests / (time.perf_counter() - start), seconds


def embed(weights: str, paths: list[str], films: int) -> float:
    """Films a second of `embed.py`, which prints them."""
    with tempfile.TemporaryDirectory() as folder:
        table = pathlib.Path(folder) / "films.txt"
        table.write_text("\n".join(paths[:films]))
        program = [sys.executable, "scripts/embed.py", f"--weights={weights}", f"--input={table}"]
        made = subprocess.run(
            [*program, f"--output={folder}/made"], capture_output=True, text=True, check=True
        )
    (line,) = (line for line in made.stdout.splitlines() if line.startswith("embedded"))
    return float(line.split()[2])


def latency(weights: str, bodies: list[bytes], paths: list[str]) -> None:
    """The time of one film, against decoding it and a forward pass of one film."""
    encoder = cxr.load_encoder(weights)
    infer = encoder.compiled(1, encoder.layer)
    decoder = decode.Decoder(encoder.card.preset, encoder.card.resolution, None, False)
    connection = http.client.HTTPConnection("127.0.0.1", PORT)
    turn = iter(range(10**6))

    def service() -> None:
        connection.request("POST", "/predict", bodies[next(turn) % len(bodies)])
        connection.getresponse().read()

    def here() -> None:
        film = decoder(paths[next(turn) % len(paths)])
        batch = decode.Batch(film.image[None], [InputFile("x", "x")], [None])
        ((_, rows),) = infer([(batch, film.image[None])])
        np.asarray(rows)

    found = interleave({"service": service, "decoding and forward": here}, repeats=60, warmup=5)
    decoder.stop()
    times = {name: 1000 * statistics.median(one) for name, one in found.items()}
    for name, one in times.items():
        print(f"one film, {name:22} {one:6.1f} ms")
    print(f"ratio {times['service'] / times['decoding and forward']:.2f}")


def memory(pid: int) -> int:
    """Resident megabytes of a process and its children."""
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    kilobytes = 0
    for one in (pid, *listed.stdout.split()):
        status = pathlib.Path(f"/proc/{one}/status").read_text()
        kilobytes += next(
            int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")
        )
    return kilobytes // 1024
