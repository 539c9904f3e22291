"""Pictures that hang their decoder, crash it, or take all memory: each costs itself, and nothing after it."""

import copy
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import warnings
import weakref
import zlib
from pathlib import Path

import numpy
import pytest
from conftest import encoded, make_doc, make_encoder, make_picture, wait_until
from mutations import mutated_pictures, whole_pictures
from spacy.vocab import Vocab

from spacy_mmib.encoders.picture_queue import get_settings, read_ahead
from spacy_mmib.images.reader import PictureReader
from spacy_mmib.images.reading import ImageError
from spacy_mmib.regions.base import RegionGetter, region_getters

VOCAB = Vocab()
ISOLATIONS = ["thread", "process"]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def slow_bmp(rows: int = 9500) -> bytes:
    """A run-length encoded picture: each row has one pixel, the decoder fills up the rest one by one."""
    size = 9400
    body = b"\x01\x01\0\0" * rows + b"\0\1"
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, size, rows, 1, 8, 1, len(body), 0, 0, 256, 0)
    head = struct.pack("<2sIHHI", b"BM", 1078 + len(body), 0, 0, 1078)
    return head + header + palette + body


def slow_ppm(lines: int = 600_000) -> bytes:
    """Comments in the header are read byte by byte."""
    return b"P6\n" + (b"#" * 99 + b"\n") * lines + b"4 4\n255\n" + bytes(48)


def outcome(read, *args):
    try:
        return read(*args).tobytes()
    except ImageError as err:
        return err.kind, str(err)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def count_children() -> int:
    """Including those that ended and weren't waited for."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return sum(len(path.read_text().split()) for path in children)


def make_png(size=(40, 30), colour="red") -> bytes:
    return encoded(make_picture(colour, size))


def make_reading_encoder(**settings):
    reader = {"@misc": "spacy-mmib.picture_reader.v1", **settings.pop("read_picture", {})}
    return make_encoder(read_picture=reader, **settings)


# What hangs


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_hostile_posts_among_good_ones(isolation):
    colours = ["red", "blue", "green", "white", "black", "yellow"]
    good = [make_png(colour=colour) for colour in colours]
    # A thread that was given up goes on until its decoder comes back, so these come back soon.
    bmp, ppm = (slow_bmp(), slow_ppm()) if isolation == "process" else (slow_bmp(4000), slow_ppm(250_000))
    hostile = [bmp, ppm, bmp[:-1] + b"\2", ppm[:-1] + b"\2"]
    pictures = [one for pair in zip(good, hostile) for one in pair] + good[4:]
    expected = make_reading_encoder().predict([make_doc(picture) for picture in good])
    before = count_children() if sys.platform.startswith("linux") else 0
    reader = {"timeout": 1.0, "isolation": isolation}
    encoder = make_reading_encoder(read_picture=reader)
    docs = [make_doc(picture) for picture in pictures]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder.predict(docs[:1])
        read_ahead([encoder], docs)
        found = encoder.predict(docs)
    for doc, vectors in zip(docs, found):
        is_good = doc._.image in good
        assert doc._.image_error == (None if is_good else "reading it takes more than 1 seconds: given up")
        assert len(vectors) == is_good
    vectors = [rows for doc, rows in zip(docs, found) if doc._.image in good]
    numpy.testing.assert_array_equal(vectors, expected)
    wait_until(lambda: not get_settings(encoder).reader.running)
    wait_until(lambda: not any(thread.name == "spacy-mmib-pictures" for thread in threading.enumerate()))
    if sys.platform.startswith("linux"):
        assert count_children() <= before + 2
    numpy.testing.assert_array_equal(encoder.predict([make_doc(picture) for picture in good]), expected)


EXIT = """
import os, sys, threading, time
sys.modules["torch"] = None  # which spaCy imports, if it is there; the interpreter begins faster without
from spacy_mmib.images.reader import PictureReader
reader = PictureReader(isolation="process", timeout={timeout})
data = open(sys.argv[1], "rb").read()
jobs = [reader.submit(reader.read, data) for _ in "ab"]
def get_processes():
    jobs = list(reader.running.values())
    return [job.process for job in jobs if job and job.process and job.process.usable is False]
while len(get_processes()) < 2:
    time.sleep(0.01)
