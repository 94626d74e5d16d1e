//! Servers of files: what holds for them beside the suite.

use litekeep_store::{Put, Secret, Store, Target};

use crate::files::{Database, name};
use crate::suite;

/// What a crashed writer left is not shown, and goes when it is old.
async fn leftovers_go(store: &Store, folder: &std::path::Path) {
    let (name, bytes) = Database::new(1).commit(1, 1, 1_000);
    store.put(0, name, bytes, 1_000).await.unwrap();
    let level = folder.join("ltx/0");
    let [old, new] = ["old.ltx.1.tmp", "new.ltx.1.tmp"].map(|name| level.join(name));
    for file in [&old, &new] {
        std::fs::write(file, "x").unwrap();
    }
    let two_days_ago =
        std::fs::metadata(&old).unwrap().modified().unwrap() - std::time::Duration::from_secs(48 * 3600);
    std::fs::File::options().write(true).open(&old).unwrap().set_modified(two_days_ago).unwrap();
    let log = store.list().await.unwrap();
    assert_eq!((log.files().count(), log.strays.len()), (1, 0));
    assert_eq!((old.exists(), new.exists()), (false, true));
}

/// A folder that somebody takes away is made again.
async fn a_lost_folder_comes_back(store: &Store, folder: &std::path::Path) {
    let mut database = Database::new(1);
    let mut next = || database.commit(1, 1, 1_000);
    let (name, bytes) = next();
    store.put(0, name, bytes, 1_000).await.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let (name, bytes) = next();
    store.put(0, name, bytes.clone(), 1_000).await.unwrap_err();
    assert_eq!(store.put(0, name, bytes, 1_000).await.unwrap(), Put::Written);
}

/// No file but those that were published is left.
fn temporaries(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                open.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "tmp") {
                found.push(entry);
            }
        }
    }
    found
}

#[cfg(feature = "sftp")]
mod sftp {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    use litekeep_store::Sftp;
    use litekeep_testkit::installed::Sshd;

    fn target(server: &Sshd, path: &str) -> Sftp {
        Sftp {
            host: "127.0.0.1".into(),
            port: server.port(),
            path: format!("{}/{path}", server.folder().display()),
            user: Some(server.user().unwrap()),
            key_file: Some(server.user_key()),
            host_key: Some(server.host_key().into()),
            ..Sftp::default()
        }
    }

    fn store(server: &Sshd, path: &str) -> Store {
        Store::open(&Target::Sftp(target(server, path))).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn sftp_keeps_the_promises() {
        let server = Sshd::start().unwrap();
        suite::run_all(&store(&server, "some/where")).await;
        assert_eq!(temporaries(&server.folder()), Vec::<std::path::PathBuf>::new());
        leftovers_go(&store(&server, "leftovers"), &server.folder().join("leftovers")).await;
        a_lost_folder_comes_back(&store(&server, "lost"), &server.folder().join("lost")).await;
    }

    /// Litestream goes by the modification time, which here has whole seconds and is never before the timestamp.
    #[tokio::test(flavor = "multi_thread")]
    async fn files_over_sftp_stand_where_litestream_looks_for_them() {
        let server = Sshd::start().unwrap();
        let store = store(&server, "app");
        let (first, bytes) = Database::new(1).commit(1, 1, 1_700_000_000_123);
        store.put(0, first, bytes, 1_700_000_000_123).await.unwrap();
        let mut upload = store.put_stream(9, first, 1_600_000_000_000);
        upload.write(vec![1; 9 << 20].into()).await.unwrap();
        upload.finish().await.unwrap();
        for (path, seconds) in [("ltx/0", 1_700_000_001), ("ltx/9", 1_600_000_000)] {
            let file = server.folder().join("app").join(path).join(name(1, 1).to_string());
            assert_eq!(std::fs::metadata(file).unwrap().mtime(), seconds);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_with_another_key_is_refused() {
        let (server, other) = (Sshd::start().unwrap(), Sshd::start().unwrap());
        let refused = |sftp: Sftp| async {
            let error = Store::open(&Target::Sftp(sftp)).unwrap().list().await.unwrap_err();
            error.to_string()
        };
        let error = refused(Sftp { host_key: Some(other.host_key().into()), ..target(&server, "a") }).await;
        assert!(error.contains("access denied") && error.contains("may be another server"), "{error}");
        let error = refused(Sftp { host_key: None, ..target(&server, "a") }).await;
        let shown = server.host_key().rsplit_once(' ').unwrap().0;
        assert!(error.contains("is not known") && error.contains(shown), "{error}");
        let error = refused(Sftp { key_file: Some(other.user_key()), ..target(&server, "a") }).await;
        assert!(error.contains("does not let"), "{error}");
        let error =
            refused(Sftp { key_file: None, password: Some(Secret::new("hunter2")), ..target(&server, "a") })
                .await;
        assert!(error.contains("the password") && !error.contains("hunter2"), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cut_connection_is_made_again() {
        let server = Sshd::start().unwrap();
        let store = store(&server, "app");
        let mut database = Database::new(1);
        for round in 0..3 {
            let (name, bytes) = database.commit(1, 1, 1_000);
            // The first try may be the one that notices.
            let put = store.put(0, name, bytes.clone(), 1_000).await;
            assert!(put.is_ok() || store.put(0, name, bytes, 1_000).await.is_ok(), "round {round}");
            server.cut_connections().unwrap();
        }
        let log = match store.list().await {
            Err(_) => store.list().await,
            listed => listed,
        };
        assert_eq!(log.unwrap().level(0).len(), 3);
    }
}

#[cfg(feature = "webdav")]
mod webdav {
    use super::*;

    use litekeep_store::WebDav;
    use litekeep_testkit::installed::WebDav as Server;

    fn target(server: &Server, path: &str) -> WebDav {
        WebDav {
            endpoint: format!("http://{}", server.address()),
            path: path.into(),
            user: Some(Server::USER.into()),
            password: Some(Secret::new(Server::PASSWORD)),
            ..WebDav::default()
        }
    }

    fn store(server: &Server, path: &str) -> Store {
        Store::open(&Target::WebDav(target(server, path))).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn webdav_keeps_the_promises() {
        let server = Server::start().unwrap();
        suite::run_sequential(&store(&server, "some/where else")).await;
        assert_eq!(temporaries(&server.folder()), Vec::<std::path::PathBuf>::new());
        leftovers_go(&store(&server, "leftovers"), &server.folder().join("leftovers")).await;
        a_lost_folder_comes_back(&store(&server, "lost"), &server.folder().join("lost")).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wrong_password_is_named_as_such() {
        let server = Server::start().unwrap();
        let webdav = WebDav { password: Some(Secret::new("hunter2")), ..target(&server, "a") };
        let error = Store::open(&Target::WebDav(webdav)).unwrap().list().await.unwrap_err().to_string();
        assert!(error.contains("access denied") && !error.contains("hunter2"), "{error}");
    }
}
