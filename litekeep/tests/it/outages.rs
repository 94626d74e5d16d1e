//! Goal: a store that is down, slow or unreliable costs no commit, and a backup has one writer. Method: a real S3 server
//! behind a proxy that injects the faults, the real binary and a bank; two litekeeps that meet at one path.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use litekeep_env::{Clock, SystemClock};
use litekeep_testkit::bank::{self, Bank, Options};
use litekeep_testkit::contents::differing_pages;
use litekeep_testkit::fault_proxy::{Fault, Kind, Rule};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Digest, HangingFolder, Process};
use rusqlite::Connection;

use crate::rows;
use crate::scene::{LONG, Scene, Store};

const FAST: &str = "upload_interval = \"20ms\"";

fn busy(scene: &Scene) -> Options {
    Options { pause_us: 1_000, vacuum: 0.002, ..scene.bank() }
}

fn wait_for_first_copy(scene: &Scene, litekeep: &Process) {
    eventually("the first copy is confirmed", LONG, || Ok(scene.confirmed()?.is_some()))
        .unwrap_or_else(|error| panic!("{error}\n{}", litekeep.output()));
}

/// The bank's next operations.
fn more(bank: &mut Bank, ops: u64) {
    let begin = bank.acks().unwrap().highest();
    bank.wait_for(begin + ops, LONG).unwrap();
}

/// A bank and litekeep run while `trouble` happens; afterwards everything is there.
fn survives(scene: &Scene, trouble: impl FnOnce(&Scene, &mut Bank)) {
    let litekeep = scene.replicate().unwrap();
    let mut bank = Bank::start(&busy(scene)).unwrap();
    more(&mut bank, 30);
    wait_for_first_copy(scene, &litekeep);
    trouble(scene, &mut bank);
    let acknowledged = bank.stop().unwrap().highest();
    scene.stop(litekeep).unwrap();
    assert_eq!(scene.prove_equal(None).unwrap().ops, acknowledged);
}

#[test]
fn an_outage_of_the_bucket() {
    survives(&Scene::new(Store::Proxied, FAST), |scene, bank| {
        scene.proxy().outage(Some(Fault::Status(503)));
        more(bank, 300);
        eventually("litekeep meets the outage", LONG, || Ok(scene.log().contains("trying again"))).unwrap();
        let status = scene.place.run(&["status"]);
        assert_eq!(status.code, 1, "{}", status.stdout);
        scene.proxy().outage(None);
        more(bank, 100);
    });
}

/// What the last connection's end copied into the database file is in no WAL, and a replicator that only runs is no proof.
#[test]
fn an_empty_wal_is_no_proof_before_it_was_compared_with_the_backup() {
    let scene = Scene::new(Store::Proxied, FAST);
    scene.place.database("app.db", 3);
    scene.replicate_once().unwrap();
    scene.place.database("app.db", 5);
    assert!(!scene.place.path("app.db-wal").exists());
    scene.proxy().outage(Some(Fault::Status(503)));
    let litekeep = scene.replicate().unwrap();
    eventually("it runs", LONG, || Ok(scene.status()?["replicator_pid"].is_u64())).unwrap();
    let pending = || scene.status().unwrap()["pending_frames"].clone();
    assert!(pending().is_null(), "{}", pending());
    let app = Connection::open(scene.db()).unwrap();
    app.query_row("SELECT count(*) FROM t", (), |_| Ok(())).unwrap();
    assert!(scene.place.path("app.db-wal").exists() && pending().is_null(), "{}", pending());
    scene.proxy().outage(None);
    eventually("everything is in the backup", LONG, || Ok(pending() == 0)).unwrap();
    assert_eq!(rows(&scene.restore(&[]).unwrap()), 8);
    drop(app);
    scene.stop(litekeep).unwrap();
}

