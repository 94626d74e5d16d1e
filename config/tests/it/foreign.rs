//! Goal: what other process managers' files say is what runs here, and nothing of it is lost in silence. Method: files as their
//! documentation and articles have them; and whatever is imported is read back as `litekeep.toml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use litekeep_config::{
    Check, Command, Config, Error, Foreign, Imported, Input, Limits, Litestream, Probe, ProcessConfig,
    Restart, RunConfig, Schedule, Secret, WatchConfig, import,
};
use proptest::prelude::*;

use crate::{brief, env, read_file, toml};

const SECOND: Duration = Duration::from_secs(1);

fn oxfile(text: &str) -> Result<Config, Error> {
    let path = Path::new("/etc/oxfile.toml");
    Config::from_oxfile(&Input { path, text, env: &env, read_file: &read_file })
}

fn words(line: &str) -> Command {
    Command::Words(line.split(' ').map(str::to_owned).collect())
}

fn variables(of: &[(&str, &str)]) -> Vec<(String, Secret)> {
    of.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect()
}

fn messages(config: &Config) -> Vec<String> {
    let shown = |warning: &litekeep_config::Warning| {
        format!("{} {}", warning.position().unwrap().0, warning.message())
    };
    config.warnings.iter().map(shown).collect()
}

/// Imports, and reads the text back.
#[track_caller]
fn imported(format: Foreign, text: &str) -> (Imported, Config) {
    let imported =
        import(format, Path::new("file"), text, None).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let config = toml(&imported.text).unwrap_or_else(|error| panic!("{error}\n{}", imported.text));
    let names = |names: &[String]| names.to_vec();
    assert_eq!(
        names(&imported.processes),
        config.processes.iter().map(|p| p.name.clone()).collect::<Vec<_>>()
    );
    assert_eq!(names(&imported.jobs), config.jobs.iter().map(|j| j.name.clone()).collect::<Vec<_>>());
    (imported, config)
}

/// An article's file, as it is.
const ARTICLE: &str = r#"
[processes.api]
command = "node dist/server.js"
cwd = "/srv/myapp"
env = { DATABASE_URL = "file:./app.db", PORT = "3000" }
restart = "on-failure"
stop_signal = "SIGTERM"
stop_timeout = "15s"
[processes.api.health]
type = "http"
url = "http://127.0.0.1:3000/health"
interval = "10s"
[processes.api.limits]
memory = "512M"
[processes.litestream]
command = "/usr/local/bin/litestream replicate -config /etc/litestream.yml"
restart = "always"
"#;

#[test]
fn an_articles_oxfile_as_it_is() {
    let config = oxfile(ARTICLE).unwrap();
    let [api, litestream] = config.processes.as_slice() else { panic!("{config:#?}") };
    let url = "http://127.0.0.1:3000/health".to_owned();
    let check = Check { interval: 10 * SECOND, ..Check::new(Probe::Http { url, names_instance: false }) };
    let expected = ProcessConfig {
        run: RunConfig {
            cwd: Some("/srv/myapp".into()),
            env: variables(&[("DATABASE_URL", "file:./app.db"), ("PORT", "3000")]),
            ..RunConfig::new(words("node dist/server.js"))
        },
        restart: Restart::OnFailure,
        stop_timeout: 15 * SECOND,
        health: Some(check.clone()),
        liveness: Some(check),
        limits: Limits { memory: Some(512 << 20), cpu: None },
        ..ProcessConfig::new("api", words("node dist/server.js"))
    };
    assert_eq!(*api, expected);
    let of_litestream = Litestream { config: Some("/etc/litestream.yml".into()), ..Litestream::default() };
    assert_eq!((litestream.restart, &litestream.litestream), (Restart::Always, &Some(of_litestream)));
    let [warning] = config.warnings.as_slice() else { panic!("{:#?}", config.warnings) };
    assert_eq!(warning.position(), Some((16, 11)));
    assert!(warning.message().starts_with("`litestream replicate` is recognised"), "{warning}");
}

