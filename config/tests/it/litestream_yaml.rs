use std::path::PathBuf;
use std::time::Duration;

use litekeep_config::{Config, Credentials, Destination, LogFormat, LogLevel, Secret, Source, StoreUrl};
use proptest::prelude::*;

use crate::{brief, yaml, yaml_with};

const DAY: Duration = Duration::from_secs(86_400);

fn warnings(config: &Config) -> Vec<String> {
    config.warnings.iter().map(|warning| warning.message().to_owned()).collect()
}

/// The shape of most articles: a list of replicas with everything spelled out and keys from the environment.
#[test]
fn an_articles_file_with_keys_from_the_environment() {
    let text = "
# /etc/litestream.yml
dbs:
  - path: /data/app.db
    replicas:
      - type: s3
        bucket: backups-of-mine
        path: app.db
        region: eu-west-1
        access-key-id: ${KEY_ID}
        secret-access-key: ${SECRET}
";
    let config = yaml(text).unwrap();
    let database = &config.databases[0];
    assert_eq!(database.source, Source::File("/data/app.db".into()));
    assert_eq!(database.destinations[0].url.to_string(), "s3://backups-of-mine/app.db?region=eu-west-1");
    assert_eq!(
        database.destinations[0].credentials,
        Credentials::S3 {
            access_key_id: Secret::new("AKIA-hunter2"),
            secret_access_key: Secret::new("s3cr3t-hunter2"),
            session_token: None,
        }
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    // Litestream takes the unset variables for empty and falls back to the environment; so do we, aloud.
    let config = yaml_with(text, &|_| None).unwrap();
    assert_eq!(config.databases[0].destinations[0].credentials, Credentials::Ambient);
    assert_eq!(
        warnings(&config),
        [
            "`access-key-id`: environment variable `KEY_ID` is not set: an empty text is used, as Litestream does",
            "`secret-access-key`: environment variable `SECRET` is not set: an empty text is used, as Litestream does",
        ]
    );
}

/// The other common shape: list items at the indentation of their key, no credentials.
#[test]
fn an_articles_file_without_keys() {
    let config = yaml(
        "dbs:\n- path: /srv/shop/shop.db\n  replicas:\n  - type: s3\n    bucket: shop-backups\n    path: shop.db\n    region: eu-central-1\n",
    )
    .unwrap();
    assert_eq!(
        config.databases[0].destinations[0].url.to_string(),
        "s3://shop-backups/shop.db?region=eu-central-1"
    );
    assert_eq!(config.databases[0].destinations[0].credentials, Credentials::Ambient);
    assert!(config.warnings.is_empty());
}

/// The same file as its page gives it when it is copied as text: the indentation is gone.
#[test]
fn an_articles_file_whose_indentation_was_lost() {
    let text = "dbs:\n- path: /srv/shop/shop.db\nreplicas:\n- type: s3\nbucket: shop-backups\npath: shop.db\nregion: eu-central-1\n";
    let config = yaml(text).unwrap();
    let database = &config.databases[0];
    assert_eq!(database.source, Source::File("/srv/shop/shop.db".into()));
    assert_eq!(database.destinations[0].url.to_string(), "s3://shop-backups/shop.db?region=eu-central-1");
    assert_eq!(
        warnings(&config),
        [
            "`replicas` stands at the root, as if its indentation had been lost: it is read as the replica of the only database; indent it to the `path` of the database"
        ]
    );
    // With two databases nobody can say whose it is.
    let error = yaml(&text.replace("replicas:", "- path: /srv/other.db\nreplicas:")).unwrap_err();
    assert!(brief(&error).iter().any(|message| message.contains("unknown key `replicas`")), "{error}");
}

#[test]
fn a_full_file_of_0_5() {
    let config = yaml(
        r#"
access-key-id: ${KEY_ID}
secret-access-key: $SECRET
region: us-west-2
sync-interval: 10s
addr: ":9090"
mcp-addr: ":3001"
exec: "myapp -config /etc/myapp.conf"
logging: { level: WARN, type: json, stderr: true }
levels:
  - interval: 5m
snapshot:
  interval: 1h
  retention: 72h
validation:
  interval: 6h
l0-retention: 5m
l0-retention-check-interval: 15s
shutdown-sync-timeout: 10s
socket:
  enabled: true
dbs:
  - path: sqlite:///var/lib/app1.db
    monitor-interval: 1s
    meta-path: /var/lib/app1-meta
    restore-if-db-not-exists: true
    replica:
      url: s3://mybucket/app1
      sync-interval: 500ms
  - dir: /var/lib/tenants
    pattern: "*.db"
    recursive: true
    watch: yes
    replica:
      type: s3
      bucket: mybucket
      path: /tenants/
      endpoint: minio.example:9000
      skip-verify: true
      sign-payload: false
  - path: ~/app3.db
    replica:
      path: /backup/app3
"#,
    )
    .unwrap();
    let [first, folder, third] = config.databases.as_slice() else { panic!("{config:?}") };
    assert_eq!(first.source, Source::File("/var/lib/app1.db".into()));
    assert_eq!(third.source, Source::File("/home/me/app3.db".into()));
    assert!(matches!(&folder.source, Source::Folder { recursive: true, watch: true, .. }));
    assert_eq!(first.keep, Some(3 * DAY));
    assert_eq!((first.snapshot_every, first.any_second), (Duration::from_secs(3600), DAY));
    assert_eq!((first.verify_every, first.shutdown_timeout), (Some(DAY), Duration::from_secs(10)));
    assert_eq!(first.meta_dir, Some(PathBuf::from("/var/lib/app1-meta/litekeep")));
    assert!(first.restore_if_missing && !third.restore_if_missing);
    assert_eq!(first.destinations[0].upload_interval, Some(Duration::from_millis(500)));
    assert_eq!(folder.destinations[0].upload_interval, Some(Duration::from_secs(10)), "the root's default");
    assert_eq!(first.destinations[0].url.to_string(), "s3://mybucket/app1?region=us-west-2");
    assert!(matches!(first.destinations[0].credentials, Credentials::S3 { .. }));
    let StoreUrl::S3(s3) = &folder.destinations[0].url else { panic!() };
    assert_eq!((s3.endpoint.as_deref(), s3.path.as_str()), (Some("https://minio.example:9000"), "tenants"));
    assert!(s3.skip_verify && s3.path_style() && s3.sign_payload == Some(false));
    assert_eq!(config.metrics.as_ref().unwrap().addr.port(), 9090);
    assert_eq!(config.exec.as_deref(), Some("myapp -config /etc/myapp.conf"));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Warn, LogFormat::Json));
    assert_eq!(
        warnings(&config),
        [
            "`mcp-addr` has no effect in litekeep: there is no MCP server; every command has --json",
            "`levels` has no effect in litekeep: litekeep plans its compactions itself, so that any second of the last 24h can be restored",
            "Litestream looks at the list of files; litekeep restores the backup and compares every page, which downloads it, so it does this every 24h and not more often",
            "`l0-retention-check-interval` has no effect in litekeep: files are removed when they expire, not by polling",
            "`socket` has no effect in litekeep: there is no control socket",
            "`monitor-interval` has no effect in litekeep: litekeep is woken by each commit and polls nothing",
            "`skip-verify` accepts any server as the store, also an attacker's",
        ]
    );
    let rendered = format!("{config:?}{}", config.warnings.iter().map(|w| w.to_string()).collect::<String>());
    assert!(!rendered.contains("hunter2"), "a secret was printed");
}