#[test]
fn a_put_that_landed_and_whose_reply_was_lost() {
    survives(&Scene::new(Store::Proxied, FAST), |scene, bank| {
        scene.proxy().inject(Rule::new(Fault::LoseReply).on(Kind::PutObject).probability(0.3));
        more(bank, 300);
        let faults = || scene.proxy().counts().of(Kind::PutObject).faults;
        eventually("replies were lost", LONG, || Ok(faults() > 3)).unwrap();
        scene.proxy().clear();
    });
}

#[test]
fn uploads_that_are_cut() {
    survives(&Scene::new(Store::Proxied, FAST), |scene, bank| {
        scene.proxy().inject(Rule::new(Fault::CutUpload(500)).on(Kind::PutObject).probability(0.3));
        scene.proxy().inject(Rule::new(Fault::Reset).probability(0.2));
        more(bank, 300);
        eventually("uploads were cut", LONG, || Ok(scene.proxy().counts().of(Kind::PutObject).faults > 3))
            .unwrap();
        scene.proxy().clear();
    });
}

#[test]
fn a_slow_store() {
    survives(&Scene::new(Store::Proxied, FAST), |scene, bank| {
        scene.proxy().delay(Duration::from_millis(150), Duration::from_millis(100));
        more(bank, 300);
    });
}

/// More waits than may stay in memory, and litekeep is killed in the middle of the outage.
#[test]
fn a_kill_during_an_outage_that_fills_the_spool() {
    let scene = Scene::new(Store::Proxied, FAST);
    let litekeep = scene.replicate().unwrap();
    let options = Options { blob_bytes: 2_000_000, ..scene.bank() };
    let mut bank = Bank::start(&options).unwrap();
    more(&mut bank, 30);
    wait_for_first_copy(&scene, &litekeep);
    scene.proxy().outage(Some(Fault::Reset));
    let spool = scene.place.path(".app.db-litekeep/spool");
    let spooled = || std::fs::read_dir(&spool).map_or(0, |entries| entries.count());
    eventually("segments are spooled", LONG, || Ok(spooled() > 3)).unwrap();
    litekeep.kill().unwrap();
    more(&mut bank, 50);
    let litekeep = scene.replicate().unwrap();
    more(&mut bank, 50);
    scene.proxy().outage(None);
    let acknowledged = bank.stop().unwrap().highest();
    scene.stop(litekeep).unwrap();
    assert_eq!(scene.prove_equal(None).unwrap().ops, acknowledged);
}

/// A kill in an outage costs no point in time: what was captured before it is on disk.
#[test]
fn points_in_time_of_an_outage_survive_a_kill() {
    let scene = Scene::new(Store::Proxied, FAST);
    let litekeep = scene.replicate().unwrap();
    let mut bank = Bank::start(&busy(&scene)).unwrap();
    more(&mut bank, 30);
    wait_for_first_copy(&scene, &litekeep);
    scene.proxy().outage(Some(Fault::Status(503)));
    let spool = scene.place.path(".app.db-litekeep/spool");
    let spooled = || {
        let names = std::fs::read_dir(&spool).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.ends_with(".ltx"))
    };
    eventually("segments are spooled", LONG, || Ok(spooled().count() > 5)).unwrap();
    litekeep.kill().unwrap();
    let before: Vec<String> = spooled().collect();
    more(&mut bank, 30);
    scene.proxy().outage(None);
    let litekeep = scene.replicate().unwrap();
    more(&mut bank, 30);
    let acknowledged = bank.stop().unwrap().highest();
    scene.stop(litekeep).unwrap();
    assert_eq!(scene.prove_equal(None).unwrap().ops, acknowledged);
    let files = scene.history().unwrap();
    for name in before {
        let is_there = |file: &serde_json::Value| name.contains(file["max_txid"].as_str().unwrap());
        assert!(files.iter().any(is_there), "{name} is not in the log: {files:?}");
    }
}

