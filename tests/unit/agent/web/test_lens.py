"""kaspan.agent.web.lens: Zipkin's own page from its jar, and nothing else from the disk."""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kaspan.agent.web import lens
from kaspan.agent.web.query_api import QueryApi
from kaspan.config import schema
from kaspan.config.errors import ConfigError
from support.query_reader import QueryReader
from support.served_http import ServedHttp

INDEX = b"<!DOCTYPE html><title>Zipkin</title>"
SCRIPT = b"let zipkin = 1;\n" * 20_000
FILES = {
    "META-INF/MANIFEST.MF": b"Manifest-Version: 1.0\n",
    "zipkin-lens/": b"",
    "zipkin-lens/index.html": INDEX,
    "zipkin-lens/favicon.ico": b"\0\0icon",
    "zipkin-lens/static/js/index.c42cd5c9.js": SCRIPT,
    "zipkin-lens/static/css/index.a7aa86b4.css": b".a{}",
    "zipkin-lens/static/media/zipkin-logo.png": b"\x89PNG" * 1000,
    "zipkin-lens/other.bin": b"?",
}
SCRIPT_PATH = "/zipkin/static/js/index.c42cd5c9.js"
Serve = Callable[..., ServedHttp]


def make_jar(directory: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> str:
    path = str(directory / "zipkin-lens-3.5.1.jar")
    with zipfile.ZipFile(path, "w", compression) as jar:
        for name, content in files.items():
            jar.writestr(name, content)
    return path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Give a function that serves the page of a jar with FILES."""
    started: list[ServedHttp] = []

    def start(**settings: object) -> ServedHttp:
        web = schema.Web(lens=make_jar(tmp_path, FILES))
        api = QueryApi(QueryReader(), schema.Agent(web=web, **settings))  # type: ignore[arg-type]
        started.append(ServedHttp(api.add_to, web=web, **settings))
        return started[-1]

    yield start
    for served in started:
        served.stop()


@pytest.mark.parametrize(
    "path",
    ["/zipkin/", "/zipkin/index.html", "/zipkin/traces/abc", "/zipkin/dependency", "/zipkin/traceViewer"],
)
def test_page_is_at_all_its_addresses(serve: Serve, path: str) -> None:
    """The script of the page looks at the address; a browser asks for the page again after a minute."""
    answer = serve().client().get(path + "?serviceName=a")
    assert (answer.status, answer.body) == (200, INDEX)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "max-age=60"


def test_page_cannot_be_framed_and_runs_its_own_scripts_only(serve: Serve) -> None:
    """No page elsewhere shows this one in a frame, and what spans say is never run as a script."""
    headers = serve().client().get("/zipkin/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self';" in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/", "/zipkin/"),
        ("/?serviceName=a&limit=1", "/zipkin/?serviceName=a&limit=1"),
        ("/zipkin", "/zipkin/"),
        ("/zipkin?a=%20", "/zipkin/?a=%20"),
        ("/favicon.ico", "/zipkin/favicon.ico"),
    ],
)
def test_first_page_leads_to_zipkins(serve: Serve, path: str, location: str) -> None:
    """As in Zipkin: 302, with the query."""
    answer = serve().client().get(path)
    assert (answer.status, answer.headers["location"]) == (302, location)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/zipkin/favicon.ico", "image/x-icon"),
        (SCRIPT_PATH, "text/javascript; charset=utf-8"),
        ("/zipkin/static/css/index.a7aa86b4.css", "text/css; charset=utf-8"),
        ("/zipkin/static/media/zipkin-logo.png", "image/png"),
        ("/zipkin/other.bin", "application/octet-stream"),
    ],
)
def test_files_of_the_page_are_kept_for_a_year(serve: Serve, path: str, kind: str) -> None:
    """Their names change with their content."""
    answer = serve().client().get(path)
    assert answer.body == FILES[path.replace("/zipkin/", "zipkin-lens/")]
    assert answer.headers["content-type"] == kind
    assert answer.headers["cache-control"] == "max-age=31536000"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_scripts_are_sent_in_gzip(serve: Serve) -> None:
    """A browser gets the script packed; caches know that others do not. HEAD has the same length."""
    client = serve().client()
    answer = client.get(SCRIPT_PATH, accept_encoding="gzip, br")
    assert gzip.decompress(answer.body) == SCRIPT
    assert len(answer.body) < len(SCRIPT) / 10
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "Accept-Encoding")
    head = client.get(SCRIPT_PATH, "HEAD", accept_encoding="gzip")
    assert head.headers["content-length"] == str(len(answer.body))
    plain = client.get(SCRIPT_PATH)
    assert (plain.body, plain.headers["vary"]) == (SCRIPT, "Accept-Encoding")


@pytest.mark.parametrize(
    "path",
    [
        *("/zipkin/foo", "/zipkin/static", "/zipkin/static/js/", "/zipkin/traces", "/zipkin/traces/a/b"),
        *("/zipkin/../../etc/passwd", "/zipkin/%2e%2e/%2e%2e/etc/passwd", "/zipkin/META-INF/MANIFEST.MF"),
        *(
            "/META-INF/MANIFEST.MF",
            "/zipkin//etc/passwd",
            "/zipkin/..%5c..%5cetc",
            "/zipkin/static/../index.html",
        ),
    ],
)
def test_nothing_else_is_served(serve: Serve, path: str) -> None:
    """Only the files that were in the jar's folder have an address."""
    assert serve().client().get(path).status == 404


def test_api_and_config_are_beside_the_page(serve: Serve) -> None:
    """The page asks for them under its own path."""
    client = serve().client()
    assert client.get("/zipkin/config.json").headers["content-type"] == "application/json; charset=utf-8"
    assert client.get("/zipkin/api/v2/services").body == b"[]"


def test_page_needs_the_token(serve: Serve) -> None:
    """With agent.token nothing but /health is for everybody."""
    served = serve(token="correct-horse-battery")
    for path in ("/", "/zipkin/", SCRIPT_PATH, "/zipkin/config.json"):
        assert served.client().get(path).status == 401


def test_link_from_elsewhere_may_be_followed(serve: Serve) -> None:
    """A colleague's link to a trace opens; a frame of another site's page does not."""
    client = serve().client()
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "host": "localhost:9411"}
    assert client.get("/zipkin/traces/abc", sec_fetch_dest="document", **link).status == 200
    assert client.get("/zipkin/traces/abc", sec_fetch_dest="iframe", **link).status == 403


