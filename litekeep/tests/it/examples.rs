//! Goal: what `examples/` shows works as it stands. Method: each is copied, brought up by the real binary, used, reloaded
//! while it is used, lost and brought back.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use litekeep_testkit::postgres::Postgres;
use litekeep_testkit::process::eventually;
use litekeep_testkit::programs::workspace;
use litekeep_testkit::{Process, installed};
use serde_json::Value;

use crate::scene::LONG;
use crate::up::free_port;
use crate::{Place, Ran};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(path, target).unwrap()),
        }
    }
}

fn ask(port: u16, request: &str) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).filter(|_| answer.contains(" 20"));
    body.and_then(|body| serde_json::from_str(body).ok()).ok_or_else(|| std::io::Error::other(answer))
}

fn order(port: u16) -> std::io::Result<Value> {
    ask(port, "POST /orders HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: 6\r\n\r\napples")
}

fn orders(port: u16) -> i64 {
    let answer = ask(port, "GET /orders HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").unwrap();
    answer["orders"].as_i64().unwrap()
}

/// Ends what a test that fails leaves.
struct Ends<'a>(&'a Place);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.run(&["down"]);
    }
}

fn plays(example: &str, prepare: impl FnOnce(&Place)) {
    let place = Place::new();
    copy(&workspace().join("examples").join(example), place.dir.path());
    prepare(&place);
    let port = free_port();
    let run = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.env("PORT", port.to_string());
        Ran::of(command)
    };
    run(&["up", "--detach"]).succeeded();
    let _end = Ends(&place);
    for _ in 0..10 {
        order(port).unwrap();
    }
    assert_eq!(orders(port), 10);

    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let client = std::thread::spawn(move || {
        let mut made = 0;
        while !is_over.load(SeqCst) {
            order(port).unwrap();
            made += 1;
        }
        made
    });
    let reloaded = run(&["reload", "shop"]);
    std::thread::sleep(Duration::from_millis(100));
    over.store(true, SeqCst);
    let made: i64 = client.join().unwrap();
    reloaded.succeeded();
    assert_eq!(orders(port), 10 + made);
    let logs = run(&["logs", "shop"]).succeeded().stdout;
    assert!(logs.matches("the shop is open").count() == 2 && logs.contains("the shop is closed"), "{logs}");
    run(&["start", "optimize"]).succeeded();

    run(&["down"]).succeeded();
    for suffix in ["", "-wal", "-shm"] {
        _ = std::fs::remove_file(place.path(&format!("app.db{suffix}")));
    }
    run(&["up", "--detach"]).succeeded();
    assert_eq!(orders(port), 10 + made);
    run(&["down"]).succeeded();
}

#[test]
fn python() {
    plays("python", |_| ());
}

/// The same program on SQLite, and on PostgreSQL with the rows that it had.
#[test]
fn either_database() {
    let venv = installed::either_example().unwrap();
    plays("either", |place| symlink(&venv, place.path(".venv")).unwrap());

    let place = Place::new();
    copy(&workspace().join("examples/either"), place.dir.path());
    symlink(&venv, place.path(".venv")).unwrap();
    let postgres = Postgres::start().unwrap();
    let url = postgres.url("postgres");
    let serve = |url: &str| {
        let port = free_port();
        let mut server = std::process::Command::new(place.path(".venv/bin/python"));
        server
            .arg("server.py")
            .current_dir(place.dir.path())
            .env("PORT", port.to_string())
            .env("DATABASE_URL", url);
        let server = Process::start(server, &place.path("server.log")).unwrap();
        let is_open = || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok());
        eventually("the shop is open", LONG, is_open).unwrap();
        (server, port)
    };
    let (server, port) = serve("sqlite:///app.db");
    for _ in 0..3 {
        order(port).unwrap();
    }
    server.terminate(LONG).unwrap();
    place.run(&["copy", "app.db", &url]).succeeded();
    let (server, port) = serve(&url);
    assert_eq!(orders(port), 3);
    assert_eq!(order(port).unwrap()["id"], 4);
    server.terminate(LONG).unwrap();
    place.run(&["copy", &url, "back.db"]).succeeded();
    let back = rusqlite::Connection::open(place.path("back.db")).unwrap();
    let ids: String = back.query_row("SELECT group_concat(id) FROM orders", (), |row| row.get(0)).unwrap();
    assert_eq!(ids, "1,2,3,4");
}

#[test]
fn node_with_better_sqlite3() {
    let installed = installed::better_sqlite3().unwrap();
    plays("node", |place| symlink(installed.join("node_modules"), place.path("node_modules")).unwrap());
}

#[test]
fn rust() {
    let target = installed::rust_example().unwrap();
    plays("rust", |place| symlink(target, place.path("target")).unwrap());
}
