//! Compaction: many consecutive files become one with the same effect.
//!
//! The output gets its trailer only after every input was verified to its end, so a damaged input never becomes a
//! sound output. On error the output so far is useless and can be dropped; the inputs are only read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

use crate::{Decoder, Encoded, Encoder, Error, FileName, Header, Pgno};

/// Merges `inputs`, in order of transactions, into one file.
///
/// Of each page the newest version is kept; pages beyond the end of the last input's database are dropped. The
/// output covers the first input's min TXID to the last one's max TXID, and has the last one's commit, timestamp,
/// WAL position and node.
///
/// # Errors
/// [`Error::Invalid`] where the inputs do not follow one another, differ in page size, or are none, and where the
/// database grew again after shrinking but a file lacks pages by which it grew; [`Error::InFile`] with the error of
/// a [`Decoder`]; the errors of [`Encoder`].
pub fn merge<R: Read, W: Write>(mut inputs: Vec<Decoder<R>>, out: W) -> Result<Encoded<W>, Error> {
    let header = merged_header(&inputs)?;
    let survive = surviving(&inputs);
    let mut encoder = Encoder::new(out, &header)?;
    let mut pages = vec![vec![0; header.page_size.bytes()]; inputs.len()];
    // The greatest element is the lowest page, and of that page the newest input.
    let mut due: BinaryHeap<(Reverse<Pgno>, usize)> = BinaryHeap::with_capacity(inputs.len());
    for at in 0..inputs.len() {
        due.extend(next(&mut inputs[at], &mut pages[at])?.map(|pgno| (Reverse(pgno), at)));
    }
    let mut last = None;
    while let Some((Reverse(pgno), at)) = due.pop() {
        if last != Some(pgno) && pgno.get() <= header.commit {
            if pgno.get() > survive[at] {
                return Err(Error::invalid(format!(
                    "page {pgno} was cut off and did not come back when the database grew"
                )));
            }
            // Compressing is most of the work of writing a file; what is compressed already stays so.
            match inputs[at].lz4_block() {
                Some(lz4_block) => encoder.compressed_page(pgno, &pages[at], lz4_block)?,
                None => encoder.page(pgno, &pages[at])?,
            }
        }
        last = Some(pgno);
        due.extend(next(&mut inputs[at], &mut pages[at])?.map(|pgno| (Reverse(pgno), at)));
    }
    debug_assert!(inputs.iter().all(|input| input.trailer().is_some()));
    encoder.finish()
}

fn next<R: Read>(input: &mut Decoder<R>, page: &mut [u8]) -> Result<Option<Pgno>, Error> {
    input
        .next_page(page)
        .map_err(|source| Error::InFile { file: FileName::from(input.header()), source: Box::new(source) })
}

/// For each input the last page of it that the later ones did not cut off.
fn surviving<R: Read>(inputs: &[Decoder<R>]) -> Vec<u32> {
    let mut least = u32::MAX;
    let mut survive: Vec<u32> = inputs
        .iter()
        .rev()
        .map(|input| {
            least = least.min(input.header().commit);
            least
        })
        .collect();
    survive.reverse();
    survive
}

fn merged_header<R: Read>(inputs: &[Decoder<R>]) -> Result<Header, Error> {
    let [first, .., last] = inputs else {
        return match inputs {
            [only] => Ok(*only.header()),
            _ => Err(Error::invalid("no files to merge")),
        };
    };
    for pair in inputs.windows(2) {
        let (before, after) = (pair[0].header(), pair[1].header());
        if before.max_txid.get().checked_add(1) != Some(after.min_txid.get()) {
            return Err(Error::invalid(format!(
                "files to merge do not follow one another: {} after {}",
                FileName::from(after),
                FileName::from(before)
            )));
        }
        if before.page_size != after.page_size {
            return Err(Error::invalid(format!(
                "files to merge have pages of {} and {} bytes",
                before.page_size.get(),
                after.page_size.get()
            )));
        }
    }
    Ok(Header { min_txid: first.header().min_txid, ..*last.header() })
}
