//! Goal: of each destination it is told whether it takes what comes, and what it can do, by names that no two share. Method:
//! the real binary with folders and S3 servers of several kinds; its metrics, its status and its JSON.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use litekeep_testkit::process::eventually;
use litekeep_testkit::s3_server::{ACCESS_KEY, REGION, SECRET_KEY};
use litekeep_testkit::{Process, S3Options, S3Server};

use crate::up::free_port;
use crate::vanished::page;
use crate::{Place, Ran};

const SOON: Duration = Duration::from_secs(60);

/// A configuration of `app.db` with these destinations, in TOML, whose metrics are at the port that is returned.
fn configure(place: &Place, destinations: &[String]) -> u16 {
    let port = free_port();
    let toml = format!(
        "[[database]]\npath = \"app.db\"\nbackup = [{}]\nshutdown_timeout = \"1s\"\n[metrics]\naddr = \"127.0.0.1:{port}\"\n",
        destinations.join(", ")
    );
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    port
}

/// The same path in the bucket of a server.
fn at(server: &S3Server) -> String {
    format!("{{ url = {:?}, endpoint = {:?}, region = {REGION:?} }}", server.url("app"), server.endpoint())
}

fn command(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command(arguments);
    command.envs(S3Server::env());
    command
}

fn replicate(place: &Place) -> Process {
    Process::start(command(place, &["replicate"]), &place.path("log")).unwrap()
}

fn status(place: &Place, arguments: &[&str]) -> Ran {
    Ran::of(command(place, &[&["status"], arguments].concat()))
}

fn is_green(place: &Place, replicator: &Process) {
    eventually("the status is green", SOON, || Ok(status(place, &[]).code == 0))
        .unwrap_or_else(|error| panic!("{error}\n{}{}", status(place, &[]).stdout, replicator.output()));
}

/// The value of the metric that has all these parts before it.
fn value(port: u16, parts: &[&str]) -> Option<String> {
    let page = page(port);
    let found = |line: &&str| !line.starts_with('#') && parts.iter().all(|part| line.contains(part));
    let mut lines = page.lines().filter(found);
    let line = lines.next()?;
    assert!(lines.next().is_none(), "{parts:?} are in several:\n{page}");
    Some(line.rsplit_once(' ')?.1.to_owned())
}

/// One warning in the log was all that told of it.
#[test]
fn a_store_that_ignores_conditions_is_labelled_unfenced() {
    let place = Place::new();
    place.database("app.db", 3);
    let ignoring = S3Options { ignore_conditions: true, ..S3Options::default() };
    let (strict, ignoring) = (S3Server::start().unwrap(), S3Server::start_with(ignoring).unwrap());
    let port = configure(&place, &[at(&strict), at(&ignoring)]);
    let replicator = replicate(&place);
    is_green(&place, &replicator);
    let unfenced = || {
        let json = status(&place, &["--json"]).json();
        let backups = json["databases"][0]["backups"].as_array().unwrap().clone();
        backups.iter().map(|backup| backup["unfenced"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(unfenced(), [false, true]);
    assert_eq!(status(&place, &[]).stdout.matches("unfenced: ").count(), 1);
    let labelled = |server: &S3Server| value(port, &["litekeep_destination_unfenced{", &server.endpoint()]);
    assert_eq!([&strict, &ignoring].map(labelled), [Some("0".to_owned()), Some("1".to_owned())]);
    replicator.terminate(SOON).unwrap();
    assert_eq!(unfenced(), [false, true], "also while nobody replicates");
    // Who does not ask for conditions has no fence either; and who asks again does.
    for (keys, expected) in [(", conditional_writes = \"off\" }", true), (" }", false)] {
        configure(&place, &[at(&strict).replace(" }", keys)]);
        Ran::of(command(&place, &["replicate", "-once"])).succeeded();
        assert_eq!(unfenced(), [expected]);
    }
}

/// Everything that is advised to be alerted on was well, while the status was red.
#[test]
fn a_destination_that_is_away_is_down_in_the_metrics_and_so_is_a_database_that_never_was() {
    let place = Place::new();
    let port = configure(&place, &["first", "second"].map(|name| format!("{name:?}")));
    let replicator = replicate(&place);
    let is = |metric: &str, part: &str, expected: &str| {
        eventually(&format!("{metric} of {part} is {expected}"), SOON, || {
            Ok(value(port, &[metric, part]).as_deref() == Some(expected))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}{}", page(port), replicator.output()));
    };
    eventually("it serves its metrics", SOON, || Ok(replicator.output().contains("replicating to"))).unwrap();
    is("litekeep_up{", "app.db", "0");
    place.database("app.db", 3);
    is("litekeep_up{", "app.db", "1");
    is_green(&place, &replicator);
    for name in ["first", "second"] {
        is("litekeep_destination_up{", &format!("/{name}"), "1");
    }
    std::fs::rename(place.path("first"), place.path("away")).unwrap();
    place.database("app.db", 3);
    is("litekeep_destination_up{", "/first", "0");
    assert_eq!(status(&place, &[]).code, 1);
    for metric in [("litekeep_up{", "app.db"), ("litekeep_destination_up{", "/second")] {
        assert_eq!(value(port, &[metric.0, metric.1]).as_deref(), Some("1"), "{metric:?}");
    }
    std::fs::rename(place.path("away"), place.path("first")).unwrap();
    is("litekeep_destination_up{", "/first", "1");
    is_green(&place, &replicator);
    replicator.terminate(SOON).unwrap();
}

/// The series of both had one name, so that Prometheus dropped them, or one of them.
#[test]
fn the_metrics_of_two_buckets_of_one_name_are_told_apart() {
    let place = Place::new();
    place.database("app.db", 3);
    let servers = [S3Server::start().unwrap(), S3Server::start().unwrap()];
    let port = configure(&place, &servers.each_ref().map(at));
    // Another key for the same bucket is another client.
    let path = place.path("litekeep.toml");
    let mut toml = std::fs::read_to_string(&path).unwrap();
    let other = at(&servers[0])
        .replace("/app", "/other")
        .replace(" }", &format!(", access_key_id = {ACCESS_KEY:?}, secret_access_key = {SECRET_KEY:?} }}"));
    toml.push_str(&format!("[[database]]\npath = \"other.db\"\nbackup = {other}\n"));
    std::fs::write(&path, toml).unwrap();
    place.database("other.db", 3);
    let replicator = replicate(&place);
    is_green(&place, &replicator);
    let page = page(port);
    let samples: Vec<&str> = page.lines().filter(|line| line.starts_with("litekeep_")).collect();
    let names: BTreeSet<&str> = samples.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(names.len(), samples.len(), "each has a name of its own:\n{page}");
    for server in &servers {
        let puts =
            value(port, &["litekeep_requests_total{", &server.endpoint(), "kind=\"put\""]).expect(&page);
        assert_ne!(puts, "0", "{page}");
        assert!(
            value(port, &["litekeep_waiting_files{", &server.endpoint(), "/app at "]).is_some(),
            "{page}"
        );
    }
    replicator.terminate(SOON).unwrap();
}
