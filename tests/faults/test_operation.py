"""An agent as its operators meet it: scraped, probed, reloaded, watched, stopped."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.certificates import CLIENT, CLIENT_KEY, FOLDER, SERVER
from support.deployment import Deployment
from support.process import RunningProcess
from support.raw_http import RawHttpClient, request
from support.raw_http import Response as HttpAnswer
from support.ring_writer import RingWriter, span
from support.waiting import wait_until
from support.zipkin_stub import Report, Response, ZipkinStub

SECRET = "hunter2-hunter2"
SERVER_KEY = FOLDER / "server.key"
WAYS = ("ring", "unix", "http")


class Operated:
    """An agent with a settings file, a collector to send to, and everything an operator has."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.zipkin_stub = ZipkinStub()
        self.file = deployment.directory / "kaspan.yaml"
        self.socket = str(deployment.directory / "agent.sock")
        self.rings = deployment.ring_dir
        self.rings.mkdir(mode=0o700, exist_ok=True)
        self.settings: dict[str, Any] = {
            "socket": self.socket,
            "senders": [{"type": "zipkin", "url": self.zipkin_stub.url}],
        }
        # What this test class sets is in the file, where a reload can change it.
        for variable in ("KASPAN_AGENT__SOCKET", "KASPAN_AGENT__LISTEN", "KASPAN_AGENT__RING_DIRS"):
            del deployment.environment[variable]
        self.settings |= {"listen": "", "ring_dirs": [str(self.rings)]}
        deployment.environment["KASPAN_CONFIG"] = str(self.file)
        self.agent: RunningProcess | None = None

    def write(self, **settings: Any) -> None:
        """Write the settings file, with these added; JSON is YAML."""
        self.settings |= settings
        self.file.write_text(json.dumps({"agent": self.settings}))

    def start(self, **settings: Any) -> RunningProcess:
        """Start the agent with these settings, and wait until it works."""
        self.write(**settings)
        command = (sys.executable, "-m", "kaspan.cli.main", "agent")
        self.agent = agent = self.deployment.start("agent", *command)
        wait_until(lambda: "reads rings in" in agent.stderr or agent.process.poll() is not None, "the start")
        assert agent.process.poll() is None, agent.stderr
        return agent

    def said(self, text: str) -> None:
        """Wait until the log says something."""
        assert self.agent is not None
        agent = self.agent
        wait_until(lambda: text in agent.stderr, f"{text!r} in the log")

    def reload(self, **settings: Any) -> None:
        """Write other settings and send SIGHUP."""
        assert self.agent is not None
        self.write(**settings)
        self.agent.process.send_signal(signal.SIGHUP)

    def get(self, path: str) -> HttpAnswer:
        client = RawHttpClient(self.socket)
        try:
            return client.get(path)
        finally:
            client.close()

    def post(self, body: bytes) -> int:
        client = RawHttpClient(self.socket)
        try:
            return client.post(body).status
        finally:
            client.close()

    def health(self) -> tuple[int, Any]:
        answer = self.get("/health")
        return answer.status, json.loads(answer.body)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == f"kaspan_agent_{name}" and labels.items() <= sample.labels.items()
        )

    def becomes(self, expected: float, name: str, **labels: str) -> None:
        """Wait until a metric has a value."""
        wait_until(lambda: self.metric(name, **labels) == expected, f"{name} {labels} is {expected}")

    def status(self, *arguments: str) -> RunningProcess:
        """Run `kaspan agent status` to its end."""
        command = (sys.executable, "-m", "kaspan.cli.main", "agent", "status", *arguments)
        running = self.deployment.start("status", *command)
        running.wait()
        return running


@pytest.fixture
def operated(deployment: Deployment) -> Iterator[Operated]:
    operated = Operated(deployment)
    yield operated
    operated.zipkin_stub.close()


