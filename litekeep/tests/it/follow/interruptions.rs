//! Kills, power cuts, and long absence.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use litekeep_replicate::local::{MetaDir, Slots};
use litekeep_testkit::bank::{self, Bank, Options};
use litekeep_testkit::fault_proxy::{Fault, Rule};
use litekeep_testkit::power_cut::{Recording, Survival};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{FaultProxy, Process, campaign};

use super::streamed::{Primary, streaming};
use super::{LONG, Replica};
use crate::scene::{Scene, Store};

/// Kills in one round.
const KILLS: u32 = 6;

#[test]
fn kills_of_a_follower_leave_states_of_the_backup() {
    campaign::rounds("follow", 3, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let store = if random.u8(0..3) == 0 { Store::S3 } else { Store::Folder };
        let interval = ["1ms", "10ms", "50ms"][random.usize(..3)];
        let mut scene = Scene::new(store, &format!("upload_interval = \"{interval}\""));
        let options = Options::random(scene.db(), seed);
        // Of two rounds one streams.
        let primary = (seed % 2 == 1).then(|| Primary::of(&scene, ""));
        let played = kills(&scene, &options, primary.as_ref(), &mut random);
        if played.is_err() {
            scene.keep();
        }
        played.with_context(|| format!("all is kept as it was; {options:?}"))
    });
}

/// Follows through a proxy that cuts what a primary tells, where there is one; then that is killed now and then, too.
fn kills(
    scene: &Scene,
    options: &Options,
    primary: Option<&Primary>,
    random: &mut fastrand::Rng,
) -> Result<()> {
    let replica = Replica::of(scene);
    let way = primary.map(|primary| FaultProxy::start(primary.address(), random.u64(..))).transpose()?;
    if let Some(way) = &way {
        way.inject(Rule::new(Fault::Reset).probability(0.2));
        way.inject(Rule::new(Fault::Status(503)).probability(0.1));
        way.inject(Rule::new(Fault::CutReply(random.u64(1_000..200_000))).probability(0.7));
    }
    let start = || match &way {
        Some(way) => {
            let command = streaming(replica.command(&[]), &format!("{}/app.db", way.endpoint()));
            Process::start(command, &scene.place.path("follow.log"))
        }
        None => replica.start(),
    };
    let mut litekeep = scene.replicate()?;
    let mut bank = Bank::start(options)?;
    bank.wait_for(5, LONG)?;
    eventually("there is a backup", LONG, || Ok(scene.confirmed()?.is_some()))?;
    let mut reader: Option<Process> = None;
    let mut last = 0;
    for kill in 0..KILLS {
        let mut follower = start()?;
        std::thread::sleep(Duration::from_millis(random.u64(..1000)));
        if primary.is_some() && random.u8(..3) == 0 {
            litekeep.kill()?;
            litekeep = scene.replicate()?;
            std::thread::sleep(Duration::from_millis(random.u64(..1000)));
        }
        ensure!(follower.is_running()?, "the follower ended:\n{}", replica.log());
        if replica.path.exists() && reader.is_none() {
            reader = Some(replica.reader("0")?);
        }
        follower.kill()?;
        if replica.path.exists() {
            let report = bank::check(&replica.path).with_context(|| format!("kill {kill}"))?;
            ensure!(report.ops >= last, "kill {kill}: operation {} after {last}", report.ops);
            last = report.ops;
        }
        std::thread::sleep(Duration::from_millis(random.u64(..500)));
    }
    let acknowledged = bank.stop()?.highest();
    scene.stop(litekeep)?;
    // By itself, or by one that ends there.
    if random.bool() {
        let mut follower = start()?;
        replica.level(&mut follower)?;
        replica.prove()?;
        replica.stop(follower)?;
    } else {
        let verified = replica.run(&["--once", "--verify", "--json"]);
        ensure!(verified.code == 0, "{}{}", verified.stdout, verified.stderr);
    }
    let report = bank::check(&replica.path)?;
    ensure!(report.ops == acknowledged, "{} of {acknowledged} operations", report.ops);
    replica.prove()?;
    if let Some(mut reader) = reader {
        ensure!(reader.is_running()?, "a reader ended:\n{}", reader.output());
    }
    Ok(())
}

#[test]
fn power_cuts_leave_what_the_log_mends() {
    campaign::rounds("follow-power-cuts", 2, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let scene = Scene::new(Store::Folder, "upload_interval = \"1ms\"");
        let machine = scene.place.path("machine");
        std::fs::create_dir(&machine)?;
        let litekeep = scene.replicate()?;
        let options = Options { vacuum: 0.01, schema: 0.02, ..scene.bank() };
        let mut bank = Bank::start(&options)?;
        bank.wait_for(20, LONG)?;
        eventually("there is a backup", LONG, || Ok(scene.confirmed()?.is_some()))?;
        let recording = Recording::start(&machine)?;
        let replica = Replica { scene: &scene, path: machine.join("replica.db") };
        let mut command = replica.command(&[]);
        recording.record(&mut command)?;
        let follower = Process::start(command, &scene.place.path("follow.log"))?;
        eventually("the copy is there", LONG, || Ok(replica.path.exists()))?;
        bank.wait_for(200, LONG)?;
        std::thread::sleep(Duration::from_millis(random.u64(..3000)));
        follower.kill()?;
        let acknowledged = bank.stop()?.highest();
        scene.stop(litekeep)?;
        let random_cuts = (0..4).map(|n| Survival::Random(seed * 100 + n));
        for (n, survival) in random_cuts.chain([Survival::Nothing, Survival::Everything]).enumerate() {
            let left = scene.place.path(&format!("left{n}"));
            recording.cut(survival, &left)?;
            let replica = Replica { scene: &scene, path: left.join("replica.db") };
            reboot(&replica)?;
            let ran = replica.run(&["--once", "--verify"]);
            ensure!(ran.code == 0, "{survival:?}: {}{}", ran.stdout, ran.stderr);
            let report = bank::check(&replica.path).with_context(|| format!("{survival:?}"))?;
            ensure!(report.ops == acknowledged, "{survival:?}: {} of {acknowledged}", report.ops);
            replica.prove().with_context(|| format!("{survival:?}"))?;
        }
        Ok(())
    });
}