#[test]
fn several_replicas_of_0_3_are_several_destinations() {
    let config = yaml(
        "
dbs:
  - path: /data/app.db
    replicas:
      - name: near
        path: /backup/app
        retention: 48h
        snapshot-interval: 12h
      - url: s3://b.nyc3.digitaloceanspaces.com/app
        retention: 240h
        validation-interval: 6h
      - url: abs://acc@box/app
        account-key: 00123
      - type: sftp
        host: example.com:2222
        user: me
        password: 12345
        key-path: /keys/id
        path: /backup/app
      - type: webdav
        webdav-url: https://example.com/dav
        webdav-username: me
        webdav-password: secret
        path: /app
      - type: gs
        bucket: box
        path: app
",
    )
    .unwrap();
    let database = &config.databases[0];
    let urls: Vec<String> =
        database.destinations.iter().map(|destination| destination.url.to_string()).collect();
    assert_eq!(
        urls,
        [
            "file:///backup/app",
            "s3://b/app?endpoint=https://nyc3.digitaloceanspaces.com&region=nyc3",
            "abs://acc@box/app",
            "sftp://me@example.com:2222/backup/app",
            "webdavs://me@example.com/dav/app",
            "gs://box/app",
        ]
    );
    let StoreUrl::Sftp(sftp) = &database.destinations[3].url else { panic!() };
    assert_eq!(sftp.password, Some(Secret::new("12345")), "digits without quotes stay text");
    assert_eq!(database.destinations[2].credentials, Credentials::AzureKey(Secret::new("00123")));
    assert_eq!((database.keep, database.snapshot_every), (Some(10 * DAY), DAY / 2));
    assert_eq!(database.verify_every, Some(DAY / 4));
    assert_eq!(
        warnings(&config),
        [
            "`name` has no effect in litekeep: destinations are told apart by their URLs",
            "the retention of a database holds for all its replicas: 10d is used here too",
        ]
    );
}

