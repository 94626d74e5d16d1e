//! What the roles of a node do with its databases and processes.
//!
//! At any time each database is followed as a [`Copy`], or replicated, or only there, blocked.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use litekeep_cluster::{Failure, Member, Term};
use litekeep_env::SystemClock;
use litekeep_lease::Record;
use litekeep_replica::{Follower, LetGo, Options, Standing, is_source_of, rejoin};
use litekeep_replicate::Kind;
use litekeep_replicate::capture::WriteBlock;
use litekeep_replicate::replicator::{Gate, Phase};
use litekeep_store::Store;
use tokio::task::JoinHandle;

use super::copies::{Copy, step};
use super::link::Shown;
use super::records::{Records, Told};
use super::upstream::Upstreams;
use crate::args::ConfigArgs;
use crate::commands::replicate::alone;
use crate::control::Home;
use crate::feeds::{self, Feed};
use crate::followers::Followers;
use crate::replication::{Choices, Replication};
use crate::report::text;
use crate::settings::{Database, Settings};
use crate::stack::{Place, Stack};
use crate::syncs::{self, DatabaseSync};
use crate::verification::Schedule;

/// Between two tries to keep writers out: transactions are short.
const BLOCK_PAUSE: Duration = Duration::from_millis(2);
/// How long that is waited for; it goes on afterwards.
const BLOCK_PATIENCE: Duration = Duration::from_millis(500);
/// How long a lease that is given away waits for a transaction that writes: meanwhile nobody begins another one.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether a time as primary is over.
const WATCH: Duration = Duration::from_millis(50);
/// Between two tries while a store does not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// Whose store does not answer for so long cannot lead: the lease may be elsewhere, and another node may reach both.
const SILENCE: Duration = Duration::from_secs(5);

/// One database, with the log that all nodes share.
pub(super) struct Shared {
    pub(super) database: Database,
    pub(super) store: Store,
}

/// A time as primary.
struct Leading {
    replication: Arc<Replication>,
    /// `None`: it is being given up.
    beside: Option<Beside>,
}

/// What runs beside the replication, on the primary only.
struct Beside {
    followers: Followers,
    schedule: Option<JoinHandle<()>>,
}

impl Beside {
    async fn end(self) {
        if let Some(schedule) = self.schedule {
            schedule.abort();
            _ = schedule.await;
        }
        self.followers.stop().await;
    }
}

/// Everything that a node has.
pub(super) struct Node {
    pub(super) settings: Settings,
    pub(super) stack: Arc<Stack>,
    pub(super) home: Home,
    pub(super) shared: Vec<Shared>,
    copies: Vec<Copy>,
    leading: Option<Leading>,
    blocks: Arc<Blocks>,
    config: ConfigArgs,
    shown: Arc<Shown>,
    upstreams: Upstreams,
    /// The time as primary that the replication of now is for.
    term: Arc<Mutex<Option<Term>>>,
    /// This node has been the primary of its cluster.
    has_led: bool,
    /// A database that is neither here nor in its log may be on another node.
    is_elsewhere: bool,
}

/// What keeps writers out.
#[derive(Default)]
struct Blocks {
    all: Mutex<Vec<WriteBlock>>,
    /// They are to be closed, as far as they are not.
    is_wanted: AtomicBool,
    /// They are, since that was wanted last.
    is_done: AtomicBool,
}

impl Node {
    pub(super) fn new(
        settings: Settings,
        stack: Arc<Stack>,
        home: Home,
        shared: Vec<Shared>,
        config: ConfigArgs,
        shown: Arc<Shown>,
        upstreams: Upstreams,
    ) -> Node {
        let (copies, leading, blocks, term) = (vec![], None, Arc::default(), Arc::default());
        let has_led = home.lease().exists();
        Node {
            settings,
            stack,
            home,
            shared,
            copies,
            leading,
            blocks,
            config,
            shown,
            upstreams,
            term,
            has_led,
            is_elsewhere: true,
        }
    }

    fn copy_of(&self, path: &Path) -> Option<&Copy> {
        self.copies.iter().find(|copy| copy.is_of(path))
    }

    fn keep(&mut self, copy: Copy) {
        let mut shown = self.shown.copies.lock().unwrap_or_else(PoisonError::into_inner);
        shown.insert(copy.path.clone(), copy.state.clone());
        self.copies.push(copy);
    }