def refusal(path: str) -> str:
    with pytest.raises(ConfigError) as refused:
        lens.Lens.open(path)
    (line,) = refused.value.errors
    assert line.startswith(f"agent.web.lens: {path} ")
    assert "zipkin-lens-VERSION.jar" in line
    return line


def test_wrong_path_is_refused_with_what_it_must_be(tmp_path: Path) -> None:
    """The agent does not start with a path of something else, and says what to set."""
    assert "is not a file" in refusal(str(tmp_path / "missing.jar"))
    assert "is not a file" in refusal(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refusal(str(tmp_path / "pipe"))
    (tmp_path / "text.jar").write_text("not a jar")
    assert "cannot be read: File is not a zip file" in refusal(str(tmp_path / "text.jar"))
    without_index = {name: content for name, content in FILES.items() if "index.html" not in name}
    assert "has no zipkin-lens/index.html" in refusal(make_jar(tmp_path, without_index))


@pytest.mark.parametrize(
    "name",
    [
        *("../../evil.html", "..", "a/../../b", "/etc/passwd", "a//b", "a\\b", "C:evil", "a/./b", ".hidden"),
        *("api/v2/services", "a b", "a\nb", "ä", "a?b", "a%2e", "static/.."),
    ],
)
def test_strange_names_are_refused(tmp_path: Path, name: str) -> None:
    """A jar whose names lead out of its folder, or to the API's addresses, is not Zipkin's page."""
    jar = make_jar(tmp_path, {**FILES, f"zipkin-lens/{name}": b"evil"})
    assert "is not a name of the page's files" in refusal(jar)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A jar cannot fill the memory: neither by a file that unpacks to gigabytes, nor by their number."""
    bomb = make_jar(tmp_path, {**FILES, "zipkin-lens/bomb.js": b"\0" * (lens.MAX_BYTES + 1)})
    assert os.path.getsize(bomb) < 200_000
    assert "more than" in refusal(bomb)
    many = {f"zipkin-lens/{number}": b"" for number in range(lens.MAX_FILES)}
    assert "more than" in refusal(make_jar(tmp_path, {**FILES, **many}))


def test_false_size_in_a_jar_is_refused(tmp_path: Path) -> None:
    """A file that unpacks to more than its jar says is not read beyond that."""
    jar = Path(make_jar(tmp_path, FILES))
    true, false = struct.pack("<I", len(SCRIPT)), struct.pack("<I", 100)
    jar.write_bytes(jar.read_bytes().replace(true, false))
    assert "cannot be read" in refusal(str(jar))


def test_damaged_jar_is_refused_or_read(tmp_path: Path) -> None:
    """Whatever byte of a jar is wrong: the page is read, or refused with a line that says why."""
    whole = Path(make_jar(tmp_path, {name: content[:500] for name, content in FILES.items()})).read_bytes()
    damaged = tmp_path / "damaged.jar"
    for position in range(0, len(whole), 3):
        damaged.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        with suppress(ConfigError):
            lens.Lens.open(str(damaged))
    for length in range(0, len(whole), 7):
        damaged.write_bytes(whole[:length])
        assert str(damaged) in refusal(str(damaged))
