//! The parent map of a state ([`ParentMap`]), kept beside the log so that row changes of any later state are found by
//! reading a few pages.
//!
//! One record for each snapshot, `litekeep/parents/<transaction>`: an LZ4 frame with its checksum, which holds
//!
//! ```text
//!  0  "litekeep parents"             16
//! 16  transaction, pages              8 + 4   little-endian
//! 28  for each page: its parent less the parent of the page before   4 each
//! ```
//!
//! It is never more than a help: without it, a map is made by going over the whole database.

use crate::log_state::{self, LogState};
use crate::restore::Goal;
use crate::{Error, Kind};
use bytes::Bytes;
use litekeep_format::diff::{ParentMap, roots};
use litekeep_ltx::Txid;
use litekeep_store::Store;
use lz4_flex::frame::{FrameDecoder, FrameEncoder, FrameInfo};
use std::io::{Read, Write};

const FOLDER: &str = "parents";
const MAGIC: &[u8; 16] = b"litekeep parents";
const HEADER_LEN: usize = MAGIC.len() + 8 + 4;

/// The map of a state: the nearest one that the store has, brought up to it, or one that is made.
///
/// # Errors
/// Those of the store, and `Corrupt` for a database whose trees are damaged.
pub async fn of(store: &Store, state: &LogState) -> Result<ParentMap, Error> {
    match nearest(store, state).await {
        Ok(Some(map)) => return Ok(map),
        Ok(None) => {}
        Err(e) => tracing::debug!("no parent map can be had: {e}; making one"),
    }
    let state = state.clone();
    blocking(move || ParentMap::of(&state.view(), roots(&state.view())?.into_iter())).await
}

async fn nearest(store: &Store, state: &LogState) -> Result<Option<ParentMap>, Error> {
    let records = store.list_records(FOLDER).await?;
    let txids = records.iter().filter_map(|record| record.name.rsplit('/').next()?.parse::<Txid>().ok());
    let Some(txid) = txids.filter(|txid| Some(*txid) <= state.point().whole()).max() else { return Ok(None) };
    let Some(bytes) = store.get_record(&name(txid)).await? else { return Ok(None) };
    let damaged =
        || Error::new(Kind::Corrupt, format!("read the parent map of transaction {txid}: it is damaged"));
    let mut map = decode(txid, &bytes).ok_or_else(damaged)?;
    if state.point() == txid.into() {
        return Ok(Some(map));
    }
    let (since, state) = (state.since(store, txid).await?, state.clone());
    let base = state.base();
    let old = if base.txid == txid { base } else { log_state::open(store, Goal::Txid(txid)).await? };
    let advanced = blocking(move || {
        let (before, now) = (old.view(), state.view());
        let old_roots = if since.written().only_different { roots(&before)? } else { vec![] };
        map.advance((&before, old_roots.into_iter()), (&now, roots(&now)?.into_iter()), since.written())?;
        Ok(map)
    });
    advanced.await.map(Some)
}

/// Keeps the map of a snapshot.
///
/// # Errors
/// Those of the store.
pub async fn put(store: &Store, txid: Txid, map: &ParentMap) -> Result<(), Error> {
    store.put_record(&name(txid), encode(txid, map), false).await?;
    Ok(())
}

/// Keeps the map of a snapshot that was made of the log itself.
///
/// # Errors
/// Those of the store, and `Corrupt` for damaged pages.
pub async fn renew(store: &Store, txid: Txid) -> Result<(), Error> {
    let state = log_state::open(store, Goal::Txid(txid)).await?;
    let map = of(store, &state).await?;
    put(store, txid, &map).await
}

/// Forgets the maps of states before a transaction, but for the newest of them.
///
/// # Errors
/// Those of the store.
pub async fn forget_before(store: &Store, txid: Txid) -> Result<(), Error> {
    let records = store.list_records(FOLDER).await?;
    let txids = records.iter().filter_map(|record| record.name.rsplit('/').next()?.parse::<Txid>().ok());
    let mut old: Vec<Txid> = txids.filter(|old| *old <= txid).collect();
    old.sort_unstable();
    old.pop();
    let names: Vec<String> = old.into_iter().map(name).collect();
    if !names.is_empty() {
        store.delete_records(&names).await?;
    }
    Ok(())
}

/// Copies the map of a snapshot to where the snapshot was copied to.
///
/// # Errors
/// Those of the stores.
pub async fn copy(from: &Store, to: &Store, txid: Txid) -> Result<(), Error> {
    if let Some(record) = from.get_record(&name(txid)).await? {
        to.put_record(&name(txid), record, false).await?;
    }
    Ok(())
}

fn name(txid: Txid) -> String {
    format!("{FOLDER}/{txid}")
}

fn encode(txid: Txid, map: &ParentMap) -> Bytes {
    let words = map.to_words();
    let mut content = Vec::with_capacity(HEADER_LEN + 4 * words.len());
    content.extend(MAGIC);
    content.extend(txid.get().to_le_bytes());
    content.extend((words.len() as u32).to_le_bytes());
    let mut before = 0;
    for &word in words {
        content.extend(word.wrapping_sub(before).to_le_bytes());
        before = word;
    }
    let info = FrameInfo::new().content_checksum(true);
    let mut encoder = FrameEncoder::with_frame_info(info, vec![]);
    encoder.write_all(&content).expect("memory takes all");
    encoder.finish().expect("memory takes all").into()
}

fn decode(txid: Txid, bytes: &[u8]) -> Option<ParentMap> {
    let mut content = vec![];
    FrameDecoder::new(bytes).read_to_end(&mut content).ok()?;
    let header = content.get(..HEADER_LEN)?;
    let of = u64::from_le_bytes(header[16..24].try_into().ok()?);
    let count = u32::from_le_bytes(header[24..].try_into().ok()?) as usize;
    let (words, rest) = content[HEADER_LEN..].as_chunks::<4>();
    if !header.starts_with(MAGIC) || of != txid.get() || words.len() != count || !rest.is_empty() {
        return None;
    }
    let parents = words.iter().scan(0u32, |before, word| {
        *before = before.wrapping_add(u32::from_le_bytes(*word));
        Some(*before)
    });
    Some(ParentMap::from_words(parents.collect()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::new(Kind::Internal, format!("read the log: {e}")))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_refused_when_damaged() {
        let txid = Txid::new(7).unwrap();
        let map = ParentMap::from_words((0..5000).map(|n| n / 300 * 7 % 4000).collect());
        let bytes = encode(txid, &map);
        assert_eq!(decode(txid, &bytes), Some(map));
        assert_eq!(decode(txid.next(), &bytes), None);
        for at in [20, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 4;
            assert_eq!(decode(txid, &damaged), None, "{at}");
            assert_eq!(decode(txid, &bytes[..at]), None, "{at}");
        }
    }
}
