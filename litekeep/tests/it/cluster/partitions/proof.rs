//! What must be so in the end, by what clients and readers were told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use litekeep_testkit::Digest;
use litekeep_testkit::process::eventually;
use rusqlite::{Connection, OpenFlags};

use super::super::scene::hash;
use super::scene::{NODES, Scene};
use crate::scene::LONG;

/// What all accounts have together.
const SUM: i64 = 4_000;

/// One history: operations in their order, and the node that did each.
struct History(Vec<(String, String)>);

impl History {
    /// Reads one, of which each operation is proven to follow the one before.
    fn of(path: &Path) -> Result<History> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let ok: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        ensure!(ok == "ok", "{path:?}: {ok}");
        let sum: i64 = db.query_row("SELECT sum(money) FROM accounts", [], |row| row.get(0))?;
        ensure!(sum == SUM, "{path:?}: all accounts have {sum}");
        let mut all = db.prepare("SELECT n, id, chain, node FROM ops ORDER BY n")?;
        let mut rows = all.query([])?;
        let (mut ops, mut once, mut chain) = (vec![], BTreeSet::new(), String::new());
        while let Some(row) = rows.next()? {
            let (n, id, own, node): (i64, String, String, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            ensure!(n == ops.len() as i64 + 1, "operation {n} follows {}", ops.len());
            chain = hash(&format!("{chain}{id}"));
            ensure!(own == chain, "operation {n} does not follow the one before");
            ensure!(once.insert(id.clone()), "operation `{id}` was done twice");
            ops.push((id, node));
        }
        Ok(History(ops))
    }

    /// Whether it has been in this state: so many operations, and the last one.
    fn has(&self, n: usize, id: &str) -> bool {
        n == 0 || self.0.get(n - 1).is_some_and(|(own, _)| own == id)
    }
}

/// What a client was told: a state, which an operation of its own has led to or which it has read.
struct Told<'a> {
    line: &'a str,
    client: &'a str,
    /// When it was asked, and answered: an operation.
    done: Option<(u64, u64)>,
    n: usize,
    op: &'a str,
}

fn told(line: &str) -> Result<Option<Told<'_>>> {
    let parts: Vec<&str> = line.split(' ').collect();
    Ok(match parts[..] {
        ["w", client, began, ended, _, op, "200", n] => {
            Some(Told { line, client, done: Some((began.parse()?, ended.parse()?)), n: n.parse()?, op })
        }
        ["r", client, _, _, _, "200", n, op, sum] => {
            ensure!(sum == SUM.to_string(), "all accounts have {sum}: {line}");
            Some(Told { line, client, done: None, n: n.parse()?, op })
        }
        _ => None,
    })
}

