//! Goal: whatever happens to the nodes, one at a time is primary, what a node has put into the log stays there, what it could not put is a
//! fork, copies are beginnings of the log, and somebody leads once they are left alone. Method: from a seed, nodes with clocks of
//! their own play in simulated time, with databases that are lists of numbers; requests come late, fail, or lose their
//! answers; nodes stop for longer than the lease holds, while their applications go on writing; leads are handed over.
//! `LITEKEEP_CAMPAIGN_N` and `LITEKEEP_CAMPAIGN_SEED` say how many seeds, and from which.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use litekeep_cluster::{Ask, Authority, Failure, Machine, Member, Role, Settings, Situation, Term};
use litekeep_env::Clock;
use litekeep_lease::{Lease, Node, Put, Record, Register, Result};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

const TTL: Duration = Duration::from_secs(5);
const PLAY: Duration = Duration::from_secs(240);

struct Skewed {
    start: Instant,
    offset: Duration,
    rate: f64,
}

impl Clock for Skewed {
    fn unix_ms(&self) -> i64 {
        unreachable!("nobody's wall clock decides anything")
    }

    fn boottime(&self) -> Duration {
        self.offset + self.start.elapsed().mul_f64(self.rate)
    }
}

/// A transaction of the log: who put it, and the operation in it; a claim has none.
type Entry = (u64, Option<u64>);

/// What the nodes have in common.
#[derive(Default)]
struct World {
    records: Mutex<BTreeMap<u64, Record>>,
    log: Mutex<Vec<Entry>>,
    /// Operations that an application has committed, each on one node.
    committed: Mutex<BTreeSet<u64>>,
    /// Operations that were kept aside.
    forks: Mutex<BTreeSet<u64>>,
    quiet: Mutex<bool>,
    numbers: AtomicU64,
}

impl World {
    fn is_quiet(&self) -> bool {
        *self.quiet.lock().unwrap()
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, SeqCst)
    }
}

/// One node's way to everything: late, or not at all, and as long as it stops, later.
#[derive(Clone)]
struct Way {
    world: Arc<World>,
    random: Arc<Mutex<Rng>>,
    /// The node stops until then.
    stopped: Arc<Mutex<Option<Instant>>>,
}

impl Way {
    async fn travels(&self) {
        let ms = {
            let mut random = self.random.lock().unwrap();
            match self.world.is_quiet() {
                true => random.u64(1..50),
                false if random.u8(..) < 4 => random.u64(1_000..15_000),
                false => random.u64(1..100),
            }
        };
        sleep(Duration::from_millis(ms)).await;
        self.wakes().await;
    }