    /// Nobody follows it any more; `None`: it had ended by itself.
    async fn end(&self, copy: Copy) -> Option<Follower> {
        let path = copy.path.clone();
        let follower = copy.stop().await;
        self.shown.copies.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
        follower
    }

    fn options(shared: &Shared) -> Options {
        let url = shared.database.destinations[0].url.to_string();
        Options {
            force: false,
            new_timeline: false,
            parallelism: 4,
            clock: Arc::new(SystemClock),
            url: url.clone(),
            command: format!(
                "litekeep follow {} -o {}",
                text::shell_word(&url),
                text::shell_word(&shared.database.path.display().to_string())
            ),
        }
    }

    /// Ends the time as primary, without waiting for what is not confirmed.
    async fn leave(&mut self) {
        let Some(leading) = self.leading.take() else { return };
        let Leading { replication, beside } = leading;
        if let Some(beside) = beside {
            beside.end().await;
        }
        alone(replication).await.leave().await;
    }

    /// Nobody is kept from writing any more, and the files are closed: not while anything of this process has them open.
    fn unblock(&self) {
        let mut blocks = self.blocks.lock();
        self.blocks.is_wanted.store(false, SeqCst);
        blocks.clear();
    }

    async fn try_follow(&mut self) -> Result<()> {
        self.stack.end_primarys().await.context("end what runs on the primary only")?;
        if !self.is_copy() {
            self.stack.end_survivors(&self.settings).await.context("end what runs since an earlier start")?;
        }
        self.leave().await;
        {
            // Whoever is still closing blocks would open the files again.
            let _blocks = self.blocks.lock();
            self.blocks.is_wanted.store(false, SeqCst);
        }
        let (mut has_all, mut elsewhere) = (true, None);
        for nth in 0..self.shared.len() {
            let path = self.shared[nth].database.path.clone();
            if let Some(ended) = self.copies.iter().position(|copy| copy.is_of(&path) && !copy.goes_on()) {
                let ended = self.copies.remove(ended);
                self.end(ended).await;
            }
            if self.copy_of(&path).is_some() {
                continue;
            }
            let shared = &self.shared[nth];
            if Standing::of(&path) == Standing::Absent && shared.store.list().await?.is_empty() {
                has_all = false;
                let node = self.who_has(nth).await?;
                elsewhere = elsewhere.or(node.map(|node| (node, path)));
                continue;
            }
            let (blocks, at) = (self.blocks.clone(), path.clone());
            let let_go: LetGo = Arc::new(move || blocks.lift_at(&at));
            let (follower, fork) =
                rejoin(&shared.store, &path, self.has_led, let_go, Node::options(shared), &())
                    .await
                    .with_context(|| format!("make `{}` a copy of its log", path.display()))?;
            if let Some(fork) = fork {
                tracing::error!(
                    path = %path.display(),
                    "what only this node had is kept as the fork `{}`: `litekeep forks show {}` has it", fork.name, fork.name
                );
            }
            follower.tell(None);
            let copy = Copy::follow(follower, &shared.store, self.upstreams.of(&shared.store));
            self.keep(copy);
        }
        self.is_elsewhere = elsewhere.is_some();
        if let Some((node, path)) = elsewhere {
            anyhow::bail!(
                "`{}` is on `{node}`, and nothing of it is in the log yet, which is waited for; if that node is gone for good, \
                 `litekeep cluster forget {node}` lets the others begin without it",
                path.display()
            );
        }
        // Whoever finds no database would make one, which is none of the log.
        if has_all { self.take_place(Place::Replica).await } else { Ok(()) }
    }

    /// The node that told that it has the file of a database.
    async fn who_has(&self, nth: usize) -> Result<Option<String>> {
        let told = Records::of(&self.shared[0].store).nodes().await?;
        let has = |told: &Told| told.node.databases.get(nth).is_some_and(|database| database.there);
        Ok(told.into_iter().find(has).map(|told| told.node.node))
    }

    async fn take_place(&self, place: Place) -> Result<()> {
        self.stack.take_place(place, &self.settings).await
    }

