//! Proofs: what a verification found, as a record in the store beside the log it is about.
//!
//! `proofs/YYYYMMDDTHHMMSSZ-TXID` holds one JSON object. Names sort by time, so the newest proof costs one listing and one
//! read. A proof is never changed; it holds for the transaction that it names.

use anyhow::{Context as _, Result};
use litekeep_store::{ObjectRef, Store};
use serde::{Deserialize, Serialize};

/// Where the records stand.
const FOLDER: &str = "proofs";

/// One verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proof {
    /// The transaction that was restored.
    pub(crate) txid: String,
    /// When the comparison ended, RFC 3339.
    pub(crate) at: String,
    /// Whether each page of the restored database was that of the live one.
    pub(crate) proven: bool,
    /// Pages that were compared.
    pub(crate) pages: u64,
    /// What differed.
    pub(crate) reason: Option<String>,
}

impl Proof {
    /// When the log was proven; `None` when it failed.
    pub(crate) fn proven_ms(&self) -> Option<i64> {
        let at: jiff::Timestamp = self.at.parse().ok()?;
        self.proven.then_some(at.as_millisecond())
    }
}

/// The newest proof of a log, if there is any.
///
/// # Errors
/// The store's, and a record that is no proof.
pub(crate) async fn newest(store: &Store) -> Result<Option<Proof>> {
    newest_of(store, &store.list_records(FOLDER).await?).await
}

/// The same, of records that were listed by their names.
///
/// # Errors
/// As [`newest`].
pub(crate) async fn newest_of(store: &Store, records: &[ObjectRef]) -> Result<Option<Proof>> {
    let is_proof = |record: &&ObjectRef| record.name.split('/').next() == Some(FOLDER);
    let Some(newest) = records.iter().rfind(is_proof) else { return Ok(None) };
    read(store, &newest.name).await
}

/// The newest proofs of a log with the names of their records, the newest last. Those that are known are not read again.
///
/// # Errors
/// As [`newest`].
pub(crate) async fn recent(
    store: &Store,
    count: usize,
    known: &[(String, Proof)],
) -> Result<Vec<(String, Proof)>> {
    let records = store.list_records(FOLDER).await?;
    let mut proofs = Vec::new();
    for record in records.into_iter().rev().take(count) {
        let proof = match known.iter().find(|(name, _)| *name == record.name) {
            Some((_, proof)) => Some(proof.clone()),
            None => read(store, &record.name).await?,
        };
        proofs.extend(proof.map(|proof| (record.name, proof)));
    }
    proofs.reverse();
    Ok(proofs)
}

async fn read(store: &Store, name: &str) -> Result<Option<Proof>> {
    let Some(bytes) = store.get_record(name).await? else { return Ok(None) };
    let proof = serde_json::from_slice(&bytes)
        .with_context(|| format!("read the proof `{name}` of `{}`", store.place()))?;
    Ok(Some(proof))
}

/// Puts a proof beside the log that it is about.
///
/// # Errors
/// The store's.
pub(crate) async fn record(store: &Store, proof: &Proof, now_ms: i64) -> Result<()> {
    let time = jiff::Timestamp::from_millisecond(now_ms).context("read the clock")?;
    let name = format!("{FOLDER}/{}-{}", time.strftime("%Y%m%dT%H%M%SZ"), proof.txid);
    let json = serde_json::to_vec(proof).context("write the proof")?;
    store.put_record(&name, json.into(), false).await?;
    Ok(())
}
