//! What happened, for whoever wants to know: the newest [`KEPT`] events, each with a number.
//!
//! Nobody who tells waits for one who listens. A reader asks for events from a number on and gets all of them that are still
//! kept; how many are gone is told, never passed over.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use litekeep_env::Clock;
use tokio::sync::watch;

/// How many events are kept.
pub const KEPT: usize = 1000;
/// Bytes of an event's text that are kept.
const LONGEST_TEXT: usize = 1000;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A process was started by request.
    Started,
    /// A process was started again after an end that nobody asked for.
    Restarted,
    /// A process that outlived an earlier litekeep was taken over.
    Adopted,
    /// A process became ready.
    Ready,
    /// A process is not ready any more.
    Unready,
    /// A process ended well.
    Ended,
    /// A process ended badly, could not be started, or was ended because it was unfit.
    Crashed,
    /// A process ended badly too often or for good.
    Failed,
    /// A process was stopped by request.
    Stopped,
    /// A new run took a process's place.
    Reloaded,
    /// A new run was unfit, and the one before goes on.
    ReloadFailed,
    /// Files that a process watches changed.
    FilesChanged,
    /// A job was started.
    JobStarted,
    /// A job ended well.
    JobEnded,
    /// A job ended badly, was ended, or could not be started.
    JobFailed,
    /// A job was due and was left out.
    JobSkipped,
    /// Something works less well than it was asked to.
    Warning,
}

impl Kind {
    /// Its name in output for machines.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Started => "started",
            Kind::Restarted => "restarted",
            Kind::Adopted => "adopted",
            Kind::Ready => "ready",
            Kind::Unready => "unready",
            Kind::Ended => "ended",
            Kind::Crashed => "crashed",
            Kind::Failed => "failed",
            Kind::Stopped => "stopped",
            Kind::Reloaded => "reloaded",
            Kind::ReloadFailed => "reload_failed",
            Kind::FilesChanged => "files_changed",
            Kind::JobStarted => "job_started",
            Kind::JobEnded => "job_ended",
            Kind::JobFailed => "job_failed",
            Kind::JobSkipped => "job_skipped",
            Kind::Warning => "warning",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// One more than that of the event before; the first is 0.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: i64,
    /// The process or job; empty for all of them.
    pub name: String,
    /// What.
    pub kind: Kind,
    /// The rest: a reason, a process id; may be empty.
    pub text: String,
}

/// The ring of what happened.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    ring: Mutex<VecDeque<Event>>,
    /// The number of the event that comes next.
    next: watch::Sender<u64>,
}

impl Events {
    /// Nothing has happened yet.
    pub fn new(clock: Arc<dyn Clock>) -> Events {
        Events(Arc::new(Shared { clock, ring: Mutex::default(), next: watch::Sender::new(0) }))
    }

    /// Keeps what happened.
    pub fn tell(&self, name: &str, kind: Kind, text: impl Into<String>) {
        let mut text = text.into();
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        let mut ring = self.0.ring.lock().expect("no panic while held");
        // Within the lock, so that numbers and times have one order.
        let unix_ms = self.0.clock.unix_ms();
        let number = *self.0.next.borrow();
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Event { number, unix_ms, name: name.into(), kind, text });
        self.0.next.send_replace(number + 1);
    }

    /// The number of the event that comes next.
    pub fn next_number(&self) -> u64 {
        *self.0.next.borrow()
    }

    /// What is kept from a number on, and how many from there on are gone.
    pub fn since(&self, number: u64) -> (u64, Vec<Event>) {
        let ring = self.0.ring.lock().expect("no panic while held");
        let first = ring.front().map_or(0, |event| event.number);
        let skip = number.saturating_sub(first) as usize;
        (first.saturating_sub(number), ring.iter().skip(skip).cloned().collect())
    }

    /// Everything from a number on, as it happens.
    pub fn subscribe(&self, from: u64) -> Subscription {
        Subscription { events: self.clone(), next: from, news: self.0.next.subscribe() }
    }
}

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next event.
    Event(Event),
    /// So many events were gone before they were asked for.
    Missed(u64),
}

/// Events in their order.
pub struct Subscription {
    events: Events,
    /// The number that is wanted next.
    next: u64,
    news: watch::Receiver<u64>,
}

impl Subscription {
    /// Waits for the next event. To give up while waiting loses nothing.
    pub async fn next(&mut self) -> Next {
        loop {
            let wanted = self.next;
            // The sender lives as long as `events`.
            _ = self.news.wait_for(|next| *next > wanted).await;
            let ring = self.events.0.ring.lock().expect("no panic while held");
            let first = ring.front().map_or(0, |event| event.number);
            if wanted < first {
                self.next = first;
                return Next::Missed(first - wanted);
            }
            if let Some(event) = ring.get((wanted - first) as usize) {
                self.next += 1;
                return Next::Event(event.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use litekeep_env::ManualClock;

    use super::*;

    fn events() -> Events {
        Events::new(Arc::new(ManualClock::new(7)))
    }

    fn number(next: Next) -> u64 {
        match next {
            Next::Event(event) => event.number,
            Next::Missed(count) => panic!("{count} missed"),
        }
    }

    #[tokio::test]
    async fn a_subscriber_within_the_ring_misses_nothing() {
        let events = events();
        (0..10).for_each(|i| events.tell("web", Kind::Started, i.to_string()));
        let mut all = events.subscribe(0);
        let mut late = events.subscribe(8);
        for i in 0..10 {
            assert_eq!(number(all.next().await), i);
        }
        assert_eq!((number(late.next().await), number(late.next().await)), (8, 9));
        let telling = events.clone();
        let waiting = tokio::spawn(async move { all.next().await });
        tokio::task::yield_now().await;
        telling.tell("web", Kind::Crashed, "exit code 3");
        let expected = Event {
            number: 10,
            unix_ms: 7,
            name: "web".into(),
            kind: Kind::Crashed,
            text: "exit code 3".into(),
        };
        assert_eq!(waiting.await.unwrap(), Next::Event(expected));
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_how_much_is_gone() {
        let events = events();
        (0..KEPT + 5).for_each(|_| events.tell("web", Kind::Ready, ""));
        let mut slow = events.subscribe(2);
        assert_eq!(slow.next().await, Next::Missed(3));
        assert_eq!(number(slow.next().await), 5);
        let (gone, kept) = events.since(0);
        assert_eq!((gone, kept.len(), kept[0].number), (5, KEPT, 5));
        assert_eq!(events.since(events.next_number()), (0, vec![]));
        assert_eq!(events.since(1003).1.len(), 2);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let events = events();
        events.tell("web", Kind::Crashed, "é".repeat(LONGEST_TEXT));
        assert_eq!(events.since(0).1[0].text, "é".repeat(LONGEST_TEXT / 2));
    }
}
