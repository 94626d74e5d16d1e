//! The database of the application, on a thread for what blocks.

use std::path::Path;

use litekeep_sql::Mirror;

use crate::{Error, Kind};

/// Such a connection, when it is open.
#[derive(Debug, Default)]
pub(crate) struct Local(Option<Mirror>);

impl Local {
    /// Opens it; `sync` is under whose name things are kept in it.
    pub(crate) async fn open(&mut self, path: &Path, sync: &str, creates: bool) -> Result<(), Error> {
        let (path, sync) = (path.to_owned(), sync.to_owned());
        let opened = tokio::task::spawn_blocking(move || Mirror::open(&path, &sync, creates));
        let opened = opened.await.map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        self.0 = Some(opened?);
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn close(&mut self) {
        self.0 = None;
    }

    /// Does something with it.
    pub(crate) async fn on<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Mirror) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let mirror = self.0.take().ok_or_else(|| Error::new(Kind::Internal, "no database is open"))?;
        let worked = tokio::task::spawn_blocking(move || {
            let done = work(&mirror);
            (mirror, done)
        });
        let (mirror, done) =
            worked.await.map_err(|e| Error::new(Kind::Internal, format!("write to the database: {e}")))?;
        self.0 = Some(mirror);
        done
    }
}
