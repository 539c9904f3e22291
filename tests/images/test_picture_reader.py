"""Reading pictures from strangers: threads that hang or die, limits, folders, URLs."""

import copy
import gc
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
import zlib
from functools import partial
from pathlib import Path

import numpy
import PIL.Image
import PIL.ImageFile
import pytest
from conftest import encoded, make_picture, wait_until
from spacy.tokens import Doc
from spacy.util import registry
from spacy.vocab import Vocab

from spacy_mmib.evaluation.predict import PredictResult
from spacy_mmib.images import files
from spacy_mmib.images.errors import KINDS, OutsideRootError, describe_kinds
from spacy_mmib.images.reader import PictureReader, Postponed
from spacy_mmib.images.reading import ImageError, ReadingLimits, probe_image, read_image
from spacy_mmib.training.local_pictures import PictureCounts, PictureFolder


def kind_of(function, *args, **kwargs) -> str:
    with pytest.raises(ImageError) as info:
        function(*args, **kwargs)
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 700
    return info.value.kind


def fail(exception):
    raise exception


# The threads


def spin() -> None:
    """Hangs as a decoder written in Python does, but not for ever."""
    end = time.monotonic() + 3
    while time.monotonic() < end:
        pass


def is_idle(threads: PictureReader) -> bool:
    return not threads.running


def make_threads(n: int = 1, timeout: float = 20, max_bytes: int = 1000) -> PictureReader:
    return PictureReader(threads=n, timeout=timeout, max_decoded_bytes=max_bytes)


def test_jobs_give_what_their_functions_give():
    threads = make_threads(3)
    results = [threads.submit(partial(divmod, i, 7)) for i in range(50)]
    assert len(threads.running) <= 3
    assert [job.result() for job in results] == [divmod(i, 7) for i in range(50)]
    failing = threads.submit(partial(fail, KeyError("x")))
    for _ in range(2):
        with pytest.raises(KeyError, match="x"):
            failing.result()
    with pytest.raises(ImageError, match="broken") as info:
        threads.submit(partial(fail, ImageError("broken", kind="empty"))).result()
    assert info.value.kind == "empty"
    with pytest.raises(TimeoutError):
        threads.submit(partial(fail, TimeoutError())).result()
    wait_until(lambda: is_idle(threads))
    assert threads.submit(lambda: 3).result() == 3


def test_another_thread_takes_the_place_of_one_that_hangs():
    threads, release = make_threads(2, 0.3), threading.Event()
    hanging = [threads.submit(lambda: release.wait(60)) for _ in "ab"]
    last = threads.submit(lambda: 3)
    assert last.result() == 3  # waited for a thread longer than a job may run
    assert [kind_of(job.result) for job in hanging] == ["timeout"] * 2
    both = threading.Barrier(2)
    assert sorted(job.result() for job in [threads.submit(lambda: both.wait(20)) for _ in "ab"]) == [0, 1]
    release.set()
    wait_until(lambda: is_idle(threads))
    assert kind_of(hanging[0].result) == "timeout"  # an answer stays


def test_waiting_for_a_thread_takes_no_time():
    threads = make_threads(1, 1.5)
    results = [threads.submit(lambda: time.sleep(0.7)) for _ in range(3)]
    assert [job.result() for job in results] == [None] * 3


def test_a_job_may_take_long_without_a_limit():
    assert make_threads(1, 0).submit(lambda: time.sleep(0.3) or "done").result() == "done"


EXIT = """
import sys, threading, time
{before}
from spacy_mmib.images.reader import PictureReader
threads = PictureReader(threads=2, timeout={timeout})
begun = threading.Barrier(3)
def work():
    begun.wait()
    {work}
running = [threads.submit(work) for _ in range(50)]
begun.wait()
try:
    running[0].result() if {wait} else None
except Exception as err:
    print(err.kind)
print("end")
"""


