//! Small records beside the levels, under `litekeep/`: epochs, proofs, timelines. Litestream passes them over.

use bytes::Bytes;
use object_store::PutMode;
use object_store::path::Path as Key;

use crate::error::{Error, Result};
use crate::object::ObjectRef;
use crate::store::{Put, Store};

/// Where records stand, below the log's path.
const FOLDER: &str = "litekeep";

/// Most records are small; this only bounds how long reading one may take.
const ABOUT_BYTES: u64 = 1 << 20;

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
        self.get_record_of(name, 0).await
    }

    /// A record that may be as large as this.
    pub(crate) async fn get_record_of(&self, name: &str, bytes: u64) -> Result<Option<Bytes>> {
        match self.get_key(&self.record_key(name)?, None, bytes.max(ABOUT_BYTES)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The records below a folder of records (`""`: all), in the order of their names.
    pub async fn list_records(&self, folder: &str) -> Result<Vec<ObjectRef>> {
        self.objects_below(&self.record_key("")?, &self.record_key(folder)?).await
    }

    /// Deletes records; one that is gone already is no error.
    pub async fn delete_records(&self, names: &[String]) -> Result<()> {
        let keys = names.iter().map(|name| self.record_key(name)).collect::<Result<Vec<_>>>()?;
        self.delete_keys(keys).await
    }

    pub(crate) fn record_key(&self, name: &str) -> Result<Key> {
        self.key_below(&format!("{FOLDER}/{}", name.trim_matches('/')))
    }
}