#[test]
fn credentials_of_litestreams_own_variables() {
    let text = "dbs:\n  - path: a\n    replica: { url: s3://b/a }\n";
    let own = |name: &str| match name {
        "LITESTREAM_ACCESS_KEY_ID" => Some("id".to_string()),
        "LITESTREAM_SECRET_ACCESS_KEY" => Some("key".to_string()),
        _ => None,
    };
    let config = yaml_with(text, &own).unwrap();
    assert!(matches!(config.databases[0].destinations[0].credentials, Credentials::S3 { .. }));
    let both = |name: &str| if name == "AWS_ACCESS_KEY_ID" { Some("aws".into()) } else { own(name) };
    let config = yaml_with(text, &both).unwrap();
    assert_eq!(
        config.databases[0].destinations[0].credentials,
        Credentials::Ambient,
        "the store's own go first"
    );
    let named = Destination::parse("s3://b/a", &own).unwrap();
    assert!(matches!(named.credentials, Credentials::S3 { .. }), "a URL on the command line too");
}

#[test]
fn retention_switched_off_deletes_nothing_and_a_short_one_shortens_the_window() {
    let database = "dbs:\n  - path: a\n    replica: { url: s3://b/a }\n";
    let config = yaml(&format!("retention:\n  enabled: false\n{database}")).unwrap();
    assert_eq!(config.databases[0].keep, None);
    let config = yaml(&format!("snapshot: {{ retention: 4h }}\n{database}")).unwrap();
    assert_eq!((config.databases[0].keep, config.databases[0].any_second), (Some(DAY / 6), DAY / 6));
    let config = yaml(&format!("l0-retention: 48h\n{database}")).unwrap();
    assert_eq!(config.databases[0].any_second, 2 * DAY);
}

