//! A run's whole tree: what belongs to it, and how all of it ends.
//!
//! To the tree belong the leader, its session and group, all their descendants, what is in its cgroup, and orphans that this
//! process adopted and that carry the run's `LITEKEEP_INSTANCE` or were seen in the tree before. A grandchild that left the
//! session, cleared its environment and lost its parent unseen is found only by the cgroup, or by [`kill_adopted`].
//!
//! The leader stays a zombie until the rest is gone, so that its group's id is its own to the end. Each other process is held by
//! a pidfd and compared by its start time before it is signalled; so is the leader of a tree that was adopted from an earlier litekeep.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use litekeep_env::notify::Sender;
use litekeep_env::process::{self, Exit, Handle, Leader, Pid, signal_number};
use tokio::io::unix::AsyncFd;

use crate::cgroup::Group;
use crate::spawn::INSTANCE;

/// How long SIGKILL may take before the rest of a tree is reported and left.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// One living process, told from a later one with its id by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    pub(crate) pid: Pid,
    /// In clock ticks since the boot.
    pub(crate) started: u64,
}

impl Member {
    /// Whether the process lives, leads a session, and does not bear the name of another run. One that writes over its own
    /// environment, as some servers do for their title, bears none.
    pub(crate) fn leads(self, instance: &str) -> bool {
        let is_it = |row: Row| row.started == self.started && !row.ended && row.session == self.pid;
        row(self.pid).is_some_and(is_it) && instance_of(self.pid).is_none_or(|named| named == instance)
    }

    /// The living leader of a session that was started under this name.
    pub(crate) fn find(instance: &str) -> Option<Member> {
        let rows = Table::read().rows.into_iter();
        let mut leaders = rows.filter(|(pid, row)| row.session == *pid && !row.ended);
        let (pid, row) = leaders.find(|(pid, _)| instance_of(*pid).as_deref() == Some(instance))?;
        Some(Member { pid, started: row.started })
    }