    async fn wakes(&self) {
        loop {
            let until = *self.stopped.lock().unwrap();
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    fn fails(&self) -> bool {
        !self.world.is_quiet() && self.random.lock().unwrap().u8(..) < 12
    }

    /// Puts a transaction where it is the next one; `None`: nobody knows.
    async fn put(&self, at: usize, entry: Entry) -> Option<bool> {
        self.travels().await;
        if self.fails() {
            return None;
        }
        let is_there = {
            let mut log = self.world.log.lock().unwrap();
            if log.len() == at {
                log.push(entry);
            }
            log.get(at) == Some(&entry)
        };
        self.travels().await;
        (!self.fails()).then_some(is_there)
    }
}

#[async_trait]
impl Register for Way {
    async fn newest(&self, _: Option<&Record>) -> Result<Option<Record>> {
        self.travels().await;
        if self.fails() {
            return Err(lost());
        }
        let newest = self.world.records.lock().unwrap().last_key_value().map(|(_, record)| record.clone());
        self.travels().await;
        Ok(newest)
    }

    async fn put(&self, _: Option<&Record>, next: &Record) -> Result<Put> {
        self.travels().await;
        if self.fails() {
            return Err(lost());
        }
        let is_next = {
            let mut records = self.world.records.lock().unwrap();
            records.entry(next.turn).or_insert_with(|| next.clone()) == next
        };
        self.travels().await;
        if self.fails() { Err(lost()) } else { Ok(if is_next { Put::Done } else { Put::Lost }) }
    }

    fn place(&self) -> String {
        "a simulated bucket".into()
    }
}

fn lost() -> litekeep_lease::Error {
    litekeep_store::Error::Unavailable { action: "ask".into(), cause: "no answer".into() }.into()
}

fn silent() -> Failure {
    Failure("no answer".into())
}

/// One database on one node.
#[derive(Default)]
struct Database {
    /// The log, as far as it has come here.
    log: Vec<Entry>,
    /// Committed here and not known to be in the log.
    rest: Vec<u64>,
    /// Who puts; `None`: it is a copy.
    writer: Option<u64>,
    is_blocked: bool,
    /// It has a role in which applications run that write.
    runs: bool,
    /// Its next transaction in the log is another's.
    is_overtaken: bool,
    /// Its replicator is at work.
    ships: bool,
    /// It is a copy that is kept at the end of the log.
    follows: bool,
}

struct Simulated {
    way: Way,
    database: Arc<Mutex<Database>>,
    term: Arc<Mutex<Option<Term>>>,
}

impl Simulated {
    /// Puts what is to be put; `false`: there is nothing, or it cannot be put.
    async fn ship(way: &Way, database: &Mutex<Database>) -> bool {
        let (at, entry) = {
            let database = database.lock().unwrap();
            let (Some(writer), Some(op)) = (database.writer, database.rest.first()) else { return false };
            if database.is_overtaken || !database.ships {
                return false;
            }
            (database.log.len(), (writer, Some(*op)))
        };
        let put = way.put(at, entry).await;
        let mut database = database.lock().unwrap();
        if database.writer != Some(entry.0) || database.log.len() != at || !database.ships {
            return false;
        }
        match put {
            Some(true) => {
                database.log.push(entry);
                database.rest.remove(0);
            }
            Some(false) => database.is_overtaken = true,
            None => {}
        }
        put.is_some()
    }

    async fn read(&self) -> std::result::Result<Vec<Entry>, Failure> {
        self.way.travels().await;
        if self.way.fails() { Err(silent()) } else { Ok(self.way.world.log.lock().unwrap().clone()) }
    }
}

#[async_trait(?Send)]
impl Member for Simulated {
    fn is_copy(&self) -> bool {
        self.database.lock().unwrap().writer.is_none()
    }

    fn is_fit(&self, _: bool) -> bool {
        true
    }

    fn has_all(&self) -> bool {
        true
    }

    fn is_level(&self) -> bool {
        true
    }

    fn follows(&self) -> bool {
        self.database.lock().unwrap().follows
    }

    async fn follow(&mut self) -> std::result::Result<(), Failure> {
        {
            let mut database = self.database.lock().unwrap();
            (database.runs, database.ships, database.follows) = (false, false, false);
        }
        let log = self.read().await?;
        let mut database = self.database.lock().unwrap();
        let own = database.writer.take();
        // What came without an answer is in the log, and no fork. One that is still on its way may become both.
        let came: BTreeSet<u64> =
            log.iter().filter(|(writer, _)| Some(*writer) == own).filter_map(|(_, op)| *op).collect();
        let rest = std::mem::take(&mut database.rest);
        self.way.world.forks.lock().unwrap().extend(rest.into_iter().filter(|op| !came.contains(op)));
        assert!(log.starts_with(&database.log), "what was in the log stays there");
        (database.log, database.is_blocked, database.is_overtaken) = (log, false, false);
        database.follows = true;
        Ok(())
    }

    async fn lead(&mut self, term: &Term, is_next: bool) -> std::result::Result<(), Failure> {
        *self.term.lock().unwrap() = Some(term.clone());
        let over = || Failure("the lease is over".into());
        if is_next && !self.is_copy() {
            let log = self.read().await?;
            let mut database = self.database.lock().unwrap();
            let own = database.writer;
            if log
                .get(database.log.len()..)
                .unwrap_or_default()
                .iter()
                .all(|(writer, _)| Some(*writer) == own)
            {
                if !term.is_valid() {
                    return Err(over());
                }
                (database.is_blocked, database.runs, database.ships) = (false, true, true);
                return Ok(());
            }
        }
        if !self.is_copy() || !self.follows() {
            self.follow().await?;
        }
        let writer = self.way.world.number();
        self.database.lock().unwrap().follows = false;
        loop {
            let log = self.read().await?;
            let at = log.len();
            self.database.lock().unwrap().log = log;
            if !term.is_valid() {
                return Err(over());
            }
            match self.way.put(at, (writer, None)).await {
                Some(true) => break,
                Some(false) => {}
                None => return Err(silent()),
            }
        }
        let mut database = self.database.lock().unwrap();
        database.log.push((writer, None));
        (database.writer, database.is_blocked) = (Some(writer), true);
        if !term.is_valid() {
            return Err(over());
        }
        (database.is_blocked, database.runs, database.ships) = (false, true, true);
        Ok(())
    }

    fn is_overtaken(&self) -> bool {
        self.database.lock().unwrap().is_overtaken
    }

    async fn block(&mut self) {
        self.way.wakes().await;
        self.database.lock().unwrap().is_blocked = true;
    }

    async fn retire(&mut self, _: &Term) -> std::result::Result<(), Failure> {
        Ok(())
    }

    async fn complete(&mut self, term: &Term) -> std::result::Result<(), Failure> {
        self.block().await;
        self.database.lock().unwrap().runs = false;
        while term.is_valid() {
            if self.database.lock().unwrap().rest.is_empty() {
                return Ok(());
            }
            Simulated::ship(&self.way, &self.database).await;
        }
        Err(Failure("not confirmed in time".into()))
    }

    fn holds(&mut self, _: &Record) {}
}

struct Player {
    database: Arc<Mutex<Database>>,
    term: Arc<Mutex<Option<Term>>>,
    situation: watch::Receiver<Situation>,
    asks: mpsc::Sender<Ask>,
    way: Way,
    _stop: watch::Sender<bool>,
}

fn player(world: &Arc<World>, name: &str, random: &mut Rng) -> Player {
    let way =
        Way { world: world.clone(), random: Arc::new(Mutex::new(random.fork())), stopped: Arc::default() };
    let clock: Arc<dyn Clock> = Arc::new(Skewed {
        start: Instant::now(),
        offset: Duration::from_millis(random.u64(0..100_000_000)),
        rate: 0.92 + 0.16 * random.f64(),
    });
    let lease = Lease::new(
        Arc::new(way.clone()),
        clock.clone(),
        Node { name: name.into(), address: None, stream: None },
        TTL,
    );
    let settings = Settings { name: name.into(), candidate: true, priority: random.u32(0..3), ttl: TTL };
    let machine = Machine::new(Authority::Lease(Arc::new(lease)), settings, clock, None);
    let (asks, asked) = mpsc::channel(4);
    let (stop, stopped) = watch::channel(false);
    let (database, term) = (Arc::<Mutex<Database>>::default(), Arc::default());
    let situation = machine.situation();
    let mut member = Simulated { way: way.clone(), database: database.clone(), term: Arc::clone(&term) };
    tokio::task::spawn_local(async move { machine.run(&mut member, asked, stopped).await });
    // The replicator, and whoever follows.
    let (own, on) = (database.clone(), way.clone());
    tokio::spawn(async move {
        loop {
            if !Simulated::ship(&on, &own).await {
                sleep(Duration::from_millis(20)).await;
                if own.lock().unwrap().follows && !on.fails() {
                    let log = on.world.log.lock().unwrap().clone();
                    let mut own = own.lock().unwrap();
                    if log.len() > own.log.len() {
                        assert!(log.starts_with(&own.log), "a copy is a beginning of the log");
                        own.log = log;
                    }
                }
            }
        }
    });
    // The application, which nothing but a block or the end of its process keeps from writing.
    let (own, on, mut dice) = (database.clone(), world.clone(), random.fork());
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(dice.u64(20..400))).await;
            let mut own = own.lock().unwrap();
            if own.runs && !own.is_blocked && own.writer.is_some() {
                let op = on.number();
                own.rest.push(op);
                on.committed.lock().unwrap().insert(op);
            }
        }
    });
    Player { database, term, situation, asks, way, _stop: stop }
}

