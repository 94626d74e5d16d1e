// A shop: POST /orders, GET /orders, GET /health.

import http from "node:http";
import Database from "better-sqlite3";

const db = new Database("app.db", { timeout: 5000 });
db.pragma("synchronous = NORMAL");
db.pragma("foreign_keys = ON");
db.pragma("cache_size = -64000");

if (process.argv[2] === "optimize") {
  db.pragma("optimize");
  db.close();
  process.exit();
}

const count = db.prepare("SELECT count(*) AS orders FROM orders");
const insert = db.prepare("INSERT INTO orders(what) VALUES (?)");
// `immediate` takes the write lock at the start, where `busy_timeout` can wait for it.
const order = db.transaction((what) => insert.run(what).lastInsertRowid).immediate;

const server = http.createServer(async (request, response) => {
  const answer = (status, value) => {
    const body = JSON.stringify(value);
    const length = Buffer.byteLength(body);
    response.writeHead(status, { "Content-Type": "application/json", "Content-Length": length, Connection: "close" });
    response.end(body);
  };
  try {
    if (request.url === "/health") {
      count.get();
      return answer(200, { instance: process.env.LITEKEEP_INSTANCE });
    }
    if (request.url === "/orders" && request.method === "GET") return answer(200, count.get());
    let what = "";
    for await (const chunk of request) what += chunk;
    if (request.url !== "/orders" || !what) return answer(400, { error: "POST what you want to /orders" });
    answer(201, { id: order(what) });
  } catch (error) {
    answer(500, { error: error.message });
  }
});

// The socket that litekeep holds, or a port.
const socket = process.env.LISTEN_FDS === "1" ? { fd: 3 } : { host: "127.0.0.1", port: process.env.PORT ?? 8080 };
server.listen(socket, () => console.log("the shop is open"));

process.on("SIGTERM", () => {
  // `close` calls back when the last request has been answered.
  server.close(() => {
    db.close();
    console.log("the shop is closed");
  });
  server.closeIdleConnections();
});
