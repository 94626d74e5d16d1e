//! Goal: no kill loses what was confirmed, and after a proper end nothing at all is missing. Method: banks of all
//! settings, replicated to a folder or over S3; litekeep, the bank or both are killed at random moments and come back
//! after random downtimes, in which the other goes on. After each kill the backup is restored and held against what
//! `litekeep status` had confirmed and the bank acknowledged; at the end database and restore must have equal pages.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use litekeep_testkit::bank::{self, Acks, Bank, Options};
use litekeep_testkit::litestream::Litestream;
use litekeep_testkit::{Process, campaign};

use crate::scene::{LONG, Scene, Store};

/// Kills in one round.
const KILLS: u32 = 4;

#[test]
fn kill_nine_loses_nothing_that_was_confirmed() {
    let litestream = Litestream::install().unwrap();
    campaign::rounds("kills", 3, |seed| Round::new(seed)?.play(&litestream));
}

struct Round {
    scene: Scene,
    random: fastrand::Rng,
    options: Options,
    bank: Option<Bank>,
    litekeep: Option<Process>,
}

impl Round {
    fn new(seed: u64) -> Result<Round> {
        let mut random = fastrand::Rng::with_seed(seed);
        let store = if random.u8(0..3) == 0 { Store::S3 } else { Store::Folder };
        let interval = ["1ms", "10ms", "50ms", "300ms"][random.usize(..4)];
        let wal_limit = ["8MiB", "64MiB"][random.usize(..2)];
        let keys = format!(
            "upload_interval = \"{interval}\"\nwal_limit = \"{wal_limit}\"\n[log]\nlevel = \"debug\""
        );
        let scene = Scene::new(store, &keys);
        let options = Options::random(scene.db(), seed);
        Ok(Round { scene, random, options, bank: None, litekeep: None })
    }

    fn play(mut self, litestream: &Litestream) -> Result<()> {
        let played = self.kills().and_then(|()| self.end(litestream));
        if played.is_err() {
            self.scene.keep();
        }
        played.with_context(|| {
            format!("all is kept as it was; {:?}\nthe log:\n{}", self.options, tail(&self.scene.log()))
        })
    }

    fn pause(&mut self, at_most_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.random.u64(..at_most_ms)));
    }

    /// Whoever is missing comes back, in any order.
    fn start(&mut self) -> Result<()> {
        let litekeep_first = self.random.bool();
        for turn in [litekeep_first, !litekeep_first] {
            if turn && self.litekeep.is_none() {
                self.litekeep = Some(self.scene.replicate()?);
            } else if !turn && self.bank.is_none() {
                self.bank = Some(Bank::start(&self.options)?);
            }
            self.pause(100);
        }
        Ok(())
    }

    fn kills(&mut self) -> Result<()> {
        for kill in 0..KILLS {
            self.start()?;
            self.pause(1200);
            let (mut kill_litekeep, mut kill_bank) = (true, true);
            match self.random.u8(0..5) {
                0..=2 => kill_bank = false,
                3 => kill_litekeep = false,
                _ => {}
            }
            if let Some(litekeep) = self.litekeep.take_if(|_| kill_litekeep) {
                ensure_running(litekeep)?.kill()?;
            }
            if let Some(bank) = self.bank.take_if(|_| kill_bank) {
                bank.kill()?;
            }
            let confirmed = self.scene.confirmed()?;
            let proven = self.scene.prove(confirmed.as_ref(), &self.acks()?);
            proven.with_context(|| {
                format!("kill {kill}: litekeep {kill_litekeep}, bank {kill_bank}; {confirmed:?}")
            })?;
            self.pause(800);
        }
        Ok(())
    }

    fn acks(&self) -> Result<Acks> {
        let mut path = self.options.db.clone().into_os_string();
        path.push(".acks");
        Acks::read(path.as_ref())
    }

    /// Ends in order, or leaves the last step to `replicate -once`.
    fn end(&mut self, litestream: &Litestream) -> Result<()> {
        self.start()?;
        self.pause(300);
        let before = self.random.bool();
        if let Some(litekeep) = self.litekeep.take_if(|_| before) {
            self.scene.stop(ensure_running(litekeep)?)?;
        }
        let killed = self.random.bool();
        if let Some(bank) = self.bank.take() {
            if killed {
                bank.kill()?
            } else {
                bank.stop()?
            };
        }
        match self.litekeep.take() {
            Some(litekeep) => self.scene.stop(ensure_running(litekeep)?)?,
            None => self.scene.replicate_once()?,
        }
        self.scene.prove_single_commits(&mut self.random, 3)?;
        let acknowledged = self.acks()?.highest();
        let report = bank::check(&self.scene.restore(&[])?)?;
        ensure!(report.ops >= acknowledged, "{} of {acknowledged} acknowledged operations", report.ops);
        if killed {
            // A kill between the write of a commit and its entry in the wal-index leaves it undone while anybody has the
            // database open; whoever is the first to open it again finds it in the WAL.
            bank::check(&self.options.db)?;
            self.scene.replicate_once()?;
        }
        self.scene.prove_equal(Some(litestream)).map(drop)
    }
}

fn ensure_running(mut litekeep: Process) -> Result<Process> {
    let running = litekeep.is_running()?;
    ensure!(running, "litekeep ended on its own:\n{}", litekeep.output());
    Ok(litekeep)
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A round that could wait for nothing proves nothing: a bank must have worked while it was replicated.
#[test]
fn a_round_has_something_to_lose() {
    let mut round = Round::new(1).unwrap();
    round.start().unwrap();
    round.bank.as_mut().unwrap().wait_for(50, LONG).unwrap();
    let acks = round.acks().unwrap();
    litekeep_testkit::process::eventually("something is confirmed", LONG, || {
        Ok(round.scene.confirmed()?.is_some_and(|c| acks.highest_at(c.complete_ns) >= 50))
    })
    .unwrap();
    round.litekeep.take().unwrap().kill().unwrap();
    let confirmed = round.scene.confirmed().unwrap();
    let report = round.scene.prove(confirmed.as_ref(), &acks).unwrap().unwrap();
    assert!(report.ops >= 50, "{report:?}");
}
