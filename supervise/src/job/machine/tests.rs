use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const MINUTE: i64 = 60_000;
/// A moment on the grid of every schedule here.
const BEGIN: i64 = 1_800_000_000_000;

/// By the wall clock at every n-th minute.
fn at_minutes(n: i64) -> Schedule {
    let period = n * MINUTE;
    Schedule::At(Arc::new(move |after: i64| Some(after - after.rem_euclid(period) + period)))
}

fn settings(schedule: Schedule) -> Settings {
    let overlap = Overlap::Skip;
    Settings { schedule, overlap, timeout: None, jitter: Duration::ZERO, catch_up: false }
}

fn begun(settings: Settings, last_ms: Option<i64>) -> (Machine, Vec<Action>) {
    let mut machine = Machine::new(settings);
    let actions = machine.step(Event::Begin { last_ms }, same(BEGIN), 0);
    (machine, actions)
}

fn same(ms: i64) -> Now {
    Now { wall_ms: ms, steady_ms: ms }
}

/// The due moments that were started, of actions.
fn started(actions: &[Action]) -> Vec<Option<i64>> {
    let start = |action: &Action| match action {
        Action::Start { due_ms } => Some(*due_ms),
        _ => None,
    };
    actions.iter().filter_map(start).collect()
}

#[test]
fn a_jump_forward_runs_once_and_a_jump_back_never_again() {
    let (mut machine, actions) = begun(settings(at_minutes(1)), None);
    assert_eq!(actions, [Action::Remember { up_to_ms: BEGIN }]);
    let mut look = |wall_ms: i64| {
        let now = Now { wall_ms, steady_ms: BEGIN };
        let actions = machine.step(Event::Look, now, 0);
        machine.step(Event::Ended, now, 0);
        started(&actions)
    };
    assert_eq!(look(BEGIN + MINUTE), [Some(BEGIN + MINUTE)]);
    // A day ahead, and back again.
    assert_eq!(look(BEGIN + 1440 * MINUTE), [Some(BEGIN + 2 * MINUTE)]);
    assert_eq!(look(BEGIN + MINUTE), []);
    assert_eq!(look(BEGIN + 2 * MINUTE), []);
    // What the jump passed over was never run, so now it is.
    assert_eq!(look(BEGIN + 3 * MINUTE), [Some(BEGIN + 3 * MINUTE)]);
    // Back before everything.
    assert_eq!(look(BEGIN - MINUTE / 2), []);
    assert_eq!(look(BEGIN), [Some(BEGIN)]);
    assert_eq!(look(BEGIN + 3 * MINUTE), []);
}

#[test]
fn an_interval_does_not_care_about_the_wall_clock() {
    let (mut machine, _) = begun(settings(Schedule::Every(Duration::from_secs(60))), None);
    let now = |wall_ms, minutes| Now { wall_ms, steady_ms: BEGIN + minutes * MINUTE };
    assert!(machine.step(Event::Look, now(BEGIN + 9999 * MINUTE, 0), 0).is_empty());
    assert_eq!(started(&machine.step(Event::Look, now(0, 1), 0)), [Some(BEGIN + MINUTE)]);
    machine.step(Event::Ended, now(0, 1), 0);
    // The machine slept for an hour: one run, and the grid stays.
    let actions = machine.step(Event::Look, Now { wall_ms: 0, steady_ms: BEGIN + 61 * MINUTE + 7 }, 0);
    assert_eq!(started(&actions), [Some(BEGIN + 2 * MINUTE)]);
    assert!(actions.contains(&Action::Remember { up_to_ms: BEGIN + 61 * MINUTE }));
    assert_eq!(machine.next_due_ms(), Some(BEGIN + 62 * MINUTE));
}

#[test]
fn what_was_due_while_nobody_looked_is_made_up_for_once_if_wanted() {
    let last = Some(BEGIN - 100 * MINUTE);
    for schedule in [at_minutes(30), Schedule::Every(Duration::from_secs(30 * 60))] {
        let (_, actions) = begun(settings(schedule.clone()), last);
        assert!(actions.is_empty(), "{actions:?}");
        let (mut machine, actions) = begun(Settings { catch_up: true, ..settings(schedule) }, last);
        assert_eq!(started(&actions).len(), 1);
        machine.step(Event::Ended, same(BEGIN), 0);
        assert!(started(&machine.step(Event::Look, same(BEGIN), 0)).is_empty());
    }
    // An interval goes on from the last moment, also without making up for anything.
    let (machine, _) = begun(settings(Schedule::Every(Duration::from_secs(30 * 60))), last);
    assert_eq!(machine.next_due_ms(), Some(BEGIN + 20 * MINUTE));
}