@pytest.mark.parametrize(
    ("work", "timeout", "wait"),
    [
        ("time.sleep(1000)", 20, False),
        ("time.sleep(1000)", 0.2, True),
        ("while True: pass", 20, False),
        ("import torch; x = torch.rand(500, 500)\n    for _ in range(50): x @ x", 20, False),
    ],
)
def test_the_interpreter_ends_whatever_hangs(work, timeout, wait):
    # spaCy imports torch, if it is there; the interpreter begins faster without.
    before = "" if "torch" in work else "sys.modules['torch'] = None"
    code = EXIT.format(work=work, timeout=timeout, wait=wait, before=before)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["timeout", "end"] if wait else ["end"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own():
    reader, release = PictureReader(threads=1), threading.Event()
    assert reader.submit(len, "abc").result() == 3
    parent = os.getpid()
    running = reader.submit(lambda: os.getpid() != parent or release.wait(60))
    waiting = reader.submit(os.getpid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            done = running.result() is True and waiting.result() == os.getpid()
            thread = reader.submit(threading.current_thread).result()
            code = 0 if done and thread is not threading.current_thread() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    release.set()
    assert running.result() is True
    assert waiting.result() == parent


def test_without_threads_the_caller_does_it():
    threads = make_threads(0)
    assert threads.submit(threading.current_thread).result() is threading.current_thread()
    with pytest.raises(KeyboardInterrupt):  # somebody wants to end the program
        threads.submit(partial(fail, KeyboardInterrupt())).result()


def test_where_no_thread_can_be_started_the_caller_does_it(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    threads = make_threads(2)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        job = threads.submit(threading.current_thread)
        assert job.result() is threading.current_thread()
    assert threads.submit(threading.current_thread).result() is not threading.current_thread()


def test_what_is_cancelled_is_not_done():
    threads, release, done = make_threads(), threading.Event(), []
    running = threads.submit(lambda: release.wait(60))
    threads.submit(lambda: done.append("forgotten")).cancel()
    last = threads.submit(lambda: done.append("last"))
    release.set()
    running.result()
    last.result()
    assert done == ["last"]


def test_errors_keep_nothing_in_memory():
    class Picture:
        pass

    def read(picture):
        raise ValueError("no")

    threads = make_threads()
    picture = Picture()
    alive = weakref.ref(picture)
    gc.disable()
    try:
        job = threads.submit(partial(read, picture))
        del picture
        try:  # pytest.raises would keep it
            job.result()
        except ValueError:
            del job
        wait_until(lambda: alive() is None)
    finally:
        gc.enable()


# Pixels in memory


class Pixels:
    """Counts as a picture of so many bytes."""

    def __init__(self, n_bytes: int) -> None:
        self.size = (n_bytes // 4, 1)


class Counter:
    """Decodes, and knows how many bytes are decoded at a time."""

    def __init__(self, threads: PictureReader) -> None:
        self.threads, self.lock, self.now, self.most = threads, threading.Lock(), 0, 0

    def change(self, n_bytes: int) -> None:
        with self.lock:
            self.now += n_bytes
            self.most = max(self.most, self.now)

    def submit(self, n_bytes: int, keep: bool = False):
        return self.threads.submit(partial(self.decode, n_bytes, keep))

    def decode(self, n_bytes: int, keep: bool):
        self.threads._claim(n_bytes)
        self.change(n_bytes)
        time.sleep(0.005)
        if keep:
            pixels = Pixels(n_bytes)
            weakref.finalize(pixels, self.change, -n_bytes)
            return pixels
        self.change(-n_bytes)
        return n_bytes


def test_pictures_wait_for_room_to_be_decoded_in():
    counter = Counter(make_threads(4))
    sizes = [400, 100, 5000, 600, 400, 800, 200] * 5
    results = [counter.submit(size) for size in sizes]
    assert [job.result() for job in results] == sizes
    assert counter.most == 5000  # alone
    assert counter.threads._used == 0


def test_waiting_for_room_takes_no_time():
    threads = make_threads(2, 0.5)

    def decode():
        threads._claim(1000)
        time.sleep(0.3)

    results = [threads.submit(decode) for _ in range(4)]
    assert [job.result() for job in results] == [None] * 4


def test_what_is_given_up_gives_room():
    threads = make_threads(2, 0.3)

    def hang():
        threads._claim(1000)
        spin()

    hung = threads.submit(hang)
    other = Counter(threads).submit(1000)
    assert kind_of(hung.result) == "timeout"
    assert other.result() == 1000


def test_no_more_is_read_ahead_than_there_is_room_for():
    threads = make_threads(2)
    counter = Counter(threads)
    begun = [counter.submit(400, True) for _ in range(6)]
    results = []
    for job in begun:
        try:
            results.append(job.result(needed=False))
        except Postponed:
            results.append(None)
    assert [pixels is not None for pixels in results] == [True, True, False, False, False, False]
    needed = begun[2].result()
    assert counter.most == 1200
    begun.clear()
    del job, results, needed
    gc.collect()
    assert counter.now == 0
    assert counter.submit(4000, True).result().size == (1000, 1)
    assert threads._used == 0


def test_a_second_picture_of_a_job_waits_for_nobody():
    threads, both = make_threads(2), threading.Barrier(2)

    def decode():
        threads._claim(500)
        both.wait(20)
        threads._claim(500)

    assert [job.result() for job in [threads.submit(decode) for _ in "ab"]] == [None] * 2


# The reader


def test_registered_with_its_settings(tmp_path):
    block = {"@misc": "spacy-mmib.picture_reader.v1"}
    reader = registry.resolve({"reader": block})["reader"]
    assert isinstance(reader, PictureReader)
    assert reader.threads == len(os.sched_getaffinity(0))
    assert reader.prefetch >= 32
    assert (reader.timeout, reader.resolver, reader.image_root) == (20, None, None)
    block |= {"formats": ["png", "JPEG"], "threads": 0, "timeout": 0, "image_root": str(tmp_path)}
    reader = registry.resolve({"reader": block})["reader"]
    for other in (reader, copy.deepcopy(reader), pickle.loads(pickle.dumps(reader))):
        assert other.limits == ReadingLimits(formats=("PNG", "JPEG"))
        assert (other.image_root, other.threads) == (tmp_path, 0)
    assert PictureReader(image_root="").image_root is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_bytes": 0}, "max_bytes is 0; it is a whole number of at least 1"),
        ({"max_pixels": True}, "max_pixels is True"),
        ({"max_frames": -1}, "max_frames is -1"),
        ({"formats": ["JPEG", "EPS"]}, "choose at least one of JPEG, PNG, WEBP"),
        ({"formats": []}, "choose at least one of"),
        ({"formats": "PNG"}, "a list of names, not 'PNG'"),
        ({"timeout": float("nan")}, "timeout is nan; it is a number"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"threads": 1.5}, "threads is 1.5; it is a whole number"),
        ({"prefetch": -1}, "prefetch is -1"),
        ({"max_decoded_bytes": 0}, "max_decoded_bytes is 0"),
        ({"max_process_bytes": 0.5}, "max_process_bytes is 0.5"),
        ({"isolation": "container"}, "it is 'thread' or 'process'"),
        ({"isolation": "process", "threads": 0}, "a process needs a thread"),
        ({"resolver": "https://"}, "a function from a URL to bytes"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        PictureReader(**settings)


def test_pillow_is_imported_when_a_picture_is_read():
    code = (
        "import sys; sys.modules['torch'] = None\n"  # which spaCy imports, if it is there
        "import spacy; before = set(sys.modules)\n"
        "import spacy_mmib.images.reader, spacy_mmib.training.local_pictures\n"
        "assert not {'PIL', 'torch'} & (set(sys.modules) - before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_limits_hold_before_decoding():
    data = encoded(make_picture("red", (40, 30)))
    assert PictureReader(max_bytes=len(data), max_pixels=1200).read(data).size == (40, 30)
    assert kind_of(PictureReader(max_bytes=len(data) - 1).read, data) == "too_many_bytes"
    assert kind_of(PictureReader(max_pixels=1199).read, data) == "too_many_pixels"
    assert kind_of(PictureReader(formats=["JPEG"]).read, data) == "format"
    for side, kind in ((10_000, "too_many_pixels"), (20_000, "too_many_pixels")):
        assert kind_of(PictureReader().read, encoded(PIL.Image.new("1", (side, side)))) == kind


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_frames_are_counted_up_to_the_limit(format):
    colours = ("red", "green", "blue", "white", "black")
    images = [make_picture(colour) for colour in colours]
    data = encoded(images[0], format, save_all=True, append_images=images[1:])
    assert PictureReader(max_frames=5).read(data).size == (40, 30)
    reader = PictureReader(max_frames=4)
    assert kind_of(reader.read, data) == "too_many_frames"
    assert kind_of(probe_image, data, reader.limits) == "too_many_frames"


def test_frames_are_counted_in_little_time():
    """All of a GIF, whose frames are small, and no page of a TIFF beyond the limit."""
    gif = encoded(make_picture("red"), "GIF")
    start = gif.index(b",")
    many = gif[:start] + gif[start:-1] * 5000
    assert kind_of(read_image, many) == "too_many_frames"
    assert read_image(many, ReadingLimits(max_frames=5000)).size == (40, 30)
    page = encoded(make_picture("red"), "TIFF")
    images = [make_picture("red", (2, 2))] * 50
    pages = encoded(images[0], "TIFF", save_all=True, append_images=images[1:])
    assert kind_of(read_image, pages, ReadingLimits(max_frames=49)) == "too_many_frames"
    assert read_image(pages, ReadingLimits(max_frames=50)).size == (2, 2)
    start = struct.unpack("<I", page[4:8])[0]
    end = start + 2 + 12 * struct.unpack_from("<H", page, start)[0]
    loop = page[:end] + struct.pack("<I", start) + page[end + 4 :]
    for endless in (loop, page[:end] + struct.pack("<I", len(page) - 1) + page[end + 4 :]):
        assert read_image(endless, ReadingLimits(max_frames=1)).size == (40, 30)


def make_tiff(tile_width: int, tile_length: int, data: bytes) -> bytes:
    tags = [(256, 10), (257, 10), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, tile_width), (323, tile_length), (324, 8), (325, len(data))]
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def test_a_small_picture_cant_have_a_huge_tile():
    tile = zlib.compress(bytes(64 * 64))
    assert read_image(make_tiff(64, 64, tile)).size == (10, 10)
    for read in (read_image, probe_image):
        assert kind_of(read, make_tiff(40_000, 37_504, tile)) == "too_many_pixels"


def test_text_and_profiles_of_a_png_that_grow_when_unpacked():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = encoded(make_picture("red"))
    packed = zlib.compress(bytes(20_000_000))
    for kind in (b"zTXt", b"iCCP"):
        bomb = data[:33] + chunk(kind, b"name\0\0" + packed) + data[33:]
        assert kind_of(read_image, bomb) == "damaged"


# Files


def test_pictures_are_read_below_the_root_only(tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    make_picture("red").save(root / "sub" / "a.png")
    make_picture("red").save(tmp_path / "secret.png")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    (root / "in.png").symlink_to(root / "sub" / "a.png")
    (tmp_path / "link").symlink_to(root)
    (root / "loop").symlink_to(root / "loop")
    for image_root in (root, tmp_path / "link", tmp_path / "link" / ".." / "root"):
        reader = PictureReader(image_root=image_root)
        good = ("sub/a.png", "in.png", "sub/../in.png", root / "in.png", tmp_path / "link/in.png")
        for name in good:
            assert reader.read(name).size == (40, 30)
        outside = ("../secret.png", "out.png", "up/secret.png", tmp_path / "secret.png", "/dev/zero")
        for name in outside:
            assert kind_of(reader.read, name) == "outside"
        assert kind_of(reader.read, "sub") == "not_a_file"
        assert kind_of(reader.read, ".") == "not_a_file"
        assert kind_of(reader.read, "b.png") == "missing"
        assert kind_of(reader.read, "loop") == "path"
        assert kind_of(reader.read, "") == "path"
        assert reader.read(encoded(make_picture("red"))).size == (40, 30)
    assert kind_of(PictureReader(image_root=tmp_path / "none").read, "a.png") == "missing"


@pytest.mark.skipif(not files._CAN_WALK, reason="needs openat")
@pytest.mark.parametrize("changed", ["a.png", "sub"])
def test_a_file_that_becomes_a_link_is_not_followed(tmp_path, monkeypatch, changed):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root, elsewhere):
        (folder / "sub").mkdir(parents=True)
        make_picture("red").save(folder / "sub" / "a.png")
    path = root / "sub" / "a.png"
    monkeypatch.setattr(files, "existing_inside", lambda *args: path)
    reader = PictureReader(image_root=root)
    assert reader.read("sub/a.png").size == (40, 30)
    real, looked = os.lstat, []

    def look_then_change(looked_at, **kwargs):
        info = real(looked_at, **kwargs)
        if looked_at == path and not looked:
            looked.append(path)
            victim = path if changed == "a.png" else path.parent
            victim.rename(tmp_path / "moved")
            victim.symlink_to(elsewhere / victim.relative_to(root))
        return info

    monkeypatch.setattr(files.os, "lstat", look_then_change)
    with pytest.raises(OutsideRootError, match="became a link"):
        reader.read("sub/a.png")


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and devices")
def test_what_is_no_file_neither_blocks_nor_never_ends(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty.png").touch()
    expected = {
        "pipe.png": "not_a_file",
        ".": "not_a_file",
        "empty.png": "empty",
        "none.png": "missing",
        "empty.png/a.png": "missing",
        "a\0b.png": "path",
        "x" * 5000: "path",
    }
    for name, kind in expected.items():
        assert kind_of(PictureReader().read, tmp_path / name) == kind
        assert kind_of(probe_image, tmp_path / name) == kind
    for device in ("/dev/zero", "/dev/tty"):
        assert kind_of(PictureReader().read, device) in ("not_a_file", "missing")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user without rights")
def test_a_file_without_permission(tmp_path):
    make_picture("red").save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert kind_of(PictureReader().read, tmp_path / "a.png") == "permission"


def test_errors_of_the_file_system_have_kinds(tmp_path, monkeypatch):
    make_picture("red").save(tmp_path / "a.png")
    for error, kind in (
        (PermissionError(13, "Permission denied"), "permission"),
        (OSError(5, "Input/output error"), "io"),
        (OSError(24, "Too many open files"), "io"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(files.os, "open", lambda *args, **kwargs: fail(error))
            for reader in (PictureReader(), PictureReader(image_root=tmp_path)):
                assert kind_of(reader.read, tmp_path / "a.png") == kind


def test_a_file_that_grows_after_it_was_looked_at(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    make_picture("red").save(path)
    limits = ReadingLimits(max_bytes=path.stat().st_size)

    def open_and_grow(*args):
        file = files.open_file(*args)
        with path.open("ab") as grown:
            grown.write(b"more")
        return file

    monkeypatch.setattr("spacy_mmib.images.reading.open_file", open_and_grow)
    assert kind_of(read_image, path, limits) == "too_many_bytes"


def test_no_file_stays_open(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    make_picture("red").save(tmp_path / "a.png")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(20):
        for reader in (PictureReader(), PictureReader(image_root=tmp_path)):
            reader.read(tmp_path / "a.png")
            probe_image(tmp_path / "a.png")
            kind_of(reader.read, tmp_path / "text.png")
            kind_of(reader.read, tmp_path)
            kind_of(probe_image, tmp_path / "text.png")
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 1


# URLs


@pytest.mark.parametrize(
    "url", ["https://x.org/a.png", "HTTP://x", "data:image/png;base64,AA", "file:///etc/passwd", "rtsp://x"]
)
def test_urls_need_a_resolver(url, tmp_path):
    asked = []
    picture = encoded(make_picture("red"))

    def resolve(asked_for: str) -> bytes:
        asked.append(asked_for)
        return picture

    for reader in (PictureReader(), PictureReader(image_root=tmp_path)):
        assert kind_of(reader.read, url) == "url"
    assert kind_of(read_image, url) == "url"
    assert PictureReader(resolver=resolve, image_root=tmp_path).read(url).size == (40, 30)
    assert asked == [url]
    assert kind_of(PictureReader(resolver=resolve).read, tmp_path / "a.png") == "missing"
    assert len(asked) == 1


def test_what_a_resolver_may_do_wrong():
    def answer(value):
        return PictureReader(resolver=lambda url: value, max_bytes=1000).read

    url = "https://x.org/" + "a" * 3000
    assert kind_of(PictureReader(resolver=lambda url: fail(OSError("no\nnet"))).read, url) == "url"
    own = ImageError("not yet", kind="missing")
    assert kind_of(PictureReader(resolver=lambda url: fail(own)).read, url) == "missing"
    assert kind_of(answer("text"), url) == "url"
    assert kind_of(answer(None), url) == "url"
    assert kind_of(answer(b""), url) == "empty"
    assert kind_of(answer(b"x" * 1001), url) == "too_many_bytes"
    assert kind_of(answer(b"x" * 10), url) == "format"


# What Pillow says to the whole process


def test_settings_of_the_program_are_left_alone(monkeypatch):
    """Which warnings are shown or errors, and whether what was cut short passes, is not ours to say."""
    cut = encoded(make_picture("red", (400, 300)), "JPEG")[:-400]
    assert kind_of(read_image, cut) == "damaged"
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    filters = list(warnings.filters)
    reader = PictureReader()
    assert reader.submit(reader.read, cut).result().size == (400, 300)
    assert PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert warnings.filters == filters
    assert kind_of(PictureReader(isolation="process", timeout=60).read, cut) == "damaged"


# What comes out


@pytest.mark.parametrize("format", ["TIFF", "PPM"])
@pytest.mark.parametrize(
    "values",
    [
        [[numpy.nan, 1.0, 2.0]],
        [[numpy.inf, -numpy.inf, 5.0]],
        [[numpy.nan] * 3],
        [[3e38, -3e38, 0.0]],
        [[1e-40, -1e-40, 0.0]],
        [[3e38, 3e38, 3e38]],
        [[-1000.0, 0.0, 1000.0]],
    ],
)
def test_no_pixel_is_not_finite(format, values):
    image = PIL.Image.fromarray(numpy.array(values, dtype="float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = read_image(encoded(image, format))
    assert picture.mode == "RGB"
    pixels = numpy.asarray(picture)[0, :, 0].tolist()
    if values == [[3e38, -3e38, 0.0]]:
        assert pixels in ([255, 0, 127], [255, 0, 128])
    if values == [[-1000.0, 0.0, 1000.0]]:
        assert pixels in ([0, 127, 255], [0, 128, 255])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_header_gives_the_upright_size(format, orientation, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(make_picture("red"), format, exif=exif)
    expected = (30, 40) if orientation > 4 else (40, 30)
    assert read_image(data).size == probe_image(data) == expected
    (tmp_path / "a").write_bytes(data)
    assert probe_image(tmp_path / "a") == expected
    assert probe_image(numpy.zeros((3, 5, 3), "uint8")) == (5, 3)
    if format != "PNG":
        return
    # Behind the pixels.
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert read_image(moved).size == probe_image(moved) == expected


def test_reasons_are_one_line_that_can_be_stored(tmp_path):
    name = os.fsdecode(b"caf\xe9\n\x1b[31m.png")
    with pytest.raises(ImageError) as info:
        read_image(tmp_path / name)
    message = str(info.value)
    assert message.isprintable()
    message.encode("utf8")
    err = pickle.loads(pickle.dumps(ImageError("gone", kind="missing")))
    assert (str(err), err.kind) == ("gone", "missing")
    assert ImageError("x").kind == "damaged"
    assert kind_of(read_image, [1, 2]) == kind_of(read_image, None) == "not_a_picture"
    assert kind_of(read_image, b"") == "empty"
    assert set(KINDS) >= {"box", "regions", "not_finite"}


def test_decoders_may_raise_anything(monkeypatch):
    data = encoded(make_picture("red"))
    errors = [MemoryError, RecursionError, struct.error, SyntaxError, OverflowError]
    for error in (*errors, ZeroDivisionError, KeyError, AssertionError, SystemError):
        with monkeypatch.context() as patched:
            patched.setattr(PIL.Image.Image, "load", lambda self: fail(error("x")))
            patched.setattr(PIL.ImageFile.ImageFile, "load", lambda self: fail(error("x")))
            kind = kind_of(read_image, data)
        assert kind == ("memory" if error is MemoryError else "damaged")


# Counting


def test_reasons_are_counted(tmp_path):
    make_picture("red").save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("hello")
    counts = PictureCounts()
    folder = PictureFolder(tmp_path)
    posts = [
        ("a.png", ["a.png", "none.png", "text.png", "../x.png"]),
        ("none.png", ["none.png"]),
        ("text.png", []),
        (b"", []),
        ("https://x.org/a.png", []),
        ("a.png", []),
        (None, []),
    ]
    for image, regions in posts:
        doc = Doc(Vocab(), words=["x"])
        doc._.image, doc._.regions = image, regions
        folder.localize(doc, counts)
    assert counts.reasons == {"missing": 2, "format": 2, "outside": 1, "empty": 1, "url": 1}
    assert (counts.missing, counts.unreadable, counts.dropped_crops) == (1, 3, 3)
    assert "3 crops of objects left out (2 of an unknown format, 2 missing, 1 " in counts.summary()
    assert describe_kinds({"missing": 1, "new": 3, "io": 0}) == "3 new, 1 missing"
    assert describe_kinds({}) == ""


def test_the_summary_of_predictions_names_the_reasons():
    result = PredictResult(posts=5, with_picture=2, image_errors=3)
    result.reasons.update(["missing", "timeout", "missing"])
    assert "3 with one that can't be used: 2 missing, 1 taking too long), 0" in result.summary()
    assert "(0 with a picture, 0 with one that can't be used), 0" in PredictResult().summary()
