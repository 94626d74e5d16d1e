"""A shop on SQLite or on PostgreSQL, as DATABASE_URL says: POST /orders, GET /orders, GET /health."""

import json
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sqlalchemy import Column, DateTime, Integer, MetaData, Table, Text, create_engine, event, func, insert, select, text

# The driver is our own business; the URL is the one that everybody else has.
URL = os.environ.get("DATABASE_URL", "sqlite:///app.db").replace("postgres://", "postgresql+pg8000://", 1)
engine = create_engine(URL)
metadata = MetaData()
orders = Table(
    "orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("what", Text, nullable=False),
    Column("at", DateTime, nullable=False, server_default=func.current_timestamp()),
)

if engine.dialect.name == "sqlite":

    @event.listens_for(engine, "connect")
    def set_up(connection, _):
        connection.isolation_level = None  # Python begins no transactions by itself
        for pragma in ("busy_timeout=5000", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute("PRAGMA " + pragma)

    @event.listens_for(engine, "begin")
    def begin(connection):
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


writing = engine.execution_options(writes=True)


class Shop(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path not in ("/health", "/orders"):
            return self.answer({"error": "there is no such page"}, 404)
        with engine.connect() as db:
            count = db.execute(select(func.count()).select_from(orders)).scalar_one()
        if self.path == "/health":
            return self.answer({"instance": os.environ.get("LITEKEEP_INSTANCE")})
        self.answer({"orders": count})

    def do_POST(self):
        what = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path != "/orders" or not what:
            return self.answer({"error": "POST what you want to /orders"}, 400)
        with writing.begin() as db:
            order = db.execute(insert(orders).values(what=what).returning(orders.c.id)).scalar_one()
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
    with writing.begin() as db:
        db.execute(text("PRAGMA optimize" if engine.dialect.name == "sqlite" else "ANALYZE"))
    sys.exit()
metadata.create_all(engine)
server = Server()
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("the shop is open on", engine.dialect.name, flush=True)
server.serve_forever(poll_interval=0.05)
server.server_close()
engine.dispose()
print("the shop is closed", flush=True)
