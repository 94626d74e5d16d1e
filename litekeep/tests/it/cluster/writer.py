# Writes one operation after the other, and notes those that were committed.
import os, signal, sqlite3, time

node, acks = os.environ["NODE"], open("acks", "a", buffering=1)
def fnv(text):
    h = 0xcbf29ce484222325
    for byte in text.encode(): h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"

with open("writer.pid", "w") as pid: pid.write(str(os.getpid()))
run, count = f"{node}-{os.getpid()}-{time.time_ns()}", 0
db = sqlite3.connect("app.db", timeout=0.1, isolation_level=None)
over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
while not over:
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE IF NOT EXISTS ops(n INTEGER PRIMARY KEY, id TEXT, chain TEXT, pad BLOB)")
        n, chain = db.execute("SELECT n, chain FROM ops ORDER BY n DESC LIMIT 1").fetchone() or (0, "")
        count += 1
        op = f"{run}-{count}"
        chain = fnv(chain + op)
        db.execute("INSERT INTO ops VALUES(?, ?, ?, randomblob(?))", (n + 1, op, chain, count * 37 % 6000))
        db.execute("COMMIT")
        acks.write(op + "\n")
    except sqlite3.OperationalError:
        if db.in_transaction: db.execute("ROLLBACK")
        time.sleep(0.02)
    time.sleep(0.003)
