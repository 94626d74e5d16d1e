//! `litekeep migrate rewrite`: a migration that rebuilds a table, written so that nothing goes with the old one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_schema::migrations::{self, Folder, Rebuild};
use serde::Serialize;

use crate::args;
use crate::report::{self, Failure, Format, Outcome};

#[derive(Serialize)]
struct Written {
    file: PathBuf,
    /// Where it is written to; `None`: it is `text`.
    output: Option<PathBuf>,
    rebuilt: Vec<Table>,
    text: String,
}

#[derive(Serialize)]
struct Table {
    table: String,
    made_again: Vec<String>,
    columns_lost: Vec<String>,
}

impl From<Rebuild> for Table {
    fn from(rebuild: Rebuild) -> Table {
        let Rebuild { table, kept, columns_lost } = rebuild;
        Table { table, made_again: kept, columns_lost }
    }
}

pub(super) fn run(args: &args::MigrateRewrite, format: Format) -> Result<Outcome> {
    let what = format!("rewrite `{}`", args.file.display());
    let written = write(args).context(what)?;
    for table in &written.rebuilt {
        if !table.columns_lost.is_empty() {
            let columns = table.columns_lost.join("`, `");
            report::warning(&format!("`{}` loses the columns `{columns}`", table.table), format);
        }
        if format == Format::Text && !table.made_again.is_empty() {
            report::line(&format!("`{}` keeps {}", table.table, table.made_again.join(", ")));
        }
    }
    report::result(format, &written, || match &written.output {
        Some(output) => format!("wrote {}\n", output.display()),
        None => written.text.clone(),
    });
    Ok(Outcome::Done)
}

fn write(args: &args::MigrateRewrite) -> Result<Written> {
    let beside = folder_of(&args.file).filter(|_| args.dir.dir.is_none());
    let path = beside.map_or_else(|| super::folder(&args.dir, None), Ok)?;
    let folder = match path.exists() || args.dir.dir.is_some() {
        true => Folder::read(&path, args.dir.convention, args.db.as_deref())?,
        // Who has a database needs none.
        false => Folder::missing(&path, args.dir.convention),
    };
    let rewritten = migrations::rewrite(&folder, &args.file, args.db.as_deref(), args.table.as_deref())?;
    if let Some(output) = &args.output {
        std::fs::write(output, &rewritten.text)
            .map_err(|error| Failure::io(format!("write `{}`", output.display()), &error))?;
    }
    Ok(Written {
        file: args.file.clone(),
        output: args.output.clone(),
        rebuilt: rewritten.rebuilt.into_iter().map(Table::from).collect(),
        text: rewritten.text,
    })
}

/// The folder of migrations that a file stands in, if it is a migration by its name; Prisma's have one each.
fn folder_of(file: &Path) -> Option<PathBuf> {
    let beside = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name()?.to_string_lossy();
    let numbered = name.strip_prefix(['V', 'U']).unwrap_or(&name);
    match beside.parent() {
        Some(above) if name == "migration.sql" => Some(above.to_owned()),
        _ => numbered.starts_with(|c: char| c.is_ascii_digit()).then(|| beside.to_owned()),
    }
}