/// What other articles write, with units in the names of keys.
const OTHER_ARTICLE: &str = r#"
[processes.web]
command = "node server.js"
working_dir = "/var/www/api"
env_file = ".env.production"
user = "api"
instances = 2
restart_on_exit = true
restart_delay_ms = 2500
restart_delay_max_ms = 60000
max_restarts = 20
stop_timeout_ms = 30000
watch = ["src", "config"]
watch_ignore = ["node_modules", "*.log"]
log_file = "/var/log/api/out.log"
error_log_file = "/var/log/api/error.log"
[processes.web.health_check]
endpoint = "http://localhost:3000/health"
interval_secs = 30
timeout_secs = 3
initial_delay_secs = 60
healthy_threshold = 2
unhealthy_threshold = 5
[processes.web.limits]
memory_mb = 512
cpu_percent = 80
cpu_window_secs = 60
[processes.web.logs]
max_size_mb = 100
max_files = 7
compress = true
[processes.migrate]
command = "node migrate.js && echo 'done'"
restart_on_exit = false
"#;

#[test]
fn milliseconds_are_milliseconds_and_seconds_seconds() {
    let config = oxfile(OTHER_ARTICLE).unwrap_or_else(|error| panic!("{error}"));
    let [web, migrate] = config.processes.as_slice() else { panic!("{config:#?}") };
    assert_eq!(web.stop_timeout, 30 * SECOND);
    assert_eq!(web.backoff, (Duration::from_millis(2500), 60 * SECOND));
    let health = web.liveness.as_ref().unwrap();
    assert_eq!(
        (health.interval, health.timeout, health.start_period),
        (30 * SECOND, 3 * SECOND, 60 * SECOND)
    );
    assert_eq!((health.successes, health.failures), (2, 5));
    assert_eq!(web.limits, Limits { memory: Some(512 << 20), cpu: Some(0.8) });
    assert_eq!((web.instances, web.restart, web.restart_limit), (2, Restart::Always, 20));
    assert_eq!((&web.run.user, &web.run.cwd), (&Some("api".into()), &Some("/var/www/api".into())));
    assert_eq!(web.run.env_file, Some("/var/www/api/.env.production".into()));
    let watch = WatchConfig {
        paths: vec!["/var/www/api/src".into(), "/var/www/api/config".into()],
        ignore: vec!["node_modules".into(), "*.log".into()],
        delay: Duration::from_millis(200),
    };
    assert_eq!(web.watch, Some(watch));
    let log = &web.log;
    assert_eq!(
        (log.path.clone(), log.max_size, log.keep),
        (Some("/var/log/api/out.log".into()), 100 << 20, 7)
    );
    assert_eq!(migrate.run.command, Command::Shell("node migrate.js && echo 'done'".into()));
    assert_eq!(migrate.restart, Restart::Never);
    assert_eq!(
        messages(&config),
        [
            "16 `error_log_file` has no effect: one file has both outputs",
            "27 `cpu_window_secs` has no effect: the limit always holds: nothing is measured over time",
        ]
    );
}

const APPS: &str = r#"
version = 1
[defaults]
restart_policy = "on_failure"
max_restarts = 15
crash_restart_limit = 5
stop_timeout_secs = 8
restart_delay_secs = 0
health_interval_secs = 15
health_timeout_secs = 3
health_max_failures = 4
max_memory_mb = 768
env = { TZ = "UTC", HOME_OF = "$HOME/x $$5 ${BUCKET} $$" }
[[apps]]
name = "redis"
command = "docker compose up redis"
start_order = 1
health_cmd = "redis-cli ping | grep -q PONG"
wait_ready = true
ready_timeout_secs = 40
[[apps]]
name = "api v2"
command = "node server.js"
cwd = "./services/api"
depends_on = ["redis"]
restart_delay_secs = 2
start_delay_secs = 3
stop_timeout_secs = 20
stop_signal = "SIGINT"
max_cpu_percent = 85.0
max_memory_mb = 0
instances = 2
watch = true
ignore_watch = ["target/", "\\.log$", "a|b"]
watch_delay_secs = 2
cluster_mode = false
[apps.env]
TZ = "CET"
PORT = "3000"
[apps.profiles.prod]
instances = 4
[[apps]]
name = "off"
command = "x"
disabled = true
[deploy.production]
user = "x"
"#;

