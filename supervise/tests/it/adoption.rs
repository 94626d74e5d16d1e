//! A litekeep that is killed and started again: this test binary, started anew as a daemon of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use litekeep_supervise::job::Schedule;
use litekeep_supervise::spawn::Socket;
use litekeep_supervise::survivors;

use super::*;

/// Set to the folder of the process that plays litekeep.
const ROLE: &str = "LITEKEEP_TEST_DAEMON";

/// Supervises what the file `services` says, one `NAME SCRIPT` a line, until the file `stop` is there. Does nothing elsewhere.
#[tokio::test]
async fn role_of_a_daemon() {
    let Some(dir) = std::env::var_os(ROLE).map(PathBuf::from) else { return };
    let text = std::fs::read_to_string(dir.join("services")).unwrap();
    let (mut services, mut jobs) = (vec![], vec![]);
    for (name, script) in text.lines().map(|line| line.split_once(' ').unwrap()) {
        let mut service = shell(name, script);
        service.spec.stop_timeout = Duration::from_secs(2);
        service.log.path = Some(dir.join(format!("{name}.log")));
        match name {
            "socket" => {
                // The address is free only if no survivor has it.
                let address = std::fs::read_to_string(dir.join("address")).unwrap().parse().unwrap();
                let held = survivors::socket(&dir.join("state"), "socket", "web");
                let socket = held.unwrap_or_else(|| Socket::tcp("web", address).unwrap());
                service.spec.spawn.sockets = vec![socket];
                services.push(service);
            }
            "front" => {
                service.spec.front = Some(Arc::new(Recorder(dir.join("begins"))));
                services.push(service);
            }
            "job" => jobs.push(Job::new(name, service.spec, Schedule::Every(Duration::from_secs(3600)))),
            _ => services.push(service),
        }
    }
    let setup = Setup::new(Arc::new(SystemClock), Cgroups::default());
    let supervisor =
        Supervisor::set_up(Setup { services, jobs, state: Some(dir.join("state")), ..setup }).unwrap();
    supervisor.start().await.unwrap();
    if dir.join("first").exists() {
        for job in supervisor.jobs() {
            job.run().await.unwrap();
        }
    }
    while !dir.join("stop").exists() {
        let mut text = String::new();
        for process in supervisor.processes() {
            let status = process.status().borrow().clone();
            let pid = status.pid.unwrap_or(0);
            text += &format!(
                "{} {:?} {pid} {} {}\n",
                process.name(),
                status.state,
                status.needs_reload,
                status.restart_reason
            );
        }
        for job in supervisor.jobs() {
            let pid = job.status().borrow().running.as_ref().and_then(|run| run.pid).unwrap_or(0);
            text += &format!("{} Job {pid} false\n", job.name());
        }
        std::fs::write(dir.join("status.new"), text).unwrap();
        std::fs::rename(dir.join("status.new"), dir.join("status")).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    supervisor.stop().await.unwrap();
    let events = supervisor.events().since(0).1.into_iter();
    let events: String = events.map(|e| format!("{} {} {}\n", e.name, e.kind.name(), e.text)).collect();
    std::fs::write(dir.join("events"), events).unwrap();
}

/// Writes down which runs it is told of, with which ports.
#[derive(Debug)]
struct Recorder(PathBuf);

impl litekeep_supervise::Front for Recorder {
    fn begin(&self, _: &str, port: Option<u16>) -> litekeep_supervise::Result<u16> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        std::fs::write(&self.0, format!("{text}{port:?}\n")).unwrap();
        Ok(port.unwrap_or(4321))
    }

    fn face(&self, _: &str, _: bool) {}

    fn end(&self, _: &str) -> futures::future::BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[derive(Clone, Debug)]
struct Seen {
    state: String,
    pid: String,
    needs_reload: bool,
    reason: String,
}

/// A folder with a litekeep that is killed and started again.
struct Stage {
    dir: tempfile::TempDir,
    daemon: Daemon,
}

/// Ends with a test that fails, too.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Stage {
    fn new(services: &[(&str, &str)]) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("first"), "").unwrap();
        // Port 0 would be another one after the restart.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        std::fs::write(dir.path().join("address"), free.to_string()).unwrap();
        let daemon = start(dir.path(), services);
        Stage { dir, daemon }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As `kill -9` does, and without a word to anybody.
    fn kill(&mut self) {
        self.daemon.0.kill().unwrap();
        self.daemon.0.wait().unwrap();
        _ = std::fs::remove_file(self.path("status"));
        _ = std::fs::remove_file(self.path("first"));
    }

    fn start_again(&mut self, services: &[(&str, &str)]) {
        self.daemon = start(self.dir.path(), services);
    }

    async fn until(&self, wanted: impl Fn(&BTreeMap<String, Seen>) -> bool) -> BTreeMap<String, Seen> {
        let begin = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.path("status")).unwrap_or_default();
            let seen = text.lines().map(|line| {
                let words: Vec<&str> = line.splitn(5, ' ').collect();
                let [state, pid] = [1, 2].map(|i| words[i].to_owned());
                let reason = words.get(4).unwrap_or(&"").to_string();
                (words[0].to_owned(), Seen { state, pid, needs_reload: words[3] == "true", reason })
            });
            let seen: BTreeMap<String, Seen> = seen.collect();
            if !seen.is_empty() && wanted(&seen) {
                return seen;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "it stays {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until a run is written down.
    async fn written(&self, name: &str) {
        let is_it = |file: &str| file.starts_with(&format!("{name}:")) && file.ends_with(".run");
        let begin = Instant::now();
        loop {
            let mut files = std::fs::read_dir(self.path("state")).unwrap().map(|e| e.unwrap().file_name());
            if files.any(|file| is_it(file.to_str().unwrap())) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{name} is not written down");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn healthy(&self) -> BTreeMap<String, Seen> {
        self.until(|seen| {
            seen.values().all(|seen| seen.pid != "0" && (seen.state == "Healthy" || seen.state == "Job"))
        })
        .await
    }

    /// Asks the daemon to stop everything, and returns its events.
    async fn stop(mut self) -> (tempfile::TempDir, String) {
        std::fs::write(self.path("stop"), "").unwrap();
        let begin = Instant::now();
        while self.daemon.0.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the daemon does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let events = std::fs::read_to_string(self.path("events")).expect("the daemon ended well");
        let left = std::fs::read_dir(self.path("state")).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["lock"]);
        (self.dir, events)
    }
}

