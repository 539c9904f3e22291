"""Getting WikiDiverse's pictures, from servers that are not there: nothing is ever fetched here."""

import io
import json
from email.message import Message
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit
from urllib.request import BaseHandler, Request
from urllib.response import addinfourl

import pytest
from conftest import encoded, make_picture, run_command

from project import commons
from project.commons import Client, _Redirects, download, find_title
from project.wikidiverse import name_picture

URLS = [
    "https://upload.wikimedia.org/wikipedia/commons/0/06/Two_teams.jpg",
    "https://upload.wikimedia.org/wikipedia/commons/thumb/a/ab/Map_of_%C3%A5.svg/800px-Map_of_%C3%A5.svg.png",
]
PNG = encoded(make_picture("red"))


class Server(BaseHandler):
    """Stands in for both hosts: what it answers, by part of the URL; and what it was asked."""

    handler_order = 100  # before those that would use the network

    def __init__(self, **answers):
        self.answers, self.asked, self.slept = answers, [], []

    def https_open(self, request):
        self.asked.append(request.full_url)
        assert request.get_header("User-agent").endswith("(me@example.org)")
        status, headers, content = 200, {}, PNG
        if "api.php" in request.full_url:
            titles = parse_qs(urlsplit(request.full_url).query)["titles"][0].split("|")
            facts = {
                "LicenseShortName": {"value": "CC BY 2.0"},
                "Artist": {"value": "<a>Ann\n&amp;\tBob</a>"},
            }
            pages = [{"title": title, "imageinfo": [{"extmetadata": facts}]} for title in titles]
            pages = [
                page if "Gone" not in page["title"] else {"title": page["title"], "missing": True}
                for page in pages
            ]
            content = json.dumps({"query": {"pages": pages}}).encode()
        for part, answers in self.answers.items():
            if part in request.full_url and answers:
                status, headers, content = answers.pop(0)
        message = Message()
        for key, value in headers.items():
            message[key] = value
        response = addinfourl(io.BytesIO(content), message, request.full_url, status)
        response.msg = "said so"
        return response


def make_client(server):
    client = Client("me@example.org", 1.0, server.slept.append)
    client.opener.add_handler(server)
    return client


def get(folder, server, urls=URLS):
    return download(make_client(server), {name_picture(url): find_title(url) for url in urls}, folder)


def test_pictures_with_their_licences(tmp_path):
    server = Server()
    assert get(tmp_path, server) == []
    assert {path.name for path in tmp_path.iterdir()} == {"pictures.tsv", *map(name_picture, URLS)}
    lines = [line.split("\t") for line in (tmp_path / "pictures.tsv").read_text().splitlines()]
    assert lines[0] == ["file", "title", "LicenseShortName", "LicenseUrl", "Artist"]
    assert lines[1] == [name_picture(URLS[0]), "Two teams.jpg", "CC BY 2.0", "", "Ann & Bob"]
    assert lines[2][1] == "Map of å.svg"
    assert server.asked[2].endswith("/wiki/Special:FilePath/Map%20of%20%C3%A5.svg?width=960")
    assert len(server.asked) == 3
    assert server.slept == [1.0] * 3  # a pause before each


def test_going_on(tmp_path):
    server = Server(Map=[(404, {}, b"")])  # the question about the licences
    with pytest.raises(OSError, match="404"):
        get(tmp_path, server)
    assert get(tmp_path, server, URLS[:1]) == []
    (tmp_path / name_picture(URLS[1])).with_suffix(".part").write_bytes(PNG[:9])
    server = Server()
    assert get(tmp_path, server) == []
    assert len(server.asked) == 2
    assert "Two" not in "".join(server.asked)
    server = Server()
    assert get(tmp_path, server) == []
    assert server.asked == []


def test_waiting_as_long_as_the_server_asks(tmp_path):
    busy = [(429, {"Retry-After": "7"}, b""), (503, {"Retry-After": "Wed, 01 Jan 2025 00:00:00 GMT"}, b"")]
    server = Server(Special=[*busy, (502, {}, b"")])
    assert get(tmp_path, server, URLS[:1]) == []
    assert server.slept == [1.0, 1.0, 7.0, 2.0, 60.0, 4.0, 0.0, 8.0]


