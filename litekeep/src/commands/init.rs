//! `litekeep init`: looks at a database and writes a commented `litekeep.toml` for it.
//!
//! It never overwrites a file and never touches the database.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_config::{Destination, StoreUrl, template};
use litekeep_env::disk::{FileSystem, file_system};
use litekeep_format::{AutoVacuum, DatabaseHeader, TextEncoding};
use serde::Serialize;

use crate::args;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::{database, default_destination, env};

#[derive(Serialize)]
struct Initialised {
    config: PathBuf,
    backup: StoreUrl,
    database: Inspection,
    notes: Vec<String>,
}

/// What the file says about itself.
#[derive(Debug, Serialize)]
struct Inspection {
    path: PathBuf,
    size_bytes: u64,
    /// `None` for an empty file, which is a database that has no page yet.
    header: Option<Header>,
    file_system: String,
    file_system_fit: bool,
}

#[derive(Debug, Serialize)]
struct Header {
    journal_mode: &'static str,
    page_size: u32,
    pages: u64,
    auto_vacuum: &'static str,
    encoding: &'static str,
}

impl Header {
    fn of(header: &DatabaseHeader, size_bytes: u64) -> Header {
        let page_size = header.page_size.get();
        Header {
            journal_mode: if header.is_wal() { "wal" } else { "rollback" },
            page_size,
            pages: header.valid_page_count().map_or(size_bytes / u64::from(page_size), u64::from),
            auto_vacuum: match header.auto_vacuum {
                AutoVacuum::None => "none",
                AutoVacuum::Full => "full",
                AutoVacuum::Incremental => "incremental",
            },
            encoding: match header.text_encoding {
                TextEncoding::Utf8 => "UTF-8",
                TextEncoding::Utf16Le => "UTF-16le",
                TextEncoding::Utf16Be => "UTF-16be",
            },
        }
    }
}

pub(super) fn run(args: &args::Init, format: Format) -> Result<Outcome> {
    let done = init(args).with_context(|| format!("set up a backup of `{}`", args.database.display()))?;
    report::result(format, &done, || done.text());
    Ok(Outcome::Done)
}

fn init(args: &args::Init) -> Result<Initialised> {
    let (inspection, mut notes) = inspect(&args.database)?;
    let (database, destination) = places(args)?;
    if let StoreUrl::File { path } = &destination.url {
        notes.push(format!(
            "The backup `{}` is a folder: it survives a deleted or damaged database, but not the loss of its disk.",
            path.display()
        ));
    }
    let text = template(&database, &destination.url, &notes);
    write_new(&args.config, &text, "add the database to it, or write another file with --config")?;
    Ok(Initialised { config: args.config.clone(), backup: destination.url, database: inspection, notes })
}

/// Database and destination as they stand in the file, where relative paths begin at the file's folder.
fn places(args: &args::Init) -> Result<(PathBuf, Destination)> {
    let here = args.config.parent().is_none_or(|parent| parent.as_os_str().is_empty());
    let placed = |path: &Path| if here { Ok(path.to_owned()) } else { std::path::absolute(path) };
    let database = placed(&args.database)?;
    let destination = match &args.to {
        Some(url) => {
            let mut destination = Destination::parse(url, &env)?;
            if let StoreUrl::File { path } = &mut destination.url {
                *path = placed(path)?;
            }
            destination
        }
        None => default_destination(&database),
    };
    Ok((database, destination))
}

/// Writes a file that does not exist yet; `otherwise` is what to do if it does.
pub(super) fn write_new(path: &Path, text: &str, otherwise: &str) -> Result<(), Failure> {
    let file = File::options().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::invalid(format!("`{}` exists already and is left as it is", path.display()))
                .hint(otherwise)
        }
        _ => Failure::io(format!("write `{}`", path.display()), &error),
    })
}

/// Reads the header and the file system; what deserves a word becomes a note.
fn inspect(path: &Path) -> Result<(Inspection, Vec<String>)> {
    database::refuse_link(path)?;
    let (header, size_bytes) = database::look(path, File::options().read(true))?;
    let mut notes = Vec::new();
    match &header {
        None => notes.push("The database is empty: backup begins with its first table.".to_owned()),
        Some(header) if !header.is_wal() => notes.push(
            "The database is in rollback-journal mode: litekeep switches it to WAL mode when it starts, which stays in the file."
                .to_owned(),
        ),
        Some(_) => {}
    }
    let found = file_system(path)
        .map_err(|error| Failure::io(format!("look for the file system of `{}`", path.display()), &error))?;
    let (file_system, fit) = describe(&found, &mut notes);
    let inspection = Inspection {
        path: path.to_owned(),
        size_bytes,
        header: header.map(|header| Header::of(&header, size_bytes)),
        file_system,
        file_system_fit: fit,
    };
    Ok((inspection, notes))
}

/// Name, and whether WAL mode works there.
fn describe(file_system: &FileSystem, notes: &mut Vec<String>) -> (String, bool) {
    match file_system {
        FileSystem::Local(name) => ((*name).to_owned(), true),
        FileSystem::Unknown(magic) => (format!("unknown ({magic:#x})"), true),
        FileSystem::Overlay => {
            notes.push(
                "The database is on a container's own layer (overlay), which goes away with the container: put it on a volume."
                    .to_owned(),
            );
            ("overlay".to_owned(), true)
        }
        FileSystem::Shared { name, reason } => {
            notes.push(format!("WARNING: the database is on {name}: {reason}. Move it to a local disk."));
            ((*name).to_owned(), false)
        }
    }
}

impl Initialised {
    fn text(&self) -> String {
        let Inspection { path, size_bytes, header, file_system, .. } = &self.database;
        let mut out = format!("{}: {}", path.display(), text::size(*size_bytes));
        if let Some(header) = header {
            out.push_str(&format!(
                ", {} pages of {}, journal mode {}, auto_vacuum {}, {}",
                header.pages, header.page_size, header.journal_mode, header.auto_vacuum, header.encoding
            ));
        }
        out.push_str(&format!(", on {file_system}\n"));
        for note in &self.notes {
            out.push_str(&format!("- {note}\n"));
        }
        let config = self.config.display();
        let named = if self.config == Path::new("litekeep.toml") {
            String::new()
        } else {
            format!(" --config {config}")
        };
        out.push_str(&format!("wrote {config}, which backs up to {}\n", self.backup));
        out.push_str(&format!("next: litekeep replicate{named}\n"));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_config::Source;

    #[test]
    fn shared_file_systems_are_named_with_the_reason() {
        let mut notes = Vec::new();
        let nfs = FileSystem::Shared { name: "NFS (or EFS)", reason: "no shared memory" };
        assert_eq!(describe(&nfs, &mut notes), ("NFS (or EFS)".to_owned(), false));
        assert!(notes[0].contains("NFS (or EFS): no shared memory"), "{notes:?}");
        assert!(describe(&FileSystem::Overlay, &mut notes).1);
        assert!(notes[1].contains("volume"));
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("my.toml");
        let args = args::Init { database: dir.path().join("a.db"), to: None, config };
        let (database, destination) = places(&args).unwrap();
        let text = template(&database, &destination.url, &["note".to_owned()]);
        let input = litekeep_config::Input {
            path: &args.config,
            text: &text,
            env: &|_| None,
            read_file: &|_| Err("no files".to_owned()),
        };
        let config = litekeep_config::Config::from_toml(&input).unwrap();
        assert_eq!(config.databases[0].source, Source::File(dir.path().join("a.db")));
        assert_eq!(
            config.databases[0].destinations[0].url,
            StoreUrl::File { path: dir.path().join("a.db-backup") }
        );
    }
}
