//! The status in the form of the status page, for `litekeep top` where no `litekeep up` can be asked.

use jiff::tz::TimeZone;

use super::backup::Backup;
use super::{DatabaseStatus, Status};
use crate::dashboard::{BackupView, DatabaseView, Fact, Reader, View, file_name, view};
use crate::proof::Proof;
use crate::report::text;

impl Status {
    pub(super) fn into_view(self, now_ms: i64) -> View {
        let (facts, databases): (Vec<Fact>, Vec<DatabaseView>) =
            self.databases.iter().map(|database| database.view(now_ms)).unzip();
        let mut view = view(&facts, databases, (self.stack, None), now_ms, &TimeZone::system());
        if self.down {
            view.problems
                .push("processes are configured, and nothing runs them: `litekeep up` does".to_owned());
        }
        view.problems.extend(self.red);
        view.ok = self.ok;
        view
    }
}

impl DatabaseStatus {
    fn view(&self, now_ms: i64) -> (Fact, DatabaseView) {
        let live = &self.live;
        let behind_ms =
            live.confirmed.as_ref().filter(|_| live.pending_frames.is_none_or(|frames| frames > 0));
        let durable = live.durable();
        let whole = self.backups.iter().filter(|backup| backup.last() >= durable);
        let fact = Fact {
            name: file_name(&self.path),
            red: self.red[..self.red_backup].to_vec(),
            is_begun: durable.is_some() && self.backups.iter().any(may_have_any),
            behind_since_ms: behind_ms.map(|confirmed| confirmed.captured_ms),
            places: whole.map(|backup| backup.url.to_string()).collect(),
            proven_ms: self.backups.iter().map(|backup| last_proof(backup)?.proven_ms()).min().flatten(),
        };
        let phase = match (live.replicator_pid, self.ok) {
            (None, _) => "stopped",
            (Some(_), true) => "following",
            (Some(_), false) => "failing",
        };
        let reader = |pid| Reader { pid, command: None, since: text::rfc3339(now_ms) };
        let confirmed = live.confirmed.as_ref();
        let durable = confirmed.map(|confirmed| confirmed.txid.clone());
        let shown = DatabaseView {
            path: self.path.clone(),
            ok: self.ok,
            red: self.red.clone(),
            phase: phase.to_owned(),
            size_bytes: live.size_bytes,
            wal_bytes: live.wal_bytes.unwrap_or(0),
            captured: durable.clone(),
            durable,
            confirmed_at: confirmed.map(|confirmed| confirmed.at.clone()),
            lag_seconds: live.lag_seconds_at_most.unwrap_or(0.0),
            lag_transactions: 0,
            lag_bytes: confirmed.map_or(0, |confirmed| confirmed.behind_bytes(live.pending_frames)),
            commits: 0,
            oldest_reader: live.wal_reader_pid.map(reader),
            backups: self.backups.iter().map(|backup| backup_view(backup, now_ms)).collect(),
            feeds: self.feeds.clone(),
            syncs: self.syncs.clone(),
            migrations: None,
        };
        (fact, shown)
    }
}

/// Something is there; what local state says to be confirmed may be in a backup that is configured no more.
fn may_have_any(backup: &Backup) -> bool {
    backup.error.is_some() || backup.last().is_some()
}

fn last_proof(backup: &Backup) -> Option<&Proof> {
    backup.contents.as_ref()?.last_proof.as_ref()
}

fn backup_view(backup: &Backup, now_ms: i64) -> BackupView {
    BackupView {
        durable: backup.last().map(|txid| txid.to_string()),
        proofs: last_proof(backup).cloned().into_iter().collect(),
        ..BackupView::listed(backup, now_ms)
    }
}
