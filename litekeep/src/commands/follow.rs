//! `litekeep follow`: a live copy of a database, read from its backup, or from the primary that makes it.

mod streamed;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use litekeep_config::StoreUrl;
use litekeep_env::SystemClock;
use litekeep_replica::{Applied, Error, Follower, Held, Kind, Options, Streaming, is_replica};
use litekeep_replicate::restore::Goal;
use litekeep_store::Store;
use serde::Serialize;

use super::diff::best_backup;
use crate::args;
use crate::child::Signals;
use crate::followers::{OUTAGE_PAUSE, pause};
use crate::report::progress::Shown;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::database::backups;
use crate::settings::{Database, Settings, Stores};
use crate::streamed::Streamed;

/// Between two lines while much comes.
const LINE_PAUSE: Duration = Duration::from_secs(1);

/// What has come since the last line.
#[derive(Serialize)]
struct Line {
    path: PathBuf,
    txid: String,
    time: String,
    applied_at: String,
    lag_ms: i64,
    transactions: u64,
    steps: u64,
    pages: usize,
}

#[derive(Serialize)]
struct Verified {
    path: PathBuf,
    txid: String,
    proven: bool,
    pages: u32,
    reason: Option<String>,
}

pub(super) async fn run(args: &args::follow::Follow, format: Format) -> Result<Outcome> {
    follow(args, format)
        .await
        .with_context(|| format!("follow `{}` with `{}`", args.target, args.output.display()))
}

async fn follow(args: &args::follow::Follow, format: Format) -> Result<Outcome> {
    if let Some(settings) = Settings::find(&args.config, format)?
        && Database::named(&settings, &args.output).is_ok()
    {
        let config = settings.path.display();
        let message =
            format!("`{}` is a database of `{config}`, from which transactions come", args.output.display());
        return Err(Failure::invalid(message).hint("name another file for the copy").into());
    }
    let address = streamed::address(args)?;
    let (url, store) = source(args, format).await?;
    let streamed =
        args.stream.as_ref().zip(address).map(|(url, address)| Streamed::start(address, url, &store, None));
    let mut signals = Signals::catch().context("catch signals")?;
    let mut run = Run { follower: None, streamed, told: Told::new(args, format), store, is_down: false };
    let ended = tokio::select! {
        ended = run.go(args, &url) => ended,
        () = signals.end() => Ok(Outcome::Done),
    };
    run.told.end(ended.is_ok());
    let closed = match run.follower.take() {
        Some(follower) => follower.close().await,
        None => Ok(()),
    };
    let ended = ended?;
    closed?;
    Ok(ended)
}

/// The backup that is followed: the only one, or the one that is furthest.
async fn source(args: &args::follow::Follow, format: Format) -> Result<(StoreUrl, Store)> {
    let mut found = backups(Some(&args.target), &args.config, format)?;
    match found.pop() {
        Some(backup) if found.is_empty() => {
            let store = backup.open(&Stores::default())?;
            Ok((backup.destination.url, store))
        }
        _ => best_backup(Some(&args.target), &args.config, &[Goal::Latest], format).await,
    }
}

struct Run {
    follower: Option<Follower>,
    /// What tells of the log's end before the backup is asked.
    streamed: Option<Streamed>,
    told: Told,
    store: Store,
    /// The store does not answer.
    is_down: bool,
}

impl Run {
    /// Follows until it is told to stop, or to the end of the backup.
    async fn go(&mut self, args: &args::follow::Follow, url: &StoreUrl) -> Result<Outcome> {
        while self.follower.is_none() {
            match self.open(args, url).await {
                Ok(follower) => self.follower = Some(follower),
                // One that was followed before goes on when the backup is there again.
                Err(e) if is_replica(&args.output) && !args.force => self.wait(e, args).await?,
                Err(e) => return Err(e.into()),
            }
        }
        loop {
            match self.step().await {
                Ok(true) => {}
                Ok(false) if args.once => return self.end(args).await,
                Ok(false) => self.rest().await,
                Err(e) => self.wait(e, args).await?,
            }
        }
    }

    async fn open(&mut self, args: &args::follow::Follow, url: &StoreUrl) -> Result<Follower, Error> {
        let options = Options {
            force: args.force,
            new_timeline: args.new_timeline,
            parallelism: args.parallelism,
            clock: Arc::new(SystemClock),
            url: url.to_string(),
            command: command(args),
        };
        let shown = Shown::new(self.told.format);
        let mut follower = Follower::open(&self.store, &args.output, options, &shown).await?;
        shown.end();
        match &self.streamed {
            Some(streamed) => follower.listen_to(Some(streamed.source())),
            None => Streaming::tell(follower.path(), None),
        }
        self.well(&follower);
        if let Some(held) = follower.held() {
            self.told.begin(held);
        }
        Ok(follower)
    }

    async fn rest(&self) {
        let pause = pause(&self.store);
        match &self.streamed {
            Some(streamed) => streamed.rest(pause).await,
            None => tokio::time::sleep(pause).await,
        }
    }

    fn well(&mut self, follower: &Follower) {
        follower.tell(None);
        self.is_down = false;
    }

