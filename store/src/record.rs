//! Small records beside the levels, under `litekeep/`: epochs, proofs, timelines. Litestream passes them over.

use bytes::Bytes;
use object_store::PutMode;
use object_store::path::Path as Key;

use crate::error::{Error, Result};
use crate::store::{Put, Store};

/// Where records stand, below the log's path.
const FOLDER: &str = "litekeep";

/// Records are small; this only bounds how long reading one may take.
const ABOUT_BYTES: u64 = 1 << 20;

/// A record, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRef {
    /// Below `litekeep/`, with slashes.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The store's modification time, milliseconds since the epoch.
    pub modified_ms: i64,
}

impl Store {
    /// Puts a record; with `if_absent` only where there is none.
    ///
    /// # Errors
    /// With `if_absent`: [`Error::Taken`] (`Fenced`) when other bytes stand there.
    pub async fn put_record(&self, name: &str, bytes: Bytes, if_absent: bool) -> Result<Put> {
        let key = self.record_key(name)?;
        if if_absent {
            return self.create(&key, vec![bytes], None).await.map_err(|e| match e {
                Error::Fenced { place, .. } => Error::Taken { place },
                e => e,
            });
        }
        let put = self.put_object(&key, vec![bytes], None, PutMode::Overwrite).await;
        put.map(|()| Put::Written).map_err(|e| Error::from_store(self.writing(&key), e))
    }

    /// A record, `None` where there is none.
    pub async fn get_record(&self, name: &str) -> Result<Option<Bytes>> {
        match self.get_key(&self.record_key(name)?, None, ABOUT_BYTES).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The records below a folder of records (`""`: all), in the order of their names.
    pub async fn list_records(&self, folder: &str) -> Result<Vec<RecordRef>> {
        let root = self.record_key("")?;
        let objects = self.list_objects(&self.record_key(folder)?).await?;
        let mut records: Vec<_> = objects
            .into_iter()
            .filter_map(|object| {
                let name = object.location.as_ref().strip_prefix(root.as_ref())?.trim_start_matches('/');
                Some(RecordRef {
                    name: name.to_owned(),
                    size: object.size,
                    modified_ms: object.last_modified.timestamp_millis(),
                })
            })
            .collect();
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    /// Deletes records; one that is gone already is no error.
    pub async fn delete_records(&self, names: &[String]) -> Result<()> {
        let keys = names.iter().map(|name| self.record_key(name)).collect::<Result<Vec<_>>>()?;
        self.delete_keys(keys).await
    }

    pub(crate) fn record_key(&self, name: &str) -> Result<Key> {
        let parts = [self.prefix.as_ref(), FOLDER, name.trim_matches('/')];
        let joined = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        Key::parse(&joined).map_err(|e| Error::Invalid {
            action: format!("use `{name}` as a record's name"),
            cause: e.to_string(),
        })
    }
}
