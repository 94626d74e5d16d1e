//! Which configuration file, and what it says.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_config::{Config, DatabaseConfig, Destination, Input, Litestream, Source};

use crate::args::ConfigArgs;
use crate::report::{self, Failure, Format};
use crate::settings::{database, env};

/// Where a configuration is looked for, in this order, when none is named.
const PLACES: [&str; 5] =
    ["litekeep.toml", "/etc/litekeep.toml", "litestream.yml", "/etc/litestream.yml", "oxfile.toml"];

/// The same for commands about processes.
const PLACES_OF_STACKS: [&str; 3] = ["litekeep.toml", "oxfile.toml", "/etc/litekeep.toml"];

/// A configuration that was read.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Its file.
    pub(crate) path: PathBuf,
    pub(crate) config: Config,
}

impl Settings {
    /// Reads the configuration that was named, or else the first that is there. Its warnings go to stderr.
    ///
    /// # Errors
    /// When there is none, and for each mistake in it.
    pub(crate) fn load(args: &ConfigArgs, format: Format) -> Result<Settings> {
        Settings::find(args, format)?.ok_or_else(|| none_of(&PLACES))
    }

    /// The same for commands about processes, where an `oxfile.toml` will do.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn load_stack(args: &ConfigArgs, format: Format) -> Result<Settings> {
        Settings::first(args, &PLACES_OF_STACKS, format)?.ok_or_else(|| none_of(&PLACES_OF_STACKS))
    }

    /// Where a configuration for commands about processes is, whatever stands in it.
    pub(crate) fn place_of_stack(args: &ConfigArgs) -> Option<PathBuf> {
        let first =
            || PLACES_OF_STACKS.iter().map(Path::new).find(|place| place.exists()).map(Path::to_owned);
        args.config.clone().or_else(first)
    }

    /// What a configuration at this place said when it was taken.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn taken(place: PathBuf, kept: &Path, args: &ConfigArgs) -> Result<Settings> {
        let text = std::fs::read_to_string(kept)
            .map_err(|error| Failure::io(format!("read `{}`", kept.display()), &error))?;
        let mut config = parse(&place, &text, args.no_expand_env)?;
        take_over(&mut config, args.no_expand_env)?;
        Ok(Settings { path: place, config })
    }

    /// Refuses a configuration by which nothing is backed up.
    ///
    /// # Errors
    /// When it names no database.
    pub(crate) fn require_database(&self) -> Result<()> {
        if !self.config.databases.is_empty() {
            return Ok(());
        }
        let failure = Failure::invalid(format!("`{}` names no database", self.path.display()));
        Err(failure.hint("write a `[[database]]` with `path` and `backup` into it; `litekeep init ./app.db` writes a configuration with one").into())
    }

    /// The arguments with which another process reads the same file.
    pub(crate) fn args(&self, own: &ConfigArgs) -> ConfigArgs {
        ConfigArgs { config: Some(self.path.clone()), no_expand_env: own.no_expand_env }
    }

    /// As [`load`](Self::load); `None` when no file was named and there is none.
    pub(crate) fn find(args: &ConfigArgs, format: Format) -> Result<Option<Settings>> {
        Settings::first(args, &PLACES, format)
    }

    fn first(args: &ConfigArgs, places: &[&str], format: Format) -> Result<Option<Settings>> {
        let path = match &args.config {
            Some(path) => path.clone(),
            None => match places.iter().map(Path::new).find(|place| place.exists()) {
                Some(path) => path.to_owned(),
                None => return Ok(None),
            },
        };
        let mut config = read(&path, args.no_expand_env)?;
        take_over(&mut config, args.no_expand_env)
            .with_context(|| format!("take over the `litestream replicate` of `{}`", path.display()))?;
        if args.config.is_none() && is_yaml_name(&path) && format == Format::Text {
            report::line(&format_args!(
                "using `{}` (there is no litekeep.toml here or in /etc)",
                path.display()
            ));
        }
        for warning in &config.warnings {
            report::warning(&warning.to_string(), format);
        }
        Ok(Some(Settings { path, config }))
    }
}

fn none_of(places: &[&str]) -> anyhow::Error {
    let named: Vec<String> = places.iter().map(|place| format!("`{place}`")).collect();
    let failure = Failure::invalid(format!("there is no configuration: none of {} exists", named.join(", ")));
    failure.hint("`litekeep init ./app.db` writes one; --config names one elsewhere").into()
}