/// Else a job of each 24 hours never runs where litekeep is started anew each day.
#[test]
fn what_was_never_due_yet_counts_from_its_first_beginning() {
    let half_an_hour = Schedule::Every(Duration::from_secs(30 * 60));
    for schedule in [at_minutes(30), half_an_hour.clone()] {
        let (_, actions) = begun(settings(schedule.clone()), None);
        assert_eq!(actions, [Action::Remember { up_to_ms: BEGIN }]);
        // The next litekeep, after the first moment.
        let mut machine = Machine::new(Settings { catch_up: true, ..settings(schedule) });
        let later = same(BEGIN + 40 * MINUTE);
        let actions = machine.step(Event::Begin { last_ms: Some(BEGIN) }, later, 0);
        assert_eq!(started(&actions), [Some(BEGIN + 30 * MINUTE)]);
    }
    // And before it, again and again.
    let mut machine = Machine::new(settings(half_an_hour));
    assert_eq!(machine.step(Event::Begin { last_ms: Some(BEGIN) }, same(BEGIN + 20 * MINUTE), 0), []);
    assert_eq!(machine.next_due_ms(), Some(BEGIN + 30 * MINUTE));
    // A moment that nobody believes is forgotten for good.
    let (_, actions) = begun(settings(at_minutes(30)), Some(BEGIN + 9999 * MINUTE));
    assert_eq!(actions, [Action::Remember { up_to_ms: BEGIN }]);
}

/// What counts as dealt with is not made up for.
#[test]
fn what_waits_for_its_jitter_is_dealt_with_when_it_starts_or_somebody_leaves_it_out() {
    let waiting = || {
        let jitter = Duration::from_secs(30);
        let (mut machine, _) = begun(Settings { jitter, ..settings(at_minutes(1)) }, None);
        assert_eq!(machine.step(Event::Look, same(BEGIN + MINUTE), u64::MAX / 2), []);
        machine
    };
    let (due_ms, remember) = (Some(BEGIN + MINUTE), Action::Remember { up_to_ms: BEGIN + MINUTE });
    let skip = Action::Skip { due_ms, reason: "it was stopped" };
    let left_out = waiting().step(Event::EndRun, same(BEGIN + MINUTE), 0);
    assert_eq!(left_out, [remember.clone(), skip.clone()]);
    assert_eq!(waiting().step(Event::Stop, same(BEGIN + MINUTE), 0), [skip]);
    let actions = waiting().step(Event::Look, same(BEGIN + MINUTE + 15_000), 0);
    assert_eq!(actions, [remember, Action::Start { due_ms }]);
}

/// It was left out by the one and made up for by the other.
#[test]
fn what_waits_for_its_jitter_at_a_stop_is_made_up_for_once_or_left_out() {
    let begin = |last_ms| Event::Begin { last_ms: Some(last_ms) };
    let due_ms = Some(BEGIN + MINUTE);
    for catch_up in [true, false] {
        let jittered = || {
            let jitter = Duration::from_secs(30);
            Settings { jitter, catch_up, ..settings(at_minutes(1)) }
        };
        let (mut machine, _) = begun(jittered(), Some(BEGIN));
        let mut seen = machine.step(Event::Look, same(BEGIN + MINUTE), u64::MAX / 2);
        seen.extend(machine.step(Event::Stop, same(BEGIN + MINUTE + 1000), 0));
        // The same litekeep or the next one goes on.
        for mut next in [machine, Machine::new(jittered())] {
            let mut seen = seen.clone();
            for (event, seconds) in [(begin(BEGIN), 70), (Event::Look, 85), (Event::Look, 110)] {
                seen.extend(next.step(event, same(BEGIN + seconds * 1000), u64::MAX / 2));
            }
            let expected = match catch_up {
                true => vec![Action::Remember { up_to_ms: BEGIN + MINUTE }, Action::Start { due_ms }],
                false => vec![Action::Skip { due_ms, reason: "it was stopped" }],
            };
            assert_eq!(seen, expected);
        }
    }
}

