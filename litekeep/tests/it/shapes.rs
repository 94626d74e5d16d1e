//! Every JSON result has the shape that `docs/json-output.md` promises.
//!
//! A shape there is an example in a block ```` ```json NAME ````. A real result must have the same keys with values of the
//! same type; where the example has a list, each element must look like its first one. `null` in the example stands for
//! a value that may be missing, and a value of the example may be `null` in the result only where the key is listed as
//! nullable below the block. The shapes of `demo` and of backups of Litestream 0.3 are held in `replication`, which has
//! the runs for it.

use crate::Place;
use serde_json::Value;
use std::os::unix::fs::FileExt;

const DOCUMENT: &str = include_str!("../../../docs/json-output.md");

/// Example and nullable keys.
fn documented(name: &str) -> (Value, Vec<String>) {
    let opening = format!("```json {name}\n");
    let start = DOCUMENT.find(&opening).unwrap_or_else(|| panic!("no shape `{name}`")) + opening.len();
    let (example, rest) = DOCUMENT[start..].split_once("```").unwrap();
    let nullable = rest.lines().find_map(|line| line.strip_prefix("May be `null`: "));
    let keys = nullable.unwrap_or_default().split('`').skip(1).step_by(2);
    (serde_json::from_str(example).unwrap(), keys.map(str::to_owned).collect())
}

fn compare(at: &str, found: &Value, example: &Value, nullable: &[String]) {
    match (found, example) {
        (Value::Object(found), Value::Object(example)) => {
            let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(found), keys(example), "the keys of {at}");
            for (key, value) in found {
                if !(value.is_null() && nullable.contains(key)) {
                    compare(&format!("{at}.{key}"), value, &example[key], nullable);
                }
            }
        }
        (Value::Array(found), Value::Array(example)) => {
            for value in found {
                compare(&format!("{at}[]"), value, &example[0], nullable);
            }
        }
        _ => assert_eq!(
            std::mem::discriminant(found),
            std::mem::discriminant(example),
            "{at}: {found} is not like {example}"
        ),
    }
}

#[track_caller]
pub(crate) fn matches(name: &str, found: &Value) {
    let (example, nullable) = documented(name);
    compare(name, found, &example, &nullable);
}

#[test]
fn results_have_the_documented_shapes() {
    let place = Place::new();
    place.database("app.db", 10);
    matches("init", &place.run(&["init", "app.db", "--json"]).succeeded().json());
    let app = r#"{ "name": "a", "script": "a.js", "namespace": "n" }"#;
    std::fs::write(place.path("ecosystem.config.json"), app).unwrap();
    let import = ["import", "ecosystem.config.json", "-o", "imported.toml", "--json"];
    let imported = place.run(&import).succeeded().json();
    matches("import", &imported);
    assert_eq!(imported["warnings"].as_array().unwrap().len(), 1, "{imported:#}");
    matches("databases", &place.run(&["databases", "--json"]).succeeded().json());
    matches("status", &place.run(&["status", "--json"]).json());
    place.run(&["replicate", "-once"]).succeeded();
    let proof = r#"{"txid":"0000000000000001","at":"2026-08-21T10:00:00.000Z","proven":true,"pages":3,"reason":null}"#;
    let proofs = place.path("app.db-backup/litekeep/proofs");
    std::fs::create_dir_all(&proofs).unwrap();
    std::fs::write(proofs.join("20260821T100000Z-0000000000000001"), proof).unwrap();
    let status = place.run(&["status", "--json"]).json();
    matches("status", &status);
    assert_eq!(status["databases"][0]["backups"][0]["contents"]["last_proof"]["proven"], true);
    // A backup that cannot be read.
    let garbage = proofs.join("20990821T100000Z-0000000000000001");
    std::fs::write(&garbage, "no proof").unwrap();
    let unread = place.run(&["status", "--json"]).json();
    matches("status", &unread);
    assert!(unread["databases"][0]["backups"][0]["contents"].is_null(), "{unread:#}");
    std::fs::remove_file(garbage).unwrap();
    matches("history", &place.run(&["history", "--json"]).succeeded().json());
    matches(
        "restore-dry-run",
        &place.run(&["restore", "-dry-run", "-json", "-o", "b.db", "app.db"]).succeeded().json(),
    );
    assert!(!place.path("b.db").exists());
    matches("restore", &place.run(&["restore", "-json", "-o", "b.db", "app.db"]).succeeded().json());
    let skipped =
        place.run(&["restore", "-json", "-if-db-not-exists", "-o", "b.db", "app.db"]).succeeded().json();
    matches("restore-skipped", &skipped);
    let forced = place.run(&["restore", "-json", "-force", "-o", "b.db", "app.db"]).succeeded().json();
    matches("restore", &forced);
    assert!(forced["kept_aside"].is_string(), "{forced:#}");
    matches("verify", &place.run(&["verify", "--json", "app.db"]).succeeded().json());
    matches("wait", &place.run(&["wait", "app.db", "--json"]).succeeded().json());
    matches("version", &place.run(&["version", "--json"]).succeeded().json());
    // A log with a gap.
    let level = place.path("app.db-backup/ltx/0");
    std::fs::create_dir_all(&level).unwrap();
    std::fs::write(level.join("0000000000000009-0000000000000009.ltx"), "").unwrap();
    let history = place.run(&["history", "--json", "app.db"]).succeeded().json();
    matches("history", &history);
    assert!(history["backups"][0]["gaps"][0]["first_missing"].is_string(), "{history:#}");
    matches("history", &place.run(&["history", "--json", "file:///nowhere"]).json());
    matches("status", &place.run(&["status", "--json"]).json());
    std::fs::write(place.path("empty.db"), "").unwrap();
    let empty = place.run(&["init", "empty.db", "--config", "empty.toml", "--json"]).succeeded().json();
    matches("init", &empty);
    assert!(empty["database"]["header"].is_null(), "{empty:#}");
}

