"""What metrics and traces cost: the same build through two Linkspans, one of which is watched."""

import http.server
import os
import socket
import threading
import time
from types import SimpleNamespace

from builds import LOAD, Contender
from figures import ratio, take_turns
from statistics import median

# Prometheus scrapes every 15 to 60 s.
SCRAPE_SECONDS = 1
TARGET = 1.02


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes all spans, and counts the requests."""

    protocol_version = "HTTP/1.1"
    requests = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        Collector.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def scrape(path):
    """The text of one scrape."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(path)
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        parts = []
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def warm_observed(bench, name):
    """Nothing changed; metrics are scraped every second, and each build is a trace that is sent."""
    base, size = bench.base()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bench.closing.append(server.shutdown)
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
              "NO_PROXY": "127.0.0.1"}
    folder = bench.folder("observed")
    metrics = os.path.join(folder, "metrics.sock")
    engine = SimpleNamespace(env={**bench.stack.env, **traced})
    observed = bench.start_linkspan(engine, folder, "docker", ["--metrics-listen", f"unix://{metrics}"])
    bench.builder("observed", observed.socket)
    ended = threading.Event()

    def watch():
        while not ended.wait(SCRAPE_SECONDS):
            scrape(metrics)

    named = {"on": Contender(bench, "observed-on", "observed", LOAD, base), "off": Contender(bench, "observed-off", "linkspan", LOAD, base)}
    for contender in named.values():
        contender.build()
        contender.build()
    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    times = take_turns(bench.options.runs, named, lambda contender, _: contender.build())
    ended.set()
    watching.join()
    text = scrape(metrics).decode()
    counted = [line for line in text.splitlines() if line.startswith('linkspan_exports_total{door="buildkit"') and not line.endswith(" 0")]
    if not counted:
        raise SystemExit("bench: error: the watched Linkspan has counted no export")
    # Spans are sent in batches, by default after 5 s (OTEL_BSP_SCHEDULE_DELAY).
    deadline = time.monotonic() + 30
    while not Collector.requests and time.monotonic() < deadline:
        time.sleep(0.1)
    if not Collector.requests:
        raise SystemExit("bench: error: the watched Linkspan has sent no trace")
    return {"case": name, "size_bytes": size, "runs": bench.options.runs, "on_s": round(median(times["on"]), 4),
            "off_s": round(median(times["off"]), 4),
            "spread_s": {key: [round(min(v), 4), round(max(v), 4)] for key, v in times.items()},
            "measured": ratio(times, "on", "off"), "target": TARGET, "reached": ratio(times, "on", "off") <= TARGET}