/// Leaves everybody alone until all have one state, ends them, and proves that nothing is missing. How often another node wrote.
pub(super) fn prove(scene: &mut Scene) -> Result<usize> {
    scene.network.mend()?;
    for node in NODES {
        // A store takes no requests from a clock that is far off.
        scene.jump(node, 0)?;
        if !scene.is_up(node) {
            scene.start(node)?;
        }
    }
    scene.progress(20)?;
    scene.end_clients()?;
    eventually("all nodes show one state", LONG, || {
        std::thread::sleep(Duration::from_millis(100));
        let states = NODES.map(|node| scene.last_watched(node));
        Ok(states[0].is_some() && states.iter().all(|state| *state == states[0]))
    })
    .with_context(|| format!("{:?}", NODES.map(|node| scene.last_watched(node))))?;
    scene.look_at_lease()?;
    for node in NODES {
        scene.end(node)?;
    }
    let out = |name: &str| scene.place.path(name);
    let restored = scene.litekeep("a", &["restore", "-o", &out("final.db").display().to_string(), "app.db"]);
    ensure!(restored.code == 0, "{}", restored.stderr);
    let last = History::of(&out("final.db"))?;
    let digest = Digest::of(&out("final.db"))?;
    for node in NODES {
        ensure!(Digest::of(&scene.taken(node)?)? == digest, "`{node}` differs from the log in the end");
    }
    let forks = forks(scene)?;
    let known = |n: usize, id: &str| last.has(n, id) || forks.iter().any(|fork| fork.has(n, id));
    acknowledged(scene, &last, &forks)?;
    for node in NODES {
        let seen = std::fs::read_to_string(out(&format!("watched-{node}"))).unwrap_or_default();
        for line in seen.lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            let [n, id, sum] = parts[..] else { continue };
            let n = n.parse().with_context(|| format!("a reader on `{node}` failed: {line}"))?;
            ensure!(sum == SUM.to_string(), "a reader on `{node}` saw accounts with {sum}: {line}");
            ensure!(known(n, id), "a reader on `{node}` saw what was never so: {line}");
        }
    }
    let mut by: Vec<&str> = last.0.iter().map(|(_, node)| node.as_str()).collect();
    by.dedup();
    // Each time in which a node wrote is in an epoch of its own, one after the other.
    let mut epochs = scene.holders.iter();
    if !scene.holders.is_empty() {
        for node in &by {
            let holds = |(_, holder): (&u64, &String)| holder.starts_with(&format!("\"{node}\""));
            ensure!(
                epochs.any(holds),
                "{by:?} wrote one after the other, and held the lease: {:?}",
                scene.holders
            );
        }
    }
    Ok(by.len() - 1)
}

fn forks(scene: &Scene) -> Result<Vec<History>> {
    let mut forks = vec![];
    for node in NODES {
        let listed = scene.litekeep(node, &["forks", "list", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).context(listed.stderr)?;
        for fork in listed.as_array().context("a list of forks")? {
            let name = fork["name"].as_str().context("a name")?;
            let file = scene.place.path(&format!("fork-{}.db", forks.len()));
            let ran = scene.litekeep(node, &["forks", "restore", name, "-o", &file.display().to_string()]);
            ensure!(ran.code == 0, "restore the fork {name}: {}", ran.stderr);
            forks.push(History::of(&file)?);
        }
    }
    Ok(forks)
}

/// What clients were told is so, and never goes back.
fn acknowledged(scene: &Scene, last: &History, forks: &[History]) -> Result<()> {
    let is_lasting = scene.acknowledge != "local";
    let text = scene.told();
    let all = text.lines().filter_map(|line| told(line).transpose()).collect::<Result<Vec<_>>>()?;
    let in_fork = |n: usize, op: &str| forks.iter().any(|fork| fork.has(n, op));
    let mut seen: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for Told { line, client, n, op, .. } in &all {
        let lasts = last.has(*n, op);
        ensure!(
            lasts || !is_lasting && in_fork(*n, op),
            "a client was told what is neither in the log nor in a fork: {line}"
        );
        let before = seen.insert(client, (*n, op));
        if let Some((earlier, what)) = before.filter(|(earlier, _)| n < earlier) {
            // With `local` a failover may lose it; then there is a fork that has it.
            let is_forked = !is_lasting && !last.has(earlier, what) && in_fork(earlier, what);
            ensure!(is_forked, "a client saw {earlier} (`{what}`), and then less: {line}");
        }
    }
    if is_lasting {
        in_real_time(&all)?;
    }
    Ok(())
}

/// An operation that was done before another one was asked for stands before it.
fn in_real_time(all: &[Told<'_>]) -> Result<()> {
    let (mut began, mut ended) = (vec![], vec![]);
    for Told { line, done, n, .. } in all {
        if let Some((from, until)) = done {
            began.push((*from, *n, *line));
            ended.push((*until, *n));
        }
    }
    began.sort_unstable();
    ended.sort_unstable();
    let (mut furthest, mut next) = (0, ended.into_iter().peekable());
    for (from, n, line) in began {
        while let Some((_, over)) = next.next_if(|(until, _)| *until < from) {
            furthest = furthest.max(over);
        }
        ensure!(furthest < n, "operation {furthest} was done before this was asked for: {line}");
    }
    Ok(())
}
