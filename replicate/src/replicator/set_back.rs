//! An older copy of the database under a replicator: it is told, and the log goes on with what the file has.

use super::database::{Database, Local};
use crate::Error;
use crate::capture::Capture;
use crate::local::restored;
use crate::restore::set_back::{SetBack, as_before, earlier, is_in};
use litekeep_ltx::{Checksum, Pgno};
use litekeep_store::{Log, Store};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Pages that are looked for in the past.
const SAMPLE: usize = 16;

/// Says so if the file is an earlier state of the log than its end, which local state is about. Gives the capture back.
pub(super) async fn tell(
    db: &Arc<Database>,
    local: &Arc<Local>,
    mut capture: Capture,
    (store, log): (&Store, &Log),
) -> Result<Capture, Error> {
    if restored::is_noted(&db.settings.meta_dir, &db.settings.path) {
        return Ok(capture);
    }
    let local = local.clone();
    let first = move || {
        let mut page = vec![0; capture.page_size().bytes()];
        // What is in the WAL has been compared with the log, or will be.
        let is_alone = !capture.pages()?.is_in_wal(Pgno::FIRST)
            && capture.files().database().read_exact_at(&mut page, 0).is_ok();
        let is_in_log = is_alone && is_in(&local.sums, &page)?;
        Ok((capture, is_in_log, (is_alone && !is_in_log).then_some(page)))
    };
    let (capture, is_in_log, page) = db.run_blocking(first).await?;
    db.work().may_be_older = is_in_log;
    let Some(page) = page else { return Ok(capture) };
    let path = &db.settings.path;
    match earlier(store, log, &page).await {
        Ok(Some(found)) => db.tell_of_older_copy(&found, store),
        Ok(None) => {}
        Err(e) => tracing::debug!(path = %path.display(), "look whether the file is an older copy: {e}"),
    }
    Ok(capture)
}

impl Database {
    fn tell_of_older_copy(&self, found: &SetBack, store: &Store) {
        let path = &self.settings.path;
        tracing::error!(
            path = %path.display(),
            "{}; the backup keeps that, and goes on with what the file has: if that was not meant to be, stop the application and litekeep, and bring it back with `litekeep restore --force -txid {} {}`",
            found.message(path, store), found.head, path.display()
        );
    }

    /// Says so if the pages in which a file differs from the end of the log are those of an earlier time, as far as that is
    /// found among the newest files; nobody waits for it.
    pub(super) fn compare_with_past(self: &Arc<Self>, differing: &[(Pgno, Checksum)]) {
        let sample: Vec<_> = differing.iter().take(SAMPLE).copied().collect();
        let place = self.destinations().iter().find(|d| !d.lags).map(|d| (d.store.clone(), d.log.clone()));
        let Some((store, log)) = place else { return };
        let this = self.clone();
        self.shared.runtime.spawn(async move {
            match as_before(&store, &log, sample).await {
                Ok(Some(found)) => this.tell_of_older_copy(&found, &store),
                Ok(None) => {}
                Err(e) => {
                    let path = this.settings.path.display();
                    tracing::debug!(%path, "look whether the file is an older copy: {e}");
                }
            }
        });
    }
}
