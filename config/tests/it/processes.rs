//! `[process.NAME]` and `[job.NAME]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use litekeep_config::{
    Check, Command, Config, Hook, Input, JobConfig, Limits, Listen, Litestream, MigrationProgram, Migrations,
    Overlap, Probe, ProcessConfig, ProcessLog, Restart, RunConfig, Schedule, Secret, Until, WatchConfig,
};
use proptest::prelude::*;

use crate::{brief, toml};

const SECOND: Duration = Duration::from_secs(1);

fn words(line: &str) -> Command {
    Command::Words(line.split(' ').map(str::to_owned).collect())
}

#[test]
fn the_least_process_and_job_have_the_documented_defaults() {
    let config = toml(
        "[process.app]\ncommand = \"node server.js\"\n[job.nightly]\ncommand = \"./a | ./b\"\nevery = \"1h\"",
    )
    .unwrap();
    assert_eq!(config.processes, [ProcessConfig::new("app", words("node server.js"))]);
    let [job] = config.jobs.as_slice() else { panic!("{config:?}") };
    assert_eq!(
        *job,
        JobConfig {
            if_primary: true,
            name: "nightly".into(),
            run: RunConfig::new(Command::Shell("./a | ./b".into())),
            schedule: Schedule::Every(3600 * SECOND),
            overlap: Overlap::Skip,
            timeout: None,
            jitter: Duration::ZERO,
            catch_up: false,
            history: 20,
            stop_signal: "TERM".into(),
            stop_timeout: 10 * SECOND,
            limits: Limits::default(),
            log: ProcessLog::default(),
        }
    );
    assert!(config.warnings.is_empty(), "without a database there is nothing wrong: {:?}", config.warnings);
}

const EVERYTHING: &str = r#"
[supervisor]
state_dir = "run"

[[database]]
path = "app.db"
backup = "./backup"
migrations = "migrations"

[process.seed]
command = ["./seed", "a b", "$HOME"]
restart = "never"

[process."web.1"]
command = "node server.js"
cwd = "web"
env = { PORT = 3000, DEBUG = true, URL = "${BUCKET}", EMPTY = "" }
env_file = ".env"
user = "www-data"
group = 33
umask = "027"
rlimits = { core = 0, stack = { soft = "8M", hard = "unlimited" } }
instances = 2
restart = "always"
restart_limit = 5
backoff = { min = "250ms", max = "1m" }
stop_signal = "SIGINT"
stop_timeout = "15s"
start_delay = "2s"
depends_on = { seed = "completed_successfully", "app.db" = "migrated", "./app.db" = "replicating" }
health = { url = "http://127.0.0.1:3000/health", names_instance = true, start_period = "5s", interval = "1s", timeout = "2s", successes = 2, failures = 4 }
liveness = { type = "exec", command = "curl -f http://localhost | grep ok" }
ready_timeout = "90s"
limits = { memory = "512M", cpu = 0.5, open_files = 65536 }
listen = ["127.0.0.1:3000", ":3001", "unix:run/web.sock"]
watch = { paths = ["src", "a.toml"], ignore = ["node_modules", "*.log"], delay = "1s" }
log = { path = "log/web.log", max_size = "20M", max_age = "7d", keep = 3, compress = false }
hooks = { crashed = "notify $LITEKEEP_PROCESS", healthy = ["true"] }

[process.api]
command = "api"
proxy = ":8080"
watch = "dist"
depends_on = ["web.1", "seed"]
health = { address = "localhost:{port}" }
liveness = { path = "app.db", max_wal = "100MB", max_lag = "10s" }

[process.old]
command = "old"
listen = { http = "0.0.0.0:80", admin = "[::1]:81" }
health = { address = "localhost:80" }

[process.backup]
command = "/usr/bin/litestream replicate -config l.yml"
cwd = "/srv"

[process.binary]
command = "litestream replicate -config l.yml"
native = false

[job.report]
command = "./report"
env = { A = "b" }
cron = "30 2 * * mon-fri"
time_zone = "Europe/Berlin"
overlap = "queue"
timeout = "1h"
jitter = "30s"
catch_up = true
history = 5
stop_signal = "hup"
stop_timeout = "1m"
limits = { memory = "1GiB" }
log = { keep = 0 }
"#;

