//! Goal: three nodes whose network, disks, clocks and processes fail keep their promises: one primary acknowledges at a time, nothing that was acknowledged is lost
//! beyond what `acknowledge` says, everybody sees states that were committed, and no client of the proxies sees less than it has seen.
//! Method: each node on a machine of its own ([`litekeep_testkit::Network`]) with a disk of its own, a real S3 server and etcd on others; a bank on each node, clients that go to any of them and
//! note what they were told, and readers of the bare files; faults from a seed, one or two at a time.

mod proof;
mod scene;

use std::time::Duration;

use anyhow::{Context, Result};
use litekeep_testkit::campaign;

use scene::{ETCD, NODES, Scene};

/// Faults in one round.
const FAULTS: usize = 3;

#[test]
fn faults_at_random_lose_nothing_that_was_acknowledged() {
    campaign::rounds("partitions", 1, round);
}

/// With the lease in etcd a node can have that and not reach the store: it cannot become primary, and another one can.
#[test]
fn who_does_not_reach_the_store_leaves_the_lease_to_others() {
    let mut scene = Scene::new("bucket", true).unwrap();
    scene.start("a").unwrap();
    assert_eq!(scene.primary().unwrap(), "a");
    scene.configure("c", "priority = 10").unwrap();
    for node in ["b", "c"] {
        scene.start(node).unwrap();
    }
    assert_eq!(scene.ask("a", "one"), Some(200));
    scene.until("b and c have it", |scene| ["b", "c"].iter().all(|node| scene.path(node, "app.db").exists()));
    scene.part_from_store(&["b"]).unwrap();
    scene.kill_all("a").unwrap();
    scene.until("b cannot lead", |scene| scene.said("b").contains("could not become primary"));
    scene.until("c takes it", |scene| scene.role("c").is_some_and(|role| role == "primary"));
    assert_eq!(scene.ask("c", "two"), Some(200));
}

/// A client of one node hears something when the primary is cut off in the middle of its request, which has been sent on.
#[test]
fn a_request_to_a_primary_that_is_cut_off_is_answered() {
    let mut scene = Scene::new("local", false).unwrap();
    scene.start("a").unwrap();
    assert_eq!(scene.primary().unwrap(), "a");
    scene.start("b").unwrap();
    assert_eq!(scene.ask("a", "none"), Some(200));
    scene.until("b follows", |scene| scene.ask("b", "none").is_some());
    // The connection to the primary is kept for the next request.
    assert_eq!(scene.ask("b", "one"), Some(200));
    scene.network.part("a", &["b"]).unwrap();
    assert!(matches!(scene.ask("b", "two"), Some(502 | 503)));
}

fn round(seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let acknowledge = if random.u8(..3) == 0 { "local" } else { "bucket" };
    let in_etcd = random.u8(..3) == 0;
    let mut scene = Scene::new(acknowledge, in_etcd)?;
    let mut story = vec![format!("{acknowledge}{}", if in_etcd { ", the lease in etcd" } else { "" })];
    let played = play(&mut scene, &mut random, &mut story);
    let played = played.and_then(|()| proof::prove(&mut scene));
    eprintln!("seed {seed}: {}: {played:?} times another node wrote", story.join("; "));
    let kept = if played.is_err() { scene.keep() } else { String::new() };
    played.map(drop).with_context(|| format!("{}; all is kept in {kept}", story.join("; ")))
}

fn play(scene: &mut Scene, random: &mut fastrand::Rng, story: &mut Vec<String>) -> Result<()> {
    for node in NODES {
        scene.start(node)?;
    }
    scene.start_clients()?;
    for _ in 0..FAULTS {
        scene.progress(10)?;
        let primary = scene.primary()?;
        let node = if random.u8(..4) == 0 { NODES[random.usize(..3)] } else { primary };
        let time = Duration::from_millis(random.u64(300..7_000));
        fault(scene, random, node, time, story)?;
    }
    Ok(())
}

/// Something goes wrong with a node for a while, and is well again.
fn fault(
    scene: &mut Scene,
    random: &mut fastrand::Rng,
    node: &'static str,
    time: Duration,
    story: &mut Vec<String>,
) -> Result<()> {
    let others = Scene::others_than(node);
    let lease = scene.place_of_lease();
    const WHAT: [&str; 15] = [
        "no way to the store",
        "no way to the store and the lease",
        "no way to the nodes",
        "no way to anybody",
        "no answers of the lease",
        "a store that nobody reaches",
        "stopped",
        "stopped with all",
        "litekeep killed",
        "all killed",
        "hands over",
        "hands over and dies",
        "clock jumps",
        "disk full",
        "ended without the store",
    ];
    let kind = random.usize(..WHAT.len());
    story.push(format!("{node}: {} for {time:?}", WHAT[kind]));
    // Sometimes the clock goes wrong beside all else.
    if kind == 12 || random.u8(..4) == 0 {
        let far = [5, 60, 600, 7_200, 200_000][random.usize(..5)];
        scene.jump(node, if random.bool() { far } else { -far })?;
    }
    match kind {
        0 => scene.part_from_store(&[node])?,
        1 => {
            scene.part_from_store(&[node])?;
            scene.network.part(lease, &[node])?;
        }
        2 => scene.network.part(node, &others)?,
        3 => {
            scene.part_from_store(&[node])?;
            scene.network.part(node, &others)?;
            scene.network.part(ETCD, &[node])?;
        }
        4 => scene.network.cut(lease, node)?,
        5 => scene.part_from_store(&NODES)?,
        6 => scene.signal(node, libc::SIGSTOP)?,
        7 => scene.signal_all(node, libc::SIGSTOP)?,
        8 => scene.kill_litekeep(node)?,
        9 => scene.kill_all(node)?,
        10 | 11 => {
            scene.litekeep(node, &["handoff", others[random.usize(..2)]]);
            if kind == 11 {
                let next = scene.primary()?;
                scene.kill_all(next)?;
                scene.pass(time / 4)?;
                scene.start(next)?;
            }
            return Ok(());
        }
        13 => scene.fill(node)?,
        14 => {
            // It says that not everything is confirmed, if that is so.
            scene.part_from_store(&[node])?;
            scene.terminate(node)?;
        }
        _ => {}
    }
    scene.pass(time)?;
    scene.network.mend()?;
    match kind {
        6 => scene.signal(node, libc::SIGCONT)?,
        7 => scene.signal_all(node, libc::SIGCONT)?,
        8 | 9 | 14 => scene.start(node)?,
        13 => scene.empty(node)?,
        _ => {}
    }
    Ok(())
}
