//! `litestream replicate ...` as the command of a process: litekeep does that work itself.

use std::path::{Path, PathBuf};

use crate::process::{Command, Litestream};

/// What such a command says, its paths taken by `resolve`; `None` for any other command, and an error, a phrase, for one
/// that wants what litekeep's own replication has no word for.
pub(crate) fn recognise(
    command: &Command,
    resolve: impl Fn(&Path) -> PathBuf,
) -> Option<Result<Litestream, String>> {
    let Command::Words(words) = command else { return None };
    let [program, verb, arguments @ ..] = words.as_slice() else { return None };
    let is_litestream = Path::new(program).file_name().is_some_and(|name| name == "litestream");
    (is_litestream && verb == "replicate").then(|| read(arguments, resolve))
}

fn read(arguments: &[String], resolve: impl Fn(&Path) -> PathBuf) -> Result<Litestream, String> {
    let mut litestream = Litestream::default();
    let mut places: Vec<&String> = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            places.push(argument);
            continue;
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || {
            inline.clone().or_else(|| rest.next().cloned()).ok_or_else(|| format!("`-{name}` has no value"))
        };
        match name {
            "config" => litestream.config = Some(resolve(Path::new(&value()?))),
            "exec" => litestream.exec = Some(value()?),
            _ => return Err(format!("of `-{name}`")),
        }
    }
    if let Some((database, urls)) = places.split_first() {
        if urls.is_empty() {
            return Err(format!("`{database}` is given without a place to copy it to"));
        }
        litestream.database =
            Some((resolve(Path::new(database)), urls.iter().map(|url| (*url).clone()).collect()));
    }
    Ok(litestream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_with_one_dash_or_two() {
        let of = |line: &str| recognise(&Command::parse(line).unwrap(), |path| Path::new("/srv").join(path));
        let expected = Litestream { config: Some("/etc/litestream.yml".into()), ..Litestream::default() };
        for line in [
            "/usr/local/bin/litestream replicate -config /etc/litestream.yml",
            "litestream replicate --config=/etc/litestream.yml",
        ] {
            assert_eq!(of(line), Some(Ok(expected.clone())), "{line}");
        }
        let whole = Litestream {
            foreign: false,
            config: Some("/srv/l.yml".into()),
            database: Some(("/srv/app.db".into(), vec!["s3://b/a".into(), "file:///b".into()])),
            exec: Some("node server.js".into()),
        };
        let line = "litestream replicate -config l.yml -exec 'node server.js' app.db s3://b/a file:///b";
        assert_eq!(of(line), Some(Ok(whole)));
        assert_eq!(of("litestream replicate"), Some(Ok(Litestream::default())));
        for line in
            ["litestream restore a.db", "litestream", "node litestream replicate", "litestream replicate | x"]
        {
            assert_eq!(of(line), None, "{line}");
        }
        assert_eq!(of("litestream replicate -once"), Some(Err("of `-once`".into())));
        assert_eq!(of("litestream replicate -config"), Some(Err("`-config` has no value".into())));
        let alone = "`a.db` is given without a place to copy it to";
        assert_eq!(of("litestream replicate a.db"), Some(Err(alone.into())));
    }
}
