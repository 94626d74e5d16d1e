//! When processes got new runs because somebody wanted it: marks on the timeline of restore points. A file keeps them, so that
//! they outlive litekeep; what is lost of it is a mark.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use litekeep_supervise::events::{Kind, Next, Subscription};
use serde::{Deserialize, Serialize};

use crate::report::text;

/// Marks that are kept.
const KEPT: usize = 200;
/// What gets new runs this soon after each other is one deploy.
const TOGETHER_MS: i64 = 10_000;

/// One mark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Deploy {
    /// When the first of them had its new run.
    pub(crate) at: String,
    pub(crate) processes: Vec<String>,
}

/// The newest last.
#[derive(Default)]
pub(super) struct Deploys(Mutex<Vec<Deploy>>);

impl Deploys {
    /// What a file has.
    pub(super) fn read(path: &Path) -> Deploys {
        let bytes = std::fs::read(path).unwrap_or_default();
        Deploys(Mutex::new(serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    pub(super) fn all(&self) -> Vec<Deploy> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Deploy>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what happens, here and in the file. Does not return.
    pub(super) async fn follow(self: Arc<Self>, mut news: Subscription, path: &Path) {
        loop {
            let Next::Event(event) = news.next().await else { continue };
            if !matches!(event.kind, Kind::Started | Kind::Reloaded) {
                continue;
            }
            let text = serde_json::to_vec(&*self.note(event.unix_ms, event.name));
            let temporary = path.with_extension("tmp");
            let written = text.map_err(std::io::Error::from).and_then(|text| {
                std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path))
            });
            if let Err(error) = written {
                tracing::warn!("could not write `{}`: {error}", path.display());
            }
        }
    }

    fn note(&self, unix_ms: i64, process: String) -> MutexGuard<'_, Vec<Deploy>> {
        let mut all = self.lock();
        let since = |deploy: &Deploy| {
            let at = deploy.at.parse::<Timestamp>().map_or(i64::MIN, |at| at.as_millisecond());
            unix_ms.saturating_sub(at)
        };
        match all.last_mut().filter(|last| (0..TOGETHER_MS).contains(&since(last))) {
            Some(last) if last.processes.contains(&process) => {}
            Some(last) => last.processes.push(process),
            None => all.push(Deploy { at: text::rfc3339(unix_ms), processes: vec![process] }),
        }
        let old = all.len().saturating_sub(KEPT);
        all.drain(..old);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_together_is_one_mark_and_old_ones_go() {
        let deploys = Deploys::default();
        for (at_ms, name) in [(1000, "web"), (1500, "worker"), (9000, "web"), (12_000, "web")] {
            drop(deploys.note(at_ms, name.to_owned()));
        }
        let all = deploys.all();
        assert_eq!(all[0].processes, ["web", "worker"]);
        assert_eq!((all.len(), all[1].at.as_str()), (2, "1970-01-01T00:00:12.000Z"));
        for minute in 1..=KEPT as i64 {
            drop(deploys.note(minute * 60_000, "web".to_owned()));
        }
        assert_eq!((deploys.all().len(), deploys.all()[0].at.as_str()), (KEPT, "1970-01-01T00:01:00.000Z"));
    }
}
