use std::path::{Path, PathBuf};
use std::time::Duration;

use litekeep_config::{
    CacheConfig, ConditionalWrites, ConflictPolicy, Credentials, Direction, ErrorKind, FeedFrom, FeedUrl,
    LogFormat, LogLevel, OtherSide, Schedule, Secret, Source, StoreUrl,
};
use proptest::prelude::*;

use crate::{brief, toml};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn the_least_file_has_the_documented_defaults() {
    let config = toml("[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n").unwrap();
    let [database] = config.databases.as_slice() else { panic!("{config:?}") };
    assert_eq!(database.source, Source::File("/etc/app.db".into()), "relative to the file's folder");
    assert_eq!(database.destinations[0].url, StoreUrl::File { path: "/etc/backup".into() });
    assert_eq!((database.any_second, database.keep, database.snapshot_every), (DAY, Some(30 * DAY), DAY));
    assert_eq!((database.wal_limit, database.spool_limit), (64 << 20, 1 << 30));
    assert_eq!(database.shutdown_timeout, Duration::from_secs(30));
    assert_eq!((database.verify_every, database.upload_interval, &database.meta_dir), (None, None, &None));
    assert_eq!(database.upload_interval_for(&database.destinations[0]), Duration::from_millis(10));
    assert!(config.warnings.is_empty() && config.metrics.is_none() && !database.restore_if_missing);
}

#[test]
fn every_setting() {
    let config = toml(
        r#"
        [[database]]
        dir = "~/tenants"
        pattern = "*.db"
        recursive = true
        watch = false
        meta_dir = "/var/lib/litekeep"
        any_second = "12h"
        keep = "forever"
        snapshot_every = "1h30m"
        upload_interval = "250ms"
        wal_limit = "16MiB"
        spool_limit = 2000000000
        shutdown_timeout = "1m"
        verify = { every = "24h" }
        restore_if_missing = true
        [[database.backup]]
        url = "s3://${BUCKET}/tenants"
        endpoint = "https://minio.example:9000"
        region = "eu-central-1"
        force_path_style = false
        access_key_id = "${KEY_ID}"
        secret_access_key = "${file:/run/secrets/key}"
        session_token = "t"
        ca_file = "ca.pem"
        skip_verify = true
        allow_insecure = true
        conditional_writes = "off"
        upload_interval = "5s"
        [[database.backup]]
        url = "sftp://host/backup"
        user = "me"
        password = "${SECRET}"
        key_file = "id_ed25519"
        [metrics]
        addr = "localhost:9090"
        [dashboard]
        addr = ":9091"
        token = "0123456789abcdef"
        actions = true
        [stream]
        addr = "0.0.0.0:7433"
        token = "0123456789abcdef"
        tls_cert = "cert.pem"
        tls_key = "/etc/key.pem"
        [log]
        level = "debug"
        format = "json"
        "#,
    )
    .unwrap();
    let database = &config.databases[0];
    let Source::Folder { dir, pattern, recursive: true, watch: false } = &database.source else {
        panic!("{:?}", database.source)
    };
    assert_eq!((dir.as_path(), pattern.to_string().as_str()), (Path::new("/home/me/tenants"), "*.db"));
    assert_eq!((database.any_second, database.keep), (12 * HOUR, None));
    assert_eq!(database.snapshot_every, Duration::from_secs(5400));
    assert_eq!((database.wal_limit, database.spool_limit), (16 << 20, 2_000_000_000));
    assert_eq!(database.verify_every, Some(DAY));
    assert_eq!(database.meta_dir, Some(PathBuf::from("/var/lib/litekeep")));
    assert!(database.restore_if_missing);
    let [s3, sftp] = database.destinations.as_slice() else { panic!() };
    assert_eq!(
        s3.url.to_string(),
        "s3://my-bucket/tenants?endpoint=https://minio.example:9000&region=eu-central-1&force-path-style=false\
         &skip-verify=true&allow-insecure=true"
    );
    assert_eq!(
        s3.credentials,
        Credentials::S3 {
            access_key_id: Secret::new("AKIA-hunter2"),
            secret_access_key: Secret::new("from-file-hunter2"),
            session_token: Some(Secret::new("t")),
        }
    );
    assert_eq!(s3.ca_file, Some(PathBuf::from("/etc/ca.pem")));
    assert_eq!(s3.conditional_writes, ConditionalWrites::Off);
    assert_eq!(database.upload_interval_for(s3), Duration::from_secs(5));
    assert_eq!(database.upload_interval_for(sftp), Duration::from_millis(250));
    assert_eq!(
        sftp.credentials,
        Credentials::Ssh { key_file: Some("/etc/id_ed25519".into()), host_key: None }
    );
    let joined = s3.join(Path::new("a/b.db")).unwrap();
    assert!(joined.url.to_string().starts_with("s3://my-bucket/tenants/a/b.db?"));
    assert_eq!(config.metrics.as_ref().unwrap().addr.to_string(), "127.0.0.1:9090");
    let dashboard = config.dashboard.as_ref().unwrap();
    assert_eq!(dashboard.token.as_ref().unwrap().expose(), "0123456789abcdef");
    assert!(dashboard.actions && dashboard.addr.port() == 9091 && !format!("{dashboard:?}").contains("0123"));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Json));
    assert!(!format!("{config:?}").contains("hunter2"), "a secret was printed");
}