#[test]
fn every_setting() {
    let config = toml(EVERYTHING).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.state_dir, Some(PathBuf::from("/etc/run")));
    assert_eq!(config.databases[0].migrations, Some(Migrations::Folder("/etc/migrations".into())));
    let [seed, web, api, old, backup, binary] = config.processes.as_slice() else { panic!("{config:#?}") };
    let list = Command::Words(["./seed", "a b", "$HOME"].map(str::to_owned).into());
    assert_eq!(*seed, ProcessConfig { restart: Restart::Never, ..ProcessConfig::new("seed", list) });
    let secret = |name: &str, value: &str| (name.to_owned(), Secret::new(value));
    let expected = ProcessConfig {
        run: RunConfig {
            cwd: Some("/etc/web".into()),
            env: vec![
                secret("PORT", "3000"),
                secret("DEBUG", "true"),
                secret("URL", "my-bucket"),
                secret("EMPTY", ""),
            ],
            env_file: Some("/etc/.env".into()),
            user: Some("www-data".into()),
            group: Some("33".into()),
            umask: Some(0o027),
            rlimits: vec![
                ("core".into(), Some(0), Some(0)),
                ("stack".into(), Some(8 << 20), None),
                ("nofile".into(), Some(65536), Some(65536)),
            ],
            ..RunConfig::new(words("node server.js"))
        },
        instances: 2,
        restart: Restart::Always,
        restart_limit: 5,
        backoff: (Duration::from_millis(250), 60 * SECOND),
        stop_signal: "INT".into(),
        stop_timeout: 15 * SECOND,
        start_delay: 2 * SECOND,
        depends_on: vec![
            ("seed".into(), Until::CompletedSuccessfully),
            ("/etc/app.db".into(), Until::Migrated),
            ("/etc/app.db".into(), Until::Replicating),
        ],
        health: Some(Check {
            start_period: 5 * SECOND,
            interval: SECOND,
            timeout: 2 * SECOND,
            successes: 2,
            failures: 4,
            ..Check::new(Probe::Http { url: "http://127.0.0.1:3000/health".into(), names_instance: true })
        }),
        liveness: Some(Check::new(Probe::Exec(Command::Shell("curl -f http://localhost | grep ok".into())))),
        ready_timeout: 90 * SECOND,
        limits: Limits { memory: Some(512 << 20), cpu: Some(0.5) },
        listen: vec![
            ("web.1".into(), Listen::Tcp("127.0.0.1:3000".parse().unwrap())),
            ("web.1".into(), Listen::Tcp("[::]:3001".parse().unwrap())),
            ("web.1".into(), Listen::Unix("/etc/run/web.sock".into())),
        ],
        watch: Some(WatchConfig {
            paths: vec!["/etc/src".into(), "/etc/a.toml".into()],
            ignore: vec!["node_modules".into(), "*.log".into()],
            delay: SECOND,
        }),
        log: ProcessLog {
            path: Some("/etc/log/web.log".into()),
            max_size: 20 << 20,
            max_age: Some(7 * 86_400 * SECOND),
            keep: 3,
            compress: false,
        },
        hooks: vec![
            (Hook::Crashed, Command::Shell("notify $LITEKEEP_PROCESS".into())),
            (Hook::Healthy, words("true")),
        ],
        ..ProcessConfig::new("web.1", words("node server.js"))
    };
    assert_eq!(*web, expected);
    assert_eq!(api.health.as_ref().unwrap().probe, Probe::Tcp("localhost:{port}".into()));
    assert_eq!(api.proxy, Some("[::]:8080".parse().unwrap()));
    assert_eq!(api.depends_on, [("web.1".to_owned(), Until::Started), ("seed".to_owned(), Until::Started)]);
    assert_eq!(api.watch.as_ref().unwrap().paths, [PathBuf::from("/etc/dist")]);
    let sqlite =
        Probe::Sqlite { path: "/etc/app.db".into(), max_wal: Some(100_000_000), max_lag: Some(10 * SECOND) };
    assert_eq!(api.liveness.as_ref().unwrap().probe, sqlite);
    assert_eq!(old.listen[1], ("admin".to_owned(), Listen::Tcp("[::1]:81".parse().unwrap())));
    assert_eq!(old.health.as_ref().unwrap().probe, Probe::Tcp("localhost:80".into()));

    let litestream = Litestream { config: Some("/srv/l.yml".into()), ..Litestream::default() };
    let foreign = Litestream { config: Some("l.yml".into()), foreign: true, ..Litestream::default() };
    let of_binary =
        binary.litestream.as_ref().map(|found| Litestream { config: Some("l.yml".into()), ..found.clone() });
    assert_eq!((&backup.litestream, of_binary), (&Some(litestream), Some(foreign)));
    let warnings: Vec<_> =
        config.warnings.iter().map(|warning| (warning.position(), warning.message())).collect();
    let [(Some((54, 11)), message)] = warnings.as_slice() else { panic!("{warnings:#?}") };
    assert!(message.starts_with("`litestream replicate` is recognised: litekeep replicates"), "{message}");

    let [job] = config.jobs.as_slice() else { panic!() };
    let cron = Schedule::Cron { cron: "30 2 * * mon-fri".into(), time_zone: Some("Europe/Berlin".into()) };
    assert_eq!(job.schedule, cron);
    assert_eq!((job.overlap, job.timeout, job.jitter), (Overlap::Queue, Some(3600 * SECOND), 30 * SECOND));
    assert_eq!((job.catch_up, job.history, job.stop_signal.as_str()), (true, 5, "HUP"));
    assert_eq!((job.stop_timeout, job.limits.memory, job.log.keep), (60 * SECOND, Some(1 << 30), 0));
}

