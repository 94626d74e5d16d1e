"""Reads a bank over and over, each time in one transaction: it must be whole, and never as it was before.

usage: reader.py DB SECONDS, of which each transaction lasts so many.
"""

import sqlite3
import sys
import time

path, seconds = sys.argv[1], float(sys.argv[2])
db, last, turn = None, 0, 0


def look():
    op, count = db.execute("SELECT coalesce(max(op), 0), count(*) FROM ledger").fetchone()
    assert op == count, f"{count} operations up to {op}"
    total, accounts, newest = db.execute(
        "SELECT coalesce(sum(balance), 0), count(*), coalesce(max(last_op), 0) FROM accounts"
    ).fetchone()
    assert total == 1000 * accounts, f"operation {op}: {accounts} accounts have {total}"
    assert newest <= op, f"operation {newest} without its entry, {op} is the last"
    return op


while True:
    if turn % 50 == 0:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=60)
    turn += 1
    db.execute("BEGIN")
    if db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'ledger'").fetchone()[0]:
        op = look()
        assert op >= last, f"operation {op} after {last}"
        if seconds:
            time.sleep(seconds)
            assert look() == op, "a state changed under its reader"
        if turn % 20 == 0:
            damage = db.execute("PRAGMA quick_check").fetchall()
            assert damage == [("ok",)], damage
        if op != last:
            print(op, flush=True)
        last = op
    db.execute("COMMIT")
