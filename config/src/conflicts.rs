//! Databases of one file that would get in each other's way.
//!
//! Two replicators on one file, or two databases in one place of a store, destroy a backup; both are refused here
//! already, by name. Links and mounts are seen only at run time, by the lock and the fencing of the store.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::diagnostic::Report;
use crate::reader::lexical;
use crate::settings::{DatabaseConfig, Source};
use crate::store_url::StoreUrl;

/// A database with the places that messages about it point at.
pub(crate) struct Placed {
    pub(crate) config: DatabaseConfig,
    /// The `path` or `dir`.
    pub(crate) source_span: Range<usize>,
    /// One for each destination.
    pub(crate) destination_spans: Vec<Range<usize>>,
}

pub(crate) fn check(databases: &[Placed], report: &mut Report<'_>) {
    check_files(databases, report);
    // Folders are few: each is held against all, which would be too much for thousands of files.
    for (index, later) in databases.iter().enumerate() {
        for earlier in &databases[..index] {
            if later.config.source.is_folder() || earlier.config.source.is_folder() {
                check_sources(earlier, later, report);
            }
        }
        check_own_folder(later, report);
    }
    check_destinations(databases, report);
}

fn check_files(databases: &[Placed], report: &mut Report<'_>) {
    let mut seen: HashMap<PathBuf, &Range<usize>> = HashMap::new();
    for database in databases {
        let Source::File(file) = &database.config.source else { continue };
        match seen.entry(lexical(file)) {
            Entry::Vacant(place) => {
                place.insert(&database.source_span);
            }
            Entry::Occupied(first) => {
                let line = report.line_of(first.get());
                let message = format!(
                    "`{}` is already a database, in line {line}: give one its own file",
                    file.display()
                );
                report.error(&database.source_span, message);
            }
        }
    }
}

fn check_sources(earlier: &Placed, later: &Placed, report: &mut Report<'_>) {
    let line = report.line_of(&earlier.source_span);
    match (&earlier.config.source, &later.config.source) {
        (Source::Folder { dir: a, pattern: p, .. }, Source::Folder { dir: b, pattern: q, .. })
            if lexical(a) == lexical(b) && p == q =>
        {
            let message = format!("`{}` is already watched for `{q}`, in line {line}", b.display());
            report.error(&later.source_span, message);
        }
        (Source::Folder { .. }, Source::File(file)) if covers(&earlier.config.source, file) => {
            let message = format!(
                "`{}` is already a database of the folder in line {line}: remove it here or narrow the pattern there",
                file.display()
            );
            report.error(&later.source_span, message);
        }
        (Source::File(file), Source::Folder { pattern, .. }) if covers(&later.config.source, file) => {
            let message = format!(
                "the pattern `{pattern}` in this folder also covers `{}` of line {line}: remove it there or narrow the pattern",
                file.display()
            );
            report.error(&later.source_span, message);
        }
        _ => {}
    }
}

/// Whether a file is one of a source, by names only.
pub(crate) fn covers(source: &Source, file: &Path) -> bool {
    let (dir, pattern, recursive, watch) = match source {
        Source::File(own) => return lexical(own) == lexical(file),
        Source::Folder { dir, pattern, recursive, watch } => (dir, pattern, recursive, watch),
    };
    let (dir, pattern) = (lexical(dir), pattern.clone());
    Source::Folder { dir, pattern, recursive: *recursive, watch: *watch }.covers(&lexical(file))
}

/// The backup of a database must not be the database.
fn check_own_folder(database: &Placed, report: &mut Report<'_>) {
    for (destination, span) in database.config.destinations.iter().zip(&database.destination_spans) {
        if let (Source::File(file), StoreUrl::File { path }) = (&database.config.source, &destination.url)
            && lexical(file) == lexical(path)
        {
            report.error(
                span,
                "the backup's folder cannot be the database file itself: name a folder beside it",
            );
        }
    }
}

fn check_destinations(databases: &[Placed], report: &mut Report<'_>) {
    let mut seen: HashMap<String, &Range<usize>> = HashMap::new();
    for database in databases {
        for (destination, span) in database.config.destinations.iter().zip(&database.destination_spans) {
            let identity = match &destination.url {
                StoreUrl::File { path } => StoreUrl::File { path: lexical(path) }.identity(),
                url => url.identity(),
            };
            if let Some(first) = seen.get(&identity) {
                let line = report.line_of(first);
                let message = format!(
                    "`{}` is already a destination, in line {line}: each database needs a place of its own, for instance a path below it",
                    destination.url
                );
                report.error(span, message);
            }
            seen.entry(identity).or_insert(span);
        }
    }
}