#[test]
fn apps_with_defaults() {
    let config = oxfile(APPS).unwrap_or_else(|error| panic!("{error}"));
    let [redis, api] = config.processes.as_slice() else { panic!("{config:#?}") };
    let check = Check {
        interval: 15 * SECOND,
        timeout: 3 * SECOND,
        failures: 4,
        ..Check::new(Probe::Exec(Command::Shell("redis-cli ping | grep -q PONG".into())))
    };
    let expected = ProcessConfig {
        run: RunConfig {
            env: variables(&[("TZ", "UTC"), ("HOME_OF", "/home/me/x $5 my-bucket $")]),
            ..RunConfig::new(words("docker compose up redis"))
        },
        restart_limit: 5,
        stop_timeout: 8 * SECOND,
        health: Some(check.clone()),
        liveness: Some(check),
        ready_timeout: 40 * SECOND,
        limits: Limits { memory: Some(768 << 20), cpu: None },
        ..ProcessConfig::new("redis", words("docker compose up redis"))
    };
    assert_eq!(*redis, expected);
    assert_eq!((api.name.as_str(), api.instances, api.stop_signal.as_str()), ("api-v2", 2, "INT"));
    assert_eq!((api.backoff.0, api.start_delay, api.stop_timeout), (2 * SECOND, 3 * SECOND, 20 * SECOND));
    assert_eq!(api.limits, Limits { memory: None, cpu: Some(0.85) });
    assert_eq!(api.depends_on[0].0, "redis");
    assert_eq!((&api.health, &api.liveness), (&None, &None), "defaults of a check are none");
    assert_eq!(api.run.env[0], ("HOME_OF".into(), Secret::new("/home/me/x $5 my-bucket $")));
    assert_eq!(api.run.env[1..], variables(&[("TZ", "CET"), ("PORT", "3000")]));
    let watch = WatchConfig {
        paths: vec!["/etc/services/api".into()],
        ignore: vec!["target".into(), "*.log".into()],
        delay: 2 * SECOND,
    };
    assert_eq!(api.watch, Some(watch));
    assert_eq!(
        messages(&config),
        [
            "17 `start_order` has no effect: what depends on nothing starts at once; `depends_on` says what waits",
            "22 `api v2` is called `api-v2`: a name has letters, digits, `-`, `_` and `.`",
            "34 `a|b` of `ignore_watch` is not translated: what is ignored are names such as `node_modules` or `*.log`",
            "40 `profiles` has no effect: litekeep has no profiles: write one file for each place, or use ${VARIABLES}",
            "43 `off` is left out: it is disabled",
            "46 `deploy` has no effect: litekeep deploys nothing: run these steps where the release is made",
        ]
    );
}

#[test]
fn mistakes_of_an_oxfile() {
    let error = oxfile(
        "version = 2\n[[apps]]\nname = \"a\"\ncomand = \"x\"\nstop_timeout_secs = true\nmax_restarts = \"many\"\n[[apps]]\ncommand = \"x\"\n\
         [[apps]]\nname = \"b\"\ncommand = \"x\"\ndepends_on = [\"c\"]\nstop_timeout_secs = 5\nstop_timeout_ms = 5\n\
         [processes.b]\ncommand = \"x\"\n[processes.d]\ncommand = \"x\"\nhealth = { endpont = \"http://x\", url = \"nowhere\" }\n[supervisr]\n",
    )
    .unwrap_err();
    assert_eq!(
        brief(&error),
        [
            "1:11 `version`: only version 1 is known",
            "3:8 this process has no `command`: add command = \"./server --port 3000\"",
            "4:1 unknown key `comand`: did you mean `command`?",
            "5:21 `stop_timeout_secs` must be a number of seconds, found `true`",
            "6:16 `max_restarts` must be a number, found a text",
            "7:1 this app has no `name`: add name = \"api\"",
            "12:15 there is no process `c`: write a [process.c]",
            "14:1 `stop_timeout_ms` says again what another key says: keep one of the two",
            "15:12 `b` is there already, in line 10: give each its own name",
            "19:12 unknown key `endpont`: did you mean `endpoint`?",
            "19:40 `url`: `nowhere` is not a URL such as \"http://127.0.0.1:3000/health\"",
            "20:2 unknown key `supervisr`: an oxfile.toml has no such key",
        ]
    );
}