#[test]
fn litestream_that_wants_more_runs_as_it_is() {
    let config = toml("[process.b]\ncommand = \"litestream replicate -once -config x\"").unwrap();
    assert_eq!(config.processes[0].litestream, None);
    let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
    assert!(warning.message().contains("is run as it is, because of `-once`"), "{warning}");
}

#[test]
fn all_mistakes_of_a_file_at_once() {
    let error = toml(
        r#"[process.api]
comand = "node server.js"
instances = 0
restart = "on_failure"
stop_signal = "SIGKIL"
umask = "888"
cwd = 5
limits = { memory = "lots", cpu = 0, open_file = 5 }
health = { type = "htpp", url = "http://x" }
liveness = { url = "https://x" }
listen = "nowhere"
depends_on = ["apii", "app.db", "report"]
[process."a b"]
command = "echo 'x"
watch = []
hooks = { crash = "x" }
env = { "A=B" = "x" }
[[database]]
path = "app.db"
backup = "./b"
[job.report]
command = []
cron = "61 * * * *"
time_zone = "Mars/Base"
"#,
    )
    .unwrap_err();
    assert_eq!(
        brief(&error),
        [
            "1:10 this process has no `command`: add command = \"./server --port 3000\"",
            "2:1 unknown key `comand`: did you mean `command`?",
            "3:13 `instances`: `0` is not a number from 1 to 1000",
            "4:11 `restart`: unknown value `on_failure`: did you mean `on-failure`?",
            "5:15 `stop_signal`: `SIGKIL` ends no process: there are `TERM`, `INT`, `QUIT`, `HUP`, `USR1`, `USR2`, `ABRT`, `WINCH` and `KILL`",
            "6:9 `umask`: `888` is not a mask such as \"022\"",
            "7:7 `cwd` must be a text in quotes, found the number 5",
            "8:21 `memory`: `lots` is not a size such as \"512M\": it must start with a number",
            "8:35 `cpu`: `0` is not a number of processors: write 0.5 for half of one",
            "8:38 unknown key `open_file`: did you mean `open_files`?",
            "9:19 `type`: unknown value `htpp`: did you mean `http`?",
            "10:20 `url`: a check speaks plain HTTP: ask the process itself with http://, or use command = \"curl -fsS ...\"",
            "11:10 `listen`: `nowhere` is not an address such as \"127.0.0.1:9090\"",
            "12:15 there is no process `apii`: did you mean `api`?",
            "12:23 `app.db` is a database: write depends_on = { \"app.db\" = \"db_restored\" }, or another condition",
            "12:33 `report` is a job, which runs by the clock: a process waits for processes and databases",
            "13:10 `a b` cannot name a process: a name has up to 64 letters, digits, `-`, `_` and `.`, and begins with a letter, a digit or `_`",
            "14:11 `command`: its quote `'` is not closed",
            "15:9 `watch`: it is empty: name what is watched, or remove it",
            "16:11 unknown key `crash`: did you mean `crashed`?",
            "17:9 `A=B` cannot be the name of a variable",
            "22:11 `command`: it names no program: write [\"./server\", \"--port\", \"3000\"]",
            "23:8 `cron`: `61 * * * *` is not a time such as \"30 2 * * mon-fri\": its minute `61`: `61` is not 0 to 59",
            "24:13 `time_zone`: `Mars/Base` is not a time zone such as \"Europe/Berlin\" or \"UTC\"",
        ]
    );
}