def hanging() -> tuple[socket.socket, str]:
    """Listen, and never answer."""
    listening = socket.create_server(("127.0.0.1", 0))
    return listening, f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_scrape_tells_where_every_span_came_from_and_went(operated: Operated) -> None:
    """What was accepted by each way is what was sent, once nothing waits."""
    operated.start(listen="127.0.0.1:0")
    writer = RingWriter(operated.rings, process=b'{"service":"orders"}')
    for number in range(3):
        writer.put(span(number))
    operated.becomes(3, "ring_accepted_spans_total", service="orders")
    assert operated.post(b"[%b,%b]" % (span(10), span(11))) == 202
    assert operated.agent is not None
    port = re.findall(r"http://127\.0\.0\.1:(\d+), unix", operated.agent.stderr)[0]
    client = RawHttpClient(("127.0.0.1", int(port)))
    assert client.post(b"[%b]" % span(12)).status == 202
    assert client.post(b"[{}]").status == 400
    client.close()
    operated.becomes(6, "sender_sent_spans_total", sender=f"zipkin {operated.zipkin_stub.url}/api/v2/spans")
    accepted = {way: operated.metric("receiver_accepted_spans_total", receiver=way) for way in WAYS}
    assert accepted == {"ring": 3, "unix": 2, "http": 1}
    assert operated.metric("receiver_refused_requests_total", reason="invalid") == 1
    assert operated.metric("batch_spans_sum") == 6
    assert operated.metric("send_duration_seconds_count") == len(operated.zipkin_stub.reports)
    operated.becomes(0, "spool_spans")
    assert operated.metric("spool_oldest_age_seconds") == 0
    writer.die()


def test_every_way_to_drop_a_span_is_counted(operated: Operated) -> None:
    """No span that was accepted goes without a counter that says why."""
    operated.zipkin_stub.answer = lambda report: Response(400 if b"refused" in report.body else 202)
    operated.start(
        spool={"max_bytes": 1 << 20},
        processors=[{"type": "drop", "topics": ["audit"]}, {"type": "redact", "tags": ["card"]}],
    )
    writer = RingWriter(operated.rings, process=b'{"service":"orders"}')
    writer.put(b'{"traceId":"1","id":"1","tags":{"kafka.topic":"audit"}}')
    writer.put(b"{no span, but its checksum is right}")
    writer.put(b'{"traceId":"1","id":"2","name":"refused"}')
    writer.put(span(5))  # the stub takes it: the other span was refused for its own fault
    operated.becomes(1, "dropped_spans_total", reason="processor_drop")
    operated.becomes(1, "dropped_spans_total", reason="unreadable")
    operated.becomes(1, "sender_dead_lettered_spans_total")
    assert operated.metric("dead_letter_spans") == 1
    # Dead letters may fill a tenth of the spool.
    large = b'{"traceId":"1","id":"3","name":"refused","tags":{"a":"%b"}}' % (b"x" * 60_000)
    assert [operated.post(b"[%b]" % large) for _ in range(3)] == [202] * 3
    operated.becomes(2, "sender_dead_lettered_spans_total")
    operated.becomes(2, "dropped_spans_total", reason="dead_letters_full")
    # What a ring holds is lost when it is damaged, and what does not fit when it is full.
    writer.put(span(4), crc=1)
    wait_until(lambda: operated.metric("ring_lost_bytes_total") > 0, "the damage is counted")
    full = RingWriter(operated.rings, "2-b.ring", process=b'{"service":"mailer"}')
    full.set_header(32, 17)
    operated.becomes(17, "ring_dropped_spans_total", service="mailer")
    (operated.rings / "3-c.ring").write_bytes(b"no ring")
    operated.becomes(1, "ring_rejected_total")
    accepted = operated.metric("receiver_accepted_spans_total")
    gone = operated.metric("dropped_spans_total") + operated.metric("sender_dead_lettered_spans_total")
    assert accepted == gone + operated.metric("sender_sent_spans_total") == 7
    for ring in (writer, full):
        ring.die()


def test_full_spool_is_503_and_ready_again_when_there_is_room(operated: Operated) -> None:
    """A probe sees that nothing is taken, why, and when it is over."""
    operated.zipkin_stub.answer = lambda report: Response(503)
    operated.start(spool={"max_bytes": 1 << 20})
    assert operated.health() == (200, {"status": "ready", "reasons": []})
    body = b"[%b]" % span(1, 100_000)
    wait_until(lambda: operated.post(body) == 429, "the spool is full")
    assert operated.health() == (503, {"status": "degraded", "reasons": ["spool_full"]})
    assert operated.get("/health/live").status == 200
    status = operated.status()
    assert status.process.returncode == 1
    assert "! no spans are accepted: the spool holds" in status.stdout
    operated.zipkin_stub.answer = lambda report: Response()
    wait_until(lambda: operated.health()[0] == 200, "there is room again")


