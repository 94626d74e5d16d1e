//! The copies of a node: each is followed by a task of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use litekeep_replica::{Error, Follower, Held, Kind, Streaming};
use litekeep_store::Store;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::upstream::Upstream;
use crate::followers::pause;

/// Between two tries while a store does not answer.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// How a copy stands.
#[derive(Clone, Debug, Default)]
pub(super) struct CopyState {
    pub(super) held: Option<Held>,
    /// More than that may be seen already: something is being applied.
    pub(super) is_applying: bool,
    /// How often something was applied, or there was nothing.
    pub(super) steps: u64,
    /// It has all that the log has, as far as it knows.
    pub(super) is_level: bool,
    pub(super) trouble: Option<String>,
    /// How it goes with the primary, where that streams.
    pub(super) stream: Option<Streaming>,
    /// How often that has ended.
    pub(super) fallbacks: u64,
    /// It does not go on by itself.
    pub(super) is_over: bool,
}

/// A copy that is followed.
pub(super) struct Copy {
    pub(super) path: PathBuf,
    pub(super) state: Arc<Mutex<CopyState>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Option<Follower>>,
}

impl Copy {
    pub(super) fn follow(follower: Follower, store: &Store, upstream: Upstream) -> Copy {
        let state =
            Arc::new(Mutex::new(CopyState { held: follower.held().copied(), ..CopyState::default() }));
        let (stop, stopped) = watch::channel(false);
        let path = follower.path().to_owned();
        let task = tokio::spawn(follow(follower, store.clone(), upstream, state.clone(), stopped));
        Copy { path, state, stop, task }
    }

    pub(super) fn is_of(&self, path: &Path) -> bool {
        self.path == path
    }

    pub(super) fn state(&self) -> CopyState {
        lock(&self.state).clone()
    }

    pub(super) fn goes_on(&self) -> bool {
        !lock(&self.state).is_over && !self.task.is_finished()
    }

    /// Ends the task at the end of what it does; `None`: it had ended by itself.
    pub(super) async fn stop(self) -> Option<Follower> {
        self.stop.send_replace(true);
        self.task.await.ok().flatten()
    }
}

fn lock(state: &Mutex<CopyState>) -> MutexGuard<'_, CopyState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(
    mut follower: Follower,
    store: Store,
    mut upstream: Upstream,
    state: Arc<Mutex<CopyState>>,
    mut stop: watch::Receiver<bool>,
) -> Option<Follower> {
    // Of an earlier process.
    upstream.let_go(&mut follower);
    while !*stop.borrow() {
        upstream.turn(&mut follower);
        // A store that does not answer keeps nobody waiting who wants the copy.
        let looked = tokio::select! {
            looked = follower.look() => looked,
            _ = stop.changed() => break,
        };
        let stepped = match looked {
            Ok(Some(work)) => {
                lock(&state).is_applying = true;
                let applied = follower.apply(work, &()).await;
                applied.map(|applied| {
                    upstream.applied(&applied.held);
                    true
                })
            }
            Ok(None) => follower.rest().await.map(|()| false),
            Err(e) => Err(e),
        };
        let streaming = upstream.tell(&follower);
        let wait = {
            let mut state = lock(&state);
            state.held = follower.held().copied();
            state.is_applying = false;
            let is_live = |stream: &Option<Streaming>| stream.as_ref().is_some_and(|stream| stream.is_live);
            state.fallbacks += u64::from(is_live(&state.stream) && !is_live(&streaming));
            state.stream = streaming;
            state.steps += 1;
            match &stepped {
                Ok(is_more) => {
                    if state.trouble.take().is_some() {
                        follower.tell(None);
                    }
                    state.is_level = !is_more;
                    if *is_more { Duration::ZERO } else { pause(&store) }
                }
                Err(e) => {
                    if state.trouble.replace(e.to_string()).is_none() {
                        tracing::warn!(path = %follower.path().display(), "{e}");
                    }
                    follower.tell(Some(e));
                    state.is_level = false;
                    OUTAGE_PAUSE
                }
            }
        };
        match stepped {
            Err(e) if e.kind() != Kind::Unavailable => {
                lock(&state).is_over = true;
                upstream.let_go(&mut follower);
                _ = follower.close().await;
                return None;
            }
            Ok(true) => {}
            Ok(false) => tokio::select! {
                () = upstream.rest(wait) => {}
                _ = stop.changed() => {}
            },
            Err(_) => _ = tokio::time::timeout(wait, stop.changed()).await,
        }
    }
    upstream.let_go(&mut follower);
    Some(follower)
}

/// Applies what comes next; `false`: there is nothing. `None`: the log could not be looked at within this time.
pub(super) async fn step(follower: &mut Follower, within: Duration) -> Option<Result<bool, Error>> {
    Some(match tokio::time::timeout(within, follower.look()).await.ok()? {
        Ok(Some(work)) => follower.apply(work, &()).await.map(|_| true),
        Ok(None) => follower.rest().await.map(|()| false),
        Err(e) => Err(e),
    })
}
