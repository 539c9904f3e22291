"""Get the pictures of WikiDiverse, and the licence of each, from Wikimedia Commons: one request at a time, as
slowly as the servers ask for, going on where it was stopped. `python -m project.commons FOLDER --contact
you@example.org`. Only names of files are taken from the posts' URLs: nothing else is fetched.
"""

import html
import json
import os
import re
import sys
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

import typer
from tqdm import tqdm

from project.facts import SPLITS
from project.wikidiverse import find_wikidiverse_text, name_picture, read_records
from spacy_mmib.about import __version__
from spacy_mmib.images.reading import read_image

COMMONS, UPLOAD = "commons.wikimedia.org", "upload.wikimedia.org"
FILE = re.compile(rf"(?:https?:)?//{UPLOAD}/wikipedia/commons/(?:thumb/)?\w/\w\w/([^/?#]+)(?:/[^/?#]+)?")
WIDTH = 960  # pixels of what is fetched: encoders need less; of a drawing a picture is made
MAX_BYTES = 30_000_000
AT_ONCE = 20  # files that one question about licences is about: 50 may be asked for, if the URL is short
TRIES = 6
LONGEST_PAUSE = 3600  # seconds; whoever is asked to wait longer comes back another day
FACTS = ("LicenseShortName", "LicenseUrl", "Artist")
API = (
    f"https://{COMMONS}/w/api.php?action=query&format=json&formatversion=2&prop=imageinfo"
    f"&iiprop=extmetadata&iiextmetadatafilter={'%7C'.join(FACTS)}"
)


class _Redirects(HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        return super().redirect_request(req, fp, code, msg, headers, check_url(newurl))


def check_url(url: str) -> str:
    """RETURNS (str): The same. Raises `ValueError` if it isn't on Commons, by https."""
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.netloc not in (COMMONS, UPLOAD):
        raise ValueError(f"{url[:100]!r} is not on Wikimedia Commons: not fetched")
    return url


class Client:
    """Gets one thing after the other, with a pause (in seconds) before each."""

    def __init__(self, contact: str, pause: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self.opener = build_opener(_Redirects())
        self.opener.addheaders = [("User-Agent", f"spacy-mmib/{__version__} ({contact})")]
        self.pause, self.sleep = pause, sleep

    def get(self, url: str) -> bytes:
        """RETURNS (bytes): What is there, after several tries if need be.
        RAISES (OSError, ValueError): It can't be had, or is too large.
        RAISES (SystemExit): The server asks to stop.
        """
        for left in reversed(range(TRIES)):
            self.sleep(self.pause * 2 ** (TRIES - 1 - left))
            try:
                with self.opener.open(check_url(url), timeout=60) as response:
                    content: bytes = response.read(MAX_BYTES + 1)
                break
            except (OSError, HTTPException) as err:
                code, headers = getattr(err, "code", None), getattr(err, "headers", None) or {}
                stated = headers.get("Retry-After") or "0"
                seconds = float(stated) if stated.isdecimal() else 60.0  # a date
                if code in (429, 503) and (not left or seconds > LONGEST_PAUSE):
                    raise SystemExit(f"Commons asks to stop ({err}): run this again later.") from None
                if code not in (None, 429, 502, 503, 504) or not left:
                    raise OSError(str(err)) from err
                self.sleep(seconds)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        return content


def find_title(url: str) -> str | None:
    """RETURNS (Optional[str]): The name of the file on Commons that a URL is of, `None` for any other URL."""
    found = FILE.fullmatch(url)
    title = " ".join(unquote(found[1]).replace("_", " ").split()) if found else ""
    return title[0].upper() + title[1:] if re.fullmatch(r"[^\x00-\x1f#<>\[\]|{}/\\]+", title) else None


def ask_licences(client: Client, titles: list[str]) -> dict[str, str]:
    """RETURNS (Dict[str, str]): By title of those that are there: licence, its URL and artist, with tabs."""
    found = {}
    names = quote("|".join(f"File:{title}" for title in titles))
    for page in json.loads(client.get(f"{API}&titles={names}"))["query"]["pages"]:
        for info in page.get("imageinfo", ()):
            values = [str(info["extmetadata"].get(fact, {}).get("value", "")) for fact in FACTS]
            texts = [html.unescape(re.sub(r"<[^>]*>", " ", value)) for value in values]
            found[page["title"].removeprefix("File:")] = "\t".join(" ".join(x.split()) for x in texts)
    return found


def download(client: Client, wanted: dict[str, str], folder: Path) -> list[str]:
    """Get what isn't there yet. `pictures.tsv` beside the pictures says whose they are and their licences.

    wanted (Dict[str, str]): Titles on Commons by file name.
    RETURNS (List[str]): Which pictures can't be had, and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, problems = folder / "pictures.tsv", []
    lines = table.read_text(encoding="utf8").split("\n")[1:-1] if table.exists() else []
    rows = {line.split("\t")[0]: line for line in lines}
    todo = [name for name in wanted if name not in rows or not (folder / name).exists()]
    for start in tqdm(range(0, len(todo), AT_ONCE), desc=f"{AT_ONCE} pictures each", disable=None):
        names = todo[start : start + AT_ONCE]
        titles = sorted({wanted[name] for name in names if name not in rows})
        known = ask_licences(client, titles) if titles else {}
        rows |= {n: f"{n}\t{wanted[n]}\t{known[wanted[n]]}" for n in names if wanted[n] in known}
        write(table, "\n".join(["\t".join(("file", "title", *FACTS)), *rows.values(), ""]).encode())
        for name in names:
            path = f"/wiki/Special:FilePath/{quote(wanted[name], safe='')}?width={WIDTH}"
            try:
                if name not in rows:
                    raise ValueError("Commons has no such file")
                content = client.get(f"https://{COMMONS}{path}")
                read_image(content)
                write(folder / name, content)
            except (OSError, ValueError) as err:
                problems.append(f"{wanted[name]}: {err}")
    return problems


def write(path: Path, content: bytes) -> None:
    """Write a file in one piece."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


def main(
    data: Annotated[Path, typer.Argument(help="Folder of train.json, valid.json and test.json")],
    contact: Annotated[str, typer.Option(help="Your mail address or page, as Wikimedia's policy asks")],
    output: Annotated[Path | None, typer.Option(help="Folder for the pictures [images in the data]")] = None,
    pause: Annotated[float, typer.Option(min=0.5, help="Seconds before each request")] = 1.0,
) -> None:
    """Get the pictures of WikiDiverse."""
    try:
        urls = [url for split in SPLITS for _, url, _ in read_records(find_wikidiverse_text(data, split))]
        titles = {name_picture(url): find_title(url) for url in urls}
        wanted = {name: title for name, title in titles.items() if title is not None}
        print(f"{len(wanted)} pictures; {len(titles) - len(wanted)} others are not on Commons, and left out")
        problems = download(Client(contact, pause), wanted, output or data / "images")
    except (OSError, ValueError) as err:
        sys.exit(str(err))
    print(f"{len(wanted) - len(problems)} of {len(wanted)} are there", *problems, sep="\n")


if __name__ == "__main__":
    typer.run(main)
