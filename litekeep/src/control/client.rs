//! The asking side.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;

use super::{Answer, Ask, Home, socket};
use crate::args::ConfigArgs;
use crate::report::{self, Failure, Format, Kind, Relayed};
use crate::settings::Settings;

/// A question that was asked.
pub(crate) struct Client {
    lines: Lines<BufReader<UnixStream>>,
    /// An answer that came at once.
    first: Option<Answer>,
}

/// How long it may take until somebody is there.
const PATIENCE: Duration = Duration::from_secs(3);

impl Client {
    /// Asks the stack of a folder; `None` when none is up.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(crate) async fn ask(home: &Home, ask: &Ask) -> Result<Option<Client>> {
        let Some(mut stream) = socket(home).await? else { return Ok(None) };
        let mut question = serde_json::to_vec(ask)?;
        question.push(b'\n');
        stream.write_all(&question).await?;
        let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let mut client = Client { lines: BufReader::new(stream).lines(), first: None };
        match tokio::time::timeout(PATIENCE, client.line()).await {
            Ok(Ok(Answer::Heard)) => Ok(Some(client)),
            Ok(first) => Ok(Some(Client { first: Some(first?), ..client })),
            Err(_) => Err(hangs(peer).into()),
        }
    }

    async fn line(&mut self) -> Result<Answer> {
        let gone = || Failure::new(Kind::Unavailable, "`litekeep up` ended before it had answered");
        let line = self.lines.next_line().await?.ok_or_else(gone)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// The next item; `None` after the last.
    ///
    /// # Errors
    /// What it answered, or that it ended in the middle.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            let answer = match self.first.take() {
                Some(first) => first,
                None => self.line().await?,
            };
            match answer {
                Answer::Heard => {}
                Answer::Item(value) => return Ok(Some(value)),
                Answer::Done => return Ok(None),
                Answer::Error(report) => return Err(Relayed(report).into()),
            }
        }
    }
}

fn hangs(pid: Option<i32>) -> Failure {
    let who = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    let failure = Failure::new(
        Kind::Unavailable,
        format!("`litekeep up`{who} runs and does not answer within {} s", PATIENCE.as_secs()),
    );
    match pid {
        Some(pid) => failure.hint(format!(
            "if it was stopped, `kill -CONT {pid}` lets it go on; after `kill -KILL {pid}` the processes go on without it, and `litekeep up` takes them over"
        )),
        None => failure,
    }
}

impl Client {
    /// Waits until the process that answered is gone.
    pub(crate) async fn gone(mut self) {
        while matches!(self.lines.next_line().await, Ok(Some(_))) {}
    }
}

/// Whether the stack of the configuration is up.
///
/// # Errors
/// When it is and cannot be asked.
pub(crate) async fn is_up(args: &ConfigArgs, format: Format) -> Result<bool> {
    let home = match (Settings::load_stack(args, format), Settings::place_of_stack(args)) {
        (Ok(settings), _) => Home::of(&settings),
        (Err(_), Some(place)) => Home::beside(&place),
        (Err(error), None) => return Err(error),
    };
    Ok(socket(&home).await?.is_some())
}

/// What is said of a configuration with a mistake, beside one that runs.
pub(crate) fn not_taken(mistake: &anyhow::Error) -> String {
    format!("`litekeep reload` will not take this configuration: {mistake:#}")
}

/// Asks the stack of the configuration, which must be up. It runs by a configuration that was good once, so a mistake in
/// the file that is there now is only a warning, where the stack can be found without it.
///
/// # Errors
/// When none is up.
pub(crate) async fn talk(args: &ConfigArgs, format: Format, ask: &Ask) -> Result<Client> {
    let settings = match Settings::load_stack(args, format) {
        Ok(settings) => settings,
        Err(error) => {
            let Some(place) = Settings::place_of_stack(args) else { return Err(error) };
            let Some(client) = Client::ask(&Home::beside(&place), ask).await? else { return Err(error) };
            report::warning(&not_taken(&error), format);
            return Ok(client);
        }
    };
    let client = Client::ask(&Home::of(&settings), ask).await?;
    client.ok_or_else(|| {
        let failure = Failure::invalid(format!("nothing of `{}` is up", settings.path.display()));
        let hint = "`litekeep up` starts it, `litekeep up --detach` in the background; what began with another `state_dir` hears only who has that one";
        failure.hint(hint).into()
    })
}
