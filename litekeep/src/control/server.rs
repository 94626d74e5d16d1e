//! The answering side.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::socket::WHO_MAY;
use super::{Answer, Ask};
use crate::report::{Failure, Report};
use crate::stack::Stack;

/// Bytes of a question.
const LONGEST: u64 = 64 << 10;
/// How long a question may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers until the runtime ends.
pub(crate) async fn serve(listener: UnixListener, stack: Arc<Stack>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, stack.clone()))),
            Err(error) => {
                tracing::warn!("could not accept a question: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, stack: Arc<Stack>) {
    let own = litekeep_env::process::own_identity().0;
    let is_allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
    let (read, write) = stream.into_split();
    let mut out = Out { write };
    let mut read = BufReader::new(read.take(LONGEST));
    // Held until the answer is written: the end waits a moment for those who are to hear it.
    let mut end = None;
    let result = match is_allowed {
        // Hung up on while it still asks, it would not read the answer.
        false => question(&mut read).await.and_then(|_| Err(refused())),
        true => match heard(&mut read, &mut out).await {
            Ok(Ask::Down) => return down(&stack, out).await,
            Ok(ask) => {
                // Who hangs up does not want the rest of an endless answer; what was asked to be done is done all the same.
                let is_endless = matches!(ask, Ask::Logs { .. } | Ask::Events { .. });
                let end = end.insert(stack.ended());
                tokio::select! {
                    biased;
                    result = stack.answer(ask, &mut out) => result,
                    () = hung_up(&mut read), if is_endless => return,
                    _ = end.wait_for(Option::is_some), if is_endless => Ok(()),
                }
            }
            Err(error) => Err(error),
        },
    };
    let last = match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Error(Report::of(&error)),
    };
    _ = out.line(&last).await;
}

/// The end: answered when everything else has ended. The connection stays open then, so that its own end tells that this
/// process is gone, too.
async fn down(stack: &Stack, mut out: Out) {
    let (result, heard) = stack.end().await;
    _ = out.line(&result.map_or_else(Answer::Error, |()| Answer::Done)).await;
    drop(heard);
    std::future::pending().await
}

fn refused() -> anyhow::Error {
    Failure::invalid("this `litekeep up` is run by another user").hint(WHO_MAY).into()
}

async fn question(read: &mut BufReader<tokio::io::Take<OwnedReadHalf>>) -> Result<Ask> {
    let mut line = String::new();
    let late = || Failure::invalid("no question came");
    tokio::time::timeout(PATIENCE, read.read_line(&mut line)).await.map_err(|_| late())??;
    serde_json::from_str(&line)
        .map_err(|error| Failure::invalid(format!("a question that is none: {error}")).into())
}

/// What is asked, which may take long to be done: so it is told at once that somebody is there.
async fn heard(read: &mut BufReader<tokio::io::Take<OwnedReadHalf>>, out: &mut Out) -> Result<Ask> {
    let ask = question(read).await?;
    out.line(&Answer::Heard).await?;
    Ok(ask)
}

async fn hung_up(read: &mut BufReader<tokio::io::Take<OwnedReadHalf>>) {
    let mut rest = [0; 64];
    while matches!(read.read(&mut rest).await, Ok(1..)) {}
}

/// Where an answer goes.
pub(crate) struct Out {
    write: OwnedWriteHalf,
}

impl Out {
    /// One item.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub(crate) async fn item(&mut self, value: &impl Serialize) -> Result<()> {
        self.line(&Answer::Item(serde_json::to_value(value)?)).await
    }

    async fn line(&mut self, answer: &Answer) -> Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        Ok(self.write.write_all(&line).await?)
    }
}
