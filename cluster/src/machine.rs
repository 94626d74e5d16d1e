//! When a node becomes what.

use std::sync::Arc;
use std::time::Duration;

use litekeep_env::Clock;
use litekeep_lease::{Attempt, Holding, Lease, Node, Record, margin};
use tokio::sync::{mpsc, oneshot, watch};

use crate::keeper::Keeper;
use crate::member::{Failure, Member, Role, Situation, Term};

/// Between two looks at what a primary depends on.
const WATCH: Duration = Duration::from_millis(50);
/// How much earlier a node may take the lease than one whose priority is a number greater.
const STEPS_OF_PRIORITY: u32 = 10;

/// So many promotions may fail before it is another node's turn.
const PATIENCE: u32 = 3;
/// A node that fails again and again leaves the others at most twice as many times of a lease, which is enough for any priority.
const MOST_TURNS: u32 = 6;

/// Who says which node is the primary.
pub enum Authority {
    /// A lease.
    Lease(Arc<Lease>),
    /// The configuration: this node, or another one.
    Fixed {
        /// Its name.
        primary: String,
    },
}

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// It may become primary by itself.
    pub candidate: bool,
    /// Those with smaller numbers come first.
    pub priority: u32,
    /// How long a lease holds.
    pub ttl: Duration,
}

/// What a node is asked for.
pub enum Ask {
    /// To give the lease to another node, or to whoever comes first, when everything is confirmed.
    HandOff {
        /// The other node.
        to: Option<String>,
        /// What came of it.
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    /// To take the lease as soon as it may be taken, also where it is no candidate.
    Lead {
        /// For how long.
        within: Duration,
        /// Also one that has run out: its holder may have what the log has not. Else only one that was given up.
        even_lapsed: bool,
    },
}

/// The roles of one node.
pub struct Machine {
    authority: Authority,
    settings: Settings,
    clock: Arc<dyn Clock>,
    situation: watch::Sender<Situation>,
    /// The last holding of this node, while nobody is known to have followed it.
    own: Option<Record>,
    /// Until then it leaves the lease to the others.
    held_back_until: Duration,
    /// Until then it takes what it can get.
    eager_until: Duration,
    /// That may be a lease that has run out, also where it is no candidate.
    takes_lapsed: bool,
    /// Promotions that failed since the last that did not.
    failures: u32,
    /// What the lease was, once it could be read.
    lease: Seen,
}

/// What is known of a lease.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Nothing.
    Nothing,
    /// Nobody has had it, or this node was the last.
    NoOthers,
    /// Another node has had it.
    Others,
}

/// How a time as primary ended.
enum End {
    /// It goes on as something else.
    Over,
    /// The node ends.
    Stop,
}

/// What came of waiting.
enum Turn {
    Held(Option<Box<Holding>>),
    Stop,
}

impl Machine {
    /// A node that is nothing yet. `former`: what [`Member::holds`] was told last, before this process began.
    #[must_use]
    pub fn new(
        authority: Authority,
        settings: Settings,
        clock: Arc<dyn Clock>,
        former: Option<Record>,
    ) -> Machine {
        if let (Authority::Lease(lease), Some(former)) = (&authority, &former) {
            lease.note_over(former);
        }
        let situation = Situation {
            role: Role::Fencing,
            since: clock.boottime(),
            epoch: None,
            primary: None,
            is_lapsed: false,
            lapse_of: None,
            trouble: None,
        };
        Machine {
            authority,
            settings,
            clock,
            situation: watch::Sender::new(situation),
            own: former,
            held_back_until: Duration::ZERO,
            eager_until: Duration::ZERO,
            takes_lapsed: false,
            failures: 0,
            lease: Seen::Nothing,
        }
    }

    /// How it stands, from now on.
    #[must_use]
    pub fn situation(&self) -> watch::Receiver<Situation> {
        self.situation.subscribe()
    }

    /// Plays its roles until it is told to stop.
    pub async fn run(
        mut self,
        member: &mut dyn Member,
        mut asks: mpsc::Receiver<Ask>,
        mut stop: watch::Receiver<bool>,
    ) {
        self.settle(member).await;
        loop {
            let turn = match &self.authority {
                Authority::Lease(lease) => {
                    let lease = lease.clone();
                    self.wait_for_lease(&lease, member, &mut asks, &mut stop).await
                }
                Authority::Fixed { primary } => {
                    let primary = primary.clone();
                    self.wait_fixed(primary, member, &mut asks, &mut stop).await
                }
            };
            let end = match turn {
                Turn::Stop => return,
                Turn::Held(holding) => {
                    self.reign(holding.map(|holding| *holding), member, &mut asks, &mut stop).await
                }
            };
            match end {
                End::Over => self.settle(member).await,
                End::Stop => return,
            }
        }
    }

