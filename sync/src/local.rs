//! The database of the application, on a thread for what blocks.

use std::path::Path;

use litekeep_sql::Mirror;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{Error, Kind};

/// Such a connection, when it is open.
#[derive(Debug, Default)]
pub(crate) struct Local {
    mirror: Option<Mirror>,
    /// What is done with it now. It goes on when nobody waits for it any more.
    working: Option<JoinHandle<Mirror>>,
}

impl Local {
    /// Opens it; `sync` is under whose name things are kept in it.
    pub(crate) async fn open(&mut self, path: &Path, sync: &str, creates: bool) -> Result<(), Error> {
        if let Some(left_behind) = &mut self.working {
            // What it commits yet must be seen by whoever opens it.
            _ = left_behind.await;
            self.working = None;
        }
        let (path, sync) = (path.to_owned(), sync.to_owned());
        let opened = spawn_blocking(move || Mirror::open(&path, &sync, creates));
        let opened = opened.await.map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        self.mirror = Some(opened?);
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.mirror.is_some()
    }

    pub(crate) fn close(&mut self) {
        self.mirror = None;
    }

    /// Does something with it.
    pub(crate) async fn on<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Mirror) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let mirror = self.mirror.take().ok_or_else(|| Error::new(Kind::Internal, "no database is open"))?;
        let (tell, told) = oneshot::channel();
        let working = self.working.insert(spawn_blocking(move || {
            _ = tell.send(work(&mirror));
            mirror
        }));
        let failed =
            |e: &dyn std::fmt::Display| Error::new(Kind::Internal, format!("write to the database: {e}"));
        let mirror = working.await.map_err(|e| failed(&e));
        self.working = None;
        self.mirror = Some(mirror?);
        told.await.map_err(|e| failed(&e))?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;

    /// Whoever opens the database again must not meet a commit behind its back.
    #[tokio::test]
    async fn what_is_left_behind_comes_to_its_end_before_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let mut local = Local::default();
        local.open(&path, "orders", true).await.unwrap();
        let (has_begun, is_done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (begun, done) = (has_begun.clone(), is_done.clone());
        let left_behind = local.on(move |_| {
            begun.store(true, SeqCst);
            std::thread::sleep(Duration::from_millis(200));
            done.store(true, SeqCst);
            Ok(())
        });
        let begins = async {
            while !has_begun.load(SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = begins => {}
            done = left_behind => panic!("it is not left behind: {done:?}"),
        }
        local.open(&path, "orders", true).await.unwrap();
        assert!(is_done.load(SeqCst));
    }
}
