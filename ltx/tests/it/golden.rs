//! Files that Litestream wrote, in both of its page encodings; `tests/golden/README.md` says how they were made.

use std::path::{Path, PathBuf};

use litekeep_ltx::{Decoder, FileName, Header, Txid, merge};

use crate::chunks::decode_in_chunks;
use crate::sample::{Pages, Sample, decode};

fn path(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder)
}

fn golden(folder: &str) -> Vec<(FileName, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(path(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, std::fs::read(&path).unwrap())))
        .collect();
    files.sort();
    files
}

/// Decodes in every way that there is, checks that they agree and that what we write of it reads the same.
fn check(name: &FileName, bytes: &[u8]) -> Sample {
    let sample = decode(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(FileName::from(&sample.header), *name);
    let (pages, trailer) = decode_in_chunks(bytes, 10_000).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(pages == sample.pages, "{name}");
    assert_eq!(trailer, Decoder::new(bytes).unwrap().verify().unwrap());
    let again = decode(&sample.encode()).unwrap();
    assert!(again.header == sample.header && again.pages == sample.pages, "{name}");
    sample
}

/// The pages of the database that the files of one level make.
fn check_chain(files: &[(FileName, Vec<u8>)]) -> Vec<u8> {
    let mut database = Pages::new();
    for (name, bytes) in files {
        let sample = check(name, bytes);
        database.extend(sample.pages);
        database.retain(|&pgno, _| pgno <= sample.header.commit);
    }
    let inputs = files.iter().map(|(_, bytes)| Decoder::new(&bytes[..]).unwrap()).collect();
    let merged = decode(&merge(inputs, Vec::new()).unwrap().writer).unwrap();
    assert!(merged.pages == database, "merged");
    database.into_values().flatten().collect()
}

#[test]
fn block_encoding() {
    check_golden("litestream-0.5.17", 1);
}

#[test]
fn frame_encoding() {
    check_golden("litestream-0.5.15", 0);
}

fn check_golden(folder: &str, page_flags: u8) {
    let files = golden(folder);
    assert_eq!(files.len(), 5);
    assert!(files.iter().all(|(_, bytes)| bytes[104..106] == [0, page_flags]));
    let database = check_chain(&files);
    let expected = std::fs::read(path(folder).join("restored.db")).unwrap();
    assert!(database == expected, "differs from what Litestream restored");
}

#[test]
fn header_fields() {
    let (_, bytes) = &golden("litestream-0.5.17")[0];
    let header = Header::parse(bytes).unwrap();
    assert_eq!((header.page_size.get(), header.min_txid, header.max_txid), (512, Txid::FIRST, Txid::FIRST));
    assert_eq!((header.wal_offset, header.node.0), (32, 0));
    assert_eq!(header.to_bytes(), bytes[..100], "we write the same header as Litestream");
}