def test_token_guards_everything_but_health(operated: Operated) -> None:
    """A kubelet has no token, and what it is told names nothing; names and addresses are for who has it."""
    agent = operated.start(listen="127.0.0.1:0", token=SECRET)
    port = int(re.findall(r"http://127\.0\.0\.1:(\d+), unix", agent.stderr)[0])
    client = RawHttpClient(("127.0.0.1", port))
    assert client.get("/health").status == 200
    assert client.get("/health/live").status == 200
    client.close()
    for path in ("/metrics", "/status"):
        client = RawHttpClient(("127.0.0.1", port))
        assert client.get(path).status == 401
        client.close()
        client = RawHttpClient(("127.0.0.1", port))
        client.send(request(b"", path, "GET", authorization=f"Bearer {SECRET}"))
        assert client.answer().status == 200
        client.close()


def test_reload_takes_over_what_it_can_and_says_the_rest(operated: Operated, tmp_path: Path) -> None:
    """Processors, ring directories and log change while the agent works; a sender needs a restart."""
    agent = operated.start()
    more = tmp_path / "more"
    operated.reload(
        processors=[{"type": "add_tags", "tags": {"host": "h1"}}],
        ring_dirs=[str(operated.rings), str(more)],
        log={"format": "json"},
        senders=[{"type": "zipkin", "url": "http://127.0.0.1:1"}],
    )
    operated.said("SIGHUP: needs a restart of the agent: agent.senders\n")
    operated.said("SIGHUP: now in force: agent.ring_dirs, agent.processors, agent.log.format\n")
    writer = RingWriter(more)
    writer.put(span(1))
    assert operated.post(b"[%b]" % span(2)) == 202
    wait_until(lambda: len(operated.zipkin_stub.stored) == 2, "both have arrived")
    arrived = [sent for report in operated.zipkin_stub.reports for sent in json.loads(report.body)]
    assert [sent["tags"]["host"] for sent in arrived] == ["h1", "h1"]
    assert agent.terminate() == 0
    last = json.loads(agent.stderr.splitlines()[-1])
    assert last["message"].startswith("stopped: 2 spans accepted")
    writer.die()


def test_rings_of_a_directory_that_is_left_out_are_emptied_and_left_alone(
    operated: Operated, tmp_path: Path
) -> None:
    """What was written until then is taken; the files stay for the next agent that reads the directory."""
    operated.start(batch={"flush_interval_s": 3600})
    writer = RingWriter(operated.rings)
    writer.put(span(1))
    operated.becomes(1, "rings")
    operated.reload(ring_dirs=[str(tmp_path / "others")])
    wait_until(lambda: operated.zipkin_stub.stored, "the span has arrived")
    operated.becomes(0, "rings")
    assert writer.path.exists()
    assert writer.read_pos == writer.write_pos
    writer.die()


def test_counts_of_processors_outlive_a_reload(operated: Operated) -> None:
    """A counter must not fall because the settings changed."""
    operated.start(processors=[{"type": "drop", "names": ["send *"]}])
    assert operated.post(b"[%b]" % span(1)) == 202
    operated.reload(processors=[])
    operated.said("SIGHUP: now in force: agent.processors")
    assert operated.metric("dropped_spans_total", reason="processor_drop") == 1
    assert operated.post(b"[%b]" % span(2)) == 202
    wait_until(lambda: operated.zipkin_stub.stored, "the other has arrived")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch": {"flush_interval_s": -1}}, "kaspan.yaml:1: agent.batch.flush_interval_s is -1; the rule"),
        ({"processors": [{"type": "add_tags", "tags": {"a": "${NOT_SET}"}}]}, "variable NOT_SET is not set"),
        ({"ring_dirs": ["/dev/null"]}, "agent.ring_dirs: /dev/null is not a directory"),
    ],
)
def test_reload_of_a_bad_file_changes_nothing(
    operated: Operated, settings: dict[str, Any], said: str
) -> None:
    """The agent says what is wrong, and works on with what it had; corrected, the file counts."""
    operated.start()
    before = dict(operated.settings)
    operated.reload(**settings)
    operated.said("the old settings stay in force")
    operated.said(said)
    assert operated.post(b"[%b]" % span(1)) == 202
    wait_until(lambda: operated.zipkin_stub.stored, "the span has arrived")
    operated.settings = before
    operated.reload(shutdown_timeout_s=9)
    operated.said("SIGHUP: now in force: agent.shutdown_timeout_s")


