//! Which configuration file, and what it says.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_config::{Config, Input};

use crate::args::ConfigArgs;
use crate::report::{self, Failure, Format};
use crate::settings::env;

/// Where a configuration is looked for, in this order, when none is named.
const PLACES: [&str; 4] = ["litekeep.toml", "/etc/litekeep.toml", "litestream.yml", "/etc/litestream.yml"];

/// A configuration that was read.
#[derive(Debug)]
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
        match Settings::find(args, format)? {
            Some(settings) => Ok(settings),
            None => Err(Failure::invalid(format!(
                "there is no configuration: none of {} exists",
                PLACES.map(|place| format!("`{place}`")).join(", ")
            ))
            .hint("`litekeep init ./app.db` writes one; --config names one elsewhere")
            .into()),
        }
    }

    /// The arguments with which another process reads the same file.
    pub(crate) fn args(&self, own: &ConfigArgs) -> ConfigArgs {
        ConfigArgs { config: Some(self.path.clone()), no_expand_env: own.no_expand_env }
    }

    /// As [`load`](Self::load); `None` when no file was named and there is none.
    pub(crate) fn find(args: &ConfigArgs, format: Format) -> Result<Option<Settings>> {
        let path = match &args.config {
            Some(path) => path.clone(),
            None => match PLACES.iter().map(Path::new).find(|place| place.exists()) {
                Some(path) => path.to_owned(),
                None => return Ok(None),
            },
        };
        let config = read(&path, args.no_expand_env)?;
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
