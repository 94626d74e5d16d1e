//! New runs for services that have not changed: what they execute may have.

use futures::future::join_all;

use super::{Service, Supervisor};
use crate::error::{Error, Result};
use crate::process::{Process, State, Status};

/// What became of services that were to have new runs.
#[derive(Debug, Default)]
pub struct Renewed {
    /// Those that have them.
    pub renewed: Vec<String>,
    /// Those whose new run is unfit, with the reason; what ran before goes on.
    pub failed: Vec<(String, Error)>,
}

impl Supervisor {
    /// Gives these services new runs: what they depend on first, those of one level at the same time, instances one after another. An
    /// unfit one keeps no other service from its own. One that has failed, or starts again and again, is tried at once; one that
    /// somebody stopped, that has done its work or that waits for its start is left alone.
    pub async fn renew(&self, is_wanted: impl Fn(&str) -> bool) -> Renewed {
        let mut done = Renewed::default();
        for level in &self.levels {
            let of_level = level.iter().filter(|name| is_wanted(name));
            let of_level = of_level.filter_map(|name| self.services.get(name));
            let all = of_level.map(async |(service, processes)| {
                (service.name.clone(), renew_each(service, processes).await)
            });
            for (name, result) in join_all(all).await {
                match result {
                    Ok(true) => done.renewed.push(name),
                    Ok(false) => {}
                    Err(error) => done.failed.push((name, error)),
                }
            }
        }
        done
    }
}

/// Whether one of its processes has a new run.
async fn renew_each(service: &Service, processes: &[Process]) -> Result<bool> {
    let mut has_new = false;
    for process in processes {
        let state = process.status().borrow().state;
        if !matches!(state, State::Stopped | State::Completed | State::Waiting) {
            process.renew().await?;
            proves_itself(service, process, Wait::IsFine).await?;
            has_new = true;
        }
    }
    Ok(has_new)
}

/// What it means that a process waits for its conditions.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wait {
    /// It starts when they hold: nobody needs it before.
    IsFine,
    /// It does not do its work yet, and that takes of its time.
    Counts,
}

/// Waits until a process is ready or ended well; the first crash is enough to say that it is unfit, and so is a stop.
pub(super) async fn proves_itself(service: &Service, process: &Process, wait: Wait) -> Result<()> {
    let mut status = process.status();
    let (patience, restarts) = (service.spec.ready_timeout, status.borrow().restarts);
    let is_good = |now: &Status| match now.state {
        State::Healthy | State::Completed => true,
        // One that ended well waits for its next start.
        State::Waiting => wait == Wait::IsFine || now.restarts > restarts,
        _ => false,
    };
    let is_over =
        |now: &Status| matches!(now.state, State::Failed | State::Stopped) || now.restarts > restarts;
    let settled = status.wait_for(|now| is_good(now) || is_over(now));
    let settled = tokio::time::timeout(patience, settled).await.map(|now| now.map(|now| now.clone()));
    let reason = match settled {
        Ok(Ok(now)) if is_good(&now) => return Ok(()),
        Ok(Ok(now)) if now.restarts > restarts => now.restart_reason.clone(),
        Ok(Ok(now)) if now.state == State::Stopped => "it was stopped".into(),
        Ok(Ok(now)) => now.reason.clone(),
        Ok(Err(_)) => "its supervisor has ended".into(),
        Err(_) => match &*process.status().borrow().reason {
            "" => format!("not ready within {patience:?}"),
            reason => format!("not ready within {patience:?}: {reason}"),
        },
    };
    Err(Error::Unready { process: process.name().into(), reason })
}
