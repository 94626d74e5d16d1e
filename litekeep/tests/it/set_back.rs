//! Goal: a database that has lost transactions which its backup has (a disk that lied, a volume set back to an older
//! image) does not go on silently without them. Method: the files of an earlier moment, taken while the bank stood still,
//! are put back after everybody is gone; the file's times say whether anybody can have written since the machine started.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use litekeep_testkit::bank::{self, Bank};
use litekeep_testkit::process::eventually;
use rusqlite::Connection;

use crate::scene::{LONG, Scene, Store};
use crate::{Place, rows};

/// The backup has more than the file, which has the older state of this many operations.
struct SetBack {
    scene: Scene,
    older: u64,
    newest: u64,
}

impl SetBack {
    /// With `pause` between the image and what follows it, the WAL is another one by then.
    fn new(pause: Duration) -> SetBack {
        let scene = Scene::new(Store::Folder, "");
        let litekeep = scene.replicate().unwrap();
        let mut bank = Bank::start(&scene.bank()).unwrap();
        bank.wait_for(50, LONG).unwrap();
        eventually("the first copy is there", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
        bank.process().signal(libc::SIGSTOP).unwrap();
        let in_log = || anyhow::Ok(bank::check(&scene.restore(&[])?)?.ops);
        let has_all = |acks: u64| Ok(in_log().is_ok_and(|ops| ops >= acks));
        eventually("everything is confirmed", LONG, || has_all(bank.acks()?.highest()))
            .unwrap_or_else(|error| panic!("{error}\n{}", litekeep.output()));
        std::thread::sleep(pause);
        let read = |suffix: &str| std::fs::read(scene.place.path(&format!("app.db{suffix}"))).unwrap();
        let image = ["", "-wal"].map(|suffix| (suffix, read(suffix)));
        let write = |name: &str| {
            for (suffix, bytes) in &image {
                std::fs::write(scene.place.path(&format!("{name}{suffix}")), bytes).unwrap();
            }
        };
        write("image.db");
        let older = bank::check(&scene.place.path("image.db")).unwrap().ops;
        bank.process().signal(libc::SIGCONT).unwrap();
        bank.wait_for(older + 100, LONG).unwrap();
        bank.stop().unwrap();
        scene.stop(litekeep).unwrap();
        let newest = in_log().unwrap();
        let _ = std::fs::remove_file(scene.place.path("app.db-shm"));
        write("app.db");
        SetBack { scene, older, newest }
    }

    /// Nobody has written since the machine started.
    fn before_this_boot(self) -> SetBack {
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        for name in ["app.db", "app.db-wal"] {
            let file = std::fs::File::options().write(true).open(self.scene.place.path(name)).unwrap();
            file.set_modified(before).unwrap();
        }
        self
    }

    /// `litekeep run` with an application that only says that it ran; exit code and output.
    fn run(&self, flags: &[&str]) -> (Option<i32>, String) {
        let arguments = [&["run"], flags, &["app.db", "--", "echo", "it ran"]].concat();
        let output = self.scene.command(&arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    fn ops(&self) -> u64 {
        bank::check(&self.scene.db()).unwrap().ops
    }

    fn kept_aside(&self) -> Option<PathBuf> {
        let mut names = std::fs::read_dir(self.scene.dir()).unwrap().flatten().map(|entry| entry.path());
        names.find(|path| {
            let name = path.to_string_lossy();
            name.contains("app.db.before-restore-") && !name.ends_with("-wal")
        })
    }
}

fn is_rolled_forward(set_back: &SetBack) {
    let (code, output) = set_back.run(&[]);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("rolled forward") && output.contains("it ran"), "{output}");
    assert_eq!(set_back.ops(), set_back.newest);
    let kept = set_back.kept_aside().expect("the former file");
    assert_eq!(bank::check(&kept).unwrap().ops, set_back.older);
    // The next start finds nothing to do, and the log goes on.
    let (code, output) = set_back.run(&[]);
    assert_eq!(code, Some(0), "{output}");
    assert!(!output.contains("rolled forward"), "{output}");
    set_back.scene.prove_equal(None).unwrap();
}

#[test]
fn a_disk_that_lost_commits_is_rolled_forward_before_the_application_starts() {
    is_rolled_forward(&SetBack::new(Duration::ZERO).before_this_boot());
}

/// The older file has a WAL that has been replaced by the next since.
#[test]
fn an_image_from_before_a_reset_of_the_wal_is_rolled_forward() {
    is_rolled_forward(&SetBack::new(Duration::from_secs(5)).before_this_boot());
}

#[test]
fn a_file_that_somebody_may_have_put_there_is_left_to_a_person() {
    let set_back = SetBack::new(Duration::ZERO);
    let (code, output) = set_back.run(&[]);
    assert_eq!(code, Some(2), "{output}");
    for part in ["lacks transactions that its backup", "litekeep restore --force", "--new-timeline"] {
        assert!(output.contains(part), "`{part}` is not in:\n{output}");
    }
    assert!(!output.contains("it ran"), "{output}");
    assert_eq!(set_back.kept_aside(), None);

    let head = set_back.scene.last_txid().unwrap();
    let (code, output) = set_back.run(&["--new-timeline"]);
    assert_eq!(code, Some(0), "{output}");
    assert_eq!(set_back.ops(), set_back.older);
    set_back.scene.prove_equal(None).unwrap();
    let forgone = set_back.scene.restore(&["-txid", &head]).unwrap();
    assert_eq!(bank::check(&forgone).unwrap().ops, set_back.newest);
}

/// A copy of the file alone, as it was after an earlier round, in the place of the present one.
struct Copied {
    place: Place,
    head: String,
}

impl Copied {
    /// The WAL is gone.
    fn new() -> Copied {
        Copied::beside_wal(false)
    }

    /// With or without what the present file's WAL had.
    fn beside_wal(is_left: bool) -> Copied {
        let place = Place::new();
        place.database("app.db", 200);
        let work = || place.run(&["run", "app.db", "--", "true"]).succeeded();
        let sql = |sql: &str| Connection::open(place.path("app.db")).unwrap().execute_batch(sql).unwrap();
        work();
        for round in 0..5 {
            sql("INSERT INTO t (x) SELECT randomblob(100) FROM t LIMIT 100");
            work();
            if round == 1 {
                std::fs::copy(place.path("app.db"), place.path("yesterday.db")).unwrap();
            }
        }
        let wal = is_left.then(|| {
            let app = Connection::open(place.path("app.db")).unwrap();
            app.execute("UPDATE t SET x = 'last' WHERE n = 1", ()).unwrap();
            place.run(&["replicate", "-once", "app.db"]).succeeded();
            std::fs::read(place.path("app.db-wal")).unwrap()
        });
        let history = place.run(&["history", "--json", "app.db"]).json();
        let head = history["backups"][0]["summary"]["last"]["txid"].as_str().unwrap().to_owned();
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(place.path(&format!("app.db{suffix}")));
        }
        std::fs::copy(place.path("yesterday.db"), place.path("app.db")).unwrap();
        if let Some(wal) = wal {
            assert!(wal.len() > 4096);
            std::fs::write(place.path("app.db-wal"), wal).unwrap();
        }
        Copied { place, head }
    }
}

#[test]
fn an_older_copy_of_the_file_is_told_before_the_application_starts() {
    let Copied { place, head } = Copied::new();
    let ran = place.run(&["run", "app.db", "--", "touch", "started"]);
    ran.failed_with(&[
        "`app.db` is an older copy",
        &head,
        "litekeep restore --force app.db",
        "--new-timeline",
    ]);
    assert!(!place.path("started").exists());
    // Either way leads on.
    place.run(&["restore", "--force", "app.db"]).succeeded();
    place.run(&["run", "app.db", "--", "true"]).succeeded();
    assert_eq!(rows(&place.path("app.db")), 700);
}

/// SQLite lays it over the copy, and shows a mixture of both.
#[test]
fn an_older_copy_beside_a_wal_that_was_left_is_told() {
    let Copied { place, head } = Copied::beside_wal(true);
    let ran = place.run(&["run", "app.db", "--", "touch", "started"]);
    ran.failed_with(&["`app.db` is an older copy", &head, "litekeep restore --force app.db"]);
    assert!(!place.path("started").exists());
    let told = place.run(&["replicate", "-once", "app.db"]).stderr;
    assert!(told.contains("is an older copy") && told.contains(&head), "{told}");
    place.run(&["restore", "-o", "then.db", "-txid", &head, "app.db"]).succeeded();
    assert_eq!(rows(&place.path("then.db")), 700);
}

#[test]
fn an_older_copy_of_the_file_is_told_by_a_replicator_which_goes_on() {
    let Copied { place, head } = Copied::new();
    let told = place.run(&["replicate", "-once", "app.db"]).succeeded().stderr;
    let again = format!("litekeep restore --force -txid {head}");
    assert!(told.contains("is an older copy") && told.contains(&again), "{told}");
    place.run(&["restore", "-o", "now.db", "app.db"]).succeeded();
    assert_eq!(rows(&place.path("now.db")), 400);
    place.run(&["restore", "-o", "then.db", "-txid", &head, "app.db"]).succeeded();
    assert_eq!(rows(&place.path("then.db")), 700);
    // Once.
    let told = place.run(&["run", "app.db", "--", "true"]).succeeded().stderr;
    assert!(!told.contains("older copy"), "{told}");
}

/// Nothing grew, so that page 1 is the same.
#[test]
fn an_older_copy_that_only_updates_tell_apart_is_told() {
    let place = Place::new();
    place.database("app.db", 30);
    let work = || place.run(&["replicate", "-once", "app.db"]).succeeded().stderr;
    let update = |x: i64| {
        let app = Connection::open(place.path("app.db")).unwrap();
        app.execute("UPDATE t SET x = ?1 WHERE n % 7 = 0", [x]).unwrap();
    };
    work();
    update(1);
    work();
    std::fs::copy(place.path("app.db"), place.path("yesterday.db")).unwrap();
    for x in 2..5 {
        update(x);
        let told = work();
        assert!(!told.contains("older copy"), "{told}");
    }
    std::fs::copy(place.path("yesterday.db"), place.path("app.db")).unwrap();
    let told = work();
    assert!(told.contains("is an older copy") && told.contains("litekeep restore --force -txid"), "{told}");
    assert!(!work().contains("older copy"));
}

/// Who restores an earlier state wants to go on from it.
#[test]
fn an_earlier_state_that_was_restored_is_gone_on_with() {
    let Copied { place, .. } = Copied::new();
    place.run(&["restore", "--force", "app.db"]).succeeded();
    let history = place.run(&["history", "--json", "app.db"]).json();
    let files = history["backups"][0]["files"].as_array().unwrap();
    let earlier = files[files.len() / 2]["max_txid"].as_str().unwrap();
    for verb in [&["run", "app.db", "--", "true"][..], &["replicate", "-once", "app.db"]] {
        place.run(&["restore", "--force", "-txid", earlier, "app.db"]).succeeded();
        let told = place.run(verb).succeeded().stderr;
        assert!(!told.contains("older copy"), "{told}");
    }
}
