//! Goal: a backup on a server of files is a backup. Method: replicate and restore by real processes against real servers,
//! configured as in `litekeep.toml` and as in `litestream.yml`; the real Litestream restores it too.

use std::path::Path;
use std::time::Duration;

use litekeep_testkit::litestream::{Litestream, Replica, Setup, Until};
use litekeep_testkit::process::{Process, eventually};

use crate::{Place, rows};

const LONG: Duration = Duration::from_secs(120);

/// Replicates by `config` into `folder`, which is where the server keeps what is in the backup's path, and restores.
fn there_and_back(place: &Place, config: &str, folder: &Path) {
    let app = place.database("app.db", 50);
    place.run(&["replicate", "-config", config, "-once"]).succeeded();

    let log = place.path("litekeep.log");
    let litekeep = Process::start(place.command(&["replicate", "-config", config]), &log).unwrap();
    eventually("litekeep is ready", LONG, || Ok(place.path(".app.db-litekeep/state").exists())).unwrap();
    place.database("app.db", 50);
    place.database("app.db", 50);
    let output = litekeep.output();
    assert!(litekeep.terminate(LONG).unwrap().success(), "{output}");
    assert_eq!(rows(&app), 150);

    place.run(&["verify", "-config", config, "app.db"]).succeeded();
    place.run(&["restore", "-config", config, "-o", "back.db", "app.db"]).succeeded();
    assert_eq!(rows(&place.path("back.db")), 150);

    let replica = Replica::Folder(folder.to_owned());
    let setup = Setup { db: app, replica, interval: Duration::from_secs(1) };
    let theirs = place.path("litestream.db");
    Litestream::install().unwrap().restore(place.dir.path(), &setup, &Until::Latest, &theirs).unwrap();
    assert_eq!(rows(&theirs), 150);
}

#[cfg(feature = "sftp")]
#[test]
fn a_backup_over_ssh_comes_back() {
    let server = litekeep_testkit::installed::Sshd::start().unwrap();
    let (user, port, folder) = (server.user().unwrap(), server.port(), server.folder());
    let (key_file, host_key) = (server.user_key(), server.host_key());

    let place = Place::new();
    let url = format!("sftp://{user}@127.0.0.1:{port}{}/toml", folder.display());
    let toml = format!(
        "[[database]]\npath = \"app.db\"\nbackup = {{ url = {url:?}, key_file = {key_file:?}, host_key = {host_key:?} }}\n"
    );
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    there_and_back(&place, "litekeep.toml", &folder.join("toml"));

    let place = Place::new();
    let path = folder.join("yaml");
    let yaml = format!(
        "dbs:\n  - path: app.db\n    replica:\n      type: sftp\n      host: 127.0.0.1:{port}\n      user: {user}\n      \
         path: {path:?}\n      key-path: {key_file:?}\n      host-key: {host_key:?}\n"
    );
    std::fs::write(place.path("theirs.yml"), yaml).unwrap();
    there_and_back(&place, "theirs.yml", &path);
}

#[cfg(feature = "webdav")]
#[test]
fn a_backup_over_webdav_comes_back() {
    use litekeep_testkit::installed::WebDav;
    let server = WebDav::start().unwrap();
    let (user, password, address) = (WebDav::USER, WebDav::PASSWORD, server.address());

    let place = Place::new();
    let url = format!("webdav://{address}/to/ml");
    let toml = format!(
        "[[database]]\npath = \"app.db\"\nbackup = {{ url = {url:?}, user = {user:?}, password = {password:?} }}\n"
    );
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    there_and_back(&place, "litekeep.toml", &server.folder().join("to/ml"));

    let place = Place::new();
    let yaml = format!(
        "dbs:\n  - path: app.db\n    replica:\n      type: webdav\n      webdav-url: http://{address}\n      \
         webdav-username: {user}\n      webdav-password: {password:?}\n      path: ya/ml\n"
    );
    std::fs::write(place.path("theirs.yml"), yaml).unwrap();
    there_and_back(&place, "theirs.yml", &server.folder().join("ya/ml"));
}