#[test]
fn defaults_presets_and_their_order() {
    let config = toml(
        r#"
        [defaults]
        keep = "60d"
        upload_interval = "2s"
        verify = { every = "1h" }
        [[database]]
        path = "a.db"
        backup = "s3://b/a"
        [[database]]
        path = "b.db"
        backup = "s3://b/b"
        preset = "small"
        upload_interval = "30s"
        verify = false
        [[database]]
        path = "c.db"
        backup = ["s3://b/c", "./c"]
        keep = "6h"
        "#,
    )
    .unwrap();
    let [plain, small, short] = config.databases.as_slice() else { panic!() };
    assert_eq!((plain.keep, plain.upload_interval), (Some(60 * DAY), Some(Duration::from_secs(2))));
    assert_eq!(plain.verify_every, Some(HOUR));
    assert_eq!(small.keep, Some(14 * DAY), "the database's preset goes before [defaults]");
    assert_eq!(
        small.upload_interval,
        Some(Duration::from_secs(30)),
        "an explicit key goes before the preset"
    );
    assert_eq!(small.verify_every, None);
    assert_eq!(short.any_second, 6 * HOUR, "the window shrinks with `keep`");
    assert_eq!(short.destinations.len(), 2);
}

#[test]
fn a_message_shows_the_place_the_line_and_a_caret() {
    let error = toml("[[database]]\npath = \"app.db\"\nbackup = \"./b\"\nsnapshto = \"24h\"\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/litekeep.toml:4:1: unknown key `snapshto`: did you mean `snapshot_every`?\n  \
         |\n\
         4 | snapshto = \"24h\"\n  \
         | ^^^^^^^^"
    );
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_message_never_shows_a_secret() {
    for text in [
        "[[database]]\npath = \"a\"\nbackup = { url = \"s3://b\", secret_access_key = \"hunter2\" }",
        "[[database]]\npath = \"a\"\nbackup = { url = \"s3://b\", secret_acess_key = 1, password = \"hunter2\" }",
        "[[database]]\npath = \"a\"\nbackup = { url = \"s3://b\", secret_acess_key = \"hunter2\" }",
        "[[database]]\npath = \"a\"\nbackup = \"sftp://me:hunter2@host:99999/x\"",
        "[[database]]\npath = \"a\"\nbackup = \"s3://key:hunter2@host/x\"",
        "[[database]]\npath = \"a\"\n[[database.backup]]\nurl = \"s3://b\"\nsecret_access_key = \"hunter2",
        "[[database]]\npath = \"a\"\n[[database.backup]]\nurl = \"sftp://b\"\npassword = [\"hunter2\"]",
    ] {
        let error = toml(text).expect_err(text).to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn all_mistakes_at_once_in_the_order_of_the_file() {
    let error = toml(
        "[log]\nlevel = \"verbose\"\n[[database]]\npath = 5\nbackup = \"./b\"\nkeep = 30\nwal_limit = \"1KiB\"\n",
    )
    .unwrap_err();
    assert_eq!(
        brief(&error),
        [
            "2:9 `level`: unknown value `verbose`: there are `trace`, `debug`, `info`, `warn` and `error`",
            "4:8 `path` must be a text in quotes, found the number 5",
            "6:8 `keep` must be a duration in quotes such as \"30d\", found the number 30",
            "7:13 `wal_limit`: `1KiB` is too small: at least 1MiB",
        ]
    );
}

/// Each file has one mistake; `DB` stands for a complete database.
#[test]
fn messages() {
    for (text, expected) in [
        ("[[database]\n", "1:12 this is not TOML: unclosed array table, expected `]`"),
        ("DB\nkeep = \"1d\"\nkeep = \"2d\"", "5:1 this is not TOML: duplicate key"),
        ("path = \"a\"", "1:1 unknown key `path`: `path` belongs to a database: write it below [[database]]"),
        (
            "keep = \"1d\"",
            "1:1 unknown key `keep`: write `keep` below [defaults] for all databases, or below one [[database]]",
        ),
        (
            "[database]\npath = \"a\"",
            "1:2 databases are a list: write [[database]], with two brackets on each side",
        ),
        (
            "[defaults]\nbackup = \"x\"",
            "2:1 unknown key `backup`: `backup` belongs to one database: write it in its [[database]]",
        ),
        ("[metrics]\nadr = \"x\"", "2:1 unknown key `adr`: did you mean `addr`?"),
        ("[metrics]\naddr = \"nine\"", "2:8 `addr`: `nine` is not an address such as \"127.0.0.1:9090\""),
        (
            "[dashboard]\naddr = \"0.0.0.0:9091\"",
            "2:8 `addr`: others than this machine can reach 0.0.0.0:9091: add `token = \"${DASHBOARD_TOKEN}\"`, or listen on 127.0.0.1",
        ),
        (
            "[dashboard]\naddr = \":9091\"\ntoken = \"secret\"",
            "3:9 `token`: a token has at least 16 characters, so that nobody guesses it",
        ),
        (
            "[dashboard]\naddr = \"localhost:9091\"\nactions = true",
            "3:11 `actions`: whoever may act must show a token: add `token = \"${DASHBOARD_TOKEN}\"`",
        ),
        (
            "[dashboard]\ntoken = \"0123456789abcdef\"",
            "1:1 `dashboard`: write where the page is served: addr = \"127.0.0.1:9091\"",
        ),
        (
            "[metrics]\naddr = \":9091\"\n[dashboard]\naddr = \"localhost:9091\"",
            "4:8 `addr`: [metrics] has this port already: give each its own",
        ),
        (
            "[stream]\naddr = \"127.0.0.1:7433\"",
            "1:1 `stream`: whoever has the log has the database: add token = \"${LITEKEEP_STREAM_TOKEN}\"",
        ),
        (
            "[stream]\naddr = \"0.0.0.0:7433\"\ntoken = \"0123456789abcdef\"",
            "2:8 `addr`: others than this machine can reach 0.0.0.0:7433, and without TLS whoever listens gets the token and the data: add `tls_cert` and `tls_key`, or `insecure = true` where nobody can listen",
        ),
        (
            "[stream]\naddr = \"0.0.0.0:7433\"\ntoken = \"0123456789abcdef\"\ntls_cert = \"a.pem\"",
            "4:12 `tls_cert`: TLS takes both, `tls_cert` and `tls_key`",
        ),
        (
            "[metrics]\naddr = \":7433\"\n[stream]\naddr = \"127.0.0.1:7433\"\ntoken = \"0123456789abcdef\"",
            "4:8 `addr`: [metrics] has this port already: give each its own",
        ),
        (
            "[stream]\naddr = \"127.0.0.1:7433\"\ntoken = \"0123456789abcdef\"\ntls_ca = \"ca.pem\"",
            "4:1 `tls_ca` is for nodes of a cluster, which stream from each other: add [cluster], or remove it; `litekeep follow` has --stream-ca",
        ),
        ("[log]\nformat = \"jsn\"", "2:10 `format`: unknown value `jsn`: did you mean `json`?"),
        (
            "[[database]]\nbackup = \"x\"",
            "1:1 this database has no `path`: add path = \"app.db\", or dir = \"...\" and pattern = \"*.db\" for a folder of databases",
        ),
        (
            "[[database]]\npath = \"a\"",
            "1:1 this database has no `backup`: add backup = \"file:///var/backups/app\" or a URL such as s3://bucket/path",
        ),
        ("DB\ndir = \"x\"", "4:1 a database has a `path` or a `dir`, not both: use a second [[database]]"),
        ("DB\npattern = \"*.db\"", "4:1 `pattern` goes with `dir`, but this database has a `path`"),
        (
            "[[database]]\ndir = \"x\"\nbackup = \"y\"",
            "2:1 `dir` needs a `pattern` that says which files are databases: add pattern = \"*.db\"",
        ),
        (
            "[[database]]\ndir = \"x\"\npattern = \"[\"\nbackup = \"y\"",
            "3:11 `pattern`: `[` is not a pattern: it has a `[` without its `]`",
        ),
        ("DB\nsync_interval = \"1s\"", "4:1 unknown key `sync_interval`: here it is `upload_interval`"),
        (
            "DB\nregion = \"x\"",
            "4:1 unknown key `region`: `region` belongs to a destination: write backup = { url = \"...\", region = ... }",
        ),
        (
            "DB\nkeep = \"30 days\"",
            "4:8 `keep`: `30 days` is not a duration such as \"30d\": `30` has no unit: write 30s for seconds, 30d for days",
        ),
        ("DB\nkeep = \"0s\"", "4:8 `keep`: `0s` is outside of what works, 1s to 36600d"),
        (
            "DB\nany_second = \"3d\"\nkeep = \"2d\"",
            "4:14 `any_second` (3d) cannot be longer than `keep` (2d): what is deleted cannot be restored",
        ),
        (
            "DB\nwal_limit = \"64M\"",
            "4:13 `wal_limit`: `64M` is not a size such as \"64MiB\": unknown unit `M`: use KiB, MiB, GiB (or KB, MB, GB)",
        ),
        (
            "DB\nverify = \"24h\"",
            "4:10 `verify`: write verify = { every = \"24h\" }, or verify = false for never",
        ),
        ("DB\nverify = {}", "4:10 `verify`: it needs `every`: write verify = { every = \"24h\" }"),
        ("DB\nrestore_if_missing = \"maybe\"", "4:22 `restore_if_missing`: it is neither true nor false"),
        ("DB\npreset = \"smal\"", "4:10 `preset`: unknown value `smal`: did you mean `small`?"),
        ("DB\nmeta_dir = \"\"", "4:12 `meta_dir`: it is empty"),
        (
            "DB\nmeta_dir = \"${NOPE}/x\"",
            "4:12 `meta_dir`: environment variable `NOPE` is not set: set it, or give a default with ${NOPE:-default}",
        ),
        (
            "DB\n[[database]]\npath = \"./a.db\"\nbackup = \"./c\"",
            "5:8 `/etc/a.db` is already a database, in line 2: give one its own file",
        ),
        (
            "DB\n[[database]]\npath = \"c.db\"\nbackup = \"file:///etc/x/../a\"",
            "6:10 `file:///etc/x/../a` is already a destination, in line 3: each database needs a place of its own, for instance a path below it",
        ),
        (
            "DB\n[[database]]\ndir = \".\"\npattern = \"*.db\"\nbackup = \"./c\"",
            "5:7 the pattern `*.db` in this folder also covers `/etc/a.db` of line 2: remove it there or narrow the pattern",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = \"a\"",
            "3:10 the backup's folder cannot be the database file itself: name a folder beside it",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = []",
            "3:10 `backup`: the list is empty: name at least one destination",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = 5",
            "3:10 `backup` must be a URL in quotes, a table, or a list of them, found the number 5",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = { region = \"x\" }",
            "3:10 this destination has no `url`: add url = \"s3://bucket/path\"",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = { url = \"./b\", region = \"x\" }",
            "3:25 `region` means nothing for a folder: remove it",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = { url = \"s3://b\", bucket = \"x\" }",
            "3:28 unknown key `bucket`: it is part of `url`, such as s3://bucket/path",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = { url = \"s3://b?region=x\", region = \"y\" }",
            "3:46 `region`: the URL says something else: keep one of the two",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = { url = \"s3://b\", skip_verify = true }",
            "3:42 `skip_verify`: this accepts any server as the store, also an attacker's: name its certificate authority in `ca_file`, or add allow_insecure = true if this is a test",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = { url = \"s3://b\", access_key_id = \"x\" }",
            "3:28 `access_key_id` is given without the secret access key",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = { url = \"s3://b\", endpoint = \"ftp://x\" }",
            "3:39 `endpoint`: an endpoint begins with https:// or http://, not ftp://",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = { url = \"abs://c\", account_key = \"x\", sas_token = \"y\" }",
            "3:60 `sas_token`: there is an account key too: keep one of the two",
        ),
        (
            "[[database]]\npath = \"a\"\nbackup = \"s4://b\"",
            "3:10 `backup`: unknown kind of store `s4://` (there are `file`, `s3`, `gs`, `abs`, `az`, `sftp`, `webdav` and `webdavs`)",
        ),
    ] {
        let text = text.replace("DB", "[[database]]\npath = \"a.db\"\nbackup = \"./a\"");
        let error = toml(&text).expect_err(&text);
        assert_eq!(brief(&error), [expected], "\n{text}\n");
    }
}

#[test]
fn a_file_without_databases_is_a_warning() {
    let config = toml("[log]\nlevel = \"warn\"").unwrap();
    assert_eq!(config.warnings[0].message(), "there is no [[database]], so there is nothing to back up");
}

/// Lines that are nearly configuration, so that the reader behind the parser is reached.
fn nearly_toml() -> impl Strategy<Value = String> {
    let key = "(path|dir|pattern|backup|keep|verify|url|preset|any_second|wal_limit|skip_verify|endpoint|password|x)";
    let value = r#"("[a-z0-9:/$\{\}@?&=.*-]{0,12}"|[0-9]{1,3}|true|\[\]|\[5\]|\{\}|\{ url = "s3://b", every = "1d" \}|"30d"|"64MiB")"#;
    let line = format!(
        "({key} = {value}|\\[\\[database\\]\\]|\\[\\[database.backup\\]\\]|\\[defaults\\]|\\[log\\])\n"
    );
    proptest::string::string_regex(&format!("({line}){{0,10}}")).unwrap()
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        let _ = toml(&text).map_err(|error| error.to_string());
    }

    #[test]
    fn no_near_configuration_panics(text in nearly_toml()) {
        let _ = toml(&text).map_err(|error| error.to_string());
    }
}

#[test]
fn feeds() {
    let config = toml(
        r#"
        [[database]]
        path = "app.db"
        backup = "./backup"
        [[feed]]
        name = "file"
        to = "events.jsonl"
        [[feed]]
        name = "orders-to-redis"
        database = "./app.db"
        to = "rediss://:${SECRET}@host/2?stream=orders&maxlen=1000"
        ca_file = "ca.pem"
        tables = ["orders", "lines"]
        from = "beginning"
        [[feed]]
        name = "rabbit"
        to = "amqp://host?exchange=x&routing_key=app.{table}"
        tables = "orders"
        from = "000000000000002a"
        "#,
    )
    .unwrap();
    let [file, redis, rabbit] = config.feeds.as_slice() else { panic!("{:?}", config.feeds) };
    assert_eq!(file.to.to_string(), "file:///etc/events.jsonl");
    assert_eq!((file.database.as_path(), file.from), (Path::new("/etc/app.db"), FeedFrom::Now));
    assert_eq!(redis.to.to_string(), "rediss://host:6379/2?stream=orders&maxlen=1000");
    let FeedUrl::Redis { server, .. } = &redis.to else { panic!() };
    assert_eq!(server.password.as_ref().unwrap().expose(), "s3cr3t-hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(redis.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
    assert_eq!((redis.tables.len(), redis.from), (2, FeedFrom::Beginning));
    assert_eq!(
        (rabbit.tables.as_slice(), rabbit.from),
        (["orders".to_owned()].as_slice(), FeedFrom::Txid(42))
    );
}

#[test]
fn syncs() {
    let config = toml(
        r#"
        [[database]]
        path = "app.db"
        backup = "./backup"
        [[sync]]
        name = "pg"
        to = "postgres://me:${SECRET}@host/app"
        direction = "push"
        tables = ["orders"]
        schema = "lite"
        rename = { orders = "Orders" }
        types = { "orders.note" = "tagged" }
        columns = { orders = ["id", "note"] }
        where = { orders = "id > 7" }
        every = "15m"
        "#,
    )
    .unwrap();
    let [sync] = config.syncs.as_slice() else { panic!("{:?}", config.syncs) };
    let OtherSide::Postgres(url) = &sync.other else { panic!("{:?}", sync.other) };
    assert_eq!(sync.direction, Direction::Push);
    assert_eq!(url.expose(), "postgres://me:s3cr3t-hunter2@host/app");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!((sync.database.as_path(), sync.schema.as_deref()), (Path::new("/etc/app.db"), Some("lite")));
    assert_eq!(sync.names["orders"], "Orders");
    assert_eq!(sync.types["orders.note"], "tagged");
    assert_eq!(
        (&sync.columns["orders"][..], sync.rows["orders"].as_str()),
        (&["id".into(), "note".into()][..], "id > 7")
    );
    assert_eq!(sync.schedule, Some(Schedule::Every(Duration::from_secs(900))));
    for url in ["postgres://h/d", "mysql://h/d", "mariadb://h/d"] {
        let database = "[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n";
        let cut = "columns = { t = [\"id\"] }\nwhere = { t = \"id > 7\" }";
        let config = toml(&format!("{database}[[sync]]\nname = \"in\"\nfrom = {url:?}\n{cut}\n")).unwrap();
        let sync = &config.syncs[0];
        assert_eq!((sync.direction, sync.columns["t"].len()), (Direction::Pull, 1));
        assert_eq!(sync.rows["t"], "id > 7");
    }
    for url in ["mysql://me@host/app", "mariadb://me@host/app"] {
        let database = "[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n";
        let config = toml(&format!("{database}[[sync]]\nname = \"my\"\nto = {url:?}\n")).unwrap();
        let OtherSide::Mysql(read) = &config.syncs[0].other else { panic!("{:?}", config.syncs) };
        assert_eq!(read.expose(), url);
    }
    for url in ["mongodb://me@host/app", "mongodb+srv://me@host/app"] {
        let database = "[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n";
        let config = toml(&format!("{database}[[sync]]\nname = \"mongo\"\nto = {url:?}\n")).unwrap();
        let OtherSide::Mongodb(read) = &config.syncs[0].other else { panic!("{:?}", config.syncs) };
        assert_eq!(read.expose(), url);
    }
}

/// The URL says which side is the other one.
#[test]
fn a_sync_from_a_url_pulls() {
    let database = "[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n";
    for (scheme, direction) in [
        ("postgres", ""),
        ("postgres", "direction = \"pull\"\n"),
        ("mysql", ""),
        ("mariadb", ""),
        ("mongodb", ""),
        ("mongodb+srv", "direction = \"pull\"\n"),
    ] {
        let sync = format!(
            "[[sync]]\nname = \"pg\"\nfrom = \"{scheme}://me:${{SECRET}}@host/app\"\nto = \"app.db\"\n"
        );
        let config = toml(&format!("{database}{sync}{direction}")).unwrap();
        let [sync] = config.syncs.as_slice() else { panic!("{:?}", config.syncs) };
        assert_eq!((sync.direction, sync.database.as_path()), (Direction::Pull, Path::new("/etc/app.db")));
    }
}

#[test]
fn a_sync_in_both_directions_says_who_wins() {
    let database = "[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n";
    let urls = ["postgres", "mysql", "mariadb", "mongodb"]
        .map(|scheme| format!("{scheme}://me:${{SECRET}}@host/app"));
    let sides = |url: &String| [format!("to = {url:?}\n"), format!("from = {url:?}\nto = \"app.db\"\n")];
    for sides in urls.iter().flat_map(sides) {
        let sync = format!("[[sync]]\nname = \"both\"\ndirection = \"both\"\n{sides}");
        for (conflict, of_all, of_orders) in [
            ("", ConflictPolicy::Server, None),
            ("conflict = \"sqlite\"\n", ConflictPolicy::Sqlite, None),
            ("conflict = \"merge\"\n", ConflictPolicy::MergeServer, None),
            ("conflict = \"merge-latest\"\n", ConflictPolicy::MergeLatest, None),
            ("conflict = { orders = \"latest\" }\n", ConflictPolicy::Server, Some(ConflictPolicy::Latest)),
        ] {
            let config = toml(&format!("{database}{sync}{conflict}")).unwrap();
            let [sync] = config.syncs.as_slice() else { panic!("{:?}", config.syncs) };
            assert_eq!(
                (sync.direction, sync.database.as_path()),
                (Direction::Both, Path::new("/etc/app.db"))
            );
            assert_eq!((sync.conflict, sync.conflicts.get("orders").copied()), (of_all, of_orders));
        }
    }
}

#[test]
fn a_cache_says_how_old_rows_may_become() {
    let database = "[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n";
    let cache = |keys: &str| {
        let sync = format!("[[sync]]\nname = \"c\"\nfrom = \"mongodb://h/d\"\nmode = \"cache\"\n{keys}\n");
        let config = toml(&format!("{database}{sync}")).unwrap();
        assert_eq!(config.syncs[0].direction, Direction::Pull);
        let CacheConfig { ttl, stale, negative_ttl, max_rows, follows } = config.syncs[0].cache.unwrap();
        assert!(!follows);
        ([ttl, stale, negative_ttl].map(|time| time.as_millis()), max_rows)
    };
    assert_eq!(cache("ttl = \"5m\""), ([300_000, 300_000, 30_000], 100_000));
    assert_eq!(cache("ttl = \"2s\""), ([2_000, 2_000, 2_000], 100_000));
    let all = "ttl = \"1h\"\nstale = \"0s\"\nnegative_ttl = \"500ms\"\nmax_rows = 7\ndirection = \"pull\"";
    assert_eq!(cache(all), ([3_600_000, 0, 500], 7));
    let pull = toml(&format!("{database}[[sync]]\nname = \"p\"\nfrom = \"mysql://h/d\"\n")).unwrap();
    assert_eq!(pull.syncs[0].cache, None);
    let follows =
        "from = \"mysql://h/d\"\nmode = \"cache\"\nttl = \"1d\"\nfollow = true\nwhere = { t = \"a > 1\" }";
    let config = toml(&format!("{database}[[sync]]\nname = \"f\"\n{follows}\n")).unwrap();
    assert!(config.syncs[0].cache.unwrap().follows && config.syncs[0].rows["t"] == "a > 1");
}

#[test]
fn mistakes_in_syncs_are_told_with_what_would_be_right() {
    let database = "[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n";
    for (sync, said) in [
        ("to = \"postgres://h/d\"", "this sync has no `name`"),
        ("name = \"a\"", "this sync has no `to`"),
        ("name = \"a\"\nto = \"oracle://h/d\"", "`to`: there is no sync with `oracle://`"),
        ("name = \"a\"\nto = \"hunter2\"", "`to`: it is no URL such as"),
        (
            "name = \"a\"\nto = \"postgres://h/d\"\ndirection = \"sideways\"",
            "`direction`: `sideways` is not there",
        ),
        (
            "name = \"a\"\nto = \"postgres://h/d\"\nconflict = \"latest\"",
            "`conflict`: only one side is written to",
        ),
        (
            "name = \"a\"\nto = \"postgres://h/d\"\ndirection = \"both\"\nconflict = \"mine\"",
            "`conflict`: `mine` is not there: it is \"server\", \"sqlite\", \"latest\", \"merge\"",
        ),
        (
            "name = \"a\"\nto = \"postgres://h/d\"\ndirection = \"pull\"",
            "`direction`: `pull` is the other way",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nto = \"o.db\"",
            "`/etc/o.db` is not in a [[database]]: a sync",
        ),
        (
            "name = \"a\"\nto = \"postgres://h/d\"\nfrom = \"o.db\"",
            "`/etc/o.db` is not in a [[database]]: a sync",
        ),
        (
            "name = \"a\"\nto = \"postgres://h/d\"\ndatabase = \"app.db\"",
            "unknown key `database`: here it is `from`",
        ),
        (
            "name = \"a\"\nto = \"postgres://h/d\"\nrenames = {}",
            "unknown key `renames`: did you mean `rename`?",
        ),
        ("name = \"a\"\nto = \"postgres://h/d\"\ntypes = 7", "`types`"),
        (
            "name = \"a\"\nto = \"postgres://h/d\"\ndirection = \"both\"\nwhere = { t = \"a\" }",
            "`where`: all columns and rows of a table go both ways; it is for a sync in one direction",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\ndirection = \"both\"\ncolumns = { t = [\"a\"] }",
            "`columns`: all columns and rows of a table go both ways",
        ),
        ("name = \"a\"\nfrom = \"postgres://h/d\"\ncolumns = { t = [] }", "no column is named"),
        ("name = \"a\"\nfrom = \"mysql://h/d\"\nwhere = { t = \"\" }", "`t`: it is empty"),
        ("name = \"a\"\nto = \"postgres://h/d\"\ncolumns = { t = [] }", "no column is named"),
        ("name = \"a\"\nto = \"postgres://h/d\"\nschedule = \"1h\"", "here it is `every`, or `cron`"),
        (
            "name = \"a\"\nto = \"postgres://h/d\"\nevery = \"1h\"\ncron = \"@daily\"",
            "a sync has `cron` or `every`",
        ),
        ("name = \"a\"\nto = \"postgres://h/d\"\ntime_zone = \"UTC\"", "`time_zone` goes with `cron`"),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nmode = \"mirror\"",
            "`mode`: `mirror` is not there: it is \"cache\"",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nmode = \"cache\"",
            "`mode`: say how old a row may become before the server is asked again: ttl = \"5m\"",
        ),
        (
            "name = \"a\"\nto = \"postgres://h/d\"\nmode = \"cache\"\nttl = \"5m\"",
            "`mode`: a cache has rows of a server: say which as from = ",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nmode = \"cache\"\nttl = \"5 parsecs\"",
            "`ttl`: `5 parsecs` is not a duration such as \"5m\"",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nmode = \"cache\"\nttl = \"900d\"",
            "`ttl`: `900d` is outside of what works",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nmode = \"cache\"\nttl = \"5m\"\nstale = 7",
            "`stale` must be a duration in quotes",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nmode = \"cache\"\nttl = \"5m\"\nnegative_ttl = \"-1s\"",
            "`negative_ttl`: `-1s` is not a duration",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nmode = \"cache\"\nttl = \"5m\"\nmax_rows = 0",
            "`max_rows`: `0` is not a number from 1",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nmode = \"cache\"\nttl = \"5m\"\nwhere = { t = \"a\" }",
            "`where`: a cache has the rows that are asked for",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nmode = \"cache\"\nttl = \"5m\"\nevery = \"1h\"",
            "`every`: a cache connects when it is asked",
        ),
        (
            "name = \"a\"\nfrom = \"mongodb://h/d\"\nmode = \"cache\"\nttl = \"5m\"\ncolumns = { t = [\"a\"] }",
            "`columns`: all documents and fields of a collection come from MongoDB",
        ),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nttl = \"5m\"",
            "`ttl`: it is for a cache: add mode = \"cache\"",
        ),
        ("name = \"a\"\nto = \"postgres://h/d\"\nmax_rows = 7", "`max_rows`: it is for a cache"),
        (
            "name = \"a\"\nfrom = \"postgres://h/d\"\nmode = \"cache\"\nmax_age = \"5m\"",
            "unknown key `max_age`: here it is `ttl`",
        ),
    ] {
        let error = toml(&format!("{database}[[sync]]\n{sync}\n")).unwrap_err();
        assert!(brief(&error).iter().any(|found| found.contains(said)), "{said}: {:?}", brief(&error));
    }
}

#[test]
fn mistakes_in_feeds_are_told_with_what_would_be_right() {
    let database = "[[database]]\npath = \"app.db\"\nbackup = \"./backup\"\n";
    for (feed, said) in [
        ("to = \"e.jsonl\"", "this feed has no `name`"),
        ("name = \"a\"", "this feed has no `to`"),
        ("name = \"a/b\"\nto = \"e.jsonl\"", "`name`: a name has letters"),
        (
            "name = \"a\"\nto = \"e.jsonl\"\ndatabase = \"other.db\"",
            "`/etc/other.db` is not in a [[database]]",
        ),
        ("name = \"a\"\nto = \"e.jsonl\"\nfrom = \"yesterday\"", "`from`: `yesterday` is not \"now\""),
        ("name = \"a\"\nto = \"e.jsonl\"\nurl = \"x\"", "unknown key `url`: here it is `to`"),
        ("name = \"a\"\nto = \"e.jsonl\"\ntabels = []", "unknown key `tabels`: did you mean `tables`?"),
        ("name = \"a\"\nto = \"kafka://h/t\"", "`to`: a feed cannot go to `kafka://`"),
        ("name = \"a\"\nto = \"nats://h\"", "`to`: the subject behind the host is missing"),
        ("name = \"a\"\nto = \"nats://${NOPE}@h/s\"", "environment variable `NOPE` is not set"),
        ("name = \"a\"\nto = \"e.jsonl\"\n[[feed]]\nname = \"a\"\nto = \"f.jsonl\"", "`a` is already a feed"),
    ] {
        let error = toml(&format!("{database}[[feed]]\n{feed}\n")).unwrap_err();
        assert!(brief(&error).iter().any(|found| found.contains(said)), "{said}: {:?}", brief(&error));
    }
    let error = toml(&format!("{database}[feed]\nname = \"a\"\n")).unwrap_err();
    assert!(brief(&error)[0].contains("feeds are a list: write [[feed]]"), "{:?}", brief(&error));
    let two = format!(
        "{database}{}[[feed]]\nname = \"a\"\nto = \"e\"\n",
        database.replace("app", "b").replace("backup\"", "backup2\"")
    );
    assert!(brief(&toml(&two).unwrap_err())[0].contains("does not say of which database"));
}