#[test]
fn an_import_comes_to_what_the_oxfile_itself_comes_to() {
    for text in [ARTICLE, OTHER_ARTICLE, APPS] {
        let (imported, read_back) = imported(Foreign::Oxfile, text);
        let direct = oxfile(text).unwrap();
        assert_eq!(read_back.processes, direct.processes, "{}", imported.text);
        for warning in &direct.warnings {
            assert!(imported.warnings.iter().any(|other| other.message() == warning.message()), "{warning}");
            let in_text = imported.text.contains(&format!("# {}\n", warning.message()));
            assert!(
                in_text || warning.message().contains("litestream"),
                "{warning} is not in\n{}",
                imported.text
            );
        }
    }
}

const ECOSYSTEM: &str = r#"{
	// The shop.
	"apps": [
		{
			"name": "api", /* the server */
			"script": "./dist/server.js",
			"args": "--port 3000 'a b'",
			"node_args": ["--max-old-space-size=512"],
			"cwd": "/srv/shop",
			"instances": 4,
			"exec_mode": "cluster",
			"env": { "PORT": 3000, "NODE_ENV": "production", "SALT": "a${b}", "DEBUG": null },
			"env_staging": { "NODE_ENV": "staging" },
			"max_restarts": 5,
			"min_uptime": "10s",
			"restart_delay": 1500,
			"kill_timeout": 3000,
			"listen_timeout": 8000,
			"max_memory_restart": "300M",
			"watch": ["dist"],
			"ignore_watch": ["node_modules", "logs"],
			"out_file": "/var/log/api.log",
			"error_file": "/var/log/api.err",
			"merge_logs": true,
			"colour": "blue"
		},
		{ "script": "worker.py", "autorestart": false, "instances": 1, },
		{ "name": "nightly", "script": "npm run report -- --all", "autorestart": false, "cron_restart": "0 3 * * *" },
		{ "name": "proxy", "script": "/usr/bin/caddy", "interpreter": "none", "args": ["run", "--x", ""], "stop_exit_codes": [0], "instances": "max", "cron_restart": "@daily" }
	],
	"deploy": { "production": {} }
}
"#;

/// What an application writes into `.cache` and `node_modules` would have restarted it without end.
#[test]
fn what_pm2_does_not_watch_is_not_watched() {
    let app = |keys: &str| {
        let text = format!("{{ \"apps\": [{{ \"name\": \"a\", \"script\": \"a.js\", {keys} }}] }}");
        let (_, config) = imported(Foreign::Pm2, &text);
        config.processes[0].watch.clone().unwrap().ignore
    };
    assert_eq!(app("\"watch\": true"), [".*", "node_modules"]);
    assert_eq!(app("\"watch\": [\"src\"]"), [".*", "node_modules"]);
    assert_eq!(
        app("\"watch\": true, \"ignore_watch\": [\"logs\"]"),
        ["logs"],
        "theirs take the place of PM2's"
    );
}