/// The test's machine has not really booted: what is kept beside the copy says of which boot it is.
fn reboot(replica: &Replica<'_>) -> Result<()> {
    let path = MetaDir::default_path(&replica.path).join("replica");
    if !path.exists() {
        return Ok(());
    }
    let (mut slots, position) = Slots::<96>::open(&path, *b"litekr01", |bytes| Some(*bytes))?;
    if let Some(mut position) = position {
        position[80..96].fill(7);
        slots.save(&position)?;
    }
    Ok(())
}

/// Removes all files of a level that end with one of these transactions.
fn remove(scene: &Scene, level: u8, txids: impl Fn(u64) -> bool) {
    for entry in std::fs::read_dir(scene.objects().join(format!("ltx/{level}"))).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let last = name.split(['-', '.']).nth(1).and_then(|last| u64::from_str_radix(last, 16).ok());
        if last.is_some_and(&txids) {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// So many transactions of the log.
fn more(scene: &Scene, transactions: u32) {
    for _ in 0..transactions {
        scene.place.database("app.db", 20);
        scene.replicate_once().unwrap();
    }
}

#[test]
fn a_follower_that_was_away_goes_on_by_a_snapshot_and_its_readers_with_it() {
    let scene = Scene::new(Store::Folder, "snapshot_every = \"1s\"");
    let replica = Replica::of(&scene);
    more(&scene, 3);
    replica.run(&["--once"]).succeeded();
    let reader = replica.connection();
    let count = || reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 60);
    let away = replica.txid().unwrap();
    let away = u64::from_str_radix(&away, 16).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let litekeep = scene.replicate().unwrap();
    let app = rusqlite::Connection::open(scene.db()).unwrap();
    let newest = || -> Result<u64> {
        let names =
            std::fs::read_dir(scene.objects().join("ltx/9"))?.flatten().map(|entry| entry.file_name());
        let last =
            |name: std::ffi::OsString| u64::from_str_radix(name.to_str()?.split(['-', '.']).nth(1)?, 16).ok();
        Ok(names.filter_map(last).max().unwrap_or(0))
    };
    eventually("a snapshot", LONG, || {
        app.execute("INSERT INTO t (x) VALUES (hex(randomblob(200)))", [])?;
        std::thread::sleep(Duration::from_millis(50));
        Ok(newest()? > away + 2)
    })
    .unwrap();
    scene.stop(litekeep).unwrap();
    let rows: i64 = app.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    drop(app);
    let snapshot = newest().unwrap();
    for level in [0, 1, 2].into_iter().filter(|level| scene.objects().join(format!("ltx/{level}")).exists()) {
        remove(&scene, level, |last| last <= snapshot);
    }
    replica.run(&["--once", "--verify"]).succeeded();
    assert_eq!(count(), rows, "the connection that was open goes on");
    replica.prove().unwrap();
}

#[test]
fn a_damaged_file_is_gone_around_where_others_have_the_same() {
    let scene = Scene::new(Store::Folder, "");
    let replica = Replica::of(&scene);
    more(&scene, 2);
    replica.run(&["--once"]).succeeded();
    more(&scene, 1);
    let next = u64::from_str_radix(&replica.txid().unwrap(), 16).unwrap() + 1;
    let file = scene.objects().join(format!("ltx/0/{next:016x}-{next:016x}.ltx"));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    let before = replica.txid().unwrap();
    replica.run(&["--once"]).failed_with(&["no other files for transactions"]);
    assert_eq!(replica.txid().unwrap(), before);
    let (code, status) = replica.status().unwrap();
    assert!(code == 1 && status["replica"]["red"][0].as_str().unwrap().starts_with("refused"), "{status:#}");
    std::fs::write(&file, whole).unwrap();
    replica.run(&["--once", "--verify"]).succeeded();
    replica.prove().unwrap();
}

#[test]
fn an_outage_of_the_bucket_is_told_and_waited_for() {
    let scene = Scene::new(Store::Proxied, "");
    let replica = Replica::of(&scene);
    let proxied = |arguments: &[&str]| scene.litekeep(arguments).unwrap();
    scene.place.database("app.db", 20);
    scene.replicate_once().unwrap();
    let mut follower = replica.start().unwrap();
    replica.level(&mut follower).unwrap();
    scene.proxy().outage(Some(Fault::Status(503)));
    eventually("the outage is told", LONG, || {
        let (code, status) = replica.status()?;
        Ok(code == 1 && status["replica"]["red"].to_string().contains("failing"))
    })
    .unwrap();
    let reads: i64 = replica.connection().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(reads, 20);
    scene.proxy().outage(None);
    scene.place.database("app.db", 20);
    proxied(&["replicate", "-once"]);
    replica.level(&mut follower).unwrap();
    eventually("all is well", LONG, || Ok(replica.status()?.0 == 0)).unwrap();
    replica.prove().unwrap();
    replica.stop(follower).unwrap();
}