fn start(dir: &Path, services: &[(&str, &str)]) -> Daemon {
    let text: String = services.iter().map(|(name, script)| format!("{name} {script}\n")).collect();
    std::fs::write(dir.join("services"), text).unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "adoption::role_of_a_daemon"]).env(ROLE, dir).current_dir(dir);
    Daemon(command.stdout(std::process::Stdio::null()).spawn().unwrap())
}

#[tokio::test]
async fn a_restart_of_the_daemon_neither_kills_nor_doubles_its_children() {
    // A write that fails ends it.
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("chatter.py");
    std::fs::write(
        &script,
        "import time\nfor i in range(200_000):\n    print('line', i, 'x' * 40, flush=True)\n    time.sleep(0.00005)\n",
    )
    .unwrap();
    let chatter = format!("echo $$ >>starts; exec python3 {}", script.display());
    let services = [("chatter", chatter.as_str())];
    let mut stage = Stage::new(&services);
    let first = stage.healthy().await["chatter"].clone();
    let log = stage.path("chatter.log");
    let before = lines(&log, 500).await.len();
    stage.kill();
    // Long enough for the pipe to be full, so that it waits.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(is_alive(&first.pid), "the child outlives its litekeep");
    stage.start_again(&services);
    let second = stage.healthy().await["chatter"].clone();
    assert_eq!((&second.pid, second.needs_reload, second.reason.as_str()), (&first.pid, false, ""));
    lines(&log, before + 10_000).await;
    let (dir, events) = stage.stop().await;
    assert!(!is_alive(&first.pid));
    assert_eq!(lines(&dir.path().join("starts"), 1).await.len(), 1, "it was started once");
    assert!(events.starts_with(&format!("chatter adopted process {}\n", first.pid)), "{events}");
    // What the killed litekeep had read and not written yet is lost, and nothing else; one line may be torn there.
    let text = std::fs::read_to_string(dir.path().join("chatter.log")).unwrap();
    let number = |line: &str| line.strip_prefix("line ")?.split(' ').next()?.parse::<u64>().ok();
    let whole: Vec<u64> = text.lines().filter(|line| line.ends_with("xxxx")).filter_map(number).collect();
    assert!(whole.windows(2).all(|pair| pair[0] < pair[1]), "nothing comes twice or out of order");
    let missing = whole.last().unwrap() + 1 - whole.len() as u64;
    eprintln!("{missing} of {} lines lost by the kill", whole.len());
    assert!(missing * 50 < 256 << 10, "{missing} lines lost");
}

