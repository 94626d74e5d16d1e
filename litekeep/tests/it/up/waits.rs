//! An application asks when its commits are safe.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rusqlite::Connection;
use serde_json::Value;

use super::{configure, free_port, get, reaches, up, write_server};
use crate::scene::LONG;
use crate::{Place, shapes};

fn ask(port: u16, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(format!("{request}\r\nHost: app\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// Without a cluster, too: what was committed before the question is in the backup when it is answered.
#[test]
fn what_an_application_waited_for_is_in_the_backup() {
    let place = Place::new();
    let port = free_port();
    write_server(&place, 1);
    let web = format!("[process.web]\ncommand = \"python3 server.py\"\nproxy = \"127.0.0.1:{port}\"\n");
    configure(&place, "upload_interval = \"200ms\"", &web);
    let up = up(&place);
    reaches(&place, "web", "healthy");
    let mut last = Value::Null;
    for n in 1..=5 {
        get(port).unwrap();
        let (status, body) = ask(port, "GET /.litekeep/wait?timeout=20s HTTP/1.1");
        assert_eq!(status, 200, "{body}");
        let json: Value = serde_json::from_str(&body).unwrap();
        shapes::matches("wait-http", &json);
        assert!(json["ok"] == true && json["replicas"] == 0, "{json}");
        let (txid, output) = (json["txid"].as_str().unwrap(), format!("restored-{n}.db"));
        place.run(&["restore", "app.db", "-txid", txid, "-o", &output]).succeeded();
        let restored = Connection::open(place.path(&output)).unwrap();
        let hits: i64 = restored.query_row("SELECT count(*) FROM hits", [], |row| row.get(0)).unwrap();
        assert_eq!(hits, n, "{json}");
        last = json;
    }
    let later = format!("{:016x}", u64::from_str_radix(last["txid"].as_str().unwrap(), 16).unwrap() + 9);
    let (status, body) = ask(port, &format!("GET /.litekeep/wait?txid={later}&timeout=100ms HTTP/1.1"));
    let json: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &json["ok"], &json["confirmed"]),
        (504, &Value::Bool(false), &last["txid"]),
        "{json}"
    );
    assert_eq!(ask(port, "POST /.litekeep/wait HTTP/1.1").0, 405);
    // What came through another proxy is for the application.
    let (_, body) = ask(port, "GET /.litekeep/wait HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1");
    assert!(body.starts_with("1 "), "{body}");
    up.end();
}
