//! The status page: what it shows, put together from the replication, the stores' listings and the stack.
//!
//! Promises: nothing of a database is opened here, for closing it would drop the locks that this process has on it; a store
//! is listed and a migration asked for only while somebody looks, and never is one that hangs waited for.

mod cached;
mod changes;
mod listing;
mod readers;
mod seldom;
mod sentence;
mod view;

pub(crate) use readers::Reader;
pub(crate) use sentence::Fact;
pub(crate) use view::{BackupView, Board, DatabaseView, LastWords, View, file_name, is_meant, view};

use std::sync::Arc;

use axum::Router;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use litekeep_config::Dashboard;
use litekeep_dashboard::{
    Access, Act, Asked, Got, News, NotDone, Refused, Shown, Source, Told, Wanted, router,
};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::cluster::Promotion;
use crate::stack::Stack;

/// Who may look at the board, and how.
pub(crate) fn routes(config: &Dashboard, board: Arc<Board>) -> Router {
    let access = Access {
        token: config.token.as_ref().map(|token| token.expose().to_owned()),
        is_local: config.addr.ip().is_loopback(),
        actions: config.actions,
    };
    tracing::info!("the status page is at http://{}/", config.addr);
    router(access, Arc::new(Page(board)))
}

/// The board as the page asks for it.
struct Page(Arc<Board>);

impl Source for Page {
    fn shown(&self) -> BoxFuture<'_, Shown> {
        let shown = async {
            let view = self.0.view().await;
            let json = json(&view);
            Shown { safe: view.safe, sentence: view.sentence, problems: view.problems, json }
        };
        shown.boxed()
    }

    fn history(&self) -> BoxFuture<'_, String> {
        async { json(&self.0.timelines()) }.boxed()
    }

    fn news(&self) -> BoxStream<'static, News> {
        let Some(stack) = self.0.stack() else { return stream::pending().boxed() };
        let (events, lines) = Stack::news(&stack);
        let events = items(events).map(|event| News::Event(json(&event)));
        let lines = items(lines).map(|line| News::Line(json(&line)));
        stream::select(events, lines).boxed()
    }

    fn changes(&self, asked: Asked) -> BoxFuture<'_, Result<BoxStream<'static, Told>, Refused>> {
        self.0.changes(asked).boxed()
    }

    fn get(&self, wanted: Wanted) -> BoxFuture<'_, Result<Got, Refused>> {
        self.0.get(wanted).boxed()
    }

    fn act(&self, act: Act) -> BoxFuture<'_, Result<String, NotDone>> {
        let act = async {
            let Some(stack) = self.0.stack() else {
                return Err(NotDone::Failed("no processes run here: `litekeep up` runs them\n".to_owned()));
            };
            let done: anyhow::Result<Vec<String>> = match act {
                Act::Restart(name) => stack.restart(&[name]).await.map(|()| Vec::new()),
                Act::Reload => stack.reload(&[]).await.map(|reloaded| reloaded.warnings),
                Act::HandOff(to) => hand_off(&stack, to).await.map(|()| Vec::new()),
                Act::Promote { yes } => match promote(&stack, yes).await {
                    Ok(Promotion { leads: false, at_risk: Some(at_risk), .. }) => {
                        return Err(NotDone::Unasked(format!("{}\n", at_risk.text())));
                    }
                    promoted => promoted
                        .map(|promotion| promotion.at_risk.iter().map(|at_risk| at_risk.text()).collect()),
                },
            };
            let done = done.map(|warnings| warnings.iter().map(|warning| format!("{warning}\n")).collect());
            done.map_err(|error| NotDone::Failed(format!("{error:#}\n")))
        };
        act.boxed()
    }
}

async fn hand_off(stack: &Stack, to: String) -> anyhow::Result<()> {
    stack.node()?.hand_off(Some(to)).await
}

async fn promote(stack: &Stack, yes: bool) -> anyhow::Result<Promotion> {
    stack.node()?.promote(yes).await
}

fn items<T: Send + 'static>(mut receiver: mpsc::Receiver<T>) -> BoxStream<'static, T> {
    stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}