/// Of an application that writes little, too: what waits is not merged into one file.
#[test]
fn the_seconds_of_an_outage_are_points_in_time() {
    let scene = Scene::new(Store::Proxied, FAST);
    let litekeep = scene.replicate().unwrap();
    let quiet = Options { pause_us: 100_000, blob_bytes: 100, bulk: 0.0, ..scene.bank() };
    let mut bank = Bank::start(&quiet).unwrap();
    more(&mut bank, 10);
    wait_for_first_copy(&scene, &litekeep);
    scene.proxy().outage(Some(Fault::Status(503)));
    eventually("litekeep meets the outage", LONG, || Ok(scene.log().contains("trying again"))).unwrap();
    let before = scene.last_txid().unwrap_err();
    assert!(before.to_string().contains("503"), "{before}");
    let now = || jiff::Timestamp::from_millisecond(SystemClock.unix_ms()).unwrap();
    let begin = now();
    std::thread::sleep(Duration::from_secs(8));
    let end = now();
    scene.proxy().outage(None);
    bank.stop().unwrap();
    scene.stop(litekeep).unwrap();
    let times = scene.history().unwrap().into_iter().map(|file| file["time"].as_str().unwrap().to_owned());
    let times: Vec<jiff::Timestamp> = times.map(|time| time.parse().unwrap()).collect();
    let within = times.iter().filter(|time| **time > begin && **time < end).count();
    assert!(within >= 4, "{within} points in time between {begin} and {end}: {times:?}");
    scene.prove_equal(None).unwrap();
}

/// They were asked one after the other, and each that hung had its whole time.
#[test]
fn all_stores_are_asked_at_once_before_the_application_starts() {
    let scene = Scene::new(Store::Proxied, "");
    let names: Vec<String> = (0..4).flat_map(|n| [format!("{n}-first"), format!("{n}-second")]).collect();
    let mut text = String::new();
    for (n, two) in names.chunks(2).enumerate() {
        let backups: Vec<String> = two.iter().map(|name| scene.url_of(name)).collect();
        text.push_str(&format!("[[database]]\npath = \"{n}.db\"\nbackup = {backups:?}\n"));
        scene.place.database(&format!("{n}.db"), 1);
    }
    std::fs::write(scene.place.path("litekeep.toml"), text).unwrap();
    scene.proxy().outage(Some(Fault::Hang));
    let mut litekeep = scene.start(&["run", "--", "touch", "started"]).unwrap();
    let asked_of = |name: &str| scene.proxy().seen().iter().filter(|seen| seen.path.contains(name)).count();
    let all = || Ok(names.iter().all(|name| asked_of(name) > 0));
    eventually("all are asked", LONG, all).unwrap_or_else(|error| panic!("{error}\n{}", scene.log()));
    let most = names.iter().map(|name| asked_of(name)).max();
    assert_eq!(most, Some(1), "none had to end before another was asked: {:?}", scene.proxy().seen());
    scene.proxy().clear();
    let status = litekeep.wait(LONG).unwrap();
    assert!(status.success() && scene.place.path("started").exists(), "{status}\n{}", scene.log());
}

/// Nobody could say that there was a backup, and the application made its schema in the place of all that it had.
#[test]
fn no_application_starts_on_an_empty_or_another_file_while_the_store_does_not_answer() {
    let scene = Scene::new(Store::Proxied, "shutdown_timeout = \"1s\"");
    let run = || crate::Ran::of(scene.command(&["run", "--", "touch", "started"]));
    let has_started = || std::fs::remove_file(scene.place.path("started")).is_ok();
    let put = |bytes: &[u8]| {
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(scene.place.path(&format!("app.db{suffix}")));
        }
        std::fs::write(scene.db(), bytes).unwrap();
    };
    scene.place.database("app.db", 60);
    scene.replicate_once().unwrap();
    scene.proxy().outage(Some(Fault::Status(503)));
    // What was committed since keeps nobody from starting.
    scene.place.database("app.db", 60);
    let ran = run();
    assert!(has_started(), "{}", ran.stderr);
    let own = std::fs::read(scene.db()).unwrap();

    put(b"");
    run().failed_with(&["app.db`, which is empty, has a backup", "503", "--new-timeline"]);
    assert!(!has_started());
    std::fs::remove_file(scene.db()).unwrap();
    run().failed_with(&["503"]);
    assert!(!has_started());

    let other = scene.place.database("other.db", 90);
    put(&std::fs::read(other).unwrap());
    run().failed_with(&["seems to be another database", "--new-timeline"]);
    assert!(!has_started());

    put(&own);
    scene.proxy().outage(None);
    let ran = run().succeeded();
    assert!(has_started(), "{}", ran.stderr);
    scene.prove_equal_pages().unwrap();
}

