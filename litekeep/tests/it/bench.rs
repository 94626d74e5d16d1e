//! Goal: `bench` measures what it says and leaves nothing behind. Method: a short run; figures are held only against what
//! must be true on any machine.

use crate::{Place, shapes};

#[test]
fn figures_are_measured_and_nothing_stays() {
    let place = Place::new();
    let ran = place.run(&["bench", "--dir", ".", "--seconds", "5", "--json"]).succeeded();
    let figures = ran.json();
    shapes::matches("bench", &figures);
    let number = |pointer: &str| figures.pointer(pointer).and_then(serde_json::Value::as_f64).unwrap();
    for pointer in [
        "/sync_p50_ms",
        "/mixed/default_per_second",
        "/batches/0/ratio",
        "/point_reads/p99_us",
        "/small_transactions_per_second",
        "/beside_readers/reads_per_second",
    ] {
        assert!(number(pointer) > 0.0, "{pointer} in {figures:#}");
    }
    // Each row in a transaction of its own costs more than a thousandth of one.
    assert!((0..3).all(|nth| number(&format!("/batches/{nth}/ratio")) > 1.0), "{figures:#}");
    assert!(number("/point_reads/p99_us") >= number("/point_reads/p50_us"));
    assert_eq!(std::fs::read_dir(place.path(".")).unwrap().count(), 0);
    place.run(&["bench", "--dir", "gone"]).failed_with(&["measure SQLite in `gone`", "it does not exist"]);
}

/// A Postgres of its own, which goes with the test.
#[cfg(feature = "postgres")]
mod server {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::unix::fs::chown;
    use std::os::unix::process::CommandExt;
    use std::path::PathBuf;
    use std::process::{Child, Command};

    use tempfile::TempDir;

    pub(super) struct Server {
        postgres: Child,
        port: u16,
        _dir: TempDir,
    }

    impl Server {
        pub(super) fn start() -> Server {
            let dir = tempfile::tempdir().unwrap();
            // It refuses to run as root.
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
            let line =
                passwd.lines().find(|line| line.starts_with("postgres:")).expect("there is a user postgres");
            let id = |nth| line.split(':').nth(nth).unwrap().parse::<u32>().unwrap();
            let (uid, gid) = (id(2), id(3));
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
            let programs = programs();
            let command = |program: &str| {
                let mut command = Command::new(programs.join(program));
                command.arg("-D").arg(dir.path().join("data")).uid(uid).gid(gid).current_dir(dir.path());
                command
            };
            let log = || File::create(dir.path().join("log")).unwrap();
            let made = command("initdb").args(["-A", "trust", "-U", "postgres"]).stdout(log()).status();
            assert!(made.unwrap().success());
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut postgres = command("postgres");
            postgres.arg("-k").arg(dir.path()).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
            let postgres = postgres.stderr(log()).spawn().unwrap();
            Server { postgres, port, _dir: dir }
        }

        pub(super) fn url(&self) -> String {
            format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
        }
    }

    /// The folder of its programs; Debian keeps them out of PATH.
    fn programs() -> PathBuf {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let folders = versions.map(|version| version.path().join("bin"));
        let in_path = std::env::var_os("PATH").unwrap_or_default();
        let mut all = folders.chain(std::env::split_paths(&in_path));
        all.find(|dir| dir.join("initdb").exists()).expect("Postgres (Debian: apt-get install postgresql)")
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.postgres.kill();
            let _ = self.postgres.wait();
        }
    }
}

#[cfg(feature = "postgres")]
#[test]
fn postgres_answers_the_same_question() {
    use litekeep_testkit::process::eventually;

    let server = server::Server::start();
    let place = Place::new();
    let arguments = ["bench", "--seconds", "5", "--json", "--postgres", &server.url()];
    let mut figures = serde_json::Value::Null;
    // It needs a moment to listen.
    eventually("Postgres answers", crate::scene::LONG, || {
        let ran = place.run(&arguments);
        if ran.code == 0 {
            figures = ran.json();
        }
        Ok(ran.code == 0)
    })
    .unwrap();
    shapes::matches("bench", &figures);
    assert!(figures["postgres"]["ratio"].as_f64().unwrap() > 1.0, "{figures:#}");
    drop(server);
    let ran = place.run(&["bench", "--seconds", "5", "--postgres", "postgres://nobody@127.0.0.1:1/x"]);
    ran.failed_with(&["could not measure Postgres", "connect to Postgres"]);
}

#[cfg(not(feature = "postgres"))]
#[test]
fn a_build_without_a_client_for_postgres_says_so() {
    let ran = Place::new().run(&["bench", "--postgres", "postgres://nobody@127.0.0.1:1/x"]);
    ran.failed_with(&[
        "could not measure Postgres",
        "without a client",
        "hint: build it with `--features postgres`",
    ]);
}
