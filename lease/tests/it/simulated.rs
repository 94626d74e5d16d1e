//! Goal: two nodes never hold a lease at the same time, whatever happens to them, and somebody holds it again once they are left
//! alone. Method: from a seed, nodes with clocks of their own play in simulated time; requests and answers come late
//! or not at all; nodes stop for longer than the lease lasts. The register has the weaknesses of a bucket: those who wait may be told of an
//! old record, and old names are free again. `LITEKEEP_CAMPAIGN_N` and `LITEKEEP_CAMPAIGN_SEED` say how many seeds, and from which.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use litekeep_env::Clock;
use litekeep_lease::{Attempt, Lease, Node, Put, Record, Register, Result, Validity};
use tokio::time::{Instant, sleep};

const TTL: Duration = Duration::from_secs(5);
const KEPT: u64 = 3;
const PLAY: Duration = Duration::from_secs(200);

/// A clock that runs a little wrong.
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

/// The objects of a bucket, which do what they are asked at once.
#[derive(Default)]
struct Objects(Mutex<BTreeMap<u64, Record>>);

impl Objects {
    fn put(&self, record: &Record) -> bool {
        let mut objects = self.0.lock().unwrap();
        let stands = objects.entry(record.turn).or_insert_with(|| record.clone());
        stands == record
    }

    fn last(&self) -> Option<Record> {
        self.0.lock().unwrap().last_key_value().map(|(_, record)| record.clone())
    }

    fn get(&self, turn: u64) -> Option<Record> {
        self.0.lock().unwrap().get(&turn).cloned()
    }

    fn forget(&self, before: u64) {
        self.0.lock().unwrap().retain(|turn, _| *turn >= before);
    }
}

/// One node's way to the bucket.
struct Way {
    objects: Arc<Objects>,
    random: Mutex<Rng>,
    quiet: Arc<Mutex<bool>>,
}

impl Way {
    /// Some time on the way; long now and then.
    async fn travels(&self) {
        let ms = {
            let mut random = self.random.lock().unwrap();
            match *self.quiet.lock().unwrap() {
                true => random.u64(1..50),
                false if random.u8(..) < 12 => random.u64(1_000..20_000),
                false if random.u8(..) < 80 => random.u64(100..300),
                false => random.u64(1..20),
            }
        };
        sleep(Duration::from_millis(ms)).await;
    }

    fn fails(&self) -> bool {
        !*self.quiet.lock().unwrap() && self.random.lock().unwrap().u8(..) < 24
    }

    fn lost<T>() -> Result<T> {
        Err(litekeep_store::Error::Unavailable { action: "ask".into(), cause: "no answer".into() }.into())
    }
}

#[async_trait]
impl Register for Way {
    async fn newest(&self, known: Option<&Record>) -> Result<Option<Record>> {
        self.travels().await;
        if self.fails() {
            return Self::lost();
        }
        let mut newest = known.cloned().or_else(|| self.objects.last());
        while let Some(next) = newest.as_ref().and_then(|record| self.objects.get(record.turn + 1)) {
            newest = Some(next);
        }
        self.travels().await;
        Ok(newest)
    }

    async fn put(&self, before: Option<&Record>, next: &Record) -> Result<Put> {
        let renews = before.is_some_and(|before| before.is_of_holding(next));
        let is_beyond = || self.objects.last().is_some_and(|last| last.turn > next.turn);
        self.travels().await;
        if !renews && is_beyond() {
            return Ok(Put::Lost);
        }
        if self.fails() {
            return Self::lost();
        }
        if self.fails() {
            // It comes, later than anybody waits for an answer.
            let (objects, next, ms) =
                (self.objects.clone(), next.clone(), self.random.lock().unwrap().u64(1..30_000));
            tokio::spawn(async move {
                sleep(Duration::from_millis(ms)).await;
                objects.put(&next);
            });
            return Self::lost();
        }
        self.travels().await;
        if !self.objects.put(next) {
            return Ok(Put::Lost);
        }
        self.travels().await;
        if !renews && is_beyond() {
            return Ok(Put::Lost);
        }
        self.objects.forget(next.turn.saturating_sub(KEPT));
        if self.fails() { Self::lost() } else { Ok(Put::Done) }
    }