/// The databases of `litestream replicate` among the processes: litekeep replicates them itself, or, where the program is
/// wanted, leaves them alone. There are never two replicators on a file, however it is spelled; one that has its own `[[database]]` is
/// as that says.
///
/// # Errors
/// When a folder of databases has one of the other's among its own.
fn take_over(config: &mut Config, literal: bool) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for process in &mut config.processes {
        let Some(litestream) = &mut process.litestream else { continue };
        let yaml = databases_of(litestream, literal)?;
        if litestream.foreign {
            theirs.extend(yaml.databases.into_iter().map(|database| (process.name.clone(), database.source)));
            continue;
        }
        ours.extend(yaml.databases.into_iter().map(|database| (process.name.clone(), database)));
        config.warnings.extend(yaml.warnings);
        config.metrics = config.metrics.take().or(yaml.metrics);
        litestream.exec = litestream.exec.take().or(yaml.exec);
    }
    for (process, database) in ours {
        let mut has_its_own = false;
        for own in &config.databases {
            match overlap(&own.source, &database.source) {
                Overlap::None => {}
                Overlap::Within => has_its_own = true,
                Overlap::Around => {
                    let failure = Failure::invalid(format!(
                        "`{}`, which the process `{process}` replicates, has `{}` among its databases",
                        database.source, own.source
                    ));
                    return Err(failure.hint("leave one of the two out, or narrow the pattern").into());
                }
            }
        }
        if !has_its_own {
            config.databases.push(database);
        }
    }
    for (process, source) in theirs {
        for own in &config.databases {
            // Of a folder nothing can be left out.
            if overlap(&source, &own.source) == Overlap::Around {
                let failure = Failure::invalid(format!(
                    "`{}` has `{source}` among its databases, which the process `{process}` replicates by the program (native = false)",
                    own.source
                ));
                let hint = "narrow the pattern of this [[database]], or leave the file out there";
                return Err(failure.hint(hint).into());
            }
        }
        config.databases.retain(|own| overlap(&source, &own.source) == Overlap::None);
    }
    Ok(())
}

/// What a source has of another one.
#[derive(Debug, PartialEq)]
enum Overlap {
    None,
    /// The other one is the same, or a part of it.
    Within,
    /// It is a part of the other one, or both have something that the other one has not.
    Around,
}

fn overlap(source: &Source, other: &Source) -> Overlap {
    let (source, other) = (real(source), real(other));
    match (&source, &other) {
        (_, Source::File(file)) if source.covers(file) => Overlap::Within,
        (Source::File(file), Source::Folder { .. }) if other.covers(file) => Overlap::Around,
        (
            Source::Folder { dir, pattern, recursive, .. },
            Source::Folder { dir: others, pattern: wanted, recursive: deep, .. },
        ) if pattern == wanted => match () {
            () if dir == others && (*recursive || !deep) => Overlap::Within,
            () if *recursive && others.starts_with(dir) => Overlap::Within,
            () if dir == others || *deep && dir.starts_with(others) => Overlap::Around,
            () => Overlap::None,
        },
        _ => Overlap::None,
    }
}

/// A source as the file system knows it.
fn real(source: &Source) -> Source {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| database::normal(path));
    match source {
        Source::File(path) => Source::File(real(path)),
        Source::Folder { dir, pattern, recursive, watch } => {
            Source::Folder { dir: real(dir), pattern: pattern.clone(), recursive: *recursive, watch: *watch }
        }
    }
}

/// What a `litestream replicate` replicates.
fn databases_of(litestream: &mut Litestream, literal: bool) -> Result<Config> {
    const DEFAULT: &str = "/etc/litestream.yml";
    let Some((path, urls)) = &litestream.database else {
        return read(litestream.config.get_or_insert_with(|| DEFAULT.into()), literal);
    };
    let destinations: Result<Vec<_>, _> = urls.iter().map(|url| Destination::parse(url, &env)).collect();
    let source = Source::File(path.clone());
    let database = DatabaseConfig { destinations: destinations?, ..DatabaseConfig::new(source) };
    Ok(Config { databases: vec![database], ..Config::default() })
}

fn read(path: &Path, literal: bool) -> Result<Config> {
    let doing = || format!("read the configuration `{}`", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::io(doing(), &error)
            .hint("`litekeep init ./app.db` writes a configuration; --config names its file"),
        _ => Failure::io(doing(), &error),
    })?;
    parse(path, &text, literal).with_context(doing)
}

fn parse(path: &Path, text: &str, literal: bool) -> Result<Config> {
    let read_file =
        |path: &Path| std::fs::read_to_string(path).map_err(|error| report::text::io_error(&error));
    if is_oxfile(path) {
        if literal {
            return Err(Failure::invalid("--no-expand-env is for litekeep.toml and litestream.yml")
                .hint("in an oxfile.toml `$$` is a dollar sign, and commands are taken as they stand")
                .into());
        }
        return Ok(Config::from_oxfile(&Input { path, text, env: &env, read_file: &read_file })?);
    }
    // Both formats replace `${_}` by a dollar sign then, and find nothing else to replace.
    let env = |name: &str| if literal && name == "_" { Some("$".to_owned()) } else { env(name) };
    let literal_text = literal.then(|| text.replace('$', "${_}"));
    let text = literal_text.as_deref().unwrap_or(text);
    let input = Input { path, text, env: &env, read_file: &read_file };
    let config =
        if is_yaml(path, text) { Config::from_litestream_yaml(&input) } else { Config::from_toml(&input) };
    Ok(config?)
}