/// A put that never ends keeps no later commit from being captured.
#[test]
fn a_folder_that_hangs() {
    let scene = Scene::new(Store::Folder, FAST);
    let folder = HangingFolder::new(&scene.objects());
    let mut command = scene.command(&["replicate"]);
    folder.apply(&mut command).unwrap();
    let litekeep = Process::start(command, &scene.place.path("litekeep.log")).unwrap();
    let options = Options { connections: 1, blob_bytes: 2_000_000, pause_us: 50_000, ..scene.bank() };
    let mut bank = Bank::start(&options).unwrap();
    more(&mut bank, 10);
    wait_for_first_copy(&scene, &litekeep);
    folder.hang(true).unwrap();
    let spool = scene.place.path(".app.db-litekeep/spool");
    let spooled = || std::fs::read_dir(&spool).map_or(0, |entries| entries.count());
    eventually("segments are spooled", LONG, || Ok(spooled() > 3)).unwrap();
    folder.hang(false).unwrap();
    let acknowledged = bank.stop().unwrap().highest();
    scene.stop(litekeep).unwrap();
    assert_eq!(scene.prove_equal(None).unwrap().ops, acknowledged);
}

/// Databases whose folder hangs, more than there are threads that look at databases at a time, and one in another folder.
struct Hanging {
    scene: Scene,
    folder: HangingFolder,
    metrics: SocketAddr,
}

const HANGING: usize = 20;

impl Hanging {
    fn new() -> Hanging {
        let scene = Scene::new(Store::Folder, FAST);
        let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let hangs = scene.place.path("hangs");
        let mut text = format!("[metrics]\naddr = \"{metrics}\"\n");
        let databases = (0..HANGING).map(|n| (format!("{n}.db"), format!("file://{}/{n}", hangs.display())));
        for (path, backup) in databases.chain([("app.db".to_owned(), scene.url())]) {
            text.push_str(&format!(
                "[[database]]\npath = {path:?}\nbackup = {backup:?}\n{FAST}\nshutdown_timeout = \"3s\"\n"
            ));
            scene.place.database(&path, 1);
        }
        std::fs::write(scene.place.path("litekeep.toml"), text).unwrap();
        Hanging { folder: HangingFolder::new(&hangs), scene, metrics }
    }

    fn replicate(&self) -> Process {
        let mut command = self.scene.command(&["replicate"]);
        self.folder.apply(&mut command).unwrap();
        Process::start(command, &self.scene.place.path("litekeep.log")).unwrap()
    }

    fn is_shipped(&self) -> Result<bool> {
        Ok(rows(&self.scene.restore(&[])?) == rows(&self.scene.db()))
    }

    /// The one whose folder does not hang goes on, and the end comes in time and says what is not safe.
    fn ends_well(&self, litekeep: Process) {
        for _ in 0..3 {
            self.scene.place.database("app.db", 1);
            eventually("the other database is shipped", LONG, || Ok(self.is_shipped().unwrap_or(false)))
                .unwrap_or_else(|error| panic!("{error}\n{}", self.scene.log()));
        }
        let page = metrics_page(self.metrics);
        assert!(page.contains("app.db"), "{page}");
        self.scene.place.run(&["status", "app.db"]).succeeded();
        let begin = Instant::now();
        let status = litekeep.terminate(LONG).unwrap();
        let took = begin.elapsed();
        let log = self.scene.log();
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(took < Duration::from_secs(8), "{took:?}\n{log}");
        let last = log.rsplit_once("not confirmed within 3s").expect(&log).1;
        for n in 0..HANGING {
            assert!(last.contains(&format!("/{n}.db`: ")), "{n}\n{log}");
        }
        assert!(!last.contains("app.db"), "{log}");
    }
}

