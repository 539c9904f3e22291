"""Which text file of a folder is which split."""

from collections.abc import Iterable
from pathlib import Path

from tagged_posts import FormatError


def find_split_file(folders: Iterable[Path], stems: Iterable[str]) -> Path | None:
    """Find the text file of a split by its name. White space round the name is passed over: a
    published file is called `mnre_val .txt`.

    folders (Iterable[Path]): Where it may be; those that aren't there are passed over.
    stems (Iterable[str]): What it may be called, without `.txt`.
    RETURNS (Optional[Path]): The file; `None` if there is none.
    RAISES (FormatError): There is more than one.
    """
    names = {f"{stem}.txt" for stem in stems}
    found = {}  # a file may be there under two names, by a link
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            stem = path.name.strip().removesuffix(".txt").rstrip()
            if f"{stem}.txt" in names and path.is_file():
                found.setdefault(path.resolve(), path)
    if len(found) > 1:
        shown = " and ".join(repr(str(path)) for path in found.values())
        raise FormatError(
            f"More than one file could be the same split: {shown}. Put those of one version into a "
            "folder of their own."
        )
    return next(iter(found.values()), None)