    fn place(&self) -> String {
        "a simulated bucket".into()
    }
}

/// What a node holds, or held.
type Held = Arc<Mutex<Option<(u64, Validity)>>>;

async fn node(lease: Lease, held: Held, seed: u64, quiet: Arc<Mutex<bool>>) {
    let mut random = Rng::with_seed(seed);
    let (mut dice, calm) = (random.fork(), quiet.clone());
    // Stops now and then for longer than the lease lasts.
    let mut pause = move |calm: u64| {
        let ms = match *quiet.lock().unwrap() {
            false if random.u8(..) < 8 => random.u64(1_000..25_000),
            _ => calm,
        };
        sleep(Duration::from_millis(ms))
    };
    loop {
        let Ok(Attempt::Held(mut holding)) = lease.attempt(Duration::ZERO).await else {
            pause(30).await;
            continue;
        };
        *held.lock().unwrap() = Some((holding.record().epoch, holding.validity()));
        loop {
            pause(1_500).await;
            if !*calm.lock().unwrap() && dice.u8(..) < 8 {
                // It dies, and the next process of the node knows that.
                *held.lock().unwrap() = None;
                lease.note_over(holding.record());
                break;
            }
            match lease.renew(&mut holding).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) if holding.validity().is_valid() => {}
                Err(_) => break,
            }
        }
    }
}

/// How often the lease went to another holding.
async fn play(seed: u64) -> u64 {
    let mut random = Rng::with_seed(seed);
    let (objects, quiet) = (Arc::new(Objects::default()), Arc::new(Mutex::new(false)));
    let mut nodes: Vec<Held> = vec![];
    for n in 0..random.usize(2..6) {
        let way = Way { objects: objects.clone(), random: Mutex::new(random.fork()), quiet: quiet.clone() };
        let clock = Skewed {
            start: Instant::now(),
            offset: Duration::from_millis(random.u64(0..100_000_000)),
            rate: 0.92 + 0.16 * random.f64(),
        };
        let me = Node { name: format!("node{n}"), address: None, stream: None };
        let held = Held::default();
        nodes.push(held.clone());
        let lease = Lease::new(Arc::new(way), Arc::new(clock), me, TTL);
        tokio::spawn(node(lease, held, random.u64(..), quiet.clone()));
    }
    let (start, mut epoch) = (Instant::now(), 0);
    let mut look = || {
        let valid = |held: &Held| {
            held.lock().unwrap().as_ref().filter(|(_, v)| v.is_valid()).map(|(epoch, _)| *epoch)
        };
        let holders: Vec<(usize, u64)> =
            nodes.iter().enumerate().filter_map(|(n, held)| Some((n, valid(held)?))).collect();
        assert!(
            holders.len() <= 1,
            "seed {seed}: nodes and their epochs {holders:?} after {:?}",
            start.elapsed()
        );
        if let Some((_, now)) = holders.first() {
            assert!(*now >= epoch, "seed {seed}: epoch {now} after {epoch}");
            epoch = *now;
        }
        (epoch, !holders.is_empty())
    };
    while start.elapsed() < PLAY {
        sleep(Duration::from_millis(random.u64(1..40))).await;
        look();
    }
    *quiet.lock().unwrap() = true;
    // What was on its way may take half a minute, a node that stopped as long.
    sleep(Duration::from_secs(60)).await;
    let (settled, _) = look();
    for _ in 0..100 {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(look(), (settled, true), "seed {seed}: nobody is in anybody's way, and the lease is kept");
    }
    settled
}

#[test]
fn two_never_hold_it_and_somebody_does_in_the_end() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (rounds, seed) = (number("LITEKEEP_CAMPAIGN_N", 40), number("LITEKEEP_CAMPAIGN_SEED", 1));
    let mut holdings = 0;
    for seed in seed..seed + rounds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        holdings += runtime.unwrap().block_on(play(seed));
    }
    assert!(holdings > 3 * rounds, "the lease went from node to node: {holdings}");
}