#[test]
fn another_program_migrates() {
    let read = |migrations: &str| {
        let text = format!("[[database]]\npath = \"x.db\"\nbackup = \"./b\"\nmigrations = {migrations}\n");
        toml(&text).map(|config| config.databases[0].migrations.clone().unwrap())
    };
    let program = |cwd: &str, rehearse, allow: &[&str]| {
        let (command, allow) =
            ("knex migrate:latest".to_owned(), allow.iter().map(|code| (*code).to_owned()).collect());
        Migrations::Program(MigrationProgram { command, cwd: cwd.into(), rehearse, allow })
    };
    assert_eq!(read("{ command = \"knex migrate:latest\" }").unwrap(), program("/etc", false, &[]));
    let all = "{ command = \"knex migrate:latest\", cwd = \"app\", rehearse = true, allow = [\"lost-rows\", \"orphans\"] }";
    assert_eq!(read(all).unwrap(), program("/etc/app", true, &["lost-rows", "orphans"]));
    for (migrations, expected) in [
        ("{ rehearse = true }", "write which program migrates"),
        ("{ command = \"\" }", "empty"),
        ("{ command = \"x\", dir = \"y\" }", "a folder of files is written migrations = \"migrations\""),
        ("{ command = \"x\", rehearse = 1 }", "rehearse"),
    ] {
        let error = read(migrations).unwrap_err().to_string();
        assert!(error.contains(expected), "{migrations}: {error}");
    }
}

