//! `litekeep migrate lint`: what a person should know of migrations before they run.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use litekeep_schema::migrations::{self, Folder};
use serde::Serialize;

use super::folder;
use crate::args;
use crate::report::{self, Format, Outcome, text};

#[derive(Serialize)]
struct Linted {
    folder: PathBuf,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    file: PathBuf,
    line: usize,
    code: &'static str,
    message: String,
    fix: String,
}

impl From<migrations::Finding> for Finding {
    fn from(finding: migrations::Finding) -> Finding {
        let migrations::Finding { path, line, code, message, fix } = finding;
        Finding { file: path, line, code, message, fix }
    }
}

pub(super) fn run(args: &args::MigrateLint, format: Format) -> Result<Outcome> {
    let linted = lint(args).context("read the migrations")?;
    report::result(format, &linted, || {
        let mut out = String::new();
        for Finding { file, line, code, message, fix } in &linted.findings {
            out += &format!("{}:{line}: {code}: {message}\n    {fix}\n", file.display());
        }
        match linted.findings.len() {
            0 => "nothing found\n".to_owned(),
            n => {
                out + &format!(
                    "{} found; `-- litekeep:allow CODE REASON` in a file allows what must be so\n",
                    text::count(n, "finding")
                )
            }
        }
    });
    Ok(if linted.findings.is_empty() { Outcome::Done } else { Outcome::No })
}

fn lint(args: &args::MigrateLint) -> Result<Linted> {
    let path = args.folder.clone().map_or_else(|| folder(&args.dir, None), Ok)?;
    let folder = Folder::read(&path, args.dir.convention, args.db.as_deref())?;
    let findings = migrations::lint(&folder, args.db.as_deref(), args.portable)?;
    Ok(Linted { folder: path, findings: findings.into_iter().map(Finding::from).collect() })
}
