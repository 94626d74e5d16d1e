//! Reads what `recorder/src/lib.rs` writes; the layout stands there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Result, bail};

const HEADER: usize = 56;

#[derive(Debug)]
pub(super) struct Record {
    pub(super) begin_ns: u64,
    pub(super) end_ns: u64,
    pub(super) change: Change,
}

#[derive(Debug)]
pub(super) enum Change {
    Write {
        file: u64,
        offset: usize,
        data: Vec<u8>,
    },
    Resize {
        file: u64,
        size: usize,
    },
    Sync {
        file: u64,
    },
    /// The name leads to the file from now on.
    Entry {
        file: u64,
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    MakeDir {
        path: PathBuf,
    },
}

impl Record {
    /// Appends the records of one process; one that its kill tore is the last, and is left out.
    pub(super) fn read_all(mut bytes: &[u8], records: &mut Vec<Self>) -> Result<()> {
        while let Some((header, rest)) = bytes.split_at_checked(HEADER) {
            let mut words = [0u64; HEADER / 8];
            for (word, place) in words.iter_mut().zip(header.chunks_exact(8)) {
                *word = place.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            }
            let [kind, begin_ns, end_ns, file, offset, a, b] = words;
            let (a, b) = (a as usize, b as usize);
            let Some((payload, rest)) = rest.split_at_checked(a + b) else { break };
            let (a, b) = payload.split_at(a);
            let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
            let change = match kind {
                1 => Change::Write { file, offset: offset as usize, data: a.to_vec() },
                2 => Change::Resize { file, size: offset as usize },
                3 => Change::Sync { file },
                4 => Change::Entry { file, path: path(a) },
                5 => Change::Rename { from: path(a), to: path(b) },
                6 => Change::Remove { path: path(a) },
                7 => Change::MakeDir { path: path(a) },
                _ => bail!("a record of the unknown kind {kind}"),
            };
            records.push(Self { begin_ns, end_ns, change });
            bytes = rest;
        }
        Ok(())
    }
}