    /// Applies what comes next; `false`: there is nothing.
    async fn step(&mut self) -> Result<bool, Error> {
        let Some(follower) = &mut self.follower else { return Ok(false) };
        let work = follower.look().await?;
        let is_more = work.is_some();
        match work {
            Some(work) => {
                let shown = Shown::new(Format::Json);
                let applied = follower.apply(work, &shown).await?;
                if let Some(streamed) = &mut self.streamed {
                    streamed.applied(&applied.held);
                }
                self.told.add(&applied);
            }
            None => {
                follower.rest().await?;
                self.told.pause();
            }
        }
        if self.is_down {
            follower.tell(None);
            self.is_down = false;
        }
        if let Some(streamed) = &mut self.streamed {
            streamed.tell(follower.path());
        }
        Ok(is_more)
    }

    /// Waits after an error that may pass; others end it.
    async fn wait(&mut self, e: Error, args: &args::follow::Follow) -> Result<()> {
        if let Some(follower) = &self.follower {
            follower.tell(Some(&e));
        }
        if e.kind() != Kind::Unavailable || args.once {
            return Err(e.into());
        }
        if !self.is_down {
            report::warning(&format!("{e}; trying again"), self.told.format);
        }
        self.is_down = true;
        tokio::time::sleep(OUTAGE_PAUSE).await;
        Ok(())
    }

    async fn end(&mut self, args: &args::follow::Follow) -> Result<Outcome> {
        self.told.last();
        let Some(follower) = self.follower.as_mut().filter(|_| args.verify) else { return Ok(Outcome::Done) };
        let shown = Shown::new(self.told.format);
        let proof = follower.verify(&shown).await?;
        shown.end();
        let found = Verified {
            path: follower.path().to_owned(),
            txid: proof.txid.to_string(),
            proven: proof.differs.is_none(),
            pages: proof.page_count,
            reason: proof.differs,
        };
        report::line_out(self.told.format, &found, || {
            let Verified { path, txid, pages, reason, .. } = &found;
            let path = path.display();
            match reason {
                None => format!(
                    "proven: {path} has transaction {txid} of the backup: {pages} pages are the same\n"
                ),
                Some(reason) => format!(
                    "NOT PROVEN: {path}, transaction {txid}: what the backup has is not in {reason}\n"
                ),
            }
        });
        Ok(if found.proven { Outcome::Done } else { Outcome::No })
    }
}

/// The command that was given, for pasting.
fn command(args: &args::follow::Follow) -> String {
    let config =
        args.config.config.iter().flat_map(|path| ["--config".to_owned(), path.display().to_string()]);
    let stream = args.stream.iter().flat_map(|url| ["--stream".to_owned(), url.clone()]);
    let paths = [("--stream-token-file", &args.stream_token_file), ("--stream-ca", &args.stream_ca)];
    let paths = paths.into_iter().filter_map(|(option, path)| Some((option, path.as_ref()?)));
    let paths = paths.flat_map(|(option, path)| [option.to_owned(), path.display().to_string()]);
    let insecure = args.stream_insecure.then(|| "--stream-insecure".to_owned());
    let further = config.chain(stream).chain(paths).chain(insecure);
    let words =
        ["follow".to_owned(), args.target.clone(), "-o".to_owned(), args.output.display().to_string()];
    let quoted: Vec<String> = words.into_iter().chain(further).map(|word| text::shell_word(&word)).collect();
    format!("litekeep {}", quoted.join(" "))
}

/// Says how far it is: at once where little comes, else once a second.
struct Told {
    format: Format,
    path: PathBuf,
    since: Option<Line>,
    at: Option<Instant>,
}

impl Told {
    fn new(args: &args::follow::Follow, format: Format) -> Told {
        Told { format, path: args.output.clone(), since: None, at: None }
    }

    fn line(&self, held: &Held) -> Line {
        Line {
            path: self.path.clone(),
            txid: held.txid.to_string(),
            time: text::rfc3339(held.time_ms),
            applied_at: text::rfc3339(held.applied_ms),
            lag_ms: held.applied_ms - held.time_ms,
            transactions: 0,
            steps: 0,
            pages: 0,
        }
    }

    /// It goes on from there, which is said when the backup has answered.
    fn begin(&mut self, held: &Held) {
        self.since = Some(self.line(held));
    }

    fn add(&mut self, applied: &Applied) {
        let now = self.line(&applied.held);
        let (transactions, steps, pages) =
            self.since.as_ref().map_or((0, 0, 0), |line| (line.transactions, line.steps, line.pages));
        self.since = Some(Line {
            transactions: transactions + applied.transactions,
            steps: steps + 1,
            pages: pages + applied.pages,
            ..now
        });
        self.pause();
    }

    /// Says it, unless something was said a moment ago.
    fn pause(&mut self) {
        if self.at.is_none_or(|at| at.elapsed() >= LINE_PAUSE) {
            self.last();
        }
    }

    /// Where it began is of no interest when it went no further.
    fn end(&mut self, is_well: bool) {
        self.since = self.since.take().filter(|line| is_well || line.steps > 0);
        self.last();
    }

    fn last(&mut self) {
        let Some(line) = self.since.take() else { return };
        self.at = Some(Instant::now());
        let Line { txid, time, lag_ms, transactions, steps, pages, .. } = &line;
        let path = Path::new(&self.path).display();
        report::line_out(self.format, &line, || match steps {
            0 => format!("{path} has transaction {txid} of {time}\n"),
            _ => {
                let count = |n: u64, what| text::count(usize::try_from(n).unwrap_or(usize::MAX), what);
                let came = count(*transactions, "transaction");
                let steps = count(*steps, "step");
                format!(
                    "{path} has transaction {txid} of {time}, {lag_ms} ms later: {came} in {steps}, {pages} pages\n"
                )
            }
        });
    }
}
