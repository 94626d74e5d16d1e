"""A shop: POST /orders, GET /orders, GET /health."""

import json
import os
import signal
import socket
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

local = threading.local()


def database():
    """The connection of this thread."""
    if not hasattr(local, "db"):
        # Without isolation_level Python begins no transactions by itself.
        local.db = sqlite3.connect("app.db", timeout=5, isolation_level=None)
        local.db.executescript("PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; PRAGMA cache_size=-64000")
    return local.db


class Shop(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            database().execute("SELECT 1 FROM orders LIMIT 1")
            return self.answer({"instance": os.environ.get("LITEKEEP_INSTANCE")})
        if self.path == "/orders":
            return self.answer({"orders": database().execute("SELECT count(*) FROM orders").fetchone()[0]})
        self.answer({"error": "there is no such page"}, 404)

    def do_POST(self):
        what = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path != "/orders" or not what:
            return self.answer({"error": "POST what you want to /orders"}, 400)
        db = database()
        db.execute("BEGIN IMMEDIATE")
        order = db.execute("INSERT INTO orders(what) VALUES (?)", (what,)).lastrowid
        db.execute("COMMIT")
        self.answer({"id": order}, 201)

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # the end waits for them

    def __init__(self):
        super().__init__(("127.0.0.1", int(os.environ.get("PORT", 8080))), Shop, bind_and_activate=False)
        if os.environ.get("LISTEN_FDS") == "1":
            self.socket.close()
            self.socket = socket.socket(fileno=3)
        else:
            self.server_bind()
            self.server_activate()


if sys.argv[1:] == ["optimize"]:
    database().execute("PRAGMA optimize")
else:
    server = Server()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("the shop is open", flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()
    print("the shop is closed", flush=True)