fn metrics_page(addr: SocketAddr) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[test]
fn folders_that_hang_hold_no_other_database_up() {
    let hanging = Hanging::new();
    let litekeep = hanging.replicate();
    eventually("all are copied", LONG, || Ok(hanging.is_shipped().unwrap_or(false)))
        .unwrap_or_else(|error| panic!("{error}\n{}", hanging.scene.log()));
    let all_are_copied = || {
        let page = metrics_page(hanging.metrics);
        let copied = page.lines().filter(|line| line.starts_with("litekeep_durable_txid{"));
        Ok(copied.count() > HANGING)
    };
    eventually("all are copied", LONG, all_are_copied)
        .unwrap_or_else(|error| panic!("{error}\n{}", hanging.scene.log()));
    hanging.folder.hang(true).unwrap();
    for n in 0..HANGING {
        hanging.scene.place.database(&format!("{n}.db"), 1);
    }
    std::thread::sleep(Duration::from_secs(1));
    hanging.ends_well(litekeep);
    hanging.folder.hang(false).unwrap();
    hanging.scene.replicate_once().unwrap();
    for n in 0..HANGING {
        let restored = hanging.scene.fresh();
        let (to, db) = (restored.to_str().unwrap(), format!("{n}.db"));
        hanging.scene.litekeep(&["restore", "-o", to, &db]).unwrap();
        assert_eq!(rows(&restored), 2);
    }
}

#[test]
fn folders_that_hang_at_the_start_hold_no_other_database_up() {
    let hanging = Hanging::new();
    hanging.folder.hang(true).unwrap();
    let litekeep = hanging.replicate();
    hanging.ends_well(litekeep);
}

#[test]
fn sigterm_while_the_store_is_down_says_what_is_not_safe() {
    let scene = Scene::new(Store::Proxied, "upload_interval = \"20ms\"\nshutdown_timeout = \"1s\"");
    let litekeep = scene.replicate().unwrap();
    let mut bank = Bank::start(&busy(&scene)).unwrap();
    more(&mut bank, 30);
    wait_for_first_copy(&scene, &litekeep);
    scene.proxy().outage(Some(Fault::Status(503)));
    more(&mut bank, 50);
    let acknowledged = bank.stop().unwrap().highest();
    let status = litekeep.terminate(LONG).unwrap();
    assert_eq!(status.code(), Some(2), "{}", scene.log());
    let log = scene.log();
    for part in [
        "not confirmed within 1s",
        "app.db`: safe up to transaction",
        "503",
        "hint: nothing is lost while the database file is: start litekeep again",
    ] {
        assert!(log.contains(part), "`{part}` is not in:\n{log}");
    }
    scene.proxy().outage(None);
    scene.replicate_once().unwrap();
    assert_eq!(scene.prove_equal(None).unwrap().ops, acknowledged);
}

