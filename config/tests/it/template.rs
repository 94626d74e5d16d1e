use std::path::Path;

use litekeep_config::{DatabaseConfig, Destination, Log, Source, StoreUrl, template};
use proptest::prelude::*;

use crate::toml;

/// What the template for this database and place must parse to.
fn expected(path: &str, url: &StoreUrl) -> DatabaseConfig {
    let mut expected = DatabaseConfig::new(Source::File(path.into()));
    expected.destinations = vec![Destination::new(url.clone())];
    expected
}

#[test]
fn the_template_parses_to_what_it_was_made_for() {
    for (path, backup) in [
        ("/srv/app.db", "s3://b/p?region=x"),
        ("/srv/a b\"c\\d.db", "file:///var/b%20k"),
        ("/x/${y}.db", "sftp://me@h/p"),
    ] {
        let url = StoreUrl::parse(backup).unwrap();
        let text = template(Path::new(path), &url, &["journal mode: wal\npage size: 4096".into()]);
        let config = toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(config.databases, [expected(path, &url)]);
        assert!(text.contains("\n# journal mode: wal\n# page size: 4096\n"));
        assert!(config.warnings.is_empty() && config.metrics.is_none());
    }
}

/// Method: take the `#` off every commented setting. If a key, a default or its spelling has moved on without the
/// template, the file no longer parses, or to something else.
#[test]
fn its_commented_settings_are_the_defaults() {
    for backup in ["s3://b/p", "file:///var/b"] {
        let url = StoreUrl::parse(backup).unwrap();
        let text = template(Path::new("/srv/app.db"), &url, &[]);
        let switched_on: Vec<&str> = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect();
        let config = toml(&switched_on.join("\n")).unwrap();
        let mut expected = expected("/srv/app.db", &url);
        expected.upload_interval = Some(expected.destinations[0].default_upload_interval());
        assert_eq!(config.databases, [expected]);
        assert_eq!(config.log, Log::default());
        assert_eq!(config.metrics.unwrap().addr.to_string(), "127.0.0.1:9090");
    }
}

/// The lines behind `#   ` are examples; they must be valid too.
#[test]
fn its_examples_parse() {
    let url = StoreUrl::parse("s3://b/p").unwrap();
    let text = template(Path::new("/srv/app.db"), &url, &[]);
    let mut examples: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let process = examples.split_off(examples.iter().position(|line| line.starts_with("[process.")).unwrap());
    assert_eq!(examples.len(), 2);
    for example in examples {
        let config = toml(&format!("[[database]]\npath = \"a.db\"\n{example}\n")).unwrap();
        assert!(!config.databases[0].destinations.is_empty());
    }
    let config = toml(&format!("{text}{}\n", process.join("\n"))).unwrap();
    assert!(config.processes[0].health.is_some() && config.stream.is_some() && config.warnings.is_empty());
}

proptest! {
    #[test]
    fn any_path_survives(path in "/\\PC{1,20}", folder in "/\\PC{1,20}") {
        let url = StoreUrl::File { path: folder.into() };
        let text = template(Path::new(&path), &url, &[]);
        let same_name = match &url {
            StoreUrl::File { path: folder } => folder == Path::new(&path),
            _ => false,
        };
        prop_assume!(!same_name);
        let config = toml(&text).unwrap();
        prop_assert_eq!(&config.databases[0].source, &Source::File(Path::new(&path).components().collect()));
    }
}