    /// Whether every database here is where its log ends, or has none yet.
    async fn is_source(&self, term: &Term) -> Result<bool> {
        for Shared { database, store } in &self.shared {
            let path = &database.path;
            let is_so = match Standing::of(path) {
                Standing::Copy => false,
                Standing::Source => retried(term, async || Ok(is_source_of(store, path).await?)).await?,
                Standing::Unknown | Standing::Absent => {
                    retried(term, async || Ok(store.list().await?.is_empty())).await?
                }
            };
            if !is_so {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn try_lead(&mut self, term: &Term, is_next: bool) -> Result<()> {
        *self.term.lock().unwrap_or_else(PoisonError::into_inner) = Some(term.clone());
        if is_next && self.copies.is_empty() && self.is_source(term).await? {
            if self.leading.is_none() {
                self.unblock();
                self.replicate(term).await?;
            }
            self.goes_on_beside()?;
            self.blocks.lift()?;
            return self.begin_primarys(term).await;
        }
        if !self.follows() || self.leading.is_some() {
            self.try_follow().await?;
        }
        while let Some(copy) = self.copies.pop() {
            let found = self.shared.iter().find(|shared| copy.is_of(&shared.database.path));
            let store = found.map(|shared| shared.store.clone()).context("find the log of a copy")?;
            let mut follower =
                self.end(copy).await.context("a copy could not be followed to the end of its log")?;
            match take_over(&mut follower, term).await {
                Ok(()) => follower.hand_over().await?,
                Err(error) => {
                    self.keep(Copy::follow(follower, &store, self.upstreams.of(&store)));
                    return Err(error);
                }
            }
        }
        self.unblock();
        self.replicate(term).await?;
        self.begin_primarys(term).await
    }

    /// Lets run what runs on the primary.
    async fn begin_primarys(&mut self, term: &Term) -> Result<()> {
        require(term)?;
        self.guarded(term, self.take_place(Place::Primary)).await?;
        self.has_led = true;
        Ok(())
    }

    /// Does something that takes its time; should the term be over before its end, nobody writes from then on.
    async fn guarded(&self, term: &Term, work: impl Future<Output = Result<()>>) -> Result<()> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => done,
            error = over(term) => {
                self.keep_out().await;
                work.await?;
                Err(error)
            }
        }
    }

    /// Keeps everybody from writing to what is not a copy, or waits no more while a transaction is under way: nobody begins another one.
    async fn keep_out(&self) {
        let is_ours = |shared: &&Shared| self.copy_of(&shared.database.path).is_none();
        let paths: Vec<_> =
            self.shared.iter().filter(is_ours).map(|shared| shared.database.path.clone()).collect();
        let blocks = self.blocks.clone();
        blocks.is_done.store(false, SeqCst);
        blocks.is_wanted.store(true, SeqCst);
        let closing = tokio::task::spawn_blocking(move || blocks.close_all(&paths));
        _ = tokio::time::timeout(BLOCK_PATIENCE, closing).await;
    }

    /// The feeds, the syncs and the verification, unless they run.
    fn goes_on_beside(&mut self) -> Result<()> {
        let Some(leading) = &mut self.leading else { return Ok(()) };
        if leading.beside.is_some() {
            return Ok(());
        }
        let replication = &leading.replication;
        let mut followers = Followers::default();
        feeds::start(&Feed::all(&self.settings)?, replication, &mut followers);
        syncs::start(&DatabaseSync::all(&self.settings)?, replication, &mut followers);
        let databases: Vec<Database> = self.shared.iter().map(|shared| shared.database.clone()).collect();
        let schedule = Schedule::new(self.config.clone(), &databases, &[]);
        let verified = Arc::downgrade(replication);
        let schedule = schedule.map(|schedule| {
            tokio::spawn(async move {
                if let Some(replication) = verified.upgrade() {
                    schedule.keep(&replication).await;
                }
            })
        });
        leading.beside = Some(Beside { followers, schedule });
        Ok(())
    }

    /// Begins to replicate, and waits until each database is fit.
    async fn replicate(&mut self, term: &Term) -> Result<()> {
        require(term)?;
        let databases: Vec<Database> = self.shared.iter().map(|shared| shared.database.clone()).collect();
        let choices = Choices { roll_forward: false, ..Choices::of_all(false) };
        let now = self.term.clone();
        let gate = Gate::new(move || {
            let term = now.lock().unwrap_or_else(PoisonError::into_inner);
            term.as_ref().is_some_and(Term::is_valid)
        });
        let replication = Arc::new(Replication::start_behind(gate, &databases, choices).await?);
        self.stack.replicated(&replication);
        let settled = replication.clone();
        self.leading = Some(Leading { replication, beside: None });
        self.goes_on_beside()?;
        tokio::select! {
            settled = settled.settled() => settled,
            error = over(term) => Err(error),
        }
    }

    /// Ends everything, when nothing is the node's to decide any more.
    pub(super) async fn close(mut self) -> Result<()> {
        for copy in std::mem::take(&mut self.copies) {
            if let Some(follower) = self.end(copy).await {
                follower.close().await?;
            }
        }
        let Some(Leading { replication, beside }) = self.leading.take() else { return Ok(()) };
        if let Some(beside) = beside {
            beside.end().await;
        }
        let confirmed = alone(replication).await.shut_down().await;
        self.unblock();
        confirmed
    }
}

fn require(term: &Term) -> Result<()> {
    if term.is_valid() { Ok(()) } else { Err(anyhow::anyhow!("the lease has run out before that")) }
}

/// Returns when a time as primary is over.
async fn over(term: &Term) -> anyhow::Error {
    loop {
        if let Err(error) = require(term) {
            return error;
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// Tries again while a store does not answer, and the lease holds, for [`SILENCE`] at most.
async fn retried<T>(term: &Term, mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        require(term)?;
        match ask().await {
            Err(error) if is_silence(&error) && begun.elapsed() < SILENCE => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!("{error:#}; trying again");
                }
                tokio::time::sleep(PAUSE).await;
            }
            asked => return asked,
        }
    }
}

fn is_silence(error: &anyhow::Error) -> bool {
    crate::report::Report::of(error).kind == crate::report::Kind::Unavailable
}

/// Takes all that the log has, and then the log.
async fn take_over(follower: &mut Follower, term: &Term) -> Result<()> {
    let mut answered = Instant::now();
    let mut is_told = false;
    loop {
        require(term)?;
        let stepped = match step(follower, SILENCE).await.context("the store does not answer")? {
            Ok(true) => {
                (answered, is_told) = (Instant::now(), false);
                continue;
            }
            Ok(false) => {
                require(term)?;
                follower.claim().await
            }
            Err(e) => Err(e),
        };
        match stepped {
            Ok(true) => return Ok(()),
            Ok(false) => answered = Instant::now(),
            Err(e) if e.kind() == Kind::Unavailable && answered.elapsed() < SILENCE => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(path = %follower.path().display(), "{e}; trying again");
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

impl Blocks {
    fn lock(&self) -> MutexGuard<'_, Vec<WriteBlock>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets everybody write; the files stay open, for a connection of this process may have locks there.
    fn lift(&self) -> Result<()> {
        let mut blocks = self.lock();
        self.is_wanted.store(false, SeqCst);
        blocks.iter_mut().try_for_each(|block| Ok(block.lift()?))
    }

    /// The same for one of them, in whose file a connection of this process waits for the lock.
    fn lift_at(&self, path: &Path) {
        for block in self.lock().iter_mut().filter(|block| block.is_at(path)) {
            if let Err(e) = block.lift() {
                tracing::warn!("let go of the lock of writers: {e}");
            }
        }
    }

    /// Keeps writers out of what can be kept; `true`: there is nothing left to do.
    fn close(&self, paths: &[PathBuf]) -> bool {
        let mut blocks = self.lock();
        if !self.is_wanted.load(SeqCst) {
            return true;
        }
        let failed = |e: litekeep_replicate::Error| {
            tracing::debug!("keep writers out: {e}");
            false
        };
        let mut all = true;
        for path in paths {
            if !blocks.iter().any(|block| block.is_at(path)) {
                all &=
                    WriteBlock::open(path).map(|block| blocks.extend(block)).map_or_else(failed, |()| true);
            }
        }
        // Others are of copies, whose writer is this process.
        for block in blocks.iter_mut().filter(|block| paths.iter().any(|path| block.is_at(path))) {
            all &= block.close().unwrap_or_else(failed);
        }
        all
    }

    /// The same until it is done, or not wanted any more.
    fn close_all(&self, paths: &[PathBuf]) {
        let (begun, mut is_told) = (Instant::now(), false);
        while !self.close(paths) {
            std::thread::sleep(BLOCK_PAUSE);
            if begun.elapsed() > BLOCK_PATIENCE && !std::mem::replace(&mut is_told, true) {
                tracing::warn!(
                    "a transaction that writes is under way; when it ends, nobody begins another one"
                );
            }
        }
        self.is_done.store(true, SeqCst);
    }
}

fn failure(error: anyhow::Error) -> Failure {
    Failure(format!("{error:#}"))
}

#[async_trait(?Send)]
impl Member for Node {
    fn is_copy(&self) -> bool {
        let is_source = |shared: &Shared| {
            matches!(Standing::of(&shared.database.path), Standing::Source | Standing::Unknown)
        };
        self.leading.is_none() && !self.shared.iter().any(is_source)
    }

    fn is_fit(&self, is_first: bool) -> bool {
        let is_fit = |path: &Path| match (self.copy_of(path), Standing::of(path)) {
            (Some(copy), _) => copy.goes_on(),
            (None, Standing::Source | Standing::Copy) => true,
            // What is here has nothing to do with the log.
            (None, Standing::Unknown) => is_first,
            // What another node has may be on its way into the log.
            (None, Standing::Absent) => is_first || !self.is_elsewhere,
        };
        self.shared.iter().all(|shared| is_fit(&shared.database.path))
    }

    fn has_all(&self) -> bool {
        self.shared.iter().all(|shared| shared.database.path.exists())
    }

    fn is_level(&self) -> bool {
        self.copies.iter().all(|copy| copy.state().is_level)
    }

    fn follows(&self) -> bool {
        let follows = |shared: &Shared| self.copy_of(&shared.database.path).is_some_and(Copy::goes_on);
        self.leading.is_none() && self.shared.iter().all(follows)
    }

    async fn follow(&mut self) -> Result<(), Failure> {
        let followed = self.try_follow().await;
        if followed.is_err() {
            self.block().await;
        }
        followed.map_err(failure)
    }

    async fn lead(&mut self, term: &Term, is_next: bool) -> Result<(), Failure> {
        self.shown.terms.begin(term);
        self.try_lead(term, is_next).await.map_err(failure)
    }

    fn is_overtaken(&self) -> bool {
        let is_fenced = |status: &litekeep_replicate::replicator::Status| status.phase == Phase::Fenced;
        self.leading.as_ref().is_some_and(|leading| leading.replication.statuses().iter().any(is_fenced))
    }

    async fn block(&mut self) {
        self.keep_out().await;
    }

    async fn retire(&mut self, term: &Term) -> Result<(), Failure> {
        let beside = self.leading.as_mut().and_then(|leading| leading.beside.take());
        let ending = async {
            if let Some(beside) = beside {
                beside.end().await;
            }
            self.stack.end_primarys().await.context("end what runs on the primary only")
        };
        // After the term nobody writes any more.
        let ended = if term.is_valid() { self.guarded(term, ending).await } else { ending.await };
        ended.map_err(failure)
    }

    async fn complete(&mut self, term: &Term) -> Result<(), Failure> {
        let timeouts = self.shared.iter().map(|shared| shared.database.config.shutdown_timeout);
        let within = timeouts.max().unwrap_or_default();
        let completed = async {
            let until = Instant::now() + OPEN_PATIENCE;
            self.keep_out().await;
            while !self.blocks.is_done.load(SeqCst) {
                require(term)?;
                tokio::time::sleep(WATCH).await;
                if Instant::now() >= until {
                    let seconds = OPEN_PATIENCE.as_secs();
                    anyhow::bail!(
                        "a transaction that writes is open for more than {seconds} s, and what it commits would be lost: end it first"
                    );
                }
            }
            let Some(leading) = &self.leading else { return Ok(()) };
            tokio::select! {
                confirmed = leading.replication.confirm(within) => confirmed,
                error = over(term) => Err(error),
            }
        };
        let completed: Result<()> = completed.await;
        completed.map_err(failure)
    }

    fn holds(&mut self, record: &Record) {
        let path = self.home.lease();
        let text = serde_json::to_vec(record).unwrap_or_default();
        if let Err(error) = litekeep_env::file::replace(&path, &text) {
            tracing::warn!("write `{}`: {error}", path.display());
        }
    }
}
