# Clients that go to any node, and note what they were told: `w CLIENT BEGAN ENDED NODE OPERATION STATUS N` and `r CLIENT BEGAN ENDED NODE STATUS N OPERATION SUM`.
import http.client, random, signal, sys, threading, time

out, count, *addresses = sys.argv[1:]
over = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: over.set())
notes = open(out, "a", buffering=1)

class Client:
    def __init__(self, name):
        self.name, self.cookie, self.n = name, "", 0
    def ask(self, method, path):
        nth = random.randrange(len(addresses))
        connection = http.client.HTTPConnection(addresses[nth], timeout=6)
        began = time.monotonic_ns()
        try:
            connection.request(method, path, headers={"Cookie": self.cookie, "Content-Length": "0"})
            answer = connection.getresponse()
            body = answer.read().decode()
            self.cookie = (answer.getheader("Set-Cookie") or self.cookie).split(";")[0]
            status = answer.status
        except (OSError, http.client.HTTPException) as error:
            status, body = 0, type(error).__name__
        connection.close()
        if status != 200: body = body.strip().replace(" ", "_") or "-"
        return began, time.monotonic_ns(), nth, status, body
    def run(self):
        while not over.is_set():
            self.n += 1
            op = f"{self.name}-{self.n}"
            began, ended, nth, status, body = self.ask("POST", f"/{op}")
            notes.write(f"w {self.name} {began} {ended} {nth} {op} {status} {body}\n")
            for _ in range(2):
                began, ended, nth, status, body = self.ask("GET", "/")
                if status != 200: body += " - 0"
                notes.write(f"r {self.name} {began} {ended} {nth} {status} {body}\n")
            over.wait(0.02)

clients = [threading.Thread(target=Client(f"c{nth}").run, daemon=True) for nth in range(int(count))]
for client in clients: client.start()
while not over.is_set(): over.wait(1)
for client in clients: client.join(15)