/// Each file has one mistake; `P` stands for a process's title and command.
#[test]
fn messages() {
    for (text, expected) in [
        (
            "[processes.a]\ncommand = \"x\"",
            "1:2 unknown key `processes`: write [process.NAME] for each process",
        ),
        ("state_dir = \"x\"", "1:1 unknown key `state_dir`: write `state_dir` below [supervisor]"),
        (
            "[defaults]\nmigrations = \"x\"",
            "2:1 unknown key `migrations`: `migrations` belongs to one database: write it in its [[database]]",
        ),
        ("process = 5", "1:11 `process` must be a table, found the number 5"),
        ("P\nscript = \"x\"", "3:1 unknown key `script`: here it is `command`"),
        (
            "P\ncron = \"@daily\"",
            "3:1 unknown key `cron`: a process runs all the time: write [job.NAME] for what runs by the clock",
        ),
        (
            "[process.a]\ncommand = \"x ${PORT}\"",
            "2:11 `command`: environment variable `PORT` is not set: set it, or give a default with ${PORT:-default}; $NAME, without braces, or $${NAME} leaves a variable to the shell of the process",
        ),
        ("P\nrlimits = { RLIMIT_NOFILE = 5 }", "3:13 unknown key `RLIMIT_NOFILE`: write `nofile`"),
        (
            "P\nrlimits = { nofile = { soft = 5 } }",
            "3:22 `nofile`: it needs both: write { soft = 1024, hard = 65536 }",
        ),
        (
            "P\nrlimits = { nofile = { soft = 5, hard = 4 } }",
            "3:22 `nofile`: its soft limit is above its hard limit",
        ),
        (
            "P\nrlimits = { nofile = 5 }\nlimits = { open_files = 6 }",
            "4:25 `open_files`: `rlimits` has it too, as `nofile`: keep one of the two",
        ),
        (
            "P\nlimits = { nofile = 6 }",
            "3:12 unknown key `nofile`: `nofile` is a limit on each process: write it in `rlimits`",
        ),
        ("P\nbackoff = { min = \"2s\", max = \"1s\" }", "3:11 `backoff`: its `min` is above its `max`"),
        (
            "P\nhealth = { interval = \"1s\" }",
            "3:10 `health`: it says nothing to ask: give it one of `url`, `address`, `command` and `path`",
        ),
        ("P\nhealth = { type = \"tcp\" }", "3:10 `health`: a check of type `tcp` needs its `address`"),
        (
            "P\nhealth = { type = \"tcp\", address = \"a:1\", url = \"http://x\" }",
            "3:43 `url` goes with type = \"http\", but this is `tcp`",
        ),
        (
            "P\nhealth = { url = \"http://x:{port}/\" }",
            "3:18 `url`: `{port}` is the port behind `proxy`, which this process does not have: write the port itself",
        ),
        (
            "P\nhealth = { url = \"localhost:3000\" }",
            "3:18 `url`: `localhost:3000` is not a URL such as \"http://127.0.0.1:3000/health\"",
        ),
        (
            "P\nhealth = { address = \"3000\" }",
            "3:22 `address`: `3000` is not an address such as \"127.0.0.1:3000\"",
        ),
        (
            "P\nlisten = \":1\"\nproxy = \":2\"",
            "4:1 a process has `listen` (it takes litekeep's socket) or `proxy` (it listens at $PORT), not both",
        ),
        ("P\nlisten = []", "3:10 `listen`: it is empty: write listen = \"127.0.0.1:3000\", or remove it"),
        ("P\nlisten = \"unix:\"", "3:10 `listen`: it has no path: write \"unix:/run/app.sock\""),
        (
            "P\nlisten = { \"a:b\" = \":1\" }",
            "3:12 `a:b` cannot name a socket: a name in LISTEN_FDNAMES has no `:`",
        ),
        (
            "P\nlisten = [\":1\", \"127.0.0.1:1\"]",
            "3:17 `a` has this address already, in line 3: give each its own",
        ),
        (
            "P\nlisten = \"unix:a\"\n[process.b]\ncommand = \"x\"\nlisten = \"unix:./a\"",
            "6:10 `a` has this address already, in line 3: give each its own",
        ),
        (
            "P\nproxy = \"0.0.0.0:1\"\n[process.b]\ncommand = \"x\"\nlisten = \"127.0.0.1:1\"",
            "6:10 `a` has this address already, in line 3: give each its own",
        ),
        (
            "P\nlisten = \"localhost:9090\"\n[metrics]\naddr = \":9090\"",
            "3:10 [metrics] has this address already: give each its own",
        ),
        (
            "P\nproxy = \":3000\"\nhealth = { url = \"http://127.0.0.1:3000/health\" }",
            "4:18 this is the address of the process's own `proxy`, which passes nothing on before a run is ready: write `{port}`, the port of the run itself, as in \"http://127.0.0.1:{port}/health\"",
        ),
        (
            "P\nproxy = \"10.0.0.1:3000\"\nliveness = { address = \"10.0.0.1:3000\" }",
            "4:24 this is the address of the process's own `proxy`, which passes nothing on before a run is ready: write `{port}`, the port of the run itself, as in \"127.0.0.1:{port}\"",
        ),
        (
            "P\nwatch = { ignore = [\"a\"] }",
            "3:9 `watch`: it needs `paths`: write watch = { paths = [\"src\"], ignore = [\"*.log\"] }",
        ),
        (
            "P\nwatch = { paths = \"src\", ignore = \"a/b\" }",
            "3:35 `ignore`: `a/b` is not a name such as \"node_modules\" or \"*.log\": it has a `/`, but it is compared with file names only: put the folder into `dir` and set `recursive = true`",
        ),
        (
            "P\nnative = false",
            "3:1 `native` is for `litestream replicate`, which this command is not: remove it",
        ),
        (
            "P\nlog = { path = \"x.db-wal\" }\n[[database]]\npath = \"x.db\"\nbackup = \"b\"",
            "3:16 `/etc/x.db-wal` cannot be the log of `a`: it is of the database `/etc/x.db`; give it a file of its own",
        ),
        (
            "P\nlog = { path = \"a.log\" }\n[job.b]\ncommand = \"x\"\nevery = \"1m\"\nlog = { path = \"./a.log\" }",
            "7:16 `/etc/a.log` cannot be the log of `b`: `a` has its log there; give it a file of its own",
        ),
        (
            "P\nlog = { path = \"litekeep.toml\" }",
            "3:16 `/etc/litekeep.toml` cannot be the log of `a`: it is this configuration; give it a file of its own",
        ),
        ("P\ndepends_on = [\"a\"]", "3:15 nothing of this would ever start: `a` waits for `a`"),
        (
            "P\ndepends_on = [\"b\"]\n[process.b]\ncommand = \"x\"\ndepends_on = { c = \"healthy\" }\n[process.c]\ncommand = \"x\"\ndepends_on = [\"a\"]",
            "9:15 nothing of this would ever start: `a` waits for `b` waits for `c` waits for `a`",
        ),
        (
            "P\ndepends_on = { b = \"ready\" }\n[process.b]\ncommand = \"x\"",
            "3:20 `b`: unknown value `ready`: there are `started`, `healthy`, `completed_successfully`, `db_restored`, `migrated` and `replicating`",
        ),
        (
            "P\ndepends_on = { b = \"completed_successfully\" }\n[process.b]\ncommand = \"x\"\nrestart = \"always\"",
            "3:16 `b` never completes, since it has restart = \"always\": set it to \"never\"",
        ),
        (
            "P\ndepends_on = { \"x.db\" = \"migrated\" }",
            "3:16 there is no database `x.db`: write a [[database]] with this path",
        ),
        (
            "P\ndepends_on = { \"x.db\" = \"migrated\" }\n[[database]]\npath = \"x.db\"\nbackup = \"b\"",
            "3:16 `x.db` has no migrations: add migrations = \"migrations\" to its [[database]]",
        ),
        (
            "P\ndepends_on = { \"y.db\" = \"db_restored\" }\n[[database]]\npath = \"x.db\"\nbackup = \"b\"",
            "3:16 there is no database `y.db`, but `/etc/x.db`",
        ),
        ("P\ndepends_on = [\"zzz\"]", "3:15 there is no process `zzz`: write a [process.zzz]"),
        (
            "P\n[job.a]\ncommand = \"x\"\nevery = \"1s\"",
            "3:6 `a` is already a process, in line 1: give one another name",
        ),
        (
            "[job.a]\ncommand = \"x\"",
            "1:6 this job is never due: add cron = \"0 3 * * *\", or every = \"10m\"",
        ),
        (
            "[job.a]\ncommand = \"x\"\nevery = \"1s\"\ncron = \"@daily\"",
            "3:1 a job has `cron` or `every`, not both",
        ),
        (
            "[job.a]\ncommand = \"x\"\nevery = \"1s\"\ntime_zone = \"UTC\"",
            "4:1 `time_zone` goes with `cron`: `every` is the same everywhere",
        ),
        (
            "[job.a]\ncommand = \"x\"\ncron = \"0 0 30 2 *\"",
            "3:8 `cron`: `0 0 30 2 *` is a day that no year has",
        ),
        (
            "[job.a]\ncommand = \"x\"\nevery = \"1s\"\nrestart = \"never\"",
            "4:1 unknown key `restart`: `restart` belongs to a process: a job starts by the clock, runs once, and ends",
        ),
        (
            "[job.a]\ncommand = \"x\"\nevery = \"1ms\"",
            "3:9 `every`: `1ms` is outside of what works, 1s to 36600d",
        ),
    ] {
        let text = text.replace("P\n", "[process.a]\ncommand = \"x\"\n");
        let error = toml(&text).expect_err(&text);
        assert_eq!(brief(&error), [expected], "\n{text}\n");
    }
}

