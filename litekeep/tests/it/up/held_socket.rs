//! Goal: behind a socket that litekeep holds, a bad new command never takes a healthy one down. Method: the real binary with a `listen`
//! and nothing but a plain check, as in the README, whose command is broken in several ways.

use std::process::Command;

use super::{Up, free_port, get, process, reaches, up, write_server};
use crate::Place;

fn configure(place: &Place, command: &str, keys: &str) {
    let web = format!("[process.web]\ncommand = {command:?}\n{keys}\n");
    super::configure(place, "", &web);
}

fn keys(port: u16, check: &str) -> String {
    format!(
        "ready_timeout = \"6s\"\nlisten = \"127.0.0.1:{port}\"\nhealth = {{ {check}, timeout = \"2s\", interval = \"1s\", start_period = \"3s\" }}"
    )
}

/// The old one answered for the new one: `reloaded`, and nobody answered any more.
#[test]
fn a_command_that_never_accepts_is_not_taken_for_ready() {
    let port = free_port();
    for check in [format!("url = \"http://127.0.0.1:{port}/\""), format!("address = \"127.0.0.1:{port}\"")] {
        let place = Place::new();
        write_server(&place, 1);
        let keys = keys(port, &check);
        configure(&place, "python3 server.py", &keys);
        let running = up(&place);
        let before = reaches(&place, "web", "healthy");
        std::fs::write(place.path("broken.py"), "import time; time.sleep(0.3); import nothing_of_this_name")
            .unwrap();
        let bad = [("sleep 1000", "not ready within 6s: "), ("python3 broken.py", "it ended: exit code 1")];
        for (command, cause) in bad {
            configure(&place, command, &keys);
            place.run(&["reload"]).failed_with(&["reload `web`", cause, "the one before goes on"]);
            let now = process(&place, "web");
            assert_eq!((&now["state"], &now["pid"]), (&before["state"], &before["pid"]));
            assert!(get(port).unwrap().starts_with("1 "));
        }
        write_server(&place, 2);
        configure(&place, "python3 server.py", &keys.replace("6s", "60s"));
        place.run(&["reload"]).succeeded();
        assert!(get(port).unwrap().starts_with("2 "));
        running.end();
    }
}

/// It was healthy, for the kernel takes connections in its place.
#[test]
fn a_process_that_never_accepts_is_not_healthy() {
    let port = free_port();
    let place = Place::new();
    configure(&place, "sleep 1000", &keys(port, &format!("address = \"127.0.0.1:{port}\"")));
    let running = up(&place);
    let web = reaches(&place, "web", "unhealthy");
    assert!(web["reason"].as_str().unwrap().contains("nobody accepted the connection"), "{web}");
    assert_eq!(place.run(&["status"]).code, 1);
    running.end();
}

/// In a container root may look into processes of other users only by becoming them.
#[test]
fn who_accepts_is_seen_without_the_right_to_trace_other_users() {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    if !is_root || Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("skipped: this needs root and setpriv");
        return;
    }
    let port = free_port();
    let place = Place::new();
    let code = "import socket\ns = socket.socket(fileno=3)\nwhile True:\n  c, _ = s.accept()\n  if c.recv(4096): \
                c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n')\n  c.close()";
    std::fs::write(place.path("code.py"), code).unwrap();
    let other = "user = \"nobody\"\n";
    std::fs::set_permissions(place.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let url = format!("url = \"http://127.0.0.1:{port}/\"");
    configure(&place, "python3 code.py", &format!("{other}{}", keys(port, &url)));
    let plain = place.command(&["up"]);
    let mut bound = Command::new("setpriv");
    bound.args(["--bounding-set", "-sys_ptrace"]).arg(plain.get_program()).args(plain.get_args());
    bound.current_dir(place.path("")).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let running = Up::start(bound, &place);
    reaches(&place, "web", "healthy");
    configure(&place, "sleep 1000", &format!("{other}{}", keys(port, &url)));
    place.run(&["reload"]).failed_with(&["not ready within 6s: ", "the one before goes on"]);
    running.end();
}
