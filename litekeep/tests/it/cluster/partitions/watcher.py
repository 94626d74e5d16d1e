# Reads a database for as long as it may, as anybody may who has the file, and notes each state that it sees: `N OPERATION SUM`.
import os, sqlite3, sys, time

path, out = sys.argv[1:]
notes, last, turn, db = open(out, "a", buffering=1), None, 0, None
while True:
    try:
        turn += 1
        if db is None: db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2, isolation_level=None)
        db.execute("BEGIN")
        n, id = db.execute("SELECT n, id FROM ops ORDER BY n DESC LIMIT 1").fetchone()
        sum = db.execute("SELECT sum(money) FROM accounts").fetchone()[0]
        db.execute("COMMIT")
        if (n, id, sum) != last: notes.write(f"{n} {id} {sum}\n")
        last = (n, id, sum)
    except sqlite3.OperationalError as error:
        # One that is not there yet, or is being made.
        if not any(known in str(error) for known in ("no such table", "unable to open", "locked")):
            notes.write(f"- {str(error).replace(' ', '_')} 0\n")
        db, turn = None, 0
    if turn % 40 == 0: db = None
    time.sleep(0.04)