#[test]
fn the_end_of_a_run_takes_what_waits_along_and_leaves_the_schedule() {
    let (mut machine, _) = begun(Settings { overlap: Overlap::Queue, ..settings(at_minutes(1)) }, None);
    let now = |minutes| same(BEGIN + minutes * MINUTE);
    assert_eq!(started(&machine.step(Event::Look, now(1), 0)).len(), 1);
    assert!(started(&machine.step(Event::Look, now(2), 0)).is_empty(), "it waits");
    let actions = machine.step(Event::EndRun, now(2), 0);
    assert!(actions.contains(&Action::End(Reason::Stopped)), "{actions:?}");
    assert!(machine.step(Event::Ended, now(2), 0).is_empty(), "what waited is left out");
    assert_eq!(started(&machine.step(Event::Look, now(3), 0)), [Some(BEGIN + 3 * MINUTE)]);
    machine.step(Event::Ended, now(3), 0);
    assert!(machine.step(Event::EndRun, now(3), 0).is_empty(), "nothing runs");
}

#[test]
fn a_last_moment_in_the_future_is_not_run_again_and_stops_nothing_for_ever() {
    let (machine, _) = begun(settings(at_minutes(10)), Some(BEGIN + 60 * MINUTE));
    assert_eq!(machine.next_due_ms(), Some(BEGIN + 70 * MINUTE));
    let year = 365 * 1440 * MINUTE;
    let (machine, _) = begun(settings(at_minutes(10)), Some(BEGIN + year));
    assert_eq!(machine.next_due_ms(), Some(BEGIN + 10 * MINUTE));
}

#[test]
fn overlap_skips_queues_one_or_ends_the_run() {
    let due = |n: i64| Some(BEGIN + n * MINUTE);
    let run = |overlap| {
        let (mut machine, _) = begun(Settings { overlap, ..settings(at_minutes(1)) }, None);
        let mut actions = Vec::new();
        for n in 1..=3 {
            actions.extend(machine.step(Event::Look, same(BEGIN + n * MINUTE), 0));
        }
        actions.extend(machine.step(Event::Ended, same(BEGIN + 3 * MINUTE), 0));
        actions.retain(|action| !matches!(action, Action::Remember { .. }));
        actions
    };
    let skip = |n, reason| Action::Skip { due_ms: due(n), reason };
    let start = |n| Action::Start { due_ms: due(n) };
    let running = "the one before still runs";
    assert_eq!(run(Overlap::Skip), [start(1), skip(2, running), skip(3, running)]);
    assert_eq!(run(Overlap::Queue), [start(1), skip(3, "one waits already"), start(2)]);
    let end = Action::End(Reason::Overtaken);
    assert_eq!(run(Overlap::Kill), [start(1), end, skip(2, "a later one took its place"), start(3)]);
}

#[test]
fn a_timeout_ends_a_run_once_and_jitter_delays_it() {
    let (timeout, jitter) = (Some(Duration::from_secs(10)), Duration::from_secs(30));
    let (mut machine, _) = begun(Settings { timeout, jitter, ..settings(at_minutes(1)) }, None);
    let at = BEGIN + MINUTE;
    assert!(started(&machine.step(Event::Look, same(at), u64::MAX / 2)).is_empty());
    assert_eq!(machine.wake_in(same(at)), Duration::from_millis(14_999));
    assert_eq!(started(&machine.step(Event::Look, same(at + 15_000), 0)), [Some(at)]);
    assert_eq!(machine.wake_in(same(at + 15_000)), Duration::from_secs(10));
    let actions = machine.step(Event::Look, same(at + 25_000), 0);
    assert_eq!(actions, [Action::End(Reason::TimedOut)]);
    assert!(machine.step(Event::Look, same(at + 26_000), 0).is_empty());
}

