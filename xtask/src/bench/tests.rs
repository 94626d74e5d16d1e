//! Goal: the harness works, and sees when something is missing. Method: one scenario for a second with the real litekeep.

use litekeep_testkit::programs;

use crate::source::Commit;
use crate::*;

fn bench() -> Bench {
    Bench {
        options: Options {
            secs: 1.0,
            reps: 1,
            target: Target::Folder,
            equal: false,
            gib: 0.01,
            lines: 1000,
            rows: 1000,
        },
        litekeep: programs::litekeep().unwrap(),
        litestream: None,
        dir: tempfile::tempdir().unwrap(),
    }
}

#[test]
fn a_scenario_gives_figures_and_nothing_wrong() {
    let bench = bench();
    let played = bench.play(&SCENARIOS[0]);
    let [run] = &played[..] else { panic!("one run without the peer") };
    assert_eq!(run.system, System::Litekeep);
    let outcome = run.outcome.as_ref().unwrap();
    assert!(run.wrong().is_empty(), "{:?}", run.wrong());
    assert!(outcome.value("lag p50").unwrap() > 0.0 && outcome.value("commits").unwrap() > 1.0);
    let table = outcome::table(&SCENARIOS[0], &bench.options, &played);
    assert!(table.contains("| figure | litekeep |") && table.contains("| lag p50, ms |"), "{table}");
    let json = run.json(&SCENARIOS[0], &bench);
    assert_eq!(json["scenario"], "commit-to-durable");
    assert!(json["figures"]["lag p50 (ms)"].as_f64().is_some(), "{json}");
}

#[test]
fn packs_are_counted_beside_the_log() {
    let bench = bench();
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == "single-commits").unwrap();
    let played = bench.play(scenario);
    let outcome = played[0].outcome.as_ref().unwrap();
    assert!(played[0].wrong().is_empty(), "{:?}", played[0].wrong());
    for name in ["puts of the log", "bytes of the log", "puts of packs", "bytes of packs", "packs, a commit"]
    {
        assert!(outcome.value(name).unwrap() > 0.0, "{name}: {outcome:?}");
    }
}

#[test]
fn a_copy_that_streams_has_a_lag() {
    let bench = bench();
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == "follow-stream").unwrap();
    let played = bench.play(scenario);
    let outcome = played[0].outcome.as_ref().unwrap();
    assert!(outcome.value("lag p99").unwrap() > 0.0, "{outcome:?}");
}

#[test]
fn a_commit_that_no_state_holds_is_missing() {
    let commit = |n| Commit { db: 0, n, began_ns: 0, done_ns: 1_000_000 };
    let state = |ns, newest| shipped::Shipped { ns, newest };
    let (lags, missing) =
        shipped::lags_ms([1, 2, 3, 4].map(commit).iter(), &[state(2_000_000, 2), state(5_000_000, 3)]);
    assert_eq!((lags, missing), (vec![1.0, 1.0, 4.0], 1));
}