#[test]
fn anchors_and_merge_keys() {
    let config = yaml(
        "
dbs:
  - path: a.db
    replica: &base { url: s3://b/a, region: x }
  - path: b.db
    replica: { <<: *base, url: s3://b/b }
",
    )
    .unwrap();
    assert_eq!(config.databases[1].destinations[0].url.to_string(), "s3://b/b?region=x");
}

#[test]
fn a_message_shows_the_place_the_line_and_a_caret() {
    let error =
        yaml("dbs:\n  - path: a\n    replica:\n      url: s3://b/a\n      sync-intervall: 1s\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/litestream.yml:5:7: unknown key `sync-intervall`: did you mean `sync-interval`?\n  \
         |\n\
         5 |       sync-intervall: 1s\n  \
         |       ^^^^^^^^^^^^^^"
    );
}

/// Each file has one mistake; `DB` stands for a complete database.
#[test]
fn messages() {
    for (text, expected) in [
        ("dbs: [", "1:7 this is not YAML: "),
        ("- 1", "1:1 a configuration is a table of keys such as `dbs:`"),
        ("addr: a\naddr: b", "2:7 the key `addr` is given twice"),
        ("a: 1\n---\nb: 2", "2:1 a second YAML document begins here: a configuration is one document"),
        ("dbs: x", "1:6 `dbs`: it is a list: write `- path: ...` for each database"),
        ("dbs:\n  - x", "2:5 a database is a table: write `- path: /path/to/db`"),
        ("dbs:\n  - path: a", "2:5 this database has no `replica`: add `replica:` with its `url:`"),
        (
            "dbs:\n  - path: $NOPE\n    replica: { path: b }",
            "2:11 `path`: it is empty, or its variables are not set",
        ),
        ("dbs:\n  - dir: x\n    replica: { path: b }", "2:5 `dir` needs a `pattern` such as \"*.db\""),
        ("DB\n    dir: x", "4:5 a database has a `path` or a `dir`, not both"),
        ("DB\n    replicas: [ { path: c } ]", "4:5 a database has `replica` or `replicas`, not both"),
        ("DB\n    sync-interval: 1s", "4:5 unknown key `sync-interval`: it belongs below `replica`"),
        (
            "DB\nlogging: { level: loud }",
            "4:19 `level`: unknown level `loud`: there are debug, info, warn and error",
        ),
        (
            "DB\nsnapshot: { retention: 30x }",
            "4:24 `retention`: `30x` is not a duration such as \"24h\": unknown unit `x`: use ms, s, m, h or d",
        ),
        ("DB, region: { a: 1 } }", "3:1"),
        (
            "dbs:\n  - path: a\n    replica: {}",
            "3:14 this replica has neither `url` nor `path`: add `url: s3://bucket/path`, or `path:` for a folder",
        ),
        ("dbs:\n  - path: a\n    replica: { type: s3 }", "3:14 this replica has no `bucket`"),
        (
            "dbs:\n  - path: a\n    replica: { type: nats, bucket: b }",
            "3:22 `type`: litekeep does not write to NATS: choose s3, gs, abs, sftp, webdav or file",
        ),
        (
            "dbs:\n  - path: a\n    replica: { type: s5 }",
            "3:22 `type`: unknown type `s5`: there are s3, gs, abs, sftp, webdav and file",
        ),
        (
            "dbs:\n  - path: a\n    replica: { url: s3://b/a, path: c }",
            "3:31 `path` is part of the `url` already: keep one of the two",
        ),
        (
            "dbs:\n  - path: a\n    replica: { url: s3://b/a, access-key-id: x }",
            "3:31 `access-key-id` is given without the secret access key",
        ),
        (
            "dbs:\n  - path: a\n    replica: { url: s3://b/a, age: { recipients: [age1x] } }",
            "3:31 `age` is refused: litekeep does not encrypt backups itself, and storing in the clear what was to be encrypted would be worse than not starting; use the bucket's own encryption, and remove this block",
        ),
        (
            "dbs:\n  - path: a\n    replica: { url: s3://b/a, sse-kms-key-id: x }",
            "3:31 `sse-kms-key-id` is refused: encryption per request is not supported; make it the bucket's default encryption and remove this line",
        ),
    ] {
        let text = text.replace("DB", "dbs:\n  - path: a\n    replica: { url: s3://b/a }");
        if expected == "3:1" {
            assert!(yaml(&text).is_err(), "{text}");
            continue;
        }
        let error = yaml(&text).expect_err(&text);
        let found = brief(&error);
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "\n{text}\nfound {found:?}\nnot {expected}"
        );
    }
}

#[test]
fn a_message_never_shows_a_secret() {
    for text in [
        "dbs:\n  - path: a\n    replica:\n      url: s3://b\n      secret-access-key: [hunter2, x]",
        "secret-access-key: 'hunter2\nx: y",
        "dbs:\n  - path: a\n    replica:\n      url: sftp://me:hunter2@h:0/x",
        "dbs: [{ path: a, replica: { type: s3, password: hunter2 } }]",
        "dbs:\n  - path: a\n    replica:\n      url: s3://b\n      age: { identities: [AGE-SECRET-KEY-hunter2] }",
    ] {
        let error = yaml(text).expect_err(text).to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn an_empty_age_block_is_no_encryption() {
    let config = yaml("dbs:\n  - path: a\n    replica: { url: s3://b/a, age: { identities: [] } }").unwrap();
    assert_eq!(config.databases.len(), 1);
}

#[test]
fn aliases_cannot_blow_up() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(", ")));
    }
    let error = yaml(&text).unwrap_err();
    assert!(error.to_string().contains("too many values"), "{error}");
    let deep = format!("dbs: {}", "[".repeat(5000));
    assert_eq!(
        yaml(&deep).unwrap_err().diagnostics()[0].message(),
        "this is not YAML: recursion limit exceeded"
    );
    let deep = format!("dbs: {}x{}", "[".repeat(70), "]".repeat(70));
    assert_eq!(yaml(&deep).unwrap_err().diagnostics()[0].message(), "values are nested too deeply");
}

/// Lines that are nearly configuration, so that the reader behind the parser is reached.
fn nearly_yaml() -> impl Strategy<Value = String> {
    let key = "(path|dir|pattern|url|type|bucket|host|age|sync-interval|retention|webdav-url|endpoint|skip-verify|x)";
    let value = "(s3|sftp|webdav|s3://b/p|sftp://u:p@h|https://h/x|1h|true|\\$HOME|\\$\\{X|\\[a\\]|\\{\\}|&a b|\\*a||[a-z:@/.]{0,6})";
    let line = format!(
        "(dbs:|  - {key}: {value}|    {key}: {value}|    replica:|      {key}: {value}|{key}: {value})\n"
    );
    proptest::string::string_regex(&format!("({line}){{0,10}}")).unwrap()
}

proptest! {
    #[test]
    fn no_text_panics(text in "[\\PC\n]{0,80}") {
        let _ = yaml(&text).map_err(|error| error.to_string());
    }

    #[test]
    fn no_near_configuration_panics(text in nearly_yaml()) {
        let _ = yaml(&text).map_err(|error| error.to_string());
    }
}