#[test]
fn a_process_may_say_itself_that_it_is_ready() {
    let of = |key: &str| toml(&format!("[process.a]\ncommand = \"x\"\n{key} = {{ type = \"notify\" }}"));
    assert_eq!(of("health").unwrap().processes[0].health, Some(Check::new(Probe::Notify)));
    let slow = "[process.a]\ncommand = \"x\"\nhealth = { type = \"notify\", start_period = \"5m\" }";
    let check = Check { start_period: 300 * SECOND, ..Check::new(Probe::Notify) };
    assert_eq!(toml(slow).unwrap().processes[0].health, Some(check));
    let message =
        "3:12 `liveness`: who says once that it is ready cannot be asked later: write another `type`";
    assert_eq!(brief(&of("liveness").unwrap_err()), [message]);
    let error =
        toml("[process.a]\ncommand = \"x\"\nhealth = { type = \"notify\", interval = \"1s\" }").unwrap_err();
    let message = "3:29 `interval` means nothing for type = \"notify\", which asks nothing: remove it";
    assert_eq!(brief(&error), [message]);
}

#[test]
fn a_check_behind_the_proxy_asks_at_the_instances_own_port() {
    let text =
        "[process.a]\ncommand = \"x\"\nproxy = \":1\"\nhealth = { url = \"http://localhost:{port}/up\" }";
    let probe = Probe::Http { url: "http://localhost:{port}/up".into(), names_instance: false };
    assert_eq!(toml(text).unwrap().processes[0].health, Some(Check::new(probe)));
    // Another address, or another machine's, is another matter.
    for url in ["http://localhost:3001/up", "http://elsewhere:3000/up", "http://10.0.0.2:3000/up"] {
        let text =
            format!("[process.a]\ncommand = \"x\"\nproxy = \"127.0.0.1:3000\"\nhealth = {{ url = {url:?} }}");
        assert!(toml(&text).is_ok(), "{url}");
    }
}