#[test]
fn an_ecosystem_of_pm2() {
    let (imported, config) = imported(Foreign::Pm2, ECOSYSTEM);
    let expected = r#"# Made of file by `litekeep import`. What is not written has its default: see docs/processes.md.
# To back up a database beside them:
#   [[database]]
#   path = "app.db"
#   backup = "s3://my-bucket/app"
# `deploy` has no effect: litekeep deploys nothing

# cluster mode is `proxy` here: it listens at port 3000, and each instance gets a PORT of its own
# `env_staging` is not applied: add what holds here to `env`
# `min_uptime` has no effect: a run of 60s is stable, and forgives the crashes before it
# `merge_logs` has no effect: one file always has the output of all instances
# unknown key `colour`: an app has no such key; it has no effect
# `error_file` has no effect: one file has both outputs
[process.api]
command = ["node", "--max-old-space-size=512", "./dist/server.js", "--port", "3000", "a b"]
cwd = "/srv/shop"
instances = 4
proxy = ":3000"
stop_timeout = "3000ms"
ready_timeout = "8000ms"
restart = "always"
restart_limit = 5
backoff = { min = "1500ms" }
limits = { memory = "300M" }
watch = { paths = ["/srv/shop/dist"], ignore = ["node_modules", "logs"] }
log = { path = "/var/log/api.log" }

[process.api.env]
NODE_ENV = "production"
SALT = "a$${b}"

[process.worker]
command = "python3 worker.py"
instances = 1
restart = "never"

# it is a job: `cron_restart` starts it, and `autorestart` is off
[job.nightly]
command = "npm run report -- --all"
cron = "0 3 * * *"

# `instances` is one: it was as many as there are processors, which is a number here
# `cron_restart` has no effect: a [job.NAME] with command = "litekeep restart NAME" restarts by the clock
[process.proxy]
command = ["/usr/bin/caddy", "run", "--x", ""]
restart = "on-failure"
"#;
    assert_eq!(imported.text, expected);
    let api = &config.processes[0];
    assert_eq!(
        (api.stop_timeout, api.ready_timeout, api.backoff.0),
        (3 * SECOND, 8 * SECOND, Duration::from_millis(1500))
    );
    assert_eq!(api.run.env, variables(&[("NODE_ENV", "production"), ("SALT", "a${b}")]));
    assert_eq!(config.jobs[0].schedule, Schedule::Cron { cron: "0 3 * * *".into(), time_zone: None });
    // Each comment is a warning with its place too.
    assert_eq!(imported.warnings.len(), expected.matches("\n# `").count() + 3);
    assert_eq!(imported.warnings[0].position(), Some((10, 17)));
}

#[test]
fn other_shapes_of_an_ecosystem() {
    for text in [
        "[{ \"name\": \"a\", \"script\": \"a.js\" }]",
        "{ \"name\": \"a\", \"script\": \"a.js\" }",
        "{\"apps\":[{\"name\":\"a\",\"script\":\"a.js\"}]}",
        "apps:\n  - name: a\n    script: a.js\n",
    ] {
        let (_, config) = imported(Foreign::Pm2, text);
        assert_eq!(config.processes[0].run.command, words("node a.js"), "{text}");
    }
    let error =
        import(Foreign::Pm2, Path::new("x.json"), "{\"apps\": [{\"name\": \"a\"}, 5]}", None).unwrap_err();
    assert_eq!(
        brief(&error),
        ["1:11 this app has no `script`", "1:26 an app is a table with `name` and `script`"]
    );
    let said = |text| brief(&import(Foreign::Pm2, Path::new("x.json"), text, None).unwrap_err()).remove(0);
    assert!(said("module.exports = {").contains("an app is a table"));
    assert!(said("{\"apps\": [{\"name\": \"a\", \"script\": \"a.js\"}").contains(" this is not JSON: "));
}

#[test]
fn a_procfile() {
    let text = "# comment\nweb: bundle exec puma -p $PORT\n\nworker:  ./worker ${QUEUE:-all} # x\nrelease: ./migrate\n";
    let (imported, config) = imported(Foreign::Procfile, text);
    let command = |place: usize| config.processes[place].run.command.clone();
    assert_eq!(command(0), Command::Shell("bundle exec puma -p $PORT".into()));
    assert_eq!(command(1), Command::Shell("./worker ${QUEUE:-all} # x".into()));
    assert_eq!(command(2), words("./migrate"));
    assert!(imported.text.contains("# nothing sets `PORT` for `web`:"), "{}", imported.text);
    assert_eq!(imported.warnings.len(), 2, "{:?}", imported.warnings);
    let error =
        import(Foreign::Procfile, Path::new("Procfile"), "web: a\nno command\nweb: b\n", None).unwrap_err();
    assert_eq!(
        brief(&error),
        ["2:1 this is not `NAME: COMMAND`", "3:1 `web` is there already, in line 1: give each its own name"]
    );
}