@pytest.mark.parametrize("answers", [[(429, {}, b"")] * 9, [(503, {"Retry-After": "90000"}, b"")]])
def test_a_server_that_asks_to_stop(tmp_path, answers):
    server = Server(Special=list(answers))
    with pytest.raises(SystemExit, match="Commons asks to stop .*run this again later"):
        get(tmp_path, server)
    assert len(server.asked) <= 1 + commons.TRIES


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ((404, {}, b""), "404"),
        ((200, {}, b"<html>"), "Two teams.jpg: "),
        ((200, {}, b""), "empty"),
        ((200, {}, PNG[:40]), "Two teams.jpg: "),
        ((200, {}, PNG + bytes(1000)), "more than 900 bytes"),
        ((302, {"Location": "http://upload.wikimedia.org/a.png"}, b""), "not on Wikimedia Commons"),
        ((302, {"Location": "https://169.254.169.254/a"}, b""), "not on Wikimedia Commons"),
        ((302, {"Location": "https://upload.wikimedia.org.evil.example/a"}, b""), "not on Wikimedia Commons"),
        ((302, {"Location": "https://upload.wikimedia.org@evil.example/a"}, b""), "not on Wikimedia Commons"),
        ((302, {"Location": "file:///etc/passwd"}, b""), "not on Wikimedia Commons|file:"),
    ],
)
def test_one_picture_that_cannot_be_had(tmp_path, monkeypatch, answer, match):
    monkeypatch.setattr(commons, "MAX_BYTES", 900)
    server = Server(**{"FilePath/Two": [answer]})
    (problem,) = get(tmp_path, server)
    with pytest.raises(AssertionError, match=match):
        raise AssertionError(problem)
    assert {path.name for path in tmp_path.iterdir()} == {"pictures.tsv", name_picture(URLS[1])}
    assert all(urlsplit(url).netloc == "commons.wikimedia.org" for url in server.asked)


def test_redirects_within_commons(tmp_path):
    url = "https://upload.wikimedia.org/wikipedia/commons/thumb/0/06/Two.jpg/960px-Two.jpg"
    server = Server(**{"FilePath/Two": [(302, {"Location": url}, b"")]})
    assert get(tmp_path, server, URLS[:1]) == []
    assert server.asked[-1] == url
    with pytest.raises(ValueError, match="not fetched"):
        make_client(server).get("file:///etc/passwd")
    with pytest.raises((ValueError, HTTPError)):
        _Redirects().redirect_request(Request(url), None, 302, "", {}, "ftp://upload.wikimedia.org/a")


@pytest.mark.parametrize(
    "url",
    [
        "https://upload.wikimedia.org/wikipedia/en/0/06/Logo.png",  # no free licence
        "https://upload.wikimedia.org/wikipedia/commons/0/06/",
        "https://upload.wikimedia.org/wikipedia/commons/0/06/..%2F..%2Fetc",
        "https://upload.wikimedia.org/wikipedia/commons/0/06/a%7Cb.jpg",
        "https://upload.wikimedia.org/wikipedia/commons/0/06/a.jpg?x=1",
        "https://evil.example/https://upload.wikimedia.org/wikipedia/commons/0/06/a.jpg",
        "https://upload.wikimedia.org.evil.example/wikipedia/commons/0/06/a.jpg",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "",
    ],
)
def test_urls_that_name_no_file_on_commons(url):
    assert find_title(url) is None


def test_the_command(tmp_path, monkeypatch):
    urls = [*URLS, "http://localhost/a.jpg", URLS[0].replace("Two", "Gone")]
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.json").write_text(json.dumps([["a", url, "b", []] for url in urls]))
    server = Server()
    monkeypatch.setattr(commons, "Client", lambda contact, pause: make_client(server))
    result = run_command(commons.main, tmp_path, "--contact", "me@example.org")
    assert result.exit_code == 0
    assert "3 pictures; 1 others are not on Commons, and left out" in result.output
    assert "2 of 3 are there" in result.output
    assert "Gone teams.jpg: Commons has no such file" in result.output
    assert (tmp_path / "images" / name_picture(URLS[0])).exists()
    (tmp_path / "test.json").write_text("no")
    assert run_command(commons.main, tmp_path, "--contact", "me@example.org").exit_code == 1
    assert run_command(commons.main, tmp_path).exit_code == 2  # who asks has to say so