#[test]
fn a_database_of_a_folder_or_of_litestream_can_be_waited_for() {
    let config = toml("[[database]]\ndir = \"t\"\npattern = \"*.db\"\nbackup = \"b\"\n[process.a]\ncommand = \"x\"\ndepends_on = { \"t/x.db\" = \"db_restored\" }").unwrap();
    assert_eq!(config.processes[0].depends_on, [("/etc/t/x.db".to_owned(), Until::DbRestored)]);
    let config = toml("[process.l]\ncommand = \"litestream replicate\"\n[process.a]\ncommand = \"x\"\ndepends_on = { \"x.db\" = \"replicating\" }").unwrap();
    assert_eq!(config.processes[1].depends_on, [("/etc/x.db".to_owned(), Until::Replicating)]);
}

/// A path below the folder that everything runs in, and the same one from the root.
#[test]
fn a_database_is_waited_for_however_its_path_is_spelled() {
    let here = std::env::current_dir().unwrap();
    let whole = here.join("app.db");
    for (path, waited) in [("app.db", whole.to_str().unwrap()), (whole.to_str().unwrap(), "./app.db")] {
        let text = format!(
            "[[database]]\npath = {path:?}\nbackup = \"b\"\n\
             [process.a]\ncommand = \"x\"\ndepends_on = {{ {waited:?} = \"db_restored\" }}\n"
        );
        let read = |text: &str| {
            let read_file = |_: &Path| Err(String::new());
            let path = Path::new("litekeep.toml");
            Config::from_toml(&Input { path, text, env: &|_| None, read_file: &read_file })
        };
        let config = read(&text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.processes[0].depends_on, [(path.to_owned(), Until::DbRestored)]);
        let error = read(&format!("{text}[[database]]\npath = {waited:?}\nbackup = \"c\"\n")).unwrap_err();
        assert!(error.to_string().contains("is already a database"), "{error}");
    }
}

#[test]
fn no_value_of_the_environment_is_shown() {
    let text = "[process.a]\ncommand = \"x\"\nenv = { DB = \"hunter2\" }";
    assert!(!format!("{:?}", toml(text).unwrap()).contains("hunter2"));
}

/// Lines that are nearly configuration, so that the reader behind the parser is reached.
fn nearly_toml() -> impl Strategy<Value = String> {
    let key = "(command|cwd|env|umask|rlimits|instances|restart|backoff|stop_signal|depends_on|health|liveness|limits|listen|proxy|watch|log|hooks|native|cron|time_zone|every|overlap|history|x)";
    let value = r#"("[a-z0-9:/$\{\}@?&=.*'| -]{0,12}"|[0-9]{1,3}|-1|0\.5|true|\[\]|\["a", "b"\]|\{\}|\{ a = "healthy", b = "started" \}|\{ url = "http://x", path = "a" \}|\{ min = "1s" \}|\{ memory = "5M", cpu = 2 \}|"30s"|"\* \* 29 2 \*"|"always")"#;
    let line = format!("({key} = {value}|\\[process\\.[abc]\\]|\\[job\\.[abc]\\]|\\[\\[database\\]\\])\n");
    proptest::string::string_regex(&format!("({line}){{0,10}}")).unwrap()
}

proptest! {
    #[test]
    fn no_near_configuration_panics(text in nearly_toml()) {
        let _ = toml(&text).map_err(|error| error.to_string());
    }

    #[test]
    fn no_command_panics(line in "[ -~\\n]{0,30}") {
        let _ = toml(&format!("[process.a]\ncommand = {line:?}")).map_err(|error| error.to_string());
    }
}
