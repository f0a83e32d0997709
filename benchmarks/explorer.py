"""How fast the explorer's page is: its first picture, a drag of the map, and a label.

Needs playwright and Chromium, which draws without a graphics card here.
"""

import http.client
import json
import pathlib
import re
import statistics
import subprocess
import sys
import time
import urllib.parse

import numpy as np
from playwright.sync_api import Page, sync_playwright

from cxr_embeddings.input_pipeline.embeddings.formats import EmbeddingRecord, encode_npz
from cxr_embeddings.input_pipeline.embeddings.table import read_table

A_FILE, DRAG_SECONDS, LABELS_TIMED = 10_000, 5, 15
BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
FRAMES = """() => { window.frames_ = []; let last = performance.now();
  const next = () => { const now = performance.now(); window.frames_.push(now - last); last = now;
    if (window.frames_) requestAnimationFrame(next); }; requestAnimationFrame(next); }"""


def run(folder: str, films: int = 100_000, numbers: int = 1376, labels: int = 500) -> None:
    """Prints the times for so many films of so many numbers, made up in `folder`, in groups."""
    place = pathlib.Path(folder) / f"{films}x{numbers}"
    if not place.exists():
        write_embeddings(place, films, numbers)
    read_table(str(place))  # gathers, once
    start = time.perf_counter()
    program = [sys.executable, "scripts/explore.py", f"--embeddings={place}", "--port=0"]
    program += ["--findings=Mass", f"--output={place}/explored-{time.time():.0f}"]
    server = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    try:
        url = next(
            found[1] for line in server.stdout or () if (found := re.match("open (.*)", line))
        )
        print(f"{films:,} films of {numbers:,} numbers")
        print(f"the address is printed after {time.perf_counter() - start:.1f} s")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            opened = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("#legend span", timeout=120_000)
            now = time.perf_counter()
            print(f"first picture: {now - start:.1f} s after the start,")
            print(f"  {now - opened:.1f} s after the page was opened")
            drag(page)
            page.close()
        label(url, films, labels)
    finally:
        server.terminate()
        server.wait()


def write_embeddings(place: pathlib.Path, films: int, numbers: int) -> None:
    """Films in 20 groups, in .npz files."""
    place.mkdir(parents=True)
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((20, numbers)).astype(np.float32)
    for first in range(0, films, A_FILE):
        rows = range(first, min(films, first + A_FILE))
        noise = 2 * generator.standard_normal((len(rows), numbers), np.float32)
        vectors = centres[generator.integers(0, 20, len(rows))] + noise
        names = (f"p{10**7 + i // 2}/s{5 * 10**7 + i}/{i:07d}" for i in rows)
        records = [EmbeddingRecord(name, one) for name, one in zip(names, vectors, strict=True)]
        (place / f"train-{first // A_FILE:05d}.npz").write_bytes(encode_npz(records))


def drag(page: Page) -> None:
    """Drags the map in circles, and prints how many frames a second were drawn."""
    page.evaluate("() => document.getElementById('points').scrollIntoView()")
    box = page.locator("#points").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(FRAMES)
    end, step = time.perf_counter() + DRAG_SECONDS, 0
    while time.perf_counter() < end:
        step += 1
        page.mouse.move(x + 120 * np.sin(step / 9), y + 90 * np.cos(step / 7))
    gaps = page.evaluate(
        "() => { const found = window.frames_; window.frames_ = null; return found; }"
    )
    page.mouse.up()
    slowest = 1000 / np.quantile(gaps, 0.95)
    print(
        f"drag of {DRAG_SECONDS} s: {1000 / statistics.median(gaps):.0f} frames a second (median),"
    )
    print(f"  95 % of the frames at {slowest:.0f} a second or faster; {step} moves of the mouse")


def label(url: str, films: int, labels: int) -> None:
    """Labels films over HTTP, then times a label, and the next film with all films scored anew."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc)

    def say(name: str, **body: object) -> dict[str, int]:
        headers = {"Origin": f"http://{address.netloc}"}
        connection.request("POST", f"{address.path}say/{name}", json.dumps(body), headers)
        return json.loads(connection.getresponse().read())

    def answer(row: int, changes: int) -> None:
        said = ("positive", "negative")[row % 3 == 0]
        say("label", row=row, finding="Mass", said=said, chosen="random", reader="",
            based_on=changes, tab="a")  # fmt: skip

    rows = np.random.default_rng(1).permutation(films)[: labels + LABELS_TIMED].tolist()
    for i, row in enumerate(rows[:labels]):
        answer(row, i)
    say("next", finding="Mass", how="uncertain", skipped=None)
    saved, trained = [], []
    for i, row in enumerate(rows[labels:]):
        start = time.perf_counter()
        answer(row, labels + i)
        saved.append(time.perf_counter() - start)
        start = time.perf_counter()
        say("next", finding="Mass", how="uncertain", skipped=None)
        trained.append(time.perf_counter() - start)
    print(f"with {labels} labels: a label is saved in {1000 * statistics.median(saved):.0f} ms;")
    print(f"  trained anew, all scored, next film: {1000 * statistics.median(trained):.0f} ms")
