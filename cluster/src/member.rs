//! What a role asks of a node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use litekeep_lease::{Node, Record, Validity};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its databases are copies of the log.
    Replica,
    /// It has the lease, and takes over.
    Promoting,
    /// Its applications write.
    Primary,
    /// It has been a primary, or may have been, and nobody writes here.
    Fencing,
}

impl Role {
    /// In lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Replica => "replica",
            Role::Promoting => "promoting",
            Role::Primary => "primary",
            Role::Fencing => "fencing",
        }
    }
}

/// How a node stands, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// What it is.
    pub role: Role,
    /// Since when, by the clock that counts from the start of the machine.
    pub since: Duration,
    /// The number of the last holding of the lease that it knows of; `None` where there is no lease.
    pub epoch: Option<u64>,
    /// Who is the primary, as far as it knows.
    pub primary: Option<Node>,
    /// The lease of that node has run out, by the clock of this one, and nobody has taken it yet.
    pub is_lapsed: bool,
    /// Whose lease had run out when this node took it last: what it had and the log had not is not here. `None`: it was given up, or this
    /// node's own.
    pub lapse_of: Option<String>,
    /// What is wrong.
    pub trouble: Option<String>,
}

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The time for which a node may be primary.
#[derive(Clone, Debug)]
pub struct Term {
    /// The number of the holding; `None` where there is no lease.
    pub epoch: Option<u64>,
    validity: Option<Validity>,
    /// Left to end everything in.
    room: Duration,
    is_over: Arc<AtomicBool>,
}

impl Term {
    pub(crate) fn new(epoch: Option<u64>, validity: Option<Validity>, room: Duration) -> Term {
        Term { epoch, validity, room, is_over: Arc::default() }
    }

    /// Whether nobody else can be primary, now and long enough to end what depends on it.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.is_over.load(SeqCst)
            && self.validity.as_ref().is_none_or(|validity| validity.left() > self.room)
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, SeqCst);
    }
}

/// The databases and processes of a node.
#[async_trait(?Send)]
pub trait Member {
    /// Whether all its databases are copies, or are not there. Then nobody is kept from writing.
    fn is_copy(&self) -> bool;

    /// Whether it could lead. `is_first`: no other node has led before, so what is here, or nothing, is all that there is.
    fn is_fit(&self, is_first: bool) -> bool;

    /// Whether each of its databases is there.
    fn has_all(&self) -> bool;

    /// Whether it has, as far as it knows, all of the log.
    fn is_level(&self) -> bool;

    /// Whether its databases are copies that are followed.
    fn follows(&self) -> bool;

    /// Makes copies of its databases and follows their logs from then on. What only they had is kept, and applications that write
    /// have ended before. Until it succeeds, nobody writes.
    async fn follow(&mut self) -> Result<(), Failure>;

    /// Takes everything from the log, takes that over, and lets applications write. `is_next`: nobody has led since this node did. It gives
    /// up as soon as the term is not valid; then nobody may write.
    async fn lead(&mut self, term: &Term, is_next: bool) -> Result<(), Failure>;

    /// Whether somebody else owns the log of a database that it leads.
    fn is_overtaken(&self) -> bool;

    /// Keeps everybody from writing: at once, or as soon as a transaction that is under way has ended.
    async fn block(&mut self);

    /// Ends what runs on the primary only; applications go on. Nobody writes as soon as the term is over.
    async fn retire(&mut self, term: &Term) -> Result<(), Failure>;

    /// Ends what writes, and waits until the log has all of it. Nobody writes when it returns, also after a failure, but for a transaction
    /// that was under way then: it is part of the failure.
    async fn complete(&mut self, term: &Term) -> Result<(), Failure>;

    /// A lease is held from now on: remembered across a crash, so that the next start of this node need not wait for itself.
    fn holds(&mut self, record: &Record);
}
