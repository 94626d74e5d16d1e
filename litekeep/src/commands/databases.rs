//! `litekeep databases`: what the configuration names, and what is there of it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use litekeep_config::StoreUrl;
use litekeep_replicate::local::MetaDir;
use serde::Serialize;

use crate::args;
use crate::report::{self, Format, Outcome, text};
use crate::settings::{Database, Settings, database};

#[derive(Serialize)]
struct List {
    config: PathBuf,
    databases: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    path: PathBuf,
    exists: bool,
    size_bytes: Option<u64>,
    meta_dir: PathBuf,
    replicator_pid: Option<u32>,
    destinations: Vec<Place>,
    /// Whoever waits for it leaves no trace.
    #[serde(skip)]
    is_untouched: bool,
}

#[derive(Serialize)]
struct Place {
    url: StoreUrl,
    upload_interval_seconds: f64,
}

impl Entry {
    fn of(database: Database) -> Entry {
        let size_bytes = std::fs::metadata(&database.path).ok().map(|metadata| metadata.len());
        let places = database.destinations.iter().map(|destination| Place {
            url: destination.url.clone(),
            upload_interval_seconds: database.config.upload_interval_for(destination).as_secs_f64(),
        });
        Entry {
            is_untouched: database.is_untouched(),
            destinations: places.collect(),
            exists: size_bytes.is_some(),
            size_bytes,
            replicator_pid: MetaDir::claimed_by(&database.meta_dir, &database.path),
            path: database.path,
            meta_dir: database.meta_dir,
        }
    }

    fn row(&self) -> Vec<String> {
        let replicated = match self.replicator_pid {
            Some(pid) => format!("by process {pid}"),
            None if self.is_untouched => "once it is there".to_owned(),
            None => "no".to_owned(),
        };
        let urls: Vec<String> = self.destinations.iter().map(|place| place.url.to_string()).collect();
        vec![
            self.path.display().to_string(),
            self.size_bytes.map_or("missing".to_owned(), text::size),
            replicated,
            urls.join(", "),
        ]
    }
}

pub(super) fn run(args: &args::Databases, format: Format) -> Result<Outcome> {
    let list = (|| {
        let settings = Settings::load(&args.config, format)?;
        let databases = database::all(&settings)?.into_iter().map(Entry::of).collect();
        anyhow::Ok(List { config: settings.path, databases })
    })()
    .context("list the databases")?;
    report::result(format, &list, || {
        let rows: Vec<_> = list.databases.iter().map(Entry::row).collect();
        text::table(&["DATABASE", "SIZE", "REPLICATED", "BACKUP"], &[1], &rows)
    });
    Ok(Outcome::Done)
}
