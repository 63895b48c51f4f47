"""A web application as people write them: http.server, prometheus_client for
its metrics, psycopg to PostgreSQL.

    app.py --port PORT [--dsn DSN]

It listens on 127.0.0.1 (port 0: any free one) and prints "listening on PORT".
Without a DSN no route asks a database. Nothing in it knows of snowpit.

    GET  /packages                 an indexed look-up
    GET  /packages/<name>          another one
    POST /uploads                  answers 201
    GET  /reports/<id>?seconds=N   holds a database session for N seconds (0.1)
    GET  /broken                   answers 500
    GET  /metrics                  what prometheus_client makes of it
"""

import argparse
import contextlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder, gzip

ROUTES = [
    ("GET", "/packages", re.compile(r"^/packages$")),
    ("GET", "/packages/{name}", re.compile(r"^/packages/[^/]+$")),
    ("POST", "/uploads", re.compile(r"^/uploads$")),
    ("GET", "/reports/{id}", re.compile(r"^/reports/[^/]+$")),
    ("GET", "/broken", re.compile(r"^/broken$")),
]

DURATION = Histogram(
    "http_request_duration_seconds",
    "Time from a request to its answer",
    ["method", "route", "status"],
)
IN_FLIGHT = Gauge("http_requests_in_flight", "Requests that run now", ["method", "route"])
QUERIES = Counter("app_queries", "Statements sent", ["kind"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pool = None

    def do_GET(self):
        self.answer("GET")

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer("POST")

    def answer(self, method):
        url = urlsplit(self.path)
        if url.path == "/metrics":
            return self.metrics()
        for of, route, pattern in ROUTES:
            if of == method and pattern.match(url.path):
                break
        else:
            return self.send(404, b"no such page\n")
        began = time.monotonic()
        with IN_FLIGHT.labels(method, route).track_inprogress():
            status = self.serve(route, parse_qs(url.query))
        # Before the answer: who has it may look at once.
        DURATION.labels(method, route, status).observe(time.monotonic() - began)
        self.send(status, b"done\n")

    def serve(self, route, query):
        if route == "/broken":
            return 500
        if route == "/uploads":
            return 201
        try:
            if route == "/reports/{id}":
                seconds = float(query.get("seconds", ["0.1"])[0])
                self.ask(route, "SELECT pg_sleep(%s)", (seconds,), fallback=seconds)
            else:
                self.ask(route, "SELECT count(*) FROM pg_class WHERE relname = %s", ("x",))
        except Exception as error:
            self.log_error("%s", error)
            return 503
        return 200

    def ask(self, route, statement, parameters, fallback=0.0):
        if self.pool is None:
            time.sleep(fallback)
            return
        with self.pool.connection() as connection:
            QUERIES.labels(route).inc()
            connection.execute(statement, parameters)

    def metrics(self):
        encode, kind = choose_encoder(self.headers.get("Accept"))
        body = encode(REGISTRY)
        headers = {"Content-Type": kind}
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        self.send(200, body, headers)

    def send(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Pool:
    """As many sessions as there are requests at once: what grows without a cap."""

    def __init__(self, dsn):
        import psycopg

        self.connect = lambda: psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        self.idle = []
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def connection(self):
        with self.lock:
            connection = self.idle.pop() if self.idle else None
        connection = connection or self.connect()
        try:
            yield connection
        except Exception:
            connection.close()
            raise
        with self.lock:
            self.idle.append(connection)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dsn")
    arguments = parser.parse_args()
    if arguments.dsn:
        Handler.pool = Pool(arguments.dsn)
    server = Server(("127.0.0.1", arguments.port), Handler)
    print(f"listening on {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
