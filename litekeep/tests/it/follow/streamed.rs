//! A copy that takes transactions from the primary.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use litekeep_testkit::bank::{self, Bank};
use litekeep_testkit::fault_proxy::Kind;
use litekeep_testkit::garbling::Garbling;
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Certificates, FaultProxy, Process, s3_server};
use serde_json::Value;

use super::{LONG, Replica, has_seen};
use crate::scene::{Backup, Scene, Store};
use crate::shapes;
use crate::up::free_port;

const TOKEN: &str = "of at least 16 characters";

/// Where a scene's primary tells its logs.
pub(super) struct Primary {
    pub(super) port: u16,
}

impl Primary {
    /// Says so in the configuration; `keys` stand in its `[stream]`.
    pub(super) fn of(scene: &Scene, keys: &str) -> Primary {
        let port = free_port();
        let path = scene.place.path("litekeep.toml");
        let toml = std::fs::read_to_string(&path).unwrap();
        let table = format!("[stream]\naddr = \"127.0.0.1:{port}\"\ntoken = {TOKEN:?}\n{keys}\n");
        std::fs::write(&path, format!("{toml}{table}")).unwrap();
        Primary { port }
    }

    pub(super) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}

/// A follower by this command that streams, with the right token.
pub(super) fn streaming(mut command: Command, from: &str) -> Command {
    command.args(["--stream", from]).env("LITEKEEP_STREAM_TOKEN", TOKEN);
    command
}

impl Replica<'_> {
    fn stream(&self) -> Result<Value> {
        Ok(self.status()?.1["replica"]["stream"].clone())
    }

    fn start_by(&self, command: Command) -> Result<Process> {
        Process::start(command, &self.scene.place.path("follow.log"))
    }

    fn is_live(&self) {
        eventually("it streams", LONG, || Ok(self.stream().is_ok_and(|stream| stream["live"] == true)))
            .with_context(|| self.log())
            .unwrap();
    }

    fn is_not_live(&self, why: &str) -> Result<()> {
        let mut said = Value::Null;
        let done = eventually("it says why it does not stream", LONG, || {
            said = self.stream()?;
            Ok(said["live"] == false && said["error"].as_str().is_some_and(|error| error.contains(why)))
        });
        done.with_context(|| format!("`{why}`: {said}\n{}", self.log()))
    }

    fn rows(&self) -> i64 {
        self.connection().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }
}

