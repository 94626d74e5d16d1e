# A bank: `POST /ID` moves money and notes the operation; `GET` tells the newest operation and what all accounts have together.
import os, sqlite3, threading, time, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

node, ACCOUNTS, EACH = os.environ["NODE"], 40, 100

def ends_with(pid):
    while os.path.exists(f"/proc/{pid}"): time.sleep(0.5)
    os._exit(1)

def fnv(text):
    h = 0xcbf29ce484222325
    for byte in text.encode(): h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"

def connect():
    return sqlite3.connect("app.db", timeout=0.5, isolation_level=None)

def move(op):
    db = connect()
    db.execute("BEGIN IMMEDIATE")
    db.execute("CREATE TABLE IF NOT EXISTS ops(n INTEGER PRIMARY KEY, id TEXT, chain TEXT, node TEXT, pad BLOB)")
    db.execute("CREATE TABLE IF NOT EXISTS accounts(id INTEGER PRIMARY KEY, money INTEGER)")
    n, chain = db.execute("SELECT n, chain FROM ops ORDER BY n DESC LIMIT 1").fetchone() or (0, "")
    if n == 0:
        db.executemany("INSERT INTO accounts VALUES(?, ?)", [(id, EACH) for id in range(ACCOUNTS)])
    chance = zlib.crc32(op.encode())
    amount = chance % 50
    db.execute("UPDATE accounts SET money = money - ? WHERE id = ?", (amount, chance // 50 % ACCOUNTS))
    db.execute("UPDATE accounts SET money = money + ? WHERE id = ?", (amount, chance // 5000 % ACCOUNTS))
    db.execute("INSERT INTO ops VALUES(?, ?, ?, ?, randomblob(?))", (n + 1, op, fnv(chain + op), node, chance % 3000))
    db.execute("COMMIT")
    db.close()
    return n + 1

def look():
    db = connect()
    db.execute("BEGIN")
    try:
        n, id = db.execute("SELECT n, id FROM ops ORDER BY n DESC LIMIT 1").fetchone()
        return f"{n} {id} {db.execute('SELECT sum(money) FROM accounts').fetchone()[0]}"
    except sqlite3.OperationalError as error:
        if "no such table" in str(error): return f"0 - {ACCOUNTS * EACH}"
        raise
    finally:
        db.close()

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self, do):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try: status, text = 200, str(do())
        except sqlite3.Error as error: status, text = 500, str(error)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def do_POST(self): self.answer(lambda: move(self.path[1:]))
    def do_GET(self): self.answer(look)

threading.Thread(target=ends_with, args=(os.environ["TEST"],), daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
