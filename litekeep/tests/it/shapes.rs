//! Every JSON result has the shape that `docs/json-output.md` promises.
//!
//! A shape there is an example in a block ```` ```json NAME ````. A real result must have the same keys with values of the
//! same type; where the example has a list, each element must look like its first one. `null` in the example stands for
//! a value that may be missing, and a value of the example may be `null` in the result only where the key is listed as
//! nullable below the block.

use crate::Place;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/json-output.md");

/// Example and nullable keys.
fn documented(name: &str) -> (Value, Vec<String>) {
    let opening = format!("```json {name}\n");
    let start = DOCUMENT.find(&opening).unwrap_or_else(|| panic!("no shape `{name}`")) + opening.len();
    let (example, rest) = DOCUMENT[start..].split_once("```").unwrap();
    let nullable = rest.lines().find_map(|line| line.strip_prefix("May be `null`: "));
    let keys = nullable.unwrap_or_default().split(['`', ',', ' ', '.']).filter(|key| !key.is_empty());
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
fn matches(name: &str, found: &Value) {
    let (example, nullable) = documented(name);
    compare(name, found, &example, &nullable);
}

#[test]
fn results_have_the_documented_shapes() {
    let place = Place::new();
    place.database("app.db", 10);
    matches("init", &place.run(&["init", "app.db", "--json"]).succeeded().json());
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
    matches("verify", &place.run(&["verify", "--json", "app.db"]).succeeded().json());
    matches("version", &place.run(&["version", "--json"]).succeeded().json());
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