/// It said that nothing was in the backup.
#[test]
fn at_the_end_nothing_is_said_of_a_backup_that_was_not_listed() {
    let scene = Scene::new(Store::Proxied, "shutdown_timeout = \"1s\"");
    scene.place.database("app.db", 3);
    // A replicator with these variables, whose log says something, is ended: what it says last.
    let ends = |keys: &[(&str, &str)], is_told: &str| {
        let mut command = scene.command(&["replicate"]);
        command.envs(keys.iter().copied());
        let log = scene.fresh();
        let replicator = Process::start(command, &log).unwrap();
        eventually("it has failed", LONG, || Ok(replicator.output().contains(is_told)))
            .unwrap_or_else(|error| panic!("{error}\n{}", replicator.output()));
        assert_eq!(replicator.terminate(LONG).unwrap().code(), Some(2));
        let log = std::fs::read_to_string(log).unwrap();
        log.split_at(log.rfind("not confirmed").expect(&log)).1.to_owned()
    };
    let wrong = [("AWS_SECRET_ACCESS_KEY", "wrong")];
    let unknown = "it is not known what of it is in the backup";
    scene.proxy().outage(Some(Fault::Status(503)));
    let end = ends(&[], "failing: ");
    assert!(end.contains("not confirmed within 1s:") && end.contains(unknown), "{end}");
    scene.proxy().outage(None);
    scene.replicate_once().unwrap();
    let safe = format!("safe up to transaction {}", scene.last_txid().unwrap());
    scene.place.database("app.db", 3);
    let end = ends(&wrong, "failing: ");
    assert!(end.contains("not confirmed within 1s:") && end.contains(&safe), "{end}");
    scene.proxy().outage(Some(Fault::Status(503)));
    let end = ends(&[], "failing: ");
    assert!(end.contains("not confirmed within 1s:") && end.contains(&safe), "{end}");
    scene.proxy().outage(None);
    // What is in another place is not safe in this one.
    let toml = format!(
        "[[database]]\npath = \"app.db\"\nbackup = {:?}\nshutdown_timeout = \"1s\"\n",
        scene.url_of("other")
    );
    std::fs::write(scene.place.path("litekeep.toml"), toml).unwrap();
    let end = ends(&wrong, "failing: ");
    assert!(end.contains(unknown) && !end.contains(&safe), "{end}");
}

#[test]
fn two_destinations_of_which_one_is_down_for_a_while() {
    let scene = Scene::new(Store::Proxied, "");
    let folder = format!("file://{}", scene.place.path("folder").display());
    let text = format!("[[database]]\npath = \"app.db\"\nbackup = [{:?}, {folder:?}]\n{FAST}\n", scene.url());
    std::fs::write(scene.place.path("litekeep.toml"), text).unwrap();
    let from_folder = || {
        let path = scene.fresh();
        scene.litekeep(&["restore", "-o", path.to_str().unwrap(), &folder])?;
        bank::check(&path)
    };
    survives(&scene, |scene, bank| {
        more(bank, 50);
        // What it lacks when the outage begins is in the bucket only, and waits for its return.
        let highest = bank.acks().unwrap().highest();
        let follows = || Ok(from_folder().is_ok_and(|state| state.ops >= highest));
        eventually("the other destination has its first copy", LONG, follows).unwrap();
        scene.proxy().outage(Some(Fault::Status(503)));
        more(bank, 100);
        let highest = bank.acks().unwrap().highest();
        eventually("the other destination goes on", LONG, || Ok(from_folder()?.ops >= highest)).unwrap();
        scene.proxy().outage(None);
    });
    assert_eq!(from_folder().unwrap(), bank::check(&scene.db()).unwrap());
}