    /// What the databases say that it is, while it does not lead.
    async fn settle(&mut self, member: &mut dyn Member) {
        let may_lead = match &self.authority {
            // Who has led last goes on, whatever made him the primary.
            Authority::Lease(_) => self.settings.candidate || self.own.is_some(),
            Authority::Fixed { primary } => *primary == self.settings.name,
        };
        if member.is_copy() || !may_lead {
            self.becomes(Role::Replica);
        } else {
            // Nobody writes until it is known who leads.
            self.becomes(Role::Fencing);
            member.block().await;
        }
    }

    fn role(&self) -> Role {
        self.situation.borrow().role
    }

    fn becomes(&self, role: Role) {
        self.situation.send_if_modified(|situation| {
            if situation.role != role {
                tracing::info!("this node is {} now", role.name());
                situation.since = self.clock.boottime();
            }
            std::mem::replace(&mut situation.role, role) != role
        });
    }

    /// What is wrong, if anything.
    fn tell(&self, trouble: Option<String>) {
        self.situation.send_if_modified(|situation| {
            if let Some(trouble) =
                trouble.as_ref().filter(|trouble| situation.trouble.as_ref() != Some(*trouble))
            {
                tracing::warn!("{trouble}");
            }
            let is_new = situation.trouble != trouble;
            situation.trouble = trouble;
            is_new
        });
    }

    fn knows(&self, epoch: Option<u64>, primary: Option<Node>, is_lapsed: bool) {
        self.situation.send_if_modified(|situation| {
            let known = (situation.epoch, &situation.primary, situation.is_lapsed);
            let is_new = known != (epoch, &primary, is_lapsed);
            (situation.epoch, situation.primary, situation.is_lapsed) = (epoch, primary, is_lapsed);
            is_new
        });
    }

    fn pause(&self) -> Duration {
        self.settings.ttl / 5
    }

    fn room(&self) -> Duration {
        margin(self.settings.ttl)
    }

    /// How much longer it waits than it must.
    fn handicap(&self, member: &dyn Member) -> Duration {
        let (now, ttl) = (self.clock.boottime(), self.settings.ttl);
        if now < self.eager_until {
            return Duration::ZERO;
        }
        let priority = ttl / STEPS_OF_PRIORITY * self.settings.priority;
        let behind = match (member.has_all(), member.is_level()) {
            (false, _) => ttl,
            (true, false) => ttl / 2,
            (true, true) => Duration::ZERO,
        };
        priority + behind + self.held_back_until.saturating_sub(now)
    }