/// A look at the bucket is a second apart, and a request for each transaction: neither happens while the primary tells.
#[test]
fn a_copy_that_streams_asks_the_bucket_for_no_transaction() {
    let scene = Scene::new(Store::S3, "upload_interval = \"1ms\"\nwal_limit = \"1MiB\"");
    let primary = Primary::of(&scene, "");
    let replica = Replica::of(&scene);
    let app = rusqlite::Connection::open(scene.place.database("app.db", 10)).unwrap();
    let litekeep = scene.replicate().unwrap();
    eventually("there is a backup", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    let Backup::S3 { server, .. } = &scene.backup else { panic!("a scene with a bucket") };
    let bucket = FaultProxy::start(server.address(), 1).unwrap();
    let url = format!("{}?endpoint={}&region={}", server.url("app"), bucket.endpoint(), s3_server::REGION);
    let mut command = scene.command(&["follow", &url, "-o"]);
    command.arg(&replica.path);
    let from = format!("http://127.0.0.1:{}/app.db", primary.port);
    let mut follower = replica.start_by(streaming(command, &from)).unwrap();
    replica.level(&mut follower).unwrap();
    replica.is_live();
    let reader = replica.connection();
    let mut rows = reader.prepare("SELECT count(*) FROM t").unwrap();
    // The first file of a WAL that the connection has not seen the end of is from the bucket.
    let mut transaction = |n: i64| {
        app.execute("INSERT INTO t (x) VALUES (hex(randomblob(4000)))", []).unwrap();
        let until = Instant::now() + LONG;
        while rows.query_row([], |row| row.get::<_, i64>(0)).unwrap() < 10 + n {
            assert!(Instant::now() < until, "transaction {n} did not come:\n{}", replica.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    transaction(1);
    bucket.reset_counts();
    (2..=300).for_each(&mut transaction);
    let counts = bucket.counts();
    let of = |kind| counts.of(kind).requests;
    let asked = of(Kind::GetObject) + of(Kind::HeadObject);
    assert!(asked < 10 && of(Kind::ListObjects) < 5, "for 299 transactions: {counts:?}\n{}", replica.log());
    let (code, status) = replica.status().unwrap();
    let stream = &status["replica"]["stream"];
    assert!(code == 0 && stream["lag_ms"].is_u64() && stream["url"] == from.as_str(), "{status:#}");
    shapes::matches("status-replica", &status);
    let text = scene.litekeep(&["status", replica.path.to_str().unwrap()]).unwrap();
    assert!(text.contains("streams from") && text.contains("ms after its commit"), "{text}");
    replica.prove().unwrap();
    // Without the primary it goes on by the bucket, and with the next one by that.
    scene.stop(litekeep).unwrap();
    replica.is_not_live("").unwrap();
    app.execute("INSERT INTO t (x) VALUES ('by the bucket')", []).unwrap();
    scene.replicate_once().unwrap();
    eventually("it comes by the bucket", LONG, || Ok(replica.rows() == 311)).unwrap();
    let litekeep = scene.replicate().unwrap();
    replica.is_live();
    app.execute("INSERT INTO t (x) VALUES ('by the primary')", []).unwrap();
    eventually("it comes by the primary", LONG, || Ok(replica.rows() == 312)).unwrap();
    scene.stop(litekeep).unwrap();
    replica.stop(follower).unwrap();
    replica.prove().unwrap();
}

/// Whoever is not let in, or does not trust what answers, says so and reads the backup.
#[test]
fn a_copy_that_is_not_let_in_reads_the_backup() {
    let certificates = Certificates::make().unwrap();
    let (cert, key) = certificates.files();
    let scene = Scene::new(Store::Folder, "");
    let keys = format!("tls_cert = {cert:?}\ntls_key = {key:?}");
    let Primary { port } = Primary::of(&scene, &keys);
    let replica = Replica::of(&scene);
    scene.place.database("app.db", 1);
    let litekeep = scene.replicate().unwrap();
    eventually("there is a backup", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    let ca = certificates.ca_file();
    let trusting = |from: &str| {
        let mut command = streaming(replica.command(&[]), from);
        command.arg("--stream-ca").arg(&ca);
        command
    };
    let mut rows = 1;
    let mut moves = |command: Command, why: Option<&str>| -> Result<()> {
        let mut follower = replica.start_by(command)?;
        match why {
            Some(why) => replica.is_not_live(why)?,
            None => replica.is_live(),
        }
        scene.place.database("app.db", 1);
        rows += 1;
        eventually("it goes on", LONG, || {
            ensure!(follower.is_running()?, "it ended:\n{}", replica.log());
            Ok(replica.rows() == rows)
        })?;
        replica.stop(follower)
    };
    let host = format!("https://localhost:{port}");
    moves(trusting(&format!("{host}/app.db")), None).unwrap();
    let mut wrong = trusting(&format!("{host}/app.db"));
    wrong.env("LITEKEEP_STREAM_TOKEN", "something else, not shorter");
    moves(wrong, Some("401")).unwrap();
    moves(trusting(&format!("{host}/other.db")), Some("no database `other.db`")).unwrap();
    moves(streaming(replica.command(&[]), &format!("{host}/app.db")), Some("certificate")).unwrap();
    moves(trusting(&format!("http://localhost:{port}/app.db")), Some("")).unwrap();
    replica.prove().unwrap();
    scene.stop(litekeep).unwrap();
    // What cannot be meant is said before anything is done.
    let refused = |from: &str| crate::Ran::of(streaming(replica.command(&[]), from));
    refused("http://primary.example:7433/app.db")
        .failed_with(&["without TLS whoever listens gets the token"]);
    refused("https://primary.example:7433").failed_with(&["the name of the database is missing"]);
    let tokenless = replica.run(&["--stream", "https://primary.example:7433/app.db"]);
    tokenless.failed_with(&["wants a token", "LITEKEEP_STREAM_TOKEN"]);
}

#[test]
fn what_is_garbled_on_the_way_never_gets_into_the_copy() {
    let scene = Scene::new(Store::Folder, "");
    let primary = Primary::of(&scene, "");
    let replica = Replica::of(&scene);
    let litekeep = scene.replicate().unwrap();
    let mut bank = Bank::start(&scene.bank()).unwrap();
    bank.wait_for(20, LONG).unwrap();
    eventually("there is a backup", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    // Several files come before the bit that is another one, which may be in any part of a file.
    let garbling = Garbling::start(primary.address(), 20_011).unwrap();
    let from = format!("http://{}/app.db", garbling.address());
    let mut follower = replica.start_by(streaming(replica.command(&[]), &from)).unwrap();
    eventually("the copy is there", LONG, || Ok(replica.path.exists())).unwrap();
    let mut reader = replica.reader("0").unwrap();
    eventually("it was found several times", LONG, || {
        ensure!(follower.is_running()?, "the follower ended:\n{}", replica.log());
        Ok(replica.log().matches("the stream is cut").count() >= 2)
    })
    .with_context(|| replica.log())
    .unwrap();
    has_seen(&mut reader, 20).unwrap();
    let acknowledged = bank.stop().unwrap().highest();
    scene.stop(litekeep).unwrap();
    replica.level(&mut follower).unwrap();
    assert_eq!(bank::check(&replica.path).unwrap().ops, acknowledged);
    assert!(reader.is_running().unwrap(), "{}", reader.output());
    replica.prove().unwrap();
    replica.stop(follower).unwrap();
}