def shown_certificate(port: int) -> str:
    """The certificate that a client is shown."""
    return ssl.get_server_certificate(("127.0.0.1", port))


def test_renewed_certificate_is_shown_after_sighup(operated: Operated, tmp_path: Path) -> None:
    """Certificates live for weeks, and agents longer; a file that is not a certificate changes nothing."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(SERVER, cert)
    shutil.copy(SERVER_KEY, key)
    agent = operated.start(listen="127.0.0.1:0", tls={"cert": str(cert), "key": str(key)})
    port = int(re.findall(r"https://127\.0\.0\.1:(\d+)", agent.stderr)[0])
    assert shown_certificate(port) in SERVER.read_text()
    shutil.copy(CLIENT, cert)
    operated.reload()
    operated.said("the old certificate stays in use")
    assert shown_certificate(port) in SERVER.read_text()
    shutil.copy(CLIENT_KEY, key)
    operated.reload()
    wait_until(lambda: shown_certificate(port) in CLIENT.read_text(), "the new certificate")


def test_status_is_asked_by_tls_of_the_holder_of_the_certificate_alone(operated: Operated) -> None:
    """Only a server with the configured certificate gets the token, whatever name is in the certificate."""
    port = free_port()
    tls = {"cert": str(SERVER), "key": str(SERVER_KEY)}
    operated.start(socket="", listen=f"127.0.0.1:{port}", tls=tls, token=SECRET)
    assert operated.status().process.returncode == 0
    operated.write(tls={"cert": str(CLIENT), "key": str(CLIENT_KEY)})
    status = operated.status()
    assert status.process.returncode == 3
    assert "CERTIFICATE_VERIFY_FAILED" in status.stderr
    operated.write(tls=tls, token="another-token")
    status = operated.status()
    assert status.process.returncode == 3
    assert "the agent expects another token" in status.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def test_service_manager_is_told_of_start_reload_health_and_end(operated: Operated, tmp_path: Path) -> None:
    """By sd_notify, where NOTIFY_SOCKET is set; a watchdog hears from it until it stops."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(f"{tmp_path}/notify")
    manager.settimeout(60)
    operated.deployment.environment |= {"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "300000"}
    agent = operated.start()

    def heard() -> str:
        return manager.recv(10_000).decode()

    assert heard().startswith("READY=1\nSTATUS=reads rings in ")
    assert heard() == "WATCHDOG=1"
    operated.reload()
    rest = iter(heard, None)
    assert next(said for said in rest if said != "WATCHDOG=1").startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert next(rest).startswith("READY=1\n")
    agent.process.terminate()
    assert next(said for said in rest if said != "WATCHDOG=1") == "STOPPING=1"
    assert agent.wait() == 0
    manager.close()


def test_stop_does_not_wait_for_a_target_that_is_away(operated: Operated) -> None:
    """SIGTERM with Zipkin down: what is accepted is on disk, the exit code 0, and the next agent sends it."""
    operated.zipkin_stub.answer = lambda report: Response(503)
    agent = operated.start(shutdown_timeout_s=3600)
    assert operated.post(b"[%b]" % span(1)) == 202
    writer = RingWriter(operated.rings)
    writer.put(span(2))
    assert agent.terminate() == 0
    assert agent.stderr.rstrip().endswith("2 left in the spool")
    operated.zipkin_stub.answer = lambda report: Response()
    operated.start()
    wait_until(lambda: len(operated.zipkin_stub.stored) == 2, "both have arrived")
    writer.die()


def test_stop_waits_no_longer_than_its_timeout_for_a_target_that_hangs(operated: Operated) -> None:
    """A target that takes the connection and says nothing holds nobody; SIGHUP meanwhile changes nothing."""
    listening, url = hanging()
    agent = operated.start(senders=[{"type": "zipkin", "url": url, "timeout_s": 3600}], shutdown_timeout_s=1)
    assert operated.post(b"[%b]" % span(1)) == 202
    connection, _ = listening.accept()
    agent.process.terminate()
    agent.process.send_signal(signal.SIGHUP)
    assert agent.wait() == 0
    assert agent.stderr.rstrip().endswith("1 left in the spool")
    connection.close()
    listening.close()
    operated.start(senders=[{"type": "zipkin", "url": operated.zipkin_stub.url}])
    wait_until(lambda: operated.zipkin_stub.stored, "the span has arrived")


def test_status_shows_people_what_they_ask_for(operated: Operated) -> None:
    """Receivers, rings by service, spool and senders, in plain text where no terminal is."""
    operated.start()
    writer = RingWriter(operated.rings, process=b'{"service":"orders"}')
    writer.put(span(1))
    operated.becomes(1, "sender_sent_spans_total")
    status = operated.status()
    assert status.process.returncode == 0
    lines = status.stdout.splitlines()
    assert re.match(r"ready: kaspan agent [0-9.]+, pid \d+, up \d+ s", lines[0])
    assert re.search(r"^ring +1$", status.stdout, re.M)
    assert re.search(r"^orders +1 +0% +1 +0 +0$", status.stdout, re.M)
    assert re.search(
        rf"^zipkin {operated.zipkin_stub.url}\S+ +1 +0 +- +sent \d+ s ago +-$", status.stdout, re.M
    )
    assert "\x1b" not in status.stdout
    assert json.loads(operated.status("--format", "json").stdout)["senders"][0]["sent_spans"] == 1
    writer.die()


def test_status_without_an_agent_is_3_and_says_where_it_was_asked(operated: Operated) -> None:
    """Not running is another thing than not well."""
    operated.write()
    status = operated.status()
    assert status.process.returncode == 3
    assert status.stdout == ""
    assert operated.socket in status.stderr
    operated.write(socket="")
    status = operated.status()
    assert status.process.returncode == 3
    assert "agent.listen and agent.socket are both empty" in status.stderr


def test_status_of_something_else_is_3(operated: Operated) -> None:
    """What answers there need not be an agent."""
    operated.write(socket="", listen=operated.zipkin_stub.url.removeprefix("http://"))
    status = operated.status()
    assert status.process.returncode == 3
    assert "is not a kaspan agent" in status.stderr


def test_status_does_not_drive_the_terminal(operated: Operated) -> None:
    """Text of services, of servers and of whatever answers is shown without characters that do not print."""
    operated.start()
    writer = RingWriter(operated.rings, process='{"service":"or\u202eders\x9b"}'.encode())
    writer.put(span(1))
    operated.becomes(1, "sender_sent_spans_total")
    for format_ in ("text", "json"):
        shown = operated.status("--format", format_).stdout
        assert "ders" in shown
        assert shown.replace("\n", "").isprintable()
    writer.die()


def test_no_secret_is_in_what_an_agent_says(operated: Operated) -> None:
    """Passwords and tokens are in no log line, metric, health or status, whatever goes wrong."""
    port = operated.zipkin_stub.port

    def refuse(report: Report) -> Response:
        return Response(401, f"you sent {report.headers}")

    operated.zipkin_stub.answer = refuse
    agent = operated.start(
        listen="127.0.0.1:0",
        token=SECRET,
        log={"level": "debug", "format": "json"},
        senders=[
            {"type": "zipkin", "url": f"http://me:{SECRET}@127.0.0.1:{port}", "headers": {"X-Key": SECRET}},
            {"type": "zipkin", "url": f"http://localhost:{port}", "token": SECRET},
        ],
    )
    assert operated.post(b"[%b]" % span(1)) == 202
    wait_until(lambda: len(operated.zipkin_stub.reports) >= 4, "both were tried")
    said = [operated.get(path).text for path in ("/metrics", "/status", "/health")]
    said.append(operated.status().stdout)
    operated.reload(token="another-token")
    operated.said("agent.token")
    assert agent.terminate() == 0
    assert SECRET not in "".join([*said, agent.stderr])
    assert "HTTP 401" in agent.stderr