#[test]
fn a_stop_ends_the_run_drops_what_waits_and_nothing_starts_any_more() {
    let (mut machine, _) = begun(Settings { overlap: Overlap::Queue, ..settings(at_minutes(1)) }, None);
    machine.step(Event::Look, same(BEGIN + MINUTE), 0);
    machine.step(Event::Look, same(BEGIN + 2 * MINUTE), 0);
    let actions = machine.step(Event::Stop, same(BEGIN + 2 * MINUTE), 0);
    let skip = Action::Skip { due_ms: Some(BEGIN + 2 * MINUTE), reason: "it was stopped" };
    assert_eq!(actions, [skip, Action::End(Reason::Stopped)]);
    assert!(machine.step(Event::Ended, same(BEGIN + 2 * MINUTE), 0).is_empty());
    assert!(machine.step(Event::Look, same(BEGIN + 9 * MINUTE), 0).is_empty());
    let refused = machine.step(Event::Asked, same(BEGIN + 9 * MINUTE), 0);
    assert_eq!(refused, [Action::Skip { due_ms: None, reason: "it is stopped" }]);
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Time(i64),
    Jump(i64),
    Ended,
    Asked,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        10 => (0..90_000i64).prop_map(Happening::Time),
        1 => (-5000..5000i64).prop_map(|minutes| Happening::Jump(minutes * MINUTE)),
        1 => (-90_000..90_000i64).prop_map(Happening::Jump),
        5 => Just(Happening::Ended),
        1 => Just(Happening::Asked),
    ]
}

fn overlap() -> impl Strategy<Value = Overlap> {
    prop_oneof![Just(Overlap::Skip), Just(Overlap::Queue), Just(Overlap::Kill)]
}

proptest! {
    #[test]
    fn no_moment_counts_twice_and_no_two_runs_overlap(
        happenings in prop::collection::vec(happening(), 1..300),
        overlap in overlap(),
        jitter_s in prop_oneof![Just(0u64), 1..100u64],
        minutes in 1..5i64,
    ) {
        let jitter = Duration::from_secs(jitter_s);
        let (mut machine, _) = begun(Settings { overlap, jitter, ..settings(at_minutes(minutes)) }, None);
        let mut now = same(BEGIN);
        let (mut runs, mut counted) = (false, HashSet::new());
        for happening in happenings {
            let event = match happening {
                Happening::Time(ms) => {
                    (now.wall_ms, now.steady_ms) = (now.wall_ms + ms, now.steady_ms + ms);
                    Event::Look
                }
                Happening::Jump(ms) => {
                    now.wall_ms += ms;
                    Event::Look
                }
                Happening::Ended if runs => {
                    runs = false;
                    Event::Ended
                }
                Happening::Ended => Event::Look,
                Happening::Asked => Event::Asked,
            };
            let actions = machine.step(event, now, 1 << 63);
            let of_schedule = actions.iter().filter(|action| matches!(action, Action::Remember { .. }));
            prop_assert!(of_schedule.count() <= 1, "a jump is one moment: {actions:?}");
            for action in actions {
                if let Action::Start { .. } = action {
                    prop_assert!(!runs);
                    runs = true;
                }
                if let Action::Start { due_ms: Some(due) } | Action::Skip { due_ms: Some(due), .. } = action {
                    prop_assert!(counted.insert(due), "{due} counts twice");
                    prop_assert_eq!(due % (minutes * MINUTE), 0);
                }
            }
            prop_assert!(machine.wake_in(now) <= Duration::from_secs(60));
        }
    }

    #[test]
    fn who_wakes_when_told_meets_every_moment_in_time(minutes in 1..200i64, offset in 0..MINUTE) {
        let (mut machine, _) = begun(settings(at_minutes(minutes)), None);
        let mut now = same(BEGIN + offset);
        let mut met = Vec::new();
        while met.len() < 5 {
            let wait = machine.wake_in(now).as_millis() as i64;
            now = same(now.steady_ms + wait);
            for due in started(&machine.step(Event::Look, now, 0)) {
                prop_assert_eq!(due, Some(now.wall_ms), "on time");
                met.push(due.unwrap());
                machine.step(Event::Ended, now, 0);
            }
        }
        prop_assert!(met.windows(2).all(|pair| pair[1] - pair[0] == minutes * MINUTE));
    }
}