#[tokio::test]
async fn survivors_that_changed_are_marked_and_those_not_wanted_are_stopped_in_order() {
    let gone = "trap 'echo ended >>ends; exit' TERM; while :; do sleep 0.05; done";
    let mut stage = Stage::new(&[
        ("changed", "exec sleep 100"),
        ("cleared", "exec env -i sleep 100"),
        ("gone", gone),
        ("same", "(setsid sh -c 'echo $$ >>hidden; sleep 100' &); sleep 100"),
    ]);
    let first = stage.healthy().await;
    let hidden = lines(&stage.path("hidden"), 1).await;
    // Nothing else tells of it; a slow disk delays no start.
    stage.written("cleared").await;
    stage.kill();
    stage.start_again(&[
        ("changed", "exec sleep 200"),
        ("cleared", "exec env -i sleep 100"),
        ("same", "(setsid sh -c 'echo $$ >>hidden; sleep 100' &); sleep 100"),
    ]);
    let second = stage.healthy().await;
    for name in ["changed", "cleared", "same"] {
        assert_eq!(second[name].pid, first[name].pid, "{name} goes on");
        assert_eq!(second[name].needs_reload, name == "changed");
    }
    assert_eq!(lines(&stage.path("ends"), 1).await, ["ended"]);
    let (_, events) = stage.stop().await;
    assert!(
        events.contains(&format!("gone stopped process {} of an earlier", first["gone"].pid)),
        "{events}"
    );
    for pid in first.values().map(|seen| &seen.pid).chain(&hidden) {
        assert!(!is_alive(pid), "{pid} is left");
    }
}

#[tokio::test]
async fn the_end_of_a_survivor_is_seen_and_answered() {
    let services = [("web", "exec sleep 100")];
    let mut stage = Stage::new(&services);
    let first = stage.healthy().await["web"].clone();
    stage.kill();
    stage.start_again(&services);
    assert_eq!(stage.healthy().await["web"].pid, first.pid);
    std::process::Command::new("kill").args(["-9", &first.pid]).status().unwrap();
    let seen = stage.until(|seen| seen["web"].state == "Healthy" && seen["web"].pid != first.pid).await;
    assert!(seen["web"].reason.contains("unknown exit code"), "{seen:?}");
    // One that ended while there was no litekeep is simply started.
    stage.kill();
    std::process::Command::new("kill").args(["-9", &seen["web"].pid]).status().unwrap();
    while is_alive(&seen["web"].pid) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.start_again(&services);
    let third = stage.healthy().await["web"].clone();
    assert!(third.pid != seen["web"].pid && third.reason.is_empty(), "{third:?}");
    let (_, events) = stage.stop().await;
    assert!(!events.contains("adopted"), "{events}");
}