/// How often the log was taken over.
async fn play(seed: u64) -> usize {
    let mut random = Rng::with_seed(seed);
    let world = Arc::new(World::default());
    let count = random.usize(2..5);
    let players: Vec<Player> = (0..count).map(|n| player(&world, &format!("node{n}"), &mut random)).collect();
    let start = Instant::now();
    let look = || {
        let leads = |player: &&Player| {
            let is_valid = player.term.lock().unwrap().as_ref().is_some_and(Term::is_valid);
            player.situation.borrow().role == Role::Primary && is_valid
        };
        let leading = players.iter().filter(leads).count();
        assert!(leading <= 1, "seed {seed}: {leading} primaries after {:?}", start.elapsed());
        leading
    };
    while start.elapsed() < PLAY {
        sleep(Duration::from_millis(random.u64(1..60))).await;
        look();
        let player = &players[random.usize(..players.len())];
        match random.u16(..) % 3000 {
            0..4 => {
                let until = Instant::now() + Duration::from_millis(random.u64(2_000..25_000));
                *player.way.stopped.lock().unwrap() = Some(until);
            }
            4..8 => {
                let to = random.bool().then(|| format!("node{}", random.usize(..count)));
                let (reply, _) = oneshot::channel();
                _ = player.asks.try_send(Ask::HandOff { to, reply });
            }
            _ => {}
        }
    }
    *world.quiet.lock().unwrap() = true;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(look(), 1, "seed {seed}: somebody leads when they are left alone");
    let log = world.log.lock().unwrap().clone();
    let mut writers: Vec<u64> = log.iter().map(|(writer, _)| *writer).collect();
    writers.dedup();
    let distinct: BTreeSet<u64> = writers.iter().copied().collect();
    assert_eq!(writers.len(), distinct.len(), "seed {seed}: nobody puts anything after another took over");
    let in_log: Vec<u64> = log.iter().filter_map(|(_, op)| *op).collect();
    let logged: BTreeSet<u64> = in_log.iter().copied().collect();
    assert_eq!(in_log.len(), logged.len(), "seed {seed}: everything is there once");
    let forks = world.forks.lock().unwrap().clone();
    let mut under_way = BTreeSet::new();
    for player in &players {
        let database = player.database.lock().unwrap();
        assert!(log.starts_with(&database.log), "seed {seed}");
        let role = player.situation.borrow().role;
        assert_eq!(database.writer.is_none(), role == Role::Replica, "seed {seed}: {:?}", player.situation);
        under_way.extend(database.rest.iter().copied());
    }
    let missing: Vec<u64> = (world.committed.lock().unwrap().iter())
        .filter(|op| !logged.contains(op) && !forks.contains(op) && !under_way.contains(op))
        .copied()
        .collect();
    assert_eq!(missing, [0; 0], "seed {seed}: what was committed is in the log or in a fork");
    writers.len()
}

#[test]
fn one_leads_at_a_time_and_nothing_committed_is_lost() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (rounds, seed) = (number("LITEKEEP_CAMPAIGN_N", 10), number("LITEKEEP_CAMPAIGN_SEED", 1));
    let mut changes = 0;
    for seed in seed..seed + rounds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        changes += runtime.unwrap().block_on(LocalSet::new().run_until(play(seed)));
    }
    assert!(changes as u64 > 2 * rounds, "the lead went from node to node: {changes}");
}