fn is_yaml_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml")
}

fn is_oxfile(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "oxfile.toml")
}

/// By extension; without a known one, `key:` at the beginning of a line is YAML.
fn is_yaml(path: &Path, text: &str) -> bool {
    if is_yaml_name(path) || path.extension().is_some_and(|extension| extension == "toml") {
        return is_yaml_name(path);
    }
    let first = text.lines().map(str::trim_end).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| {
        let key = line.split_once(':').map(|(key, _)| key);
        line == "---" || key.is_some_and(|key| key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_extension_and_then_content() {
        for (name, text, yaml) in [
            ("a.yml", "", true),
            ("a.toml", "dbs:\n", false),
            ("litestream", "# x\n\ndbs:\n  - path: a\n", true),
            ("conf", "access-key-id: x\n", true),
            ("conf", "---\ndbs: []\n", true),
            ("conf", "[[database]]\npath = \"a:b\"\n", false),
            ("conf", "keep = \"30d\" # a: b\n", false),
        ] {
            assert_eq!(is_yaml(Path::new(name), text), yaml, "{name} {text:?}");
        }
    }

    #[test]
    fn a_replicators_databases_are_known_however_they_are_spelled() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("real/deep")).unwrap();
        std::os::unix::fs::symlink(at("real"), at("link")).unwrap();
        std::fs::write(at("real/app.db"), "").unwrap();
        let file = |path: PathBuf| Source::File(path);
        let folder = |path: PathBuf, pattern: &str, recursive| Source::Folder {
            dir: path,
            pattern: litekeep_config::Pattern::parse(pattern).unwrap(),
            recursive,
            watch: true,
        };
        for spelled in ["link/app.db", "real/../real/./app.db"] {
            assert_eq!(overlap(&file(at("real/app.db")), &file(at(spelled))), Overlap::Within);
        }
        let here = std::env::current_dir().unwrap().join("not-there.db");
        assert_eq!(overlap(&file("not-there.db".into()), &file(here)), Overlap::Within);
        assert_eq!(overlap(&file(at("real/app.db")), &file(at("real/b.db"))), Overlap::None);
        let all = folder(at("link"), "*.db", false);
        assert_eq!(overlap(&all, &file(at("real/app.db"))), Overlap::Within);
        assert_eq!(overlap(&file(at("real/app.db")), &all), Overlap::Around);
        assert_eq!(overlap(&file(at("real/deep/app.db")), &all), Overlap::None);
        let deep = folder(at("real"), "*.db", true);
        assert_eq!((overlap(&deep, &all), overlap(&all, &deep)), (Overlap::Within, Overlap::Around));
        let below = folder(at("real/deep"), "*.db", false);
        assert_eq!((overlap(&deep, &below), overlap(&below, &deep)), (Overlap::Within, Overlap::Around));
        assert_eq!(overlap(&all, &below), Overlap::None);
        assert_eq!(overlap(&all, &folder(at("real"), "*.sqlite", true)), Overlap::None);
    }

    #[test]
    fn an_oxfile_is_known_by_its_name() {
        let text = "[[apps]]\nname = \"a\"\ncommand = \"x\"\n";
        let config = parse(Path::new("/x/oxfile.toml"), text, false).unwrap();
        assert_eq!(config.processes[0].name, "a");
        assert!(parse(Path::new("/x/litekeep.toml"), text, false).is_err());
        assert!(
            parse(Path::new("/x/oxfile.toml"), text, true)
                .unwrap_err()
                .to_string()
                .contains("--no-expand-env")
        );
    }

    #[test]
    fn literal_dollars_stay() {
        let toml = "[[database]]\npath = \"a$HOME${X}$${Y}.db\"\nbackup = \"/b\"\n";
        let config = parse(Path::new("/x/c.toml"), toml, true).unwrap();
        assert_eq!(config.databases[0].source.to_string(), "/x/a$HOME${X}$${Y}.db");
        let yaml = "dbs:\n  - path: /a$HOME${X}.db\n    replica:\n      url: file:///b\n";
        let config = parse(Path::new("/x/c.yml"), yaml, true).unwrap();
        assert_eq!(config.databases[0].source.to_string(), "/a$HOME${X}.db");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
}
