//! `litekeep version`.

use anyhow::Result;
use serde::Serialize;

use crate::report::{self, Format, Outcome};

#[derive(Serialize)]
struct Versions {
    litekeep: &'static str,
    sqlite: &'static str,
}

pub(super) fn run(format: Format) -> Result<Outcome> {
    let versions = Versions { litekeep: env!("CARGO_PKG_VERSION"), sqlite: litekeep_sql::version() };
    report::result(format, &versions, || {
        format!("litekeep {} (SQLite {})\n", versions.litekeep, versions.sqlite)
    });
    Ok(Outcome::Done)
}