#[tokio::test]
async fn a_run_that_was_not_written_down_in_time_is_found_by_its_environment() {
    let services = [("web", "echo $$ >>starts; exec sleep 100")];
    let mut stage = Stage::new(&services);
    let first = stage.healthy().await["web"].clone();
    stage.kill();
    for entry in std::fs::read_dir(stage.path("state")).unwrap().flatten() {
        if entry.path().extension().is_some_and(|end| end == "run") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    stage.start_again(&services);
    let second = stage.healthy().await["web"].clone();
    assert_eq!((second.pid, second.needs_reload), (first.pid, true));
    let (dir, _) = stage.stop().await;
    assert_eq!(lines(&dir.path().join("starts"), 1).await.len(), 1);
}

#[tokio::test]
async fn a_survivor_whose_pipes_were_taken_away_is_not_doubled() {
    let services = [("web", "echo $$ >>starts; exec sleep 100")];
    let mut stage = Stage::new(&services);
    let first = stage.healthy().await["web"].clone();
    stage.kill();
    for entry in std::fs::read_dir(stage.path("state")).unwrap().flatten() {
        if entry.path().extension().is_some_and(|end| end == "out" || end == "err") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    stage.start_again(&services);
    assert_eq!(stage.healthy().await["web"].pid, first.pid);
    let (dir, events) = stage.stop().await;
    assert!(events.contains("web warning open the pipe"), "{events}");
    assert_eq!(lines(&dir.path().join("starts"), 1).await.len(), 1);
    assert!(!is_alive(&first.pid));
}

#[tokio::test]
async fn a_job_goes_on_when_its_litekeep_is_killed() {
    let services = [("job", "echo $$ >>starts; exec sleep 100")];
    let mut stage = Stage::new(&services);
    let first = stage.healthy().await["job"].clone();
    stage.kill();
    stage.start_again(&services);
    assert_eq!(stage.healthy().await["job"].pid, first.pid);
    let (dir, events) = stage.stop().await;
    assert!(!is_alive(&first.pid) && events.contains("job job_failed it was stopped"), "{events}");
    assert_eq!(lines(&dir.path().join("starts"), 1).await.len(), 1);
}

#[tokio::test]
async fn a_held_socket_comes_back_from_the_survivor() {
    let services = [("socket", "exec sleep 100")];
    let mut stage = Stage::new(&services);
    let first = stage.healthy().await["socket"].clone();
    let address = std::fs::read_to_string(stage.path("address")).unwrap();
    stage.kill();
    let waiting = std::net::TcpStream::connect(&address).expect("nobody is refused meanwhile");
    stage.start_again(&services);
    assert_eq!(stage.healthy().await["socket"].pid, first.pid);
    drop(waiting);
    stage.stop().await;
    std::net::TcpStream::connect(&address).expect_err("nobody listens any more");
}

#[tokio::test]
async fn a_run_behind_a_front_keeps_its_port_whatever_it_made_of_its_environment() {
    let services = [("front", "exec env -i sleep 100")];
    let mut stage = Stage::new(&services);
    let first = stage.healthy().await["front"].clone();
    stage.kill();
    stage.start_again(&services);
    let second = stage.healthy().await["front"].clone();
    assert_eq!((second.pid, second.needs_reload), (first.pid, false));
    assert_eq!(lines(&stage.path("begins"), 2).await, ["None", "Some(4321)"]);
    // And once more, from what the second one wrote down.
    stage.kill();
    stage.start_again(&services);
    stage.healthy().await;
    assert_eq!(lines(&stage.path("begins"), 3).await[2], "Some(4321)");
    stage.stop().await;
}

/// It was taken over, and nobody could reach it until a reload.
#[tokio::test]
async fn a_survivor_that_began_without_its_front_makes_place_for_a_run_behind_it() {
    let services = [("front", "exec env -i sleep 100")];
    let mut stage = Stage::new(&services);
    let first = stage.healthy().await["front"].clone();
    stage.kill();
    let run = std::fs::read_dir(stage.path("state")).unwrap().flatten().map(|entry| entry.path());
    // Beside it stand pipes, which whoever reads them would wait for.
    let run = run
        .into_iter()
        .filter(|path| path.is_file())
        .find(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("port 4321")))
        .unwrap();
    let text = std::fs::read_to_string(&run).unwrap();
    std::fs::write(&run, text.replace("port 4321\n", "")).unwrap();
    stage.start_again(&services);
    let second = stage
        .until(|all| all.get("front").is_some_and(|seen| seen.state == "Healthy" && seen.pid != first.pid))
        .await;
    assert!(!is_alive(&first.pid) && !second["front"].needs_reload);
    assert_eq!(lines(&stage.path("begins"), 2).await, ["None", "None"]);
    stage.stop().await;
}

#[tokio::test]
async fn two_supervisors_do_not_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let setup =
        || Setup { state: Some(dir.path().into()), ..Setup::new(Arc::new(SystemClock), Cgroups::default()) };
    let first = Supervisor::set_up(setup()).unwrap();
    let second = Supervisor::set_up(setup()).map(drop).unwrap_err().to_string();
    assert!(second.contains("another litekeep cares for its processes"), "{second}");
    first.stop().await.unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_stops_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let setup = Setup { state: Some(state.clone()), ..Setup::new(Arc::new(SystemClock), Cgroups::default()) };
    let supervisor =
        Supervisor::set_up(Setup { services: vec![shell("web", "echo hello; sleep 100")], ..setup }).unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    supervisor.start().await.unwrap();
    reaches(one(&supervisor, "web"), State::Healthy).await;
    assert_eq!(one(&supervisor, "web").log().lines_from(0)[0].bytes, b"hello");
    let (_, events) = supervisor.events().since(0);
    assert!(
        events.iter().any(|event| event.kind.name() == "warning" && event.text.contains("open the pipe"))
    );
    supervisor.stop().await.unwrap();
}