#[test]
fn a_failed_verification_has_the_documented_shape() {
    let place = Place::new();
    place.database("app.db", 10);
    place.run(&["replicate", "app.db", "./app.db-backup", "-once"]).succeeded();
    // A byte of a row, behind SQLite's back.
    let file = std::fs::File::options().write(true).open(place.path("app.db")).unwrap();
    file.write_all_at(b"!", 4096 + 4000).unwrap();
    let ran = place.run(&["verify", "--json", "--patience", "0", "app.db"]);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    let found = ran.json();
    matches("verify", &found);
    assert!(found["backups"][0]["reason"].is_string(), "{found:#}");
    matches("status", &place.run(&["status", "--json", "app.db"]).json());
}

#[test]
fn every_verb_is_documented() {
    let help = Place::new().run(&["--help"]).succeeded().stdout;
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let verbs = commands.lines().take_while(|line| !line.is_empty());
    let verbs: Vec<&str> = verbs.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(verbs.contains(&"demo") && !verbs.contains(&""), "{verbs:?}");
    let headings: Vec<&str> = DOCUMENT.lines().filter(|line| line.starts_with("## ")).collect();
    for verb in verbs {
        let named = |heading: &&&str| heading.contains(&format!("`litekeep {verb}`"));
        assert!(headings.iter().any(|heading| named(&heading)), "{verb} is not in {headings:?}");
    }
}

#[test]
fn the_log_has_the_documented_shape() {
    let place = Place::new();
    place.database("app.db", 10);
    for arguments in [
        &["replicate", "-once", "app.db", "./app.db-backup", "--json"][..],
        &["run", "--json", "app.db", "--", "true"],
    ] {
        let ran = place.run(arguments).succeeded();
        assert!(ran.stdout.is_empty(), "{}", ran.stdout);
        let lines: Vec<Value> =
            ran.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let is_first = |line: &&Value| {
            line["fields"]["message"].as_str().is_some_and(|message| message.starts_with("replicating to"))
        };
        matches("log", lines.iter().find(is_first).unwrap_or_else(|| panic!("{}", ran.stderr)));
    }
    // What prevents a start stands in the same place.
    place.run(&["run", "app.db", "--json", "--", "./gone"]).json_error();
    std::fs::create_dir(place.path("folder.db")).unwrap();
    matches("error", &last_line(&place.run(&["replicate", "--json", "folder.db", "./b"])));
}

fn last_line(ran: &crate::Ran) -> Value {
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    serde_json::from_str(ran.stderr.lines().last().unwrap_or_default()).expect(&ran.stderr)
}

#[test]
fn errors_and_warnings_have_the_documented_shapes() {
    let place = Place::new();
    let ran = place.run(&["databases", "--json"]);
    assert_eq!(ran.code, 2);
    matches("error", &serde_json::from_str(ran.stderr.trim()).unwrap());
    std::fs::write(place.path("litekeep.toml"), "").unwrap();
    let ran = place.run(&["databases", "--json"]).succeeded();
    matches("warning", &serde_json::from_str(ran.stderr.trim()).unwrap());
}