time.sleep({wait})
print(*[process._process.pid for process in get_processes()], flush=True)
{end}
"""


@linux
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_no_process_outlives_its_parent(tmp_path, end):
    """Not even one that hangs in a decoder: it stops itself, since a killed parent can't."""
    (tmp_path / "a.bmp").write_bytes(slow_bmp())
    code = EXIT.format(timeout=60 if not end else 0.4, wait=0.5 if not end else 0, end=end)
    if end:  # so that the time after which it stops by itself is short
        code = "import spacy_mmib.images.process as p; p.SPARE = 1" + code
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.bmp"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == (-9 if end else 0)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


# A process that decodes


def test_a_process_gives_what_a_thread_gives():
    readers = [PictureReader(isolation=isolation, timeout=60) for isolation in ISOLATIONS]
    pictures = [*whole_pictures(), *mutated_pictures(2000, seed=5)[::8], b"", b"x"]
    pictures += [bytearray(pictures[0]), make_picture("red"), numpy.zeros((3, 5, 3), "uint8"), None]
    for picture in pictures:
        in_thread, in_process = (outcome(reader.read, picture) for reader in readers)
        assert in_process == in_thread
    assert len(readers[1]._idle) == 1
    for other in (copy.deepcopy(readers[1]), pickle.loads(pickle.dumps(readers[1]))):
        assert not other._idle


def test_paths_and_urls_are_the_parents_matter(tmp_path):
    (tmp_path / "a.png").write_bytes(make_png())
    asked = []
    reader = PictureReader(
        isolation="process", image_root=tmp_path, resolver=lambda url: asked.append(url) or make_png((3, 5))
    )
    assert reader.read("a.png").size == (40, 30)
    assert reader.read("https://x.org/a.png").size == (3, 5)
    assert asked == ["https://x.org/a.png"]
    assert outcome(reader.read, "../a.png")[0] == "outside"
    assert outcome(reader.read, "b.png")[0] == "missing"
    assert "a.png" in outcome(PictureReader(isolation="process", max_pixels=9).read, tmp_path / "a.png")[1]


@linux
def test_a_process_that_crashes_costs_one_picture():
    reader = PictureReader(isolation="process", threads=1, timeout=60)
    assert reader.read(make_png()).size == (40, 30)
    for stop in (signal.SIGKILL, signal.SIGSEGV):
        job = reader.submit(reader.read, slow_bmp())
        wait_until(lambda: any(one and one.process for one in list(reader.running.values())))
        os.kill(next(iter(reader.running.values())).process._process.pid, stop)
        assert outcome(job.result) == (
            "crashed",
            f"the process that decoded it ended (signal {stop.value}): the bytes of the picture",
        )
        assert reader.read(make_png()).size == (40, 30)
    # One that ended while it had nothing to do.
    reader._idle[0]._process.kill()
    assert outcome(reader.read, make_png())[0] == "crashed"
    assert reader.read(make_png()).size == (40, 30)


@linux
def test_a_process_has_so_much_memory():
    reader = PictureReader(isolation="process", timeout=60, max_process_bytes=60_000_000)
    assert reader.read(make_png()).size == (40, 30)
    assert outcome(reader.read, make_png((5000, 5000)))[0] == "memory"
    assert reader.read(make_png()).size == (40, 30)


def make_overlapping_tiff(n_tags: int = 300, n_bytes: int = 1_000_000) -> bytes:
    """A grey picture of 4 x 4 pixels with many tags, all of which have the same bytes."""
    own = [(256, 4), (257, 4), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 4), (279, 16)]
    tags = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in own]
    tags += [struct.pack("<HHII", 40_000 + i, 7, n_bytes, 8) for i in range(n_tags)]
    head = b"II*\0" + struct.pack("<I", 8 + n_bytes) + b"A" * n_bytes
    return head + struct.pack("<H", len(tags)) + b"".join(tags) + b"\0" * 4


@linux
@pytest.mark.parametrize("format", ["TIFF", "PNG", "BMP"])
def test_small_files_take_little_memory(format):
    """Pillow's own limits hold: see the version that setup.cfg asks for."""
    tiff = make_overlapping_tiff()
    exif = struct.pack(">I", len(tiff)) + b"eXIf" + tiff + struct.pack(">I", zlib.crc32(b"eXIf" + tiff))
    png = make_png()
    header = struct.pack("<IiiHHIIiiII", 40, 9000, 9000, 1, 8, 1, 0, 0, 0, 0x1D000000, 0)
    data = {
        "TIFF": tiff,
        "PNG": png[:33] + exif + png[33:],
        "BMP": struct.pack("<2sIHHI", b"BM", 1086, 0, 0, 1078) + header + bytes(1032),
    }[format]
    reader = PictureReader(isolation="process", timeout=60, max_process_bytes=150_000_000)
    assert outcome(reader.read, data)[0] not in ("memory", "crashed", "timeout")


