//! A reload of a process that cannot run twice at a time: it binds its own port, or must be the only one at work.

use std::sync::Arc;

use super::task::{Phase, Task, Verdict};
use super::{Spec, State};
use crate::error::{Error, Result};
use crate::events::Kind;
use crate::handle::Reply;
use crate::run::Run;

impl Task {
    /// Puts a run of `spec` in the place of `old`, which ends first. If the new one does not become ready, one like the
    /// old one is started again.
    pub(super) async fn replace(&mut self, old: Box<Run>, spec: Arc<Spec>, reply: Reply) -> Phase {
        if let Err(cause) = spec.spawn.check() {
            _ = reply.send(self.kept(cause, "goes on"));
            return Phase::Running(old);
        }
        if let (_, Err(error)) = self.stop(old).await {
            tracing::error!("{error}");
        }
        self.set(State::Starting, "in a reload");
        let mut new = match self.spawn(spec.clone()).await {
            Ok(new) => Box::new(new),
            Err(cause) => {
                _ = reply.send(self.kept(cause, "is started again"));
                return Phase::Start(None);
            }
        };
        self.publish(&new);
        match self.becomes_ready(&mut new).await {
            Verdict::Ready => {
                self.take_spec(spec);
                self.reloaded(&new);
                _ = reply.send(Ok(()));
                Phase::Running(new)
            }
            Verdict::Unfit(reason) => {
                if let (_, Err(error)) = self.stop(new).await {
                    tracing::error!("{error}");
                }
                let cause = Error::Unready { process: self.name.to_string(), reason };
                _ = reply.send(self.kept(cause, "is started again"));
                Phase::Start(None)
            }
            Verdict::Stop(asker) => {
                let (_, stopped) = self.stop(new).await;
                self.stopped_meanwhile(reply, asker, stopped)
            }
        }
    }

    /// The answer to a reload that did not come off.
    pub(super) fn kept(&self, cause: Error, fate: &'static str) -> Result<()> {
        let error = Error::Reload { process: self.name.to_string(), cause: Box::new(cause), fate };
        self.tell(Kind::ReloadFailed, error.to_string());
        Err(error)
    }
}