/// Of two destinations one has nothing yet. The other can be listed at the start, and not read.
#[test]
fn the_only_complete_destination_fails_after_it_was_listed() {
    let scene = Scene::new(Store::Proxied, FAST);
    let mut bank = Bank::start(&busy(&scene)).unwrap();
    let litekeep = scene.replicate().unwrap();
    more(&mut bank, 30);
    wait_for_first_copy(&scene, &litekeep);
    scene.stop(litekeep).unwrap();
    // As after a power cut: the log has more than local state knows, and must be read.
    let local = ["state", "pages"].map(|name| scene.place.path(".app.db-litekeep").join(name));
    let before = local.each_ref().map(|path| std::fs::read(path).unwrap());
    more(&mut bank, 30);
    scene.replicate_once().unwrap();
    std::iter::zip(&local, &before).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    let folder = format!("file://{}", scene.place.path("folder").display());
    let text = format!("[[database]]\npath = \"app.db\"\nbackup = [{:?}, {folder:?}]\n{FAST}\n", scene.url());
    std::fs::write(scene.place.path("litekeep.toml"), text).unwrap();
    scene.proxy().inject(Rule::new(Fault::Status(503)).on(Kind::GetObject));
    let litekeep = scene.replicate().unwrap();
    let is_named = || {
        let status = scene.place.run(&["status"]);
        Ok(status.code == 1 && status.stdout.contains("failing at") && status.stdout.contains("503"))
    };
    eventually("the status names it", LONG, is_named)
        .unwrap_or_else(|error| panic!("{error}\n{}", scene.log()));
    more(&mut bank, 100);
    assert!(!scene.place.path("folder/ltx").exists(), "nothing begins a log of its own there");
    scene.proxy().clear();
    more(&mut bank, 30);
    let acknowledged = bank.stop().unwrap().highest();
    scene.stop(litekeep).unwrap();
    assert_eq!(scene.prove_equal(None).unwrap().ops, acknowledged);
    let copy = scene.fresh();
    scene.litekeep(&["restore", "-o", copy.to_str().unwrap(), &folder]).unwrap();
    assert_eq!(bank::check(&copy).unwrap().ops, acknowledged);
}

#[test]
fn an_idle_database_costs_the_store_no_request() {
    let scene = Scene::new(Store::Proxied, FAST);
    let litekeep = scene.replicate().unwrap();
    let mut bank = Bank::start(&busy(&scene)).unwrap();
    more(&mut bank, 50);
    wait_for_first_copy(&scene, &litekeep);
    // It stays open, as an application does.
    bank.process().signal(libc::SIGSTOP).unwrap();
    let expected = Digest::of(&scene.db()).unwrap();
    eventually("everything is confirmed", LONG, || Ok(Digest::of(&scene.restore(&[])?)? == expected))
        .unwrap();
    scene.proxy().reset_counts();
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(scene.proxy().counts().total().requests, 0, "{:?}", scene.proxy().seen());
    bank.process().signal(libc::SIGCONT).unwrap();
    bank.stop().unwrap();
    scene.stop(litekeep).unwrap();
    scene.prove_equal(None).unwrap();
}

/// Another machine with a copy of the database: a restore of the backup, and a configuration for it.
fn another_machine(scene: &Scene) -> Options {
    std::fs::rename(scene.restore(&[]).unwrap(), scene.place.path("other.db")).unwrap();
    scene.configure("other.toml", "other.db", FAST);
    Options::new(scene.place.path("other.db"))
}

const OTHER: [&str; 3] = ["replicate", "-config", "other.toml"];

#[test]
fn a_newcomer_is_refused_while_another_writes() {
    for scene in [Store::Folder, Store::Proxied].map(|store| Scene::new(store, FAST)) {
        let litekeep = scene.replicate().unwrap();
        let mut bank = Bank::start(&busy(&scene)).unwrap();
        more(&mut bank, 30);
        wait_for_first_copy(&scene, &litekeep);
        another_machine(&scene);
        let mut command = scene.command(&OTHER);
        let output = command.arg("-once").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("another replicator is writing to"), "{stderr}");
        bank.stop().unwrap();
        scene.stop(litekeep).unwrap();
        scene.prove_equal(None).unwrap();
    }
}

/// A small database changes on most of its pages while the log is watched for another writer.
#[test]
fn a_newcomer_whose_database_is_hot_takes_over() {
    let scene = Scene::new(Store::Folder, FAST);
    let mut bank = Bank::start(&busy(&scene)).unwrap();
    more(&mut bank, 30);
    bank.stop().unwrap();
    scene.replicate_once().unwrap();
    let other = Options { vacuum: 0.05, blob_bytes: 20_000, ..another_machine(&scene) };
    let before = scene.last_txid().unwrap();
    let litekeep = scene.start(&OTHER).unwrap();
    eventually("the log is watched", LONG, || Ok(scene.log().contains("watching it"))).unwrap();
    let mut bank = Bank::start(&other).unwrap();
    more(&mut bank, 200);
    eventually("the newcomer takes over", LONG, || Ok(scene.last_txid()? > before))
        .unwrap_or_else(|error| panic!("{error}\n{}", scene.log()));
    let acknowledged = bank.stop().unwrap().highest();
    scene.stop(litekeep).unwrap();
    assert_eq!(bank::check(&scene.restore(&[]).unwrap()).unwrap().ops, acknowledged);
}

