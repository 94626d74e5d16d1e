//! Commands that run when something happened to a process.

use std::time::Duration;

use litekeep_config::{Config, Hook};
use litekeep_supervise::events::{Kind, Next, Subscription};
use litekeep_supervise::spawn::Spawn;
use litekeep_supervise::{Event, Events, health};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::{belongs, services};
use crate::args::ConfigArgs;

/// A hook that takes longer is ended.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The end of everything waits so long for what still runs.
pub(crate) const LAST_HOOKS: Duration = Duration::from_secs(10);

/// A hook of one process.
struct Own {
    process: String,
    when: Hook,
    what: Spawn,
}

/// Runs hooks, each in the surroundings of its process, with `LITEKEEP_PROCESS`, `LITEKEEP_EVENT` and `LITEKEEP_REASON`. One
/// that fails or hangs delays nothing.
pub(super) struct Hooks {
    /// Those of the configuration of now.
    own: mpsc::UnboundedSender<Vec<Own>>,
    task: JoinHandle<()>,
}

impl Hooks {
    pub(super) fn watch(config: &Config, events: &Events, args: &ConfigArgs) -> Hooks {
        let (own, configured) = mpsc::unbounded_channel();
        let news = events.subscribe(events.next_number());
        Hooks { own, task: tokio::spawn(follow(all(config, args), news, configured)) }
    }

    /// What happens from now on has the hooks of this configuration.
    pub(super) fn change(&self, config: &Config, args: &ConfigArgs) {
        // The task ends after the sender.
        _ = self.own.send(all(config, args));
    }

    /// Runs what has happened until now, and waits for it, but not for long.
    pub(super) async fn finish(self) {
        drop(self.own);
        if tokio::time::timeout(LAST_HOOKS, self.task).await.is_err() {
            tracing::warn!("hooks still run after {} s: they are left to themselves", LAST_HOOKS.as_secs());
        }
    }
}

fn all(config: &Config, args: &ConfigArgs) -> Vec<Own> {
    let mut own = Vec::new();
    for process in &config.processes {
        let surroundings = services::folder(args).and_then(|cwd| services::surroundings(&process.run, &cwd));
        let Ok(surroundings) = surroundings else { continue };
        for (when, command) in &process.hooks {
            let what = surroundings.beside(services::command(command));
            own.push(Own { process: process.name.clone(), when: *when, what });
        }
    }
    own
}

/// Runs hooks until nobody configures them any more, and everything that had happened by then.
async fn follow(
    mut own: Vec<Own>,
    mut news: Subscription,
    mut configured: mpsc::UnboundedReceiver<Vec<Own>>,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            next = news.next() => {
                let Next::Event(event) = next else { continue };
                let Some(now) = hook_of(event.kind) else { continue };
                let is_meant = |hook: &&Own| hook.when == now && belongs(&event.name, &hook.process);
                for hook in own.iter().filter(is_meant) {
                    running.spawn(run(hook.what.clone(), event.clone()));
                }
            }
            changed = configured.recv() => match changed {
                Some(changed) => own = changed,
                None => break,
            },
            Some(_) = running.join_next() => {}
        }
    }
    running.join_all().await;
}

fn hook_of(kind: Kind) -> Option<Hook> {
    match kind {
        Kind::Ready | Kind::Reloaded => Some(Hook::Healthy),
        Kind::Crashed => Some(Hook::Crashed),
        Kind::Failed => Some(Hook::Failed),
        Kind::Stopped => Some(Hook::Stopped),
        _ => None,
    }
}

async fn run(mut what: Spawn, event: Event) {
    for (name, value) in [("PROCESS", &*event.name), ("EVENT", event.kind.name()), ("REASON", &event.text)] {
        what.env.push((format!("LITEKEEP_{name}").into(), value.into()));
    }
    let instance = format!("{}/hook-{}", event.name, event.number);
    if let Err(reason) = health::run(&what, "hook", &instance, TIMEOUT).await {
        tracing::warn!(process = event.name, event = event.kind.name(), "a hook failed: {reason}");
    }
}
