"""How long the way of one post through the package is: calls of the package's functions, the files these are
in, and how often one file's function calls another file's.

Counted by a profile function, in all threads, for a post with a picture and an object: through `nlp.pipe`
without and with a feature cache (that has its vectors), and through one `nlp.update`. A function is a frame
of Python code; a generator counts once, comprehensions and lambdas do not count, nor do other packages.
The networks are small and random: the way doesn't depend on their size.
"""

import sys
import tempfile
import threading
import warnings
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Annotated, Any

import PIL.Image
import spacy
import typer
from spacy.language import Language
from spacy.tokens import Span
from spacy.training import Example
from spacy.util import fix_random_seed

import spacy_mmib

PACKAGE = str(Path(spacy_mmib.__file__).parent)


class PathCounter:
    """Counts frames inside the package while it is entered as a context.

    calls (Counter): By file and function.
    moves (int): Calls whose innermost caller inside the package is in another file.
    """

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.moves = 0
        self._seen: list[FrameType] = []  # of generators
        self._lock = threading.Lock()

    def __enter__(self) -> "PathCounter":
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        self._seen.clear()

    @staticmethod
    def _get_file(code: CodeType) -> str | None:
        inside = code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<")
        return code.co_filename[len(PACKAGE) + 1 :] if inside else None

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        with self._lock:
            file = self._get_file(frame.f_code)
            if file is None or any(frame is seen for seen in self._seen):
                return
            if frame.f_code.co_flags & 0x20:  # a generator, which is entered again for each item
                self._seen.append(frame)
            self.calls[file, getattr(frame.f_code, "co_qualname", frame.f_code.co_name)] += 1
            caller = frame.f_back
            while caller is not None and self._get_file(caller.f_code) is None:
                caller = caller.f_back
            self.moves += caller is not None and self._get_file(caller.f_code) != file

    def summary(self) -> tuple[int, int, int]:
        """RETURNS (Tuple[int, int, int]): Calls, files and moves."""
        return self.calls.total(), len({file for file, _ in self.calls}), self.moves


def make_nlp(cache: Path | None) -> Language:
    """RETURNS (Language): A pipeline with `mmib_ner`, its networks small, not initialized."""
    img2vec: dict[str, Any] = {
        "@architectures": "spacy-mmib.TorchvisionEncoder.v1",
        "arch": "squeezenet1_1",
        "image_size": 32,
    }
    if cache is not None:
        img2vec["cache"] = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(cache)}
    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_ner", config={"model": {"img2vec": img2vec}})
    return nlp


def make_example(nlp: Language, picture: str) -> Example:
    """RETURNS (Example): A post with a picture file and an object in it, and its entity."""
    doc = nlp.make_doc("Rob had dinner with us")
    doc._.image = picture
    doc._.regions = [(0, 0, 20, 20)]
    reference = doc.copy()
    reference.ents = [Span(reference, 0, 1, label="PER")]
    return Example(doc, reference)


def measure(folder: Path) -> dict[str, PathCounter]:
    """RETURNS (Dict[str, PathCounter]): Of `nlp.pipe`, of `nlp.pipe` with a cache, and of `nlp.update`."""
    picture = str(folder / "picture.png")
    PIL.Image.linear_gradient("L").convert("RGB").resize((40, 30)).save(picture)
    counters = {name: PathCounter() for name in ("pipe", "pipe with cache", "update")}
    for name, cache in (("pipe", None), ("pipe with cache", folder / "features.sqlite")):
        nlp = make_nlp(cache)
        fix_random_seed(0)
        optimizer = nlp.initialize(lambda nlp=nlp: [make_example(nlp, picture)])
        # What happens once is over, and the entity is learned: its annotation is part of the way.
        for _ in range(60):
            nlp.update([make_example(nlp, picture)], sgd=optimizer)
        list(nlp.pipe([make_example(nlp, picture).predicted]))
        doc, example = make_example(nlp, picture).predicted, make_example(nlp, picture)
        with counters[name]:
            (doc,) = nlp.pipe([doc])
        assert [ent.text for ent in doc.ents] == ["Rob"], "the pipeline has not learned its post"
        if cache is None:
            with counters["update"]:
                nlp.update([example], sgd=optimizer)
    return counters


def main(
    functions: Annotated[bool, typer.Option("--functions", help="Print each one's calls")] = False,
) -> None:
    """Print the counts."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counters = measure(Path(folder))
    print(f"{'':16} {'calls':>6} {'files':>6} {'moves':>6}")
    for name, counter in counters.items():
        print(f"{name:16}", *(f"{value:6}" for value in counter.summary()))
        for (file, function), number in counter.calls.items() if functions else ():
            print(f"    {number:4}  {file}: {function}")


if __name__ == "__main__":
    typer.run(main)
