//! Goal: after a power cut the backup has everything that it confirmed, and litekeep goes on from whatever the disk has
//! left. Method: bank and litekeep under the recorder, killed together at a random moment; the machine's files are replayed
//! into what a power cut may leave of them, while the store keeps everything (it is another machine). litekeep's own state
//! is among the files that the cut tears.

use anyhow::{Context, Result, ensure};
use litekeep_replicate::local::StateFile;
use litekeep_testkit::bank::{self, Bank, Options, Synchronous};
use litekeep_testkit::power_cut::{Recording, Survival};
use litekeep_testkit::{Process, campaign};

use crate::scene::{LONG, Scene, Store};

/// Different remains of one recording.
const CUTS: u64 = 3;

#[test]
fn the_backup_outlives_power_cuts() {
    campaign::rounds("power-cuts", 3, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        for synchronous in [Synchronous::Normal, Synchronous::Full] {
            let store = if random.u8(0..4) == 0 { Store::S3 } else { Store::Folder };
            let scene = Scene::new(store, "");
            let options =
                Options { synchronous, ..Options::random(scene.place.path("machine/app.db"), seed) };
            let cut = cut(scene, &options, &mut random, seed);
            cut.with_context(|| format!("{options:?}"))?;
        }
        Ok(())
    });
}

fn cut(mut scene: Scene, options: &Options, random: &mut fastrand::Rng, seed: u64) -> Result<()> {
    let machine = scene.place.path("machine");
    std::fs::create_dir(&machine)?;
    scene.name = "machine/app.db".into();
    scene.configure("litekeep.toml", &scene.name, "");
    let recording = Recording::start(&machine)?;
    let mut command = scene.command(&["replicate"]);
    recording.record(&mut command)?;
    let litekeep = Process::start(command, &scene.place.path("litekeep.log"))?;
    let mut recorded = Ok(());
    let mut bank = Bank::start_under(options, |command| recorded = recording.record(command))?;
    recorded?;
    bank.wait_for(random.u64(20..120), LONG)?;
    let litekeep_first = random.bool();
    let acks = if litekeep_first {
        litekeep.kill()?;
        bank.kill()?
    } else {
        let acks = bank.kill()?;
        litekeep.kill()?;
        acks
    };
    let confirmed = scene.confirmed()?;
    let objects = scene.objects();
    let saved = scene.place.path("saved");
    copy_folder(&objects, &saved)?;
    let random_cuts = (0..CUTS).map(|n| Survival::Random(seed * 100 + n));
    for (n, survival) in random_cuts.chain([Survival::Nothing, Survival::Everything]).enumerate() {
        // Each of these machines wakes up to the store as it was at the cut.
        if objects.exists() {
            std::fs::remove_dir_all(&objects)?;
        }
        copy_folder(&saved, &objects)?;
        scene.name = format!("left{n}/app.db");
        recording.cut(survival, &scene.place.path(&format!("left{n}")))?;
        after(&scene, options, confirmed.as_ref(), &acks).with_context(|| format!("{survival:?}"))?;
    }
    Ok(())
}

fn after(
    scene: &Scene,
    options: &Options,
    confirmed: Option<&crate::scene::Confirmed>,
    acks: &bank::Acks,
) -> Result<()> {
    scene.configure("litekeep.toml", &scene.name, "restore_if_missing = true");
    reboot(scene)?;
    if scene.prove(confirmed, acks)?.is_none() && !scene.db().exists() {
        return Ok(());
    }
    // What was never confirmed may be gone to the last trace, and with it the knowledge whose log it was.
    let anew = confirmed.is_none().then_some("--new-timeline");
    scene.litekeep(&["replicate", "-once"].into_iter().chain(anew).collect::<Vec<_>>())?;
    let own = scene.prove_equal(None)?;
    if options.synchronous == Synchronous::Full {
        ensure!(own.ops >= acks.highest(), "{} of {} acknowledged operations", own.ops, acks.highest());
    }
    // What was confirmed stays restorable although the file may have lost it.
    if let Some(confirmed) = confirmed {
        let report = bank::check(&scene.restore(&["-txid", &confirmed.txid])?)?;
        let promised = acks.highest_at(confirmed.complete_ns);
        ensure!(report.ops >= promised, "{} of {promised} confirmed operations", report.ops);
    }
    // The application goes on, with acknowledgements of its own.
    let options = Options { db: scene.db(), acks: Some(scene.fresh()), ..options.clone() };
    let litekeep = scene.replicate()?;
    let mut bank = Bank::start(&options)?;
    bank.wait_for(own.ops + 20, LONG)?;
    bank.stop()?;
    scene.stop(litekeep)?;
    scene.prove_equal(None).map(drop)
}

/// The test's machine has not really booted: what litekeep keeps says of which boot it is.
fn reboot(scene: &Scene) -> Result<()> {
    let db = scene.db();
    let meta = litekeep_replicate::local::MetaDir::default_path(&db);
    if !meta.is_dir() {
        return Ok(());
    }
    let (mut file, state) = StateFile::open(&meta.join("state"))?;
    if let Some(mut state) = state {
        state.boot = [7; 16];
        file.save(&state)?;
    }
    Ok(())
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    let Ok(entries) = std::fs::read_dir(from) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
            let modified = entry.metadata()?.modified()?;
            std::fs::File::options().write(true).open(&target)?.set_modified(modified)?;
        }
    }
    Ok(())
}
