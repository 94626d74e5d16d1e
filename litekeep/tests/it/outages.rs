//! Goal: a store that is down, slow or unreliable costs no commit, and a backup has one writer. Method: a real S3 server
//! behind a proxy that injects the faults, the real binary and a bank; two litekeeps that meet at one path.

use std::time::{Duration, Instant};

use litekeep_env::{Clock, SystemClock};
use litekeep_testkit::bank::{self, Bank, Options};
use litekeep_testkit::contents::differing_pages;
use litekeep_testkit::fault_proxy::{Fault, Kind, Rule};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Digest, HangingFolder, Process};

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
        scene.proxy().outage(Some(Fault::Status(503)));
        more(bank, 100);
        let highest = bank.acks().unwrap().highest();
        eventually("the other destination goes on", LONG, || Ok(from_folder()?.ops >= highest)).unwrap();
        scene.proxy().outage(None);
    });
    assert_eq!(from_folder().unwrap(), bank::check(&scene.db()).unwrap());
}

#[test]
fn an_idle_database_costs_the_store_no_request() {
    let scene = Scene::new(Store::Proxied, FAST);
    let litekeep = scene.replicate().unwrap();
    let mut bank = Bank::start(&busy(&scene)).unwrap();
    more(&mut bank, 50);
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

#[test]
fn a_paused_litekeep_that_wakes_up_is_fenced() {
    for mut scene in [Store::Folder, Store::Proxied].map(|store| Scene::new(store, FAST)) {
        let mut first = scene.replicate().unwrap();
        let mut bank = Bank::start(&busy(&scene)).unwrap();
        more(&mut bank, 30);
        wait_for_first_copy(&scene, &first);
        first.signal(libc::SIGSTOP).unwrap();
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
