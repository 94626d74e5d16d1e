use super::*;
use crate::cgroup::{Cgroups, Limits};
use crate::spawn::{Command, Output, Spawn};

/// Starts a script as a tree; it writes the ids of its processes to the file `$OUT`.
async fn start(script: &str, instance: &str, cgroups: &Cgroups) -> (Tree, tempfile::TempDir) {
    start_limited(script, instance, cgroups, Limits::default()).await
}

async fn start_limited(
    script: &str,
    instance: &str,
    cgroups: &Cgroups,
    limits: Limits,
) -> (Tree, tempfile::TempDir) {
    process::become_subreaper().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut spawn = Spawn::new(Command::shell(script));
    spawn.env = vec![("OUT".into(), dir.path().join("pids").into())];
    (tree_of(&spawn, instance, cgroups.make(instance, limits)), dir)
}

pub(crate) fn tree_of(spawn: &Spawn, instance: &str, group: Group) -> Tree {
    let null = || fs::File::options().write(true).open("/dev/null").unwrap().into();
    let output = Output { stdout: null(), stderr: null() };
    let leader = spawn.start("test", instance, output, group.entrances().unwrap()).unwrap();
    Tree::new(leader, instance.into(), group).unwrap()
}

/// The ids that the script wrote, once there are so many.
async fn pids(dir: &tempfile::TempDir, count: usize) -> Vec<Pid> {
    for _ in 0..500 {
        let text = fs::read_to_string(dir.path().join("pids")).unwrap_or_default();
        let pids: Vec<Pid> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if pids.len() >= count {
            return pids;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the script wrote no {count} ids");
}

fn is_alive(pid: Pid) -> bool {
    row(pid).is_some_and(|row| !row.ended)
}

const TERM: i32 = 15;

#[test]
fn names_with_parentheses_and_spaces_do_not_shift_the_fields() {
    let stat = b"42 (a) Z (b \xff) S 1 42 41 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0";
    let row = parse_stat(stat).unwrap();
    assert_eq!((row.parent, row.group, row.session, row.started, row.ended), (1, 42, 41, 777, false));
}

#[tokio::test]
async fn grandchildren_that_ignore_term_or_call_setsid_do_not_survive_a_stop() {
    let script = "trap '' TERM; sh -c 'echo $$ >>$OUT; sleep 100; sleep 100' & \
        setsid sh -c 'echo $$ >>$OUT; sleep 100; sleep 100' & \
        (setsid sh -c 'trap \"\" TERM; echo $$ >>$OUT; while :; do sleep 1; done' &) ; wait; wait";
    let (tree, dir) = start(script, "tree-setsid", &Cgroups::default()).await;
    let pids = pids(&dir, 3).await;
    let begin = Instant::now();
    let (exit, left) = tree.stop(TERM, Duration::from_millis(300)).await;
    assert_eq!((exit, left), (Some(Exit::Signal(9)), 0));
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
}

#[tokio::test]
async fn an_orphan_of_an_ended_leader_does_not_survive() {
    // Its parents are gone before anybody looks: only its environment tells whose it is.
    let script = "(setsid sh -c 'echo $$ >>$OUT; exec sleep 100' &); sleep 0.2";
    let (tree, dir) = start(script, "tree-orphan", &Cgroups::default()).await;
    let pids = pids(&dir, 1).await;
    assert_eq!(tree.exited().await, Exit::Code(0));
    assert!(is_alive(pids[0]));
    let (exit, left) = tree.stop(TERM, Duration::from_secs(5)).await;
    assert_eq!((exit, left), (Some(Exit::Code(0)), 0));
    assert!(!is_alive(pids[0]));
}

#[tokio::test]
async fn a_worker_that_still_cleans_up_when_its_shell_is_gone_has_the_whole_time() {
    let worker =
        "trap 'sleep 0.5; echo 4242 >>$OUT; exit' TERM; echo $$ >>$OUT; while :; do sleep 0.05; done";
    let script = format!("sh -c '{}'; true", worker.replace('\'', "'\\''"));
    let (tree, dir) = start(&script, "tree-worker", &Cgroups::default()).await;
    pids(&dir, 1).await;
    tree.stop(TERM, Duration::from_secs(10)).await;
    assert_eq!(pids(&dir, 2).await[1], 4242, "it was not killed before its end");
}

#[tokio::test]
async fn a_tree_that_hides_from_its_session_and_environment_ends_with_its_cgroup() {
    let Some(v2) = Cgroups::detect_without_memory().v2 else {
        eprintln!("skipped: no writable cgroup of version 2");
        return;
    };
    let cgroups = Cgroups { v2: Some(v2), ..Cgroups::default() };
    let script =
        "(OUT=$OUT setsid env -u LITEKEEP_INSTANCE sh -c 'echo $$ >>$OUT; exec sleep 100' &); sleep 0.2";
    let (tree, dir) = start(script, "tree-cgroup", &cgroups).await;
    let pids = pids(&dir, 1).await;
    tree.exited().await;
    assert!(is_alive(pids[0]));
    assert_eq!(tree.stop(TERM, Duration::ZERO).await.1, 0);
    assert!(!is_alive(pids[0]));
}

#[tokio::test]
async fn the_kernel_holds_a_tree_to_its_processor_time() {
    let cgroups = Cgroups::detect_without_memory();
    if !cgroups.limits_cpu() {
        eprintln!("skipped: no cgroup with the controller of processor time");
        return;
    }
    let limits = Limits { memory: None, cpu: Some(0.1) };
    let script = "echo $$ >>$OUT; while :; do :; done & while :; do :; done";
    let (tree, dir) = start_limited(script, "tree-cpu", &cgroups, limits).await;
    pids(&dir, 1).await;
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let ticks: u64 = tree.members_now().await.iter().map(|member| cpu_ticks(member.pid)).sum();
    let share = ticks as f64 / 100.0 / begin.elapsed().as_secs_f64();
    assert!(share < 0.2, "two busy processes use {share:.2} processors");
    // What the limit throttled ends as fast as anything else.
    assert_eq!(tree.stop(TERM, Duration::from_secs(5)).await.1, 0);
}

/// Hundredths of a second that a process ran.
fn cpu_ticks(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn whoever_has_the_id_of_a_dead_leader_is_left_alone() {
    let mut stranger = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let pid = stranger.id() as Pid;
    let dead = Member { pid, started: row(pid).unwrap().started - 1 };
    assert!(Tree::adopt(dead, "web:1:1".into(), Group::default()).unwrap().is_none());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(is_alive(pid));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(Tree::adopt(dead, "web:1:1".into(), Group::default()).unwrap().is_none(), "nobody has it");
}
