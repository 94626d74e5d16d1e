//! dbmate's layout, and litekeep's own: `VERSION_NAME.sql`, with the parts `-- migrate:up` and `-- migrate:down` in each
//! file, and the versions that have run in the table `schema_migrations`.

use super::{Applied, Convention, Rows, columns, digits};
use crate::Error;
use crate::migrations::folder::{Migration, failed};
use litekeep_sql::MigrationTransaction as Transaction;
use std::path::{Path, PathBuf};

/// Line that begins the statements of a migration ...
const UP: &str = "-- migrate:up";
/// ... and of its way back.
const DOWN: &str = "-- migrate:down";

const TABLE: &str = "schema_migrations";

pub(in crate::migrations) fn read(folder: &Path) -> Result<Vec<Migration>, Error> {
    let mut migrations = vec![];
    for entry in std::fs::read_dir(folder).map_err(failed("list the migrations in", folder))? {
        let file = entry.map_err(failed("list the migrations in", folder))?.path();
        if file.extension().is_some_and(|e| e == "sql") {
            let text = std::fs::read_to_string(&file).map_err(failed("read", &file))?;
            migrations.push(parse(&file, &text)?);
        }
    }
    Ok(migrations)
}

fn parse(path: &Path, text: &str) -> Result<Migration, Error> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let digits = stem.bytes().take_while(u8::is_ascii_digit).count();
    let (version, rest) = stem.split_at(digits);
    if version.is_empty() {
        return Err(Error::invalid(
            format!("`{}` is no migration: its name does not begin with a version", path.display()),
            "name it like 20260131120000_what_it_does.sql, as `litekeep migrate new` does",
        ));
    }
    let is = |line: &str, mark: &str| {
        line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let (mut up, mut down, mut part) = (None, None, None::<bool>);
    for (at, line) in text.lines().enumerate() {
        for (mark, is_up) in [(UP, true), (DOWN, false)] {
            if is(line.trim_end(), mark) {
                part = Some(is_up);
                let target = if is_up { &mut up } else { &mut down };
                // Blank lines keep the numbers of those that follow.
                *target = Some("\n".repeat(at));
            }
        }
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
        name: rest.trim_start_matches('_').to_owned(),
        path: path.to_owned(),
        text: text.to_owned(),
        up,
        down,
    })
}

/// Makes an empty migration; `now`: digits that are greater than every version before.
///
/// # Errors
/// `Invalid` when the name is not fit for a file, or the file exists.
pub fn new_file(folder: &Path, now: &str, name: &str) -> Result<PathBuf, Error> {
    let fit = |c: char| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = name.chars().map(fit).collect();
    if name.trim_matches('_').is_empty() {
        return Err(Error::invalid(
            "a migration needs a name",
            "say what it does: `litekeep migrate new add_orders`",
        ));
    }
    if Convention::of(folder) != Convention::Dbmate {
        return Err(Error::invalid(
            format!("`{}` is a folder of Drizzle's migrations", folder.display()),
            "`drizzle-kit generate` makes a new one; name another folder with --dir",
        ));
    }
    std::fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
    let path = folder.join(format!("{now}_{name}.sql"));
    let text = format!("{UP}\n\n\n{DOWN}\n\n");
    let made = std::fs::File::create_new(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    made.map_err(failed("make", &path))?;
    Ok(path)
}

/// What has run; `None` where there is no table.
pub(super) fn applied(rows: &Rows<'_>) -> Result<Option<Applied>, Error> {
    let columns = columns(rows, TABLE)?;
    if columns.is_empty() {
        return Ok(None);
    }
    if columns != ["version"] {
        return Err(Error::invalid(
            format!(
                "the table `{TABLE}` has the columns {}: it is the history of another tool",
                columns.join(", ")
            ),
            "litekeep goes on with dbmate's, which has one column, `version`; run these migrations with the tool that made it",
        ));
    }
    Ok(Some(Applied::Each(digits(rows(&format!("SELECT version FROM \"{TABLE}\""), &[])?))))
}

pub(super) fn create(tx: &Transaction<'_>) -> Result<(), Error> {
    Ok(tx.execute(&format!("CREATE TABLE \"{TABLE}\" (version varchar(128) primary key)"), &[])?)
}

pub(super) fn add(tx: &Transaction<'_>, version: &str) -> Result<(), Error> {
    Ok(tx.execute(&format!("INSERT INTO \"{TABLE}\" (version) VALUES (?1)"), &[version.into()])?)
}

pub(super) fn remove(tx: &Transaction<'_>, version: &str) -> Result<(), Error> {
    Ok(tx.execute(&format!("DELETE FROM \"{TABLE}\" WHERE version = ?1"), &[version.into()])?)
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
        assert_eq!(names(Folder::read(dir.path()).unwrap()), ["a", "b", "c"]);
        std::fs::write(dir.path().join("009_again.sql"), "-- migrate:up\n").unwrap();
        assert!(Folder::read(dir.path()).unwrap_err().to_string().contains("the same version"));
    }
}