/// Lines of two that write one file would be lost when it is rotated.
#[test]
fn a_log_that_several_share_becomes_one_of_each() {
    let text = "[processes.a]\ncommand = \"./a\"\nlog_file = \"logs/all.log\"\n[processes.b]\ncommand = \"./b\"\nlog_file = \"logs/all.log\"\n";
    let import = import(Foreign::Oxfile, Path::new("oxfile.toml"), text, None).unwrap();
    let config = toml(&import.text).unwrap();
    let logs: Vec<_> = config.processes.iter().map(|process| process.log.path.clone().unwrap()).collect();
    assert_eq!(logs, [PathBuf::from("/etc/logs/all.log"), PathBuf::from("/etc/logs/all-b.log")]);
    assert!(
        import.warnings[0].to_string().contains("each has its own, `logs/all-b.log`"),
        "{:?}",
        import.warnings
    );
}

/// Relative paths begin at the configuration's folder, so those of a file in another one must be moved.
#[test]
fn a_file_of_another_folder() {
    let text = "[processes.a]\ncommand = \"./a\"\nenv_file = \".env\"\nwatch = \"src\"\nlog_file = \"a.log\"\n[processes.b]\ncommand = \"./b\"\ncwd = \"sub\"\nwatch = true";
    let import =
        import(Foreign::Oxfile, Path::new("/srv/o/oxfile.toml"), text, Some(Path::new("/srv/o"))).unwrap();
    let config = toml(&import.text).unwrap();
    let [a, b] = config.processes.as_slice() else { panic!() };
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!(
        (&a.run.cwd, &a.run.env_file, &a.log.path),
        (&path("/srv/o"), &path("/srv/o/.env"), &path("/srv/o/a.log"))
    );
    assert_eq!(a.watch.as_ref().unwrap().paths, [PathBuf::from("/srv/o/src")]);
    assert_eq!(
        (&b.run.cwd, &b.watch.as_ref().unwrap().paths),
        (&path("/srv/o/sub"), &vec![PathBuf::from("/srv/o/sub")])
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,60}|[\\[\\]{}:\",/*\\\\\\t\\n a-c0-9-]{0,60}") {
        for format in [Foreign::Oxfile, Foreign::Pm2, Foreign::Procfile] {
            let _ = import(format, Path::new("x"), &text, None).map_err(|error| error.to_string());
        }
    }

    /// Whatever words an app has, they come to the process as they are, and any variable too.
    #[test]
    fn words_and_variables_survive(words in proptest::collection::vec("[ -~é\\n]{0,8}", 0..4), value in "[ -~é\\n]{0,12}") {
        let app = serde_json::json!({ "name": "a", "script": "s", "interpreter": "none", "args": words, "env": { "A": value } });
        let (imported, config) = imported(Foreign::Pm2, &app.to_string());
        let mut expected = vec!["s".to_owned()];
        expected.extend(words);
        prop_assert_eq!(&config.processes[0].run.command, &Command::Words(expected), "{}", imported.text);
        prop_assert_eq!(&config.processes[0].run.env, &variables(&[("A", &value)]));
    }

    #[test]
    fn no_near_oxfile_panics(text in nearly_oxfile()) {
        if let Ok(direct) = oxfile(&text) {
            let (_, read_back) = imported(Foreign::Oxfile, &text);
            prop_assert_eq!(read_back.processes, direct.processes);
        }
    }
}

fn nearly_oxfile() -> impl Strategy<Value = String> {
    let key = "(command|cwd|env|restart|restart_policy|max_restarts|stop_timeout_ms|stop_timeout_secs|stop_timeout|restart_delay_ms|health_cmd|health|limits|logs|watch|ignore_watch|max_memory_mb|depends_on|profiles|x)";
    let value = r#"("[a-z0-9/$\{\}.*' -]{0,10}"|[0-9]{1,3}|-1|0\.5|true|false|\[\]|\["a", "b"\]|\{\}|\{ a = "\$HOME", b = "1" \}|\{ url = "http://x", interval_secs = 5 \}|\{ memory_mb = 5, cpu_percent = 2 \}|"30s")"#;
    let line = format!(
        "({key} = {value}|\\[processes\\.[ab]\\]|\\[\\[apps\\]\\]\nname = \"[cd]\"|\\[defaults\\])\n"
    );
    let command = "command = \"x\"\n";
    let text = format!("\\[processes\\.a\\]\n{command}({line}){{0,6}}");
    proptest::string::string_regex(&text).unwrap()
}