def test_a_process_that_cannot_be_started(monkeypatch):
    import multiprocessing.spawn

    good = make_png()
    monkeypatch.setattr(multiprocessing.spawn, "get_executable", lambda: "/nowhere/python")
    reader = PictureReader(isolation="process", timeout=61)
    assert "can't be started: FileNotFoundError" in outcome(reader.read, good)[1]
    monkeypatch.setattr(multiprocessing.spawn, "get_executable", lambda: "/bin/false")
    assert outcome(reader.read, good)[0] == "crashed"
    monkeypatch.undo()
    assert reader.read(good).size == (40, 30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_decoders_of_its_own():
    reader = PictureReader(isolation="process", timeout=60)
    assert reader.read(make_png()).size == (40, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if reader.read(make_png((3, 5))).size == (3, 5) else 2
            for process in reader._idle:
                process.kill()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert reader.read(make_png()).size == (40, 30)


def test_it_imports_neither_spacy_nor_torch():
    code = (
        "import spacy_mmib.images.process, spacy_mmib.images.reading, sys\n"
        "assert not {'spacy', 'torch', 'thinc'} & set(sys.modules), set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Reading ahead


@region_getters("test.looking.v1")
def make_looking() -> RegionGetter:
    class Looking(RegionGetter):
        def __call__(self, docs, pictures):
            return [[(0, 0, picture.width // 2, picture.height)] for picture in pictures]

    return Looking()


@pytest.fixture
def decoded(monkeypatch):
    """Counts bytes of pictures that were read and are in memory: now, and at most."""
    lock, counts = threading.Lock(), {"now": 0, "most": 0, "pictures": 0}
    original = PictureReader.read

    def change(n_bytes):
        with lock:
            counts["now"] += n_bytes
            counts["most"] = max(counts["most"], counts["now"])

    def read(self, value):
        picture = original(self, value)
        counts["pictures"] += 1
        n_bytes = 4 * picture.width * picture.height
        change(n_bytes)
        weakref.finalize(picture, change, -n_bytes)
        return picture

    monkeypatch.setattr(PictureReader, "read", read)
    return counts


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_what_is_read_ahead_is_bounded_by_its_pixels(decoded, isolation):
    size = 200 * 100 * 4
    pictures = [make_png((200, 100 if i != 5 else 1000), c) for i, c in enumerate(["red", "blue"] * 6)]
    looking = {"@region_getters": "test.looking.v1"}
    expected = make_reading_encoder(get_regions=looking).predict([make_doc(picture) for picture in pictures])
    assert decoded["most"] >= 12 * size
    docs = [make_doc(picture) for picture in pictures]
    reader = {"max_decoded_bytes": 3 * size, "isolation": isolation, "timeout": 60}
    encoder = make_reading_encoder(get_regions=looking, read_picture=reader)
    encoder.predict(docs[:1])
    wait_until(lambda: decoded["now"] == 0)
    decoded["most"] = 0
    read_ahead([encoder], docs)
    found = encoder.predict(docs)
    for a, b in zip(expected, found):
        numpy.testing.assert_allclose(a, b, atol=1e-5)
    # The bound, and beyond it the picture that is needed next, the one of ten times the size.
    assert decoded["most"] <= 3 * size + 10 * size
    wait_until(lambda: decoded["now"] == 0)


def test_many_threads_read_ahead_within_one_bound(decoded):
    size = 100 * 100 * 4
    pictures = [make_png((100, 100), colour) for colour in ["red", "blue", "green"] * 4]
    reader = {"max_decoded_bytes": 4 * size, "timeout": 60.5}
    encoder = make_reading_encoder(get_regions={"@region_getters": "test.looking.v1"}, read_picture=reader)
    expected = encoder.predict([make_doc(picture) for picture in pictures])
    wait_until(lambda: decoded["now"] == 0)
    decoded["most"] = 0
    results, barrier = {}, threading.Barrier(6)

    def work(number):
        barrier.wait()
        for _ in range(2):
            docs = [make_doc(picture) for picture in pictures]
            read_ahead([encoder], docs)
            results[number] = encoder.predict(docs)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    for found in results.values():
        for a, b in zip(expected, found):
            numpy.testing.assert_allclose(a, b, atol=1e-5)
    assert decoded["most"] <= (4 + 6 + 2) * size  # and one for each thread that can't go on without it
