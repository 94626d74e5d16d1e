//! `litekeep get`: a row of a server's table, from the cache in SQLite or from the server.

use anyhow::{Context as _, Result};
use litekeep_replicate::local::MetaDir;

use crate::args::sync::Get as Args;
use crate::caches::{self, Got, Unanswered};
use crate::report::{self, Format, Outcome, text};
use crate::settings::{Database, Settings, Stores};
use crate::syncs::DatabaseSync;

pub(super) async fn run(args: &Args, format: Format) -> Result<Outcome> {
    let what = || format!("get the row {} of `{}`", args.key, args.table);
    get(args, format).await.with_context(what)
}

async fn get(args: &Args, format: Format) -> Result<Outcome> {
    let settings = Settings::load(&args.config, format)?;
    let database = Database::named(&settings, &args.database)?;
    let syncs = caches::of(&DatabaseSync::all(&settings)?, |sync| sync.database.path == database.path);
    let stores = Stores::default();
    for sync in &syncs {
        // Asked while nothing here has the file open.
        let is_live = MetaDir::claimed_by(&sync.database.meta_dir, &sync.database.path).is_some();
        sync.cache(sync.may_make(&stores).await?, is_live)?;
    }
    let got = caches::get(&syncs, &args.table, &args.key).await;
    if let Ok(got) = &got {
        told(got, format);
    }
    // What was asked behind the answer must come to its end before this does.
    for sync in &syncs {
        if let Some(cache) = sync.begun_cache() {
            caches::settle(&cache).await;
        }
    }
    match got {
        Ok(got) if got.found => Ok(Outcome::Done),
        Ok(_) => Ok(Outcome::No),
        Err(Unanswered::Mistaken(failure)) => Err(failure.into()),
        Err(Unanswered::Failed(error, _)) => Err(error),
    }
}

fn told(got: &Got, format: Format) {
    report::result(format, got, || match &got.row {
        Some(row) => format!("{}\n", serde_json::Value::Object(row.clone())),
        None => String::new(),
    });
    if format == Format::Text {
        let age = || text::age((got.age_seconds * 1000.0) as i64);
        match (&got.trouble, got.is_stale()) {
            (Some(trouble), true) => report::warning(&format!("it is {} old: {trouble}", age()), format),
            (None, true) => {
                report::warning(&format!("it is {} old, and is being asked for anew", age()), format)
            }
            (Some(trouble), false) => report::warning(trouble, format),
            (None, false) => {}
        }
    }
}
