//! Reading and listing a folder.

use std::fs::{DirEntry, File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path as Key;
use object_store::{Attributes, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, ObjectMeta};

use super::publish::{TEMPORARY_SUFFIX, is_temporary};
use super::store_error;

/// Bytes read at once: large enough that the disk streams, small enough that many readers fit into memory.
const CHUNK_BYTES: u64 = 1 << 20;

/// How long an unfinished file may stand untouched before it counts as a crash's leftover.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// Opens a file and reads its first chunk, which for most files of the log is all.
pub(super) fn open(path: &Path, key: &Key, options: &GetOptions) -> object_store::Result<GetResult> {
    let error = |e| store_error(key, e);
    if options.version.is_some() {
        return Err(super::unsupported("get a version"));
    }
    let file = File::open(path).map_err(error)?;
    let metadata = file.metadata().map_err(error)?;
    if metadata.is_dir() {
        return Err(error(io::Error::new(io::ErrorKind::NotFound, "it is a folder")));
    }
    let meta = object_meta(key.clone(), &metadata);
    options.check_preconditions(&meta)?;
    let range = match &options.range {
        Some(range) => resolve(range, meta.size).map_err(|e| object_store::Error::Generic {
            store: "folder",
            source: format!("read `{key}`: {e}").into(),
        })?,
        None => 0..meta.size,
    };
    let payload = if options.head {
        stream::empty().boxed()
    } else {
        chunks(file, key, range.clone()).map_err(error)?
    };
    Ok(GetResult {
        payload: GetResultPayload::Stream(payload),
        meta,
        range,
        attributes: Attributes::default(),
        extensions: Default::default(),
    })
}

fn chunks(
    file: File,
    key: &Key,
    range: Range<u64>,
) -> io::Result<BoxStream<'static, object_store::Result<Bytes>>> {
    let first = read_chunk(&file, &range)?;
    let rest = range.start + first.len() as u64..range.end;
    let head = stream::once(async move { Ok(first) });
    if rest.is_empty() {
        return Ok(head.boxed());
    }
    let (file, key) = (Arc::new(file), key.clone());
    let tail = stream::try_unfold(rest, move |rest| {
        let (file, key) = (file.clone(), key.clone());
        async move {
            if rest.is_empty() {
                return Ok(None);
            }
            let chunk = tokio::task::spawn_blocking(move || {
                read_chunk(&file, &rest).map(|bytes| (bytes, rest)).map_err(|e| store_error(&key, e))
            });
            let (bytes, rest) = chunk.await??;
            let rest = rest.start + bytes.len() as u64..rest.end;
            Ok(Some((bytes, rest)))
        }
    });
    Ok(head.chain(tail).boxed())
}

fn read_chunk(file: &File, range: &Range<u64>) -> io::Result<Bytes> {
    let len = (range.end - range.start).min(CHUNK_BYTES);
    let mut buffer = vec![0; len as usize];
    file.read_exact_at(&mut buffer, range.start)?;
    Ok(buffer.into())
}

/// What of a file of this size a range means.
pub(crate) fn resolve(range: &GetRange, size: u64) -> Result<Range<u64>, String> {
    let resolved = match range {
        GetRange::Bounded(r) => r.start..r.end.min(size),
        GetRange::Offset(start) => *start..size,
        GetRange::Suffix(n) => size.saturating_sub(*n)..size,
    };
    if resolved.start >= resolved.end {
        return Err(format!("the range {range} lies outside its {size} bytes"));
    }
    Ok(resolved)
}

/// All files below a prefix. Leftovers of crashed writers are removed on the way, unfinished files are not shown.
pub(super) fn list(root: &Path, prefix: &Key) -> object_store::Result<Vec<ObjectMeta>> {
    let mut found = Vec::new();
    let mut open = vec![prefix.clone()];
    while let Some(folder) = open.pop() {
        let level = list_one(root, &folder)?;
        found.extend(level.objects);
        open.extend(level.common_prefixes);
    }
    Ok(found)
}

/// The files and folders directly in a folder; nothing where there is no such folder.
pub(super) fn list_one(root: &Path, prefix: &Key) -> object_store::Result<ListResult> {
    let error = |e| store_error(prefix, e);
    let mut result =
        ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
    let entries = match std::fs::read_dir(root.join(prefix.as_ref())) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(result),
        Err(e) => return Err(error(e)),
    };
    for entry in entries {
        let entry = entry.map_err(error)?;
        let metadata = match std::fs::metadata(entry.path()) {
            Ok(metadata) => metadata,
            // Deleted, or renamed by its writer, since the folder was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(error(e)),
        };
        let key = key_of(prefix, &entry);
        if metadata.is_dir() {
            result.common_prefixes.push(key);
        } else if key.as_ref().ends_with(TEMPORARY_SUFFIX) {
            if is_temporary(key.as_ref()) {
                remove_leftover(&entry.path(), &metadata, now());
            }
        } else {
            result.objects.push(object_meta(key, &metadata));
        }
    }
    Ok(result)
}

fn key_of(prefix: &Key, entry: &DirEntry) -> Key {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    let joined = if prefix.as_ref().is_empty() { name.into_owned() } else { format!("{prefix}/{name}") };
    Key::parse(&joined).unwrap_or_else(|_| Key::from(joined))
}

fn remove_leftover(path: &Path, metadata: &Metadata, now: SystemTime) {
    // The change time: the modification time may already be the timestamp of an old file of the log.
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
    if now.duration_since(changed).is_ok_and(|age| age > LEFTOVER_AGE) {
        tracing::info!(path = %path.display(), "removing what a crashed writer left behind");
        let _ = std::fs::remove_file(path);
    }
}

/// Compared only with the change times that the same kernel gave; removing too early costs one failed put.
#[allow(clippy::disallowed_methods)]
fn now() -> SystemTime {
    SystemTime::now()
}

fn object_meta(location: Key, metadata: &Metadata) -> ObjectMeta {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    ObjectMeta {
        location,
        last_modified: modified.into(),
        size: metadata.len(),
        e_tag: Some(format!("{:x}-{:x}-{:x}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec())),
        version: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_after_an_hour_whatever_their_modification_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ltx.1-0.tmp");
        let file = File::create(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let metadata = file.metadata().unwrap();
        let in_minutes = |minutes: u64| now() + Duration::from_secs(minutes * 60);
        remove_leftover(&path, &metadata, in_minutes(59));
        assert!(path.exists());
        remove_leftover(&path, &metadata, in_minutes(61));
        assert!(!path.exists());
    }
}
