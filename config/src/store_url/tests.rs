use super::*;
use proptest::prelude::*;

fn parsed(text: &str) -> StoreUrl {
    StoreUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn folders() {
    for (text, path, shown) in [
        ("file:///var/backups/app", "/var/backups/app", "file:///var/backups/app"),
        ("file://localhost/x", "/x", "file:///x"),
        ("file:///a%20b%25", "/a b%", "file:///a%20b%25"),
        ("./backup", "./backup", "./backup"),
        ("../backup", "../backup", "../backup"),
        ("backup", "backup", "./backup"),
        ("/var/x", "/var/x", "file:///var/x"),
    ] {
        let url = parsed(text);
        assert_eq!(url, StoreUrl::File { path: path.into() });
        assert_eq!(url.to_string(), shown);
    }
}

#[test]
fn s3() {
    let url = parsed("s3://b/p/q/?endpoint=http://127.0.0.1:9000/&region=x&forcePathStyle=true");
    let StoreUrl::S3(s3) = &url else { panic!("{url:?}") };
    assert_eq!((s3.bucket.as_str(), s3.path.as_str()), ("b", "p/q"));
    assert_eq!(s3.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    assert!(s3.path_style() && s3.region.as_deref() == Some("x"));
    assert_eq!(url.to_string(), "s3://b/p/q?endpoint=http://127.0.0.1:9000&region=x&force-path-style=true");
}

#[test]
fn s3_hosts_of_known_services() {
    for (host, bucket, endpoint, region) in [
        ("mybkt.example.com", "mybkt.example.com", None, None),
        ("b.localhost:9000", "b", Some("http://localhost:9000"), Some("us-east-1")),
        ("b.nyc3.digitaloceanspaces.com", "b", Some("https://nyc3.digitaloceanspaces.com"), Some("nyc3")),
        (
            "b.s3.us-west-000.backblazeb2.com",
            "b",
            Some("https://s3.us-west-000.backblazeb2.com"),
            Some("us-west-000"),
        ),
        ("b.s3.fr-par.scw.cloud", "b", Some("https://s3.fr-par.scw.cloud"), Some("fr-par")),
        (
            "b.us-east-1.linodeobjects.com",
            "b",
            Some("https://us-east-1.linodeobjects.com"),
            Some("us-east-1"),
        ),
        ("b.s3.filebase.com", "b", Some("https://s3.filebase.com"), None),
        ("b.s3.eu-west-1.amazonaws.com", "b", None, Some("eu-west-1")),
    ] {
        let StoreUrl::S3(url) = parsed(&format!("s3://{host}/p")) else { panic!("{host}") };
        assert_eq!(
            (url.bucket.as_str(), url.endpoint.as_deref(), url.region.as_deref()),
            (bucket, endpoint, region),
            "{host}"
        );
    }
}

#[test]
fn azure_in_its_three_forms() {
    for (text, container, path, account, endpoint) in [
        ("abs://acc@box/a/b", "box", "a/b", Some("acc"), None),
        ("az://box", "box", "", None, None),
        ("abs://x@acc.blob.core.windows.net/box/a", "box", "a", Some("acc"), None),
        ("abs://acc@127.0.0.1:10000/box/a", "box", "a", Some("acc"), Some("https://127.0.0.1:10000")),
    ] {
        let StoreUrl::Azure(url) = parsed(text) else { panic!("{text}") };
        assert_eq!(
            (url.container.as_str(), url.path.as_str(), url.account.as_deref(), url.endpoint.as_deref()),
            (container, path, account, endpoint),
            "{text}"
        );
    }
}

#[test]
fn passwords_are_read_and_never_shown() {
    let url = parsed("sftp://me:hunt%3Aer2@host:2222/backup/db");
    let StoreUrl::Sftp(sftp) = &url else { panic!("{url:?}") };
    assert_eq!(sftp.password.as_ref().map(Secret::expose), Some("hunt:er2"));
    assert_eq!(url.to_string(), "sftp://me@host:2222/backup/db");
    assert!(!format!("{url:?}").contains("er2"));
    let url = parsed("webdavs://me:hunter2@host/dav");
    assert_eq!(url.to_string(), "webdavs://me@host/dav");
    assert_eq!(serde_json::to_string(&url).unwrap(), "\"webdavs://me@host/dav\"");
}

#[test]
fn what_is_refused_and_what_to_write_instead() {
    for (text, message) in [
        ("", "a destination is missing: write a folder or a URL such as s3://bucket/path"),
        ("s3:///path", "the name behind `://` is missing: write s3://bucket/path"),
        ("s3:bucket", "`s3:` needs two slashes: write s3://bucket/path"),
        ("file://backup", "`file://backup` has two slashes: write file:///backup for /backup, or ./backup"),
        ("s4://b", "unknown kind of store `s4://`"),
        ("gcs://b", "unknown kind of store `gcs://`: did you mean `gs://`?"),
        ("s3://b/a/../c", "a path in a store cannot have `..`"),
        ("s3://b?regoin=x", "unknown parameter `regoin` in the URL: did you mean `region`?"),
        ("s3://b?region=x&region=y", "the parameter `region` is given twice"),
        ("s3://b?forcePathStyle=maybe", "the parameter `force-path-style` is `true` or `false`"),
        ("s3://b?skipVerify=true", "`skip-verify` accepts any server as the store"),
        ("s3://key:hunter2@b/p", "this kind of URL takes no user or password: use access_key_id"),
        ("s3://b.minio.example:9000/p", "`b.minio.example:9000` names a server and not a bucket"),
        ("s3://arn:aws:s3:us-east-2:1:accesspoint/x", "access point ARNs are not supported"),
        ("sftp://h:99999/p", "`99999` is not a port (1 to 65535)"),
        ("abs://a.blob.core.windows.net", "the container is missing"),
        ("s3://b/%FF", "a percent-encoded part of the URL is not UTF-8 text"),
    ] {
        let error = StoreUrl::parse(text).expect_err(text).to_string();
        assert!(error.starts_with(message), "{text}: {error}");
        assert!(!error.contains("hunter2"));
    }
    assert!(parsed("s3://b?skip-verify=true&allow-insecure=true").skip_verify());
}

#[test]
fn a_database_of_a_folder_gets_its_own_place() {
    for (text, joined) in [
        ("s3://b/p", "s3://b/p/team/a.db"),
        ("s3://b", "s3://b/team/a.db"),
        ("file:///x", "file:///x/team/a.db"),
        ("sftp://h/p", "sftp://h/p/team/a.db"),
    ] {
        assert_eq!(parsed(text).join(Path::new("team/a.db")).unwrap().to_string(), joined);
    }
    for relative in ["../a.db", "/a.db", ""] {
        assert!(parsed("s3://b").join(Path::new(relative)).is_err(), "{relative}");
    }
}

fn any_url() -> impl Strategy<Value = StoreUrl> {
    let name = "[a-z][a-z0-9-]{0,8}";
    let path = proptest::collection::vec("[a-zé%?#&+= @:]{1,5}", 0..3).prop_map(|parts| parts.join("/"));
    let option = |text: &'static str| proptest::option::of(text);
    prop_oneof![
        path.clone().prop_map(|path| StoreUrl::File { path: format!("/{path}").into() }),
        (
            name,
            path.clone(),
            option("https://[a-z]{1,5}"),
            option("[a-z&=+ %]{1,5}"),
            any::<[Option<bool>; 2]>(),
            any::<bool>()
        )
            .prop_map(
                |(bucket, path, endpoint, region, [force_path_style, sign_payload], skip_verify)| {
                    StoreUrl::S3(S3Url {
                        bucket,
                        path,
                        endpoint,
                        region,
                        force_path_style,
                        sign_payload,
                        skip_verify,
                    })
                }
            ),
        (name, path.clone(), option("http://[a-z]{1,5}"))
            .prop_map(|(bucket, path, endpoint)| StoreUrl::Gcs(GcsUrl { bucket, path, endpoint })),
        (name, path.clone(), option("[a-z0-9]{3,8}"), option("http://[a-z]{1,5}:10000")).prop_map(
            |(container, path, account, endpoint)| StoreUrl::Azure(AzureUrl {
                container,
                path,
                account,
                endpoint
            })
        ),
        (name, 1u16.., option("[a-z@:/%é]{1,5}"), path.clone()).prop_map(|(host, port, user, path)| {
            StoreUrl::Sftp(SftpUrl { host, port, user, password: None, path })
        }),
        (any::<bool>(), name, path, option("[a-z]{1,5}"), any::<bool>()).prop_map(
            |(tls, host, path, user, skip_verify)| {
                StoreUrl::WebDav(WebDavUrl { tls, host, path, user, password: None, skip_verify })
            }
        ),
    ]
}

proptest! {
    #[test]
    fn a_displayed_url_parses_back(url in any_url()) {
        prop_assert_eq!(StoreUrl::parse(&url.to_string()).unwrap(), url);
    }

    #[test]
    fn no_text_panics(text in "([a-z0-9]{1,6}://)?\\PC{0,40}") {
        let _ = StoreUrl::parse(&text);
    }
}