    /// Makes copies where the databases are not, and follows; given up when everything is to end, for that may take long.
    async fn follow(&mut self, member: &mut dyn Member, stop: &mut watch::Receiver<bool>) {
        if self.role() != Role::Replica || member.follows() {
            return;
        }
        let followed = tokio::select! {
            followed = member.follow() => followed,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match followed {
            Ok(()) => self.tell(None),
            Err(e) => self.tell(Some(format!("could not follow the primary: {e}"))),
        }
    }

    async fn wait_for_lease(
        &mut self,
        lease: &Lease,
        member: &mut dyn Member,
        asks: &mut mpsc::Receiver<Ask>,
        stop: &mut watch::Receiver<bool>,
    ) -> Turn {
        loop {
            if *stop.borrow() {
                return Turn::Stop;
            }
            self.follow(member, stop).await;
            if *stop.borrow() {
                return Turn::Stop;
            }
            let handicap = self.handicap(member);
            let is_eager = self.clock.boottime() < self.eager_until;
            let takes_all =
                self.settings.candidate || self.role() == Role::Fencing || is_eager && self.takes_lapsed;
            // Not before it is known whether somebody has led: then an empty node would take an old lease over for the first one.
            let is_willing = (takes_all || is_eager)
                && self.lease != Seen::Nothing
                && member.is_fit(self.lease == Seen::NoOthers);
            let seen = match is_willing {
                true if takes_all => lease.attempt(handicap).await,
                is_asked => match lease.look(handicap).await {
                    // Who has given it up had everything confirmed.
                    Ok(seen) if is_asked && seen.as_ref().is_none_or(|(newest, _)| self.is_free(newest)) => {
                        lease.attempt(handicap).await
                    }
                    looked => looked.map(|seen| {
                        let (newest, left) = seen.unzip();
                        Attempt::Waits { newest, left: left.unwrap_or_default() }
                    }),
                },
            };
            match seen {
                Ok(Attempt::Held(holding)) => return Turn::Held(Some(Box::new(holding))),
                Ok(Attempt::Waits { newest, left }) => {
                    self.tell_of_silence(None);
                    match newest {
                        Some(newest) => self.sees(&newest, left <= handicap),
                        None if self.lease == Seen::Nothing => self.lease = Seen::NoOthers,
                        None => {}
                    }
                }
                Ok(Attempt::Lost) => self.lease = Seen::Nothing,
                Err(e) => self.tell_of_silence(Some(e.to_string())),
            }
            self.rest(asks, stop).await;
        }
    }

    /// A lease that cannot be read; what is wrong otherwise stays.
    fn tell_of_silence(&self, e: Option<String>) {
        const SILENT: &str = "the lease cannot be read: ";
        let known = self.situation.borrow().trouble.clone();
        match e {
            Some(e) => self.tell(Some(format!("{SILENT}{e}"))),
            None if known.is_some_and(|known| known.starts_with(SILENT)) => self.tell(None),
            None => {}
        }
    }

    /// Nobody else has it.
    fn is_free(&self, newest: &Record) -> bool {
        newest.released.is_some() || self.is_ours(newest)
    }

    fn is_ours(&self, newest: &Record) -> bool {
        self.own.as_ref().is_some_and(|own| own.is_of_holding(newest))
    }

    /// Who is the primary, by the newest record, which has or has not been the same for longer than it holds.
    fn sees(&mut self, newest: &Record, is_old: bool) {
        let is_ours = self.is_ours(newest);
        self.lease = if is_ours { Seen::NoOthers } else { Seen::Others };
        let primary = (newest.released.is_none() && !is_ours).then(|| newest.holder.clone());
        let is_lapsed = is_old && primary.is_some();
        self.knows(Some(newest.epoch), primary, is_lapsed);
        if !is_ours {
            self.own = None;
            if self.role() == Role::Fencing {
                // Somebody has led since: the log is the truth.
                self.becomes(Role::Replica);
            }
        }
    }

    async fn wait_fixed(
        &mut self,
        primary: String,
        member: &mut dyn Member,
        asks: &mut mpsc::Receiver<Ask>,
        stop: &mut watch::Receiver<bool>,
    ) -> Turn {
        let is_ours = primary == self.settings.name;
        if !is_ours {
            self.knows(None, Some(Node { name: primary, address: None, stream: None }), false);
            self.becomes(Role::Replica);
        }
        loop {
            if *stop.borrow() {
                return Turn::Stop;
            }
            if is_ours && self.clock.boottime() >= self.held_back_until {
                return Turn::Held(None);
            }
            self.follow(member, stop).await;
            self.rest(asks, stop).await;
        }
    }

    /// Waits for the next look, or for somebody who asks.
    async fn rest(&mut self, asks: &mut mpsc::Receiver<Ask>, stop: &mut watch::Receiver<bool>) {
        tokio::select! {
            () = tokio::time::sleep(self.pause()) => {}
            _ = stop.changed() => {}
            Some(ask) = asks.recv() => match ask {
                Ask::Lead { within, even_lapsed } => {
                    (self.eager_until, self.takes_lapsed) = (self.clock.boottime() + within, even_lapsed);
                }
                Ask::HandOff { reply, .. } => {
                    let primary = self.situation.borrow().primary.as_ref().map(|node| node.name.clone());
                    let who = primary.map_or("nobody is".to_owned(), |name| format!("`{name}` is"));
                    _ = reply.send(Err(Failure(format!("this node is not the primary: {who}"))));
                }
            }
        }
    }

    /// A time as primary, from the promotion to its end.
    async fn reign(
        &mut self,
        holding: Option<Holding>,
        member: &mut dyn Member,
        asks: &mut mpsc::Receiver<Ask>,
        stop: &mut watch::Receiver<bool>,
    ) -> End {
        let epoch = holding.as_ref().map(|holding| holding.record().epoch);
        let was_fencing = self.role() == Role::Fencing;
        // Without a lease the log alone tells.
        let is_next = was_fencing
            && epoch.is_none_or(|epoch| epoch == self.own.as_ref().map_or(1, |own| own.epoch + 1));
        let lapse_of = holding.as_ref().and_then(Holding::follows).filter(|former| !self.is_free(former));
        let lapse_of = lapse_of.map(|former| former.holder.name.clone());
        let validity = holding.as_ref().map(Holding::validity);
        let term = Term::new(epoch, validity, self.room());
        if let Some(holding) = &holding {
            member.holds(holding.record());
        }
        let keeper = match (&self.authority, holding) {
            (Authority::Lease(lease), Some(holding)) => {
                Some(Keeper::keep(lease.clone(), holding, self.settings.ttl / 4))
            }
            _ => None,
        };
        self.becomes(Role::Promoting);
        self.situation.send_modify(|situation| situation.lapse_of = lapse_of);
        let own = Node { name: self.settings.name.clone(), address: None, stream: None };
        self.knows(epoch, Some(own), false);
        let led = {
            let mut leading = std::pin::pin!(member.lead(&term, is_next));
            tokio::select! {
                led = &mut leading => led,
                _ = stop.wait_for(|stop| *stop) => {
                    // It gives up as if the lease were lost.
                    term.end();
                    leading.await
                }
            }
        };
        if let Err(e) = led {
            self.tell(Some(format!("could not become primary: {e}")));
            member.block().await;
            self.failures += 1;
            // Who has what nobody else has is to go on, unless it cannot.
            let is_others_turn = !is_next || self.failures >= PATIENCE;
            if is_others_turn {
                // Longer each time, for others may have a smaller priority.
                let turns = 2 * self.failures.min(MOST_TURNS);
                self.held_back_until = self.clock.boottime() + self.settings.ttl * turns;
            }
            self.ends(&term, keeper, is_others_turn.then_some(None)).await;
            self.retires(member, &term).await;
            return End::Over;
        }
        self.failures = 0;
        self.tell(None);
        self.eager_until = Duration::ZERO;
        self.becomes(Role::Primary);
        loop {
            let is_lost = keeper.as_ref().is_some_and(Keeper::is_lost);
            if is_lost || !term.is_valid() || member.is_overtaken() {
                self.becomes(Role::Fencing);
                member.block().await;
                let why = match member.is_overtaken() {
                    true => "another node writes to the log",
                    false => "the lease was lost, or could not be renewed in time",
                };
                self.tell(Some(format!("{why}: nobody can write on this node")));
                self.ends(&term, keeper, None).await;
                self.retires(member, &term).await;
                return End::Over;
            }
            let ask = tokio::select! {
                () = tokio::time::sleep(WATCH) => continue,
                _ = stop.changed() => None,
                Some(ask) = asks.recv() => Some(ask),
            };
            let (to, reply) = match ask {
                Some(Ask::Lead { .. }) => continue,
                Some(Ask::HandOff { reply, .. }) if keeper.is_none() => {
                    let why = "the configuration says which node is the primary: change `primary` there";
                    _ = reply.send(Err(Failure(why.to_owned())));
                    continue;
                }
                Some(Ask::HandOff { to, reply }) => (to, Some(reply)),
                None if !*stop.borrow() => continue,
                None => (None, None),
            };
            // Clients may write until what takes longer has ended.
            let retired = member.retire(&term).await;
            self.becomes(Role::Fencing);
            let completed = match retired {
                Ok(()) => member.complete(&term).await,
                Err(e) => Err(e),
            };
            let is_stopping = reply.is_none();
            if let (Err(e), false) = (&completed, is_stopping) {
                // What is not in the log would be lost with the lease.
                let led = if term.is_valid() { member.lead(&term, true).await } else { Err(e.clone()) };
                _ = reply.map(|reply| reply.send(Err(e.clone())));
                match led {
                    Ok(()) => self.becomes(Role::Primary),
                    Err(_) => {
                        member.block().await;
                        self.ends(&term, keeper, None).await;
                        return End::Over;
                    }
                }
                continue;
            }
            // With something left to put, this node should be the next one.
            let release = completed.is_ok().then_some(to);
            self.held_back_until = self.clock.boottime() + 2 * self.settings.ttl;
            self.ends(&term, keeper, release).await;
            if let Some(reply) = reply {
                _ = reply.send(completed);
                return End::Over;
            }
            if let Err(e) = completed {
                self.tell(Some(e.to_string()));
            }
            return End::Stop;
        }
    }

    /// What runs on the primary only ends also where nobody else has led yet: another node may begin at any moment.
    async fn retires(&self, member: &mut dyn Member, term: &Term) {
        if let Err(e) = member.retire(term).await {
            tracing::error!("{e}");
        }
    }

    /// The lease goes, to a node or to nobody in particular where it is released. Nobody writes here any more.
    async fn ends(&mut self, term: &Term, keeper: Option<Keeper>, release: Option<Option<String>>) {
        term.end();
        let Some(keeper) = keeper else {
            self.held_back_until = self.clock.boottime() + self.settings.ttl;
            return;
        };
        self.own = Some(match release {
            Some(to) => keeper.release(to).await.0,
            None => keeper.end(),
        });
        let epoch = self.situation.borrow().epoch;
        self.knows(epoch, None, false);
    }
}
