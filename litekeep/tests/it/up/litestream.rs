//! Goal: a `litestream replicate` among the processes and litekeep never replicate one file, however each spells it. Method: the real binary
//! with the configurations of both.

use litekeep_testkit::process::eventually;
use serde_json::Value;

use super::{configure, reaches, status, up};
use crate::Place;
use crate::scene::LONG;

const PROGRAM: &str = "[process.ls]\ncommand = \"litestream replicate -config litestream.yml\"\n";

fn write_yaml(place: &Place, path: &str) {
    let backup = place.path("theirs");
    let yaml = format!("dbs:\n  - path: {path}\n    replicas:\n      - url: file://{}\n", backup.display());
    std::fs::write(place.path("litestream.yml"), yaml).unwrap();
}

fn databases(place: &Place) -> Vec<Value> {
    let known = place.run(&["databases", "--json"]).succeeded().json();
    known["databases"].as_array().unwrap().clone()
}

/// Both replicated it: `app.db` was not known for `/srv/app.db`.
#[test]
fn the_program_has_its_database_alone_however_it_is_spelled() {
    let place = Place::new();
    place.database("app.db", 1);
    let whole = place.path("app.db");
    let whole = whole.to_str().unwrap();
    write_yaml(&place, whole);
    configure(&place, "", &format!("{PROGRAM}native = false\n"));
    assert_eq!(databases(&place), [] as [Value; 0]);

    // Of a folder it cannot be left out.
    std::fs::write(
        place.path("litekeep.toml"),
        format!(
            "[[database]]\ndir = \".\"\npattern = \"*.db\"\nbackup = \"backup\"\n{PROGRAM}native = false\n"
        ),
    )
    .unwrap();
    place.run(&["up"]).failed_with(&[
        "among its databases",
        "the process `ls` replicates",
        "narrow the pattern",
    ]);
    write_yaml(&place, "elsewhere/app.db");
    assert_eq!(databases(&place).len(), 1);
}

/// It was listed twice, and nothing started: "is replicated already".
#[test]
fn a_database_that_both_name_is_one() {
    let place = Place::new();
    place.database("app.db", 1);
    write_yaml(&place, place.path("app.db").to_str().unwrap());
    configure(&place, "", &format!("{PROGRAM}[process.app]\ncommand = \"sleep 1000\"\n"));
    assert_eq!(databases(&place).len(), 1);
    let running = up(&place);
    reaches(&place, "app", "healthy");
    let is_well = || Ok(status(&place)["databases"][0]["ok"] == true);
    eventually("its backup goes well", LONG, is_well).unwrap();
    assert_eq!(status(&place)["databases"].as_array().unwrap().len(), 1);
    assert!(place.path("backup").exists() && !place.path("theirs").exists());
    running.end();
}
