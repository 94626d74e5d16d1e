//! How long does `litekeep migrate up --all` take for 2,000 databases, each of which gets a column and an index, with sixteen
//! workers and with one? Nothing replicates them meanwhile. Each guard and each check of `migrate` is in the time, and the start
//! of the program.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;

use crate::outcome::Outcome;
use crate::stage::Stage;

const DATABASES: usize = 2000;
const ROWS: usize = 800;
const MIGRATION: &str = "-- migrate:up\nALTER TABLE items ADD COLUMN price INTEGER;\nCREATE INDEX items_by_name ON items(name);\n";

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let template = stage.path("template.db");
    make(&template)?;
    outcome.note("databases", "", DATABASES as f64);
    outcome.note("size of each", "KiB", template.metadata()?.len() as f64 / 1024.0);
    for (name, workers) in [("16 workers", "16"), ("1 worker", "1")] {
        let dir = stage.path(name);
        copies(&template, &dir)?;
        let begin = Instant::now();
        let mut command = Command::new(&stage.bench.litekeep);
        command.args(["migrate", "up", "--all", "--json", "--workers", workers]).current_dir(&dir);
        let output = command.output().context("start litekeep")?;
        outcome.time(name, begin.elapsed());
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        if said["migrated"] != DATABASES {
            outcome.wrong(format!("{name}: {said}"));
        }
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(outcome)
}

fn make(path: &Path) -> Result<()> {
    let db = Connection::open(path)?;
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO items SELECT i, 'item ' || i, hex(randomblob(100)) FROM n;"
    ))?;
    Ok(())
}

/// Copies that nothing has to write back any more, with their configuration.
fn copies(template: &Path, dir: &Path) -> Result<()> {
    for folder in ["tenants", "migrations"] {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    let toml = "[[database]]\ndir = './tenants'\npattern = '*.db'\nbackup = './backup'\nmigrations = './migrations'\n";
    std::fs::write(dir.join("litekeep.toml"), toml)?;
    std::fs::write(dir.join("migrations/1_price.sql"), MIGRATION)?;
    for n in 0..DATABASES {
        std::fs::copy(template, dir.join(format!("tenants/{n:04}.db")))?;
    }
    ensure!(Command::new("sync").status().context("start sync")?.success(), "sync failed");
    Ok(())
}
