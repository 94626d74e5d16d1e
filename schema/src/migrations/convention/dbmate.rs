//! dbmate's layout, and litekeep's own: `VERSION_NAME.sql`, with the parts `-- migrate:up` and `-- migrate:down` in each
//! file, and the versions that have run in the table `schema_migrations`.

use super::{Applied, Rows, Tool, numbered, sql_files, text_of, texts};
use crate::Error;
use crate::migrations::folder::{Folder, Migration};
use crate::migrations::guard::ALLOW;
use litekeep_sql::MigrationTransaction as Transaction;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Line that begins the statements of a migration ...
pub(super) const UP: &str = "-- migrate:up";
/// ... and of its way back.
const DOWN: &str = "-- migrate:down";

pub(super) struct Dbmate;

pub(super) fn is_mark(line: &str, mark: &str) -> bool {
    let rest = line.trim_end().strip_prefix(mark);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn parse(path: &Path, text: &str) -> Result<Migration, Error> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let (version, name) = numbered(&stem, path)?;
    let (mut up, mut down, mut part) = (None, None, None::<bool>);
    // Blank lines keep the numbers of those that follow. What is allowed above both parts is allowed in each.
    let mut above = String::new();
    for line in text.lines() {
        for (mark, is_up) in [(UP, true), (DOWN, false)] {
            if is_mark(line, mark) {
                part = Some(is_up);
                let target = if is_up { &mut up } else { &mut down };
                *target = Some(above.clone());
            }
        }
        let is_for_both = part.is_none() && line.trim().starts_with(ALLOW);
        above.push_str(if is_for_both { line } else { "" });
        above.push('\n');
        let target = match part {
            Some(true) => &mut up,
            Some(false) => &mut down,
            None => continue,
        };
        if let Some(target) = target {
            target.push_str(line);
            target.push('\n');
        }
    }
    let Some(up) = up else {
        return Err(Error::invalid(
            format!("`{}` has no line `{UP}`", path.display()),
            format!("write `{UP}` above the statements, and `{DOWN}` above those that take them back"),
        ));
    };
    Ok(Migration {
        version: version.to_owned(),
        name: name.to_owned(),
        path: path.to_owned(),
        text: text.to_owned(),
        up,
        down,
    })
}

impl Tool for Dbmate {
    fn name(&self) -> &'static str {
        "dbmate"
    }

    fn table(&self) -> &'static str {
        "schema_migrations"
    }

    fn columns(&self) -> &'static [&'static str] {
        &["version"]
    }

    fn create(&self) -> &'static str {
        "CREATE TABLE \"schema_migrations\" (version varchar(128) primary key)"
    }

    fn read(&self, folder: &Path) -> Result<Vec<Migration>, Error> {
        sql_files(folder)?.iter().map(|(path, _)| parse(path, &text_of(path)?)).collect()
    }

    fn applied(&self, rows: &Rows<'_>) -> Result<Applied, Error> {
        Ok(Applied::Each(texts(rows("SELECT version FROM schema_migrations", &[])?)))
    }

    fn add(&self, tx: &Transaction<'_>, migration: &Migration, _: Duration) -> Result<(), Error> {
        let version = migration.version.as_str().into();
        Ok(tx.execute("INSERT INTO schema_migrations (version) VALUES (?1)", &[version])?)
    }

    fn remove(&self, tx: &Transaction<'_>, version: &str, _: Option<&str>) -> Result<(), Error> {
        Ok(tx.execute("DELETE FROM schema_migrations WHERE version = ?1", &[version.into()])?)
    }

    fn blank(&self, folder: &Folder, now: &str, name: &str) -> Result<Vec<(PathBuf, String)>, Error> {
        Ok(vec![(folder.path.join(format!("{now}_{name}.sql")), format!("{UP}\n\n\n{DOWN}\n\n"))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::Folder;

    fn parse(name: &str, text: &str) -> Result<Migration, Error> {
        super::parse(Path::new(name), text)
    }

    #[test]
    fn parts_keep_their_lines() {
        let m = parse(
            "002_add.sql",
            "-- made by hand\n-- migrate:up\nCREATE TABLE t(x);\n\n-- migrate:down\nDROP TABLE t;\n",
        )
        .unwrap();
        assert_eq!((m.version.as_str(), m.name.as_str()), ("002", "add"));
        assert_eq!(m.up, "\n-- migrate:up\nCREATE TABLE t(x);\n\n");
        assert_eq!(m.down.unwrap().lines().nth(5), Some("DROP TABLE t;"));
        assert_eq!(parse("3_only_up.sql", "-- migrate:up transaction:true\nSELECT 1;").unwrap().down, None);
    }

    #[test]
    fn what_is_allowed_above_the_parts_is_allowed_in_each() {
        let allow = format!("{ALLOW}lost-rows they were sold");
        let m =
            parse("1_a.sql", &format!("{allow}\n-- migrate:up\nUP;\n-- migrate:down\n{ALLOW}orphans b\n"));
        let m = m.unwrap();
        assert_eq!(m.up, format!("{allow}\n-- migrate:up\nUP;\n"));
        assert_eq!(m.down.unwrap(), format!("{allow}\n\n\n-- migrate:down\n{ALLOW}orphans b\n"));
    }

    #[test]
    fn what_is_no_migration_is_named() {
        assert!(parse("add.sql", "-- migrate:up").unwrap_err().to_string().contains("`add.sql`"));
        assert!(parse("1_add.sql", "CREATE TABLE t(x)").unwrap_err().to_string().contains("-- migrate:up"));
    }

    #[test]
    fn versions_are_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["10_b.sql", "9_a.sql", "20260101000000_c.sql"] {
            std::fs::write(dir.path().join(name), "-- migrate:up\n").unwrap();
        }
        let names = |folder: Folder| folder.migrations.into_iter().map(|m| m.name).collect::<Vec<_>>();
        assert_eq!(names(Folder::read(dir.path(), None, None).unwrap()), ["a", "b", "c"]);
        std::fs::write(dir.path().join("009_again.sql"), "-- migrate:up\n").unwrap();
        assert!(Folder::read(dir.path(), None, None).unwrap_err().to_string().contains("the same version"));
    }
}
