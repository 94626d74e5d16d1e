//! Proofs: what a verification found, as a record in the store beside the log it is about.
//!
//! `proofs/YYYYMMDDTHHMMSSZ-TXID` holds one JSON object. Names sort by time, so the newest proof costs one listing and one
//! read. A proof is never changed; it holds for the transaction that it names.

use anyhow::{Context as _, Result};
use litekeep_store::Store;
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

/// The newest proof of a log, if there is any.
///
/// # Errors
/// The store's, and a record that is no proof.
pub(crate) async fn newest(store: &Store) -> Result<Option<Proof>> {
    let Some(newest) = store.list_records(FOLDER).await?.pop() else { return Ok(None) };
    let Some(bytes) = store.get_record(&newest.name).await? else { return Ok(None) };
    let proof = serde_json::from_slice(&bytes)
        .with_context(|| format!("read the proof `{}` of `{}`", newest.name, store.place()))?;
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