    /// Sends a signal if the process is still this one.
    fn signal(self, signal: i32) {
        let Ok(handle) = Handle::open(self.pid) else { return };
        if row(self.pid).is_some_and(|row| row.started == self.started) {
            _ = handle.signal(signal);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    parent: Pid,
    group: Pid,
    session: Pid,
    started: u64,
    ended: bool,
}

fn row(pid: Pid) -> Option<Row> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The fields of `/proc/PID/stat`; a name in it may hold anything, so they are counted from its last parenthesis.
fn parse_stat(stat: &[u8]) -> Option<Row> {
    let name_end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Row {
        ended: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// All processes at one moment.
#[derive(Debug)]
pub(crate) struct Table {
    rows: HashMap<Pid, Row>,
}

impl Table {
    fn read() -> Table {
        let names = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse::<Pid>().ok());
        Table { rows: pids.filter_map(|pid| Some((pid, row(pid)?))).collect() }
    }

    /// The processes at some moment after the call. Many callers share one pass.
    pub(crate) async fn now() -> Arc<Table> {
        static LAST: Mutex<Option<(Instant, Arc<Table>)>> = Mutex::new(None);
        let asked = Instant::now();
        let read = move || {
            let mut last = LAST.lock().expect("no panic while held");
            match &*last {
                Some((begun, table)) if *begun >= asked => table.clone(),
                _ => {
                    let begun = Instant::now();
                    let table = Arc::new(Table::read());
                    *last = Some((begun, table.clone()));
                    table
                }
            }
        };
        tokio::task::spawn_blocking(read).await.expect("reading /proc does not panic")
    }

    fn member(&self, pid: Pid) -> Option<Member> {
        let row = self.rows.get(&pid).filter(|row| !row.ended)?;
        Some(Member { pid, started: row.started })
    }
}

/// The value of [`INSTANCE`] that a process was started with.
fn instance_of(pid: Pid) -> Option<String> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let variables = environ.split(|b| *b == 0);
    let value = |variable: &[u8]| {
        let value = variable.strip_prefix(INSTANCE.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    };
    variables.into_iter().find_map(value)
}

/// A leader with everything below it.
#[derive(Debug)]
pub(crate) struct Tree {
    leader: AsyncFd<Leader>,
    instance: String,
    group: Group,
    /// Who becomes the parent of orphans: this process, or whoever did when the one that started the tree died.
    reaper: Pid,
    /// Members seen so far: one that left the session is still known when its parent is gone.
    seen: Mutex<HashSet<Member>>,
}

impl Tree {
    pub(crate) fn new(leader: Leader, instance: String, group: Group) -> std::io::Result<Tree> {
        // Its replacement is unsafe: the descriptor must stay open and the same, as a leader's does until it is dropped.
        #[allow(deprecated)]
        let leader = AsyncFd::new(leader)?;
        let reaper = std::process::id() as Pid;
        Ok(Tree { leader, instance, group, reaper, seen: Mutex::default() })
    }

    /// Takes over the tree of a leader that outlived who started it; none if the leader lives no more.
    pub(crate) fn adopt(leader: Member, instance: String, group: Group) -> std::io::Result<Option<Tree>> {
        let mut parent = None;
        let is_it = || {
            let row = row(leader.pid).filter(|row| row.started == leader.started && !row.ended);
            parent = row.map(|row| row.parent);
            row.is_some()
        };
        let Some(held) = Leader::adopt(leader.pid, is_it)? else { return Ok(None) };
        let own = std::process::id() as Pid;
        let reaper = parent.filter(|_| !held.is_child()).unwrap_or(own);
        Ok(Some(Tree { reaper, ..Tree::new(held, instance, group)? }))
    }

    /// What tells the leader from every other process of this boot.
    pub(crate) fn leader(&self) -> Option<Member> {
        row(self.pid()).map(|row| Member { pid: self.pid(), started: row.started })
    }

    /// Whether one of its processes sent a message. A sender that has ended meanwhile, as tools do that only send it, is believed
    /// if it ran as the leader's user.
    pub(crate) async fn sent(&self, sender: Sender) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let leader = self.pid();
        let Some(row) = row(sender.pid) else {
            return fs::metadata(format!("/proc/{leader}")).is_ok_and(|leader| leader.uid() == sender.uid);
        };
        let is_near = row.session == leader || row.group == leader;
        is_near || self.members_now().await.iter().any(|member| member.pid == sender.pid)
    }

    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    pub(crate) fn pid(&self) -> Pid {
        self.leader.get_ref().pid()
    }

    /// Bytes of memory by the cgroup, where one counts.
    pub(crate) fn group_memory(&self) -> Option<u64> {
        self.group.memory()
    }

    /// Waits for the leader's end; it stays a zombie.
    pub(crate) async fn exited(&self) -> Exit {
        loop {
            if let Ok(Some(exit)) = self.leader.get_ref().exit() {
                return exit;
            }
            match self.leader.readable().await {
                Ok(mut guard) => guard.clear_ready(),
                // Only when the runtime goes down: nobody waits for the answer any more.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// The living processes of the tree, the leader among them.
    pub(crate) fn members(&self, table: &Table) -> Vec<Member> {
        let leader = self.pid();
        let mut seen = self.seen.lock().expect("no panic while held");
        let mut found: HashSet<Pid> = self.group.pids().into_iter().collect();
        found.extend(seen.iter().filter(|member| table.member(member.pid) == Some(**member)).map(|m| m.pid));
        for (pid, row) in &table.rows {
            let is_orphan =
                || row.parent == self.reaper && instance_of(*pid).as_ref() == Some(&self.instance);
            if *pid == leader || row.session == leader || row.group == leader || (!row.ended && is_orphan()) {
                found.insert(*pid);
            }
        }
        let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
        for (pid, row) in &table.rows {
            children.entry(row.parent).or_default().push(*pid);
        }
        let mut open: Vec<Pid> = found.iter().copied().collect();
        while let Some(parent) = open.pop() {
            open.extend(children.get(&parent).into_iter().flatten().filter(|child| found.insert(**child)));
        }
        let members: Vec<Member> = found.into_iter().filter_map(|pid| table.member(pid)).collect();
        *seen = members.iter().copied().collect();
        members
    }

    pub(crate) async fn members_now(&self) -> Vec<Member> {
        let table = Table::now().await;
        self.members(&table)
    }

    /// Asks all of it to end, waits, and kills what is left; how the leader ended, and how many outlived even that. The leader
    /// stays a zombie until this is dropped.
    pub(crate) async fn stop(&self, signal: i32, patience: Duration) -> (Option<Exit>, usize) {
        let deadline = tokio::time::Instant::now() + patience;
        let table = Table::now().await;
        let members = self.members(&table);
        if members.is_empty() {
            // Nobody is left who could start another one.
            process::reap_adopted();
            return (self.leader.get_ref().exit().ok().flatten(), 0);
        }
        self.leader.get_ref().signal_group(signal);
        let by_group = self.leader.get_ref().is_child();
        let outside = |member: &&Member| !by_group || table.rows[&member.pid].group != self.pid();
        members.iter().filter(outside).for_each(|member| member.signal(signal));
        _ = tokio::time::timeout_at(deadline, self.emptied()).await;
        let left = match tokio::time::timeout(KILL_PATIENCE, self.kill()).await {
            Ok(()) => 0,
            Err(_) => self.members_now().await.len(),
        };
        process::reap_adopted();
        (self.leader.get_ref().exit().ok().flatten(), left)
    }

    /// Waits until nothing of it lives.
    async fn emptied(&self) {
        self.exited().await;
        let mut pause = Duration::from_millis(5);
        while !self.members_now().await.is_empty() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Kills until nothing of it lives: between a look and the signal a process may fork.
    async fn kill(&self) {
        let kill = signal_number("KILL").expect("a known signal");
        loop {
            let members = self.members_now().await;
            // The group's processes may be newer than the look.
            self.group.kill();
            self.leader.get_ref().signal_group(kill);
            if members.is_empty() {
                return;
            }
            members.iter().for_each(|member| member.signal(kill));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Kills adopted processes that belong to none of the runs for which `is_others` holds, with all that follows from it; how
/// many there were.
pub(crate) async fn kill_adopted(is_others: impl Fn(&str) -> bool) -> usize {
    let kill = signal_number("KILL").expect("a known signal");
    let mut killed = HashSet::new();
    let begin = Instant::now();
    while begin.elapsed() < KILL_PATIENCE {
        let living = |pid: &Pid| {
            row(*pid).filter(|row| !row.ended).map(|row| Member { pid: *pid, started: row.started })
        };
        let adopted = process::adopted();
        let members: Vec<Member> = adopted.iter().filter_map(living).collect();
        let stray = |member: &&Member| !instance_of(member.pid).is_some_and(|instance| is_others(&instance));
        let strays: Vec<&Member> = members.iter().filter(stray).collect();
        process::reap_adopted();
        if strays.is_empty() {
            break;
        }
        for member in strays {
            member.signal(kill);
            killed.insert(*member);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    killed.len()
}

/// The proportional memory of a tree: what it shares with others counts by its part.
pub(crate) fn proportional_memory(members: &[Member]) -> u64 {
    let of = |member: &Member| {
        let path = Path::new("/proc").join(member.pid.to_string()).join("smaps_rollup");
        let text = fs::read_to_string(path).ok()?;
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        pss.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    members.iter().filter_map(of).sum::<u64>() * 1024
}

#[cfg(test)]
pub(crate) mod tests;
