//! Whose files these are: by their names, by what is in them, and where that leaves a choice, by the history that the
//! database has.

use super::{Convention, Rows, columns, dbmate, drizzle, prisma, refinery, sql_files, text_of};
use crate::Error;
use litekeep_sql::Migrator;
use std::path::Path;
use std::time::Duration;

/// How long to wait for a writer that keeps readers out.
const PATIENCE: Duration = Duration::from_secs(60);

/// Finds it out; `database`: where to look for a history.
pub(in crate::migrations) fn detect(folder: &Path, database: Option<&Path>) -> Result<Convention, Error> {
    let candidates = candidates(folder)?;
    if let [only] = candidates[..] {
        return Ok(only);
    }
    let histories = match database.filter(|database| database.exists()) {
        Some(database) => {
            let database = Migrator::open(database, PATIENCE)?;
            histories(&|sql, parameters| database.rows(sql, parameters))?
        }
        None => vec![],
    };
    let fit: Vec<_> = candidates.iter().copied().filter(|candidate| histories.contains(candidate)).collect();
    match fit[..] {
        [only] => Ok(only),
        // Nothing that could be taken for another's.
        [] if candidates.len() == Convention::ALL.len() => Ok(Convention::Dbmate),
        _ => {
            let names: Vec<_> = candidates.iter().map(|c| c.name()).collect();
            let mut hint =
                format!("say whose they are: `--convention {}`", names.join("` or `--convention "));
            if candidates.contains(&Convention::Dbmate) {
                hint += &format!("; litekeep's own have a line `{}` above their statements", dbmate::UP);
            }
            Err(Error::invalid(
                format!("the files of `{}` could be those of {}", folder.display(), names.join(" or ")),
                hint,
            ))
        }
    }
}

/// All that the files can be.
fn candidates(folder: &Path) -> Result<Vec<Convention>, Error> {
    if drizzle::journal(folder).exists() {
        return Ok(vec![Convention::Drizzle]);
    }
    if prisma::is_folder(folder) {
        return Ok(vec![Convention::Prisma]);
    }
    let files = sql_files(folder)?;
    if files.is_empty() {
        return Ok(Convention::ALL.to_vec());
    }
    if files.iter().any(|(_, stem)| refinery::parse(stem).is_some()) {
        return Ok(vec![Convention::Refinery]);
    }
    if files.iter().any(|(_, stem)| stem.ends_with(".up") || stem.ends_with(".down")) {
        return Ok(vec![Convention::Sqlx, Convention::GolangMigrate]);
    }
    for (path, _) in &files {
        if text_of(path)?.lines().any(|line| dbmate::is_mark(line, dbmate::UP)) {
            return Ok(vec![Convention::Dbmate]);
        }
    }
    Ok(vec![Convention::Dbmate, Convention::Sqlx])
}

/// The histories that a database has.
pub(super) fn histories(rows: &Rows<'_>) -> Result<Vec<Convention>, Error> {
    let mut found = vec![];
    for convention in Convention::ALL {
        let tool = convention.tool();
        if columns(rows, tool.table())? == tool.columns() {
            found.push(convention);
        }
    }
    Ok(found)
}