/// Stops it, but not while it holds the write lock to reset the WAL: there it would keep the bank from writing, as any
/// process does that is stopped within a transaction.
fn pause(scene: &Scene, litekeep: &mut Process) {
    let db = Connection::open(scene.db()).unwrap();
    db.busy_timeout(Duration::from_secs(2)).unwrap();
    eventually("it is stopped outside a transaction", LONG, || {
        litekeep.signal(libc::SIGSTOP)?;
        let can_write = db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok();
        if !can_write {
            litekeep.signal(libc::SIGCONT)?;
        }
        Ok(can_write)
    })
    .unwrap();
}

#[test]
fn a_paused_litekeep_that_wakes_up_is_fenced() {
    for mut scene in [Store::Folder, Store::Proxied].map(|store| Scene::new(store, FAST)) {
        let mut first = scene.replicate().unwrap();
        let mut bank = Bank::start(&busy(&scene)).unwrap();
        more(&mut bank, 30);
        wait_for_first_copy(&scene, &first);
        pause(&scene, &mut first);
        more(&mut bank, 30);
        let other = another_machine(&scene);
        let before = scene.last_txid().unwrap();
        let second = scene.start(&OTHER).unwrap();
        eventually("the newcomer takes over", LONG, || Ok(scene.last_txid()? > before))
            .unwrap_or_else(|error| panic!("{error}\n{}", scene.log()));
        let mut other_bank = Bank::start(&other).unwrap();
        more(&mut other_bank, 50);
        let acknowledged = other_bank.stop().unwrap().highest();
        eventually("the newcomer ships", LONG, || Ok(bank::check(&scene.restore(&[])?)?.ops >= acknowledged))
            .unwrap_or_else(|error| panic!("{error}\n{}", scene.log()));

        first.signal(libc::SIGCONT).unwrap();
        more(&mut bank, 30);
        eventually("the first is fenced", LONG, || Ok(scene.log().contains("fenced")))
            .unwrap_or_else(|error| panic!("{error}\n{}", scene.log()));
        let forks = scene.place.path(".app.db-litekeep/forks");
        eventually("its transactions are kept", LONG, || Ok(forks.is_dir())).unwrap();
        bank.stop().unwrap();
        let begin = Instant::now();
        let status = first.terminate(LONG).unwrap();
        assert_eq!(status.code(), Some(2), "{}", scene.log());
        assert!(begin.elapsed() < Duration::from_secs(20), "nothing can come of waiting for a confirmation");
        let log = scene.log();
        let (_, hint) = log.rsplit_once("hint: ").expect(&log);
        assert!(hint.starts_with("another replicator writes to ") && hint.contains("stop it"), "{log}");
        assert!(!hint.contains("on this machine"), "{log}");
        scene.stop(second).unwrap();

        // It does not take over again by itself, but once it has the log's state.
        let mut again = scene.command(&["replicate", "-once"]);
        let refused = again.output().unwrap();
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{stderr}");
        for part in
            ["another replicator has taken over the log", "litekeep restore --force", "--new-timeline"]
        {
            assert!(stderr.contains(part), "`{part}` is not in:\n{stderr}");
        }
        scene.litekeep(&["restore", "-force", "app.db"]).unwrap();
        scene.replicate_once().unwrap();

        scene.name = "other.db".into();
        assert_eq!(scene.prove_equal(None).unwrap().ops, acknowledged);
        let restored = scene.restore(&[]).unwrap();
        assert_eq!(differing_pages(&restored, &other.db).unwrap(), [0; 0]);
    }
}
