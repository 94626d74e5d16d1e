//! Objects beside the files of the log: records, and what other programs keep below the same path.

use std::ops::Range;

use bytes::Bytes;
use object_store::path::Path as Key;

use crate::error::{Error, Result};
use crate::store::Store;

/// An object, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// With slashes, below the place that was asked about.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The store's modification time, milliseconds since the epoch.
    pub modified_ms: i64,
}

impl Store {
    /// The objects below a folder of this log's path, with names below that path, in their order.
    pub async fn list_below(&self, folder: &str) -> Result<Vec<ObjectRef>> {
        self.objects_below(&self.prefix, &self.key_below(folder)?).await
    }

    /// A range of the bytes of an object, by its name below this log's path.
    ///
    /// # Errors
    /// `Corrupt` when it lies not within the object.
    pub async fn read(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.get_whole_range(&self.key_below(name)?, range).await
    }

    /// How messages name an object below this log's path.
    pub fn place_of_object(&self, name: &str) -> String {
        format!("{}/{name}", self.place().trim_end_matches('/'))
    }

    /// Objects below `folder`, with names below `root`, in their order.
    pub(crate) async fn objects_below(&self, root: &Key, folder: &Key) -> Result<Vec<ObjectRef>> {
        let objects = self.list_objects(folder).await?;
        let mut found: Vec<_> = objects
            .into_iter()
            .filter_map(|object| {
                let name = object.location.as_ref().strip_prefix(root.as_ref())?.trim_start_matches('/');
                Some(ObjectRef {
                    name: name.to_owned(),
                    size: object.size,
                    modified_ms: object.last_modified.timestamp_millis(),
                })
            })
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    pub(crate) fn key_below(&self, name: &str) -> Result<Key> {
        let parts = [self.prefix.as_ref(), name.trim_matches('/')];
        let joined = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        Key::parse(&joined).map_err(|e| Error::Invalid {
            action: format!("use `{name}` as an object's name"),
            cause: e.to_string(),
        })
    }
}
