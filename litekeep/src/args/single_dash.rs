//! Litestream's flags, which have one dash, as clap's long options, which have two.
//!
//! The names are those of the subcommand's own options, so a new option works in both spellings at once. What comes after
//! `--`, and the value of an option, is passed on untouched.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{ArgAction, Command};

use crate::report::Failure;

/// Flags of Litestream that could do nothing here, and why.
const MEANINGLESS: &[(&str, &str)] = &[
    ("replica", "each destination is named by its URL: give the URL in place of the database"),
    ("level", "`litekeep history` lists all levels"),
    ("generation", "a backup has one timeline, without generations"),
    ("index", "points are named by -txid or -timestamp"),
    ("force-snapshot", "snapshots are made by themselves, as `snapshot_every` in litekeep.toml says"),
    ("enforce-retention", "retention is enforced all the time, as `keep` in litekeep.toml says"),
    ("log-level", "set `level` below [log] in litekeep.toml, or the environment variable RUST_LOG"),
    ("socket", "`litekeep status` needs no socket"),
];

/// Verbs of Litestream that are called otherwise here, or are not needed.
const OTHER_VERBS: &[(&str, &str)] = &[
    ("generations", "a backup has one timeline, without generations: `litekeep history` lists its points"),
    ("snapshots", "`litekeep history` lists snapshots and all other points"),
    ("wal", "`litekeep history` lists all files of the backup"),
    ("info", "`litekeep status` says how it goes"),
    ("list", "`litekeep databases` lists the databases"),
];

/// Modes of `-integrity-check`, whose value may stand after a space.
const INTEGRITY_MODES: [&str; 3] = ["quick", "full", "none"];

/// Whether an option takes a value.
type Options = BTreeMap<String, bool>;

/// Rewrites `-name` to `--name`, `-name=true` of a switch to `--name`, and drops `-name=false`.
///
/// # Errors
/// For a name that the subcommand does not have, with the nearest one that it has.
pub(super) fn normalise(argv: Vec<OsString>, root: &Command) -> Result<Vec<OsString>, Failure> {
    let verb = argv.iter().skip(1).filter_map(|a| a.to_str()).find(|a| !a.starts_with('-'));
    if let Some((verb, advice)) = verb.and_then(|verb| OTHER_VERBS.iter().find(|(name, _)| *name == verb)) {
        return Err(Failure::invalid(format!("there is no `litekeep {verb}`: {advice}")));
    }
    let subcommand = verb.and_then(|verb| root.find_subcommand(verb));
    let options = options(root, subcommand);
    let verb = subcommand.map(|command| command.get_name());

    let mut out = Vec::with_capacity(argv.len());
    let mut rest = argv.into_iter();
    out.extend(rest.next());
    while let Some(argument) = rest.next() {
        if argument == "--" {
            out.push(argument);
            out.extend(rest);
            break;
        }
        let Some((name, value)) = argument.to_str().and_then(flag) else {
            out.push(argument);
            continue;
        };
        match (options.get(name), value) {
            (None, _) if argument.to_string_lossy().starts_with("--") => out.push(argument),
            (None, _) => return Err(unknown(name, verb, &options)),
            (Some(false), Some("false")) => {}
            (Some(false), Some("true")) => out.push(format!("--{name}").into()),
            (Some(_), Some(value)) => out.push(format!("{}={value}", dashed(name)).into()),
            (Some(false), None) => out.push(dashed(name).into()),
            (Some(true), None) if name == "integrity-check" => {
                let mode = rest.as_slice().first().and_then(|next| next.to_str());
                let mode = mode.filter(|mode| INTEGRITY_MODES.contains(mode)).map(str::to_owned);
                if mode.is_some() {
                    rest.next();
                }
                out.push(format!("--{name}={}", mode.as_deref().unwrap_or("quick")).into());
            }
            (Some(true), None) => {
                out.push(dashed(name).into());
                out.extend(rest.next());
            }
        }
    }
    Ok(out)
}

fn dashed(name: &str) -> String {
    if name.len() == 1 { format!("-{name}") } else { format!("--{name}") }
}

/// Name and value of `-name`, `-name=value`, `--name` and `--name=value`.
fn flag(argument: &str) -> Option<(&str, Option<&str>)> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

/// The options of a subcommand, of its own subcommands, and those of all; without one, those of every subcommand.
fn options(root: &Command, subcommand: Option<&Command>) -> Options {
    let commands: Vec<&Command> = match subcommand {
        Some(command) => [root, command].into_iter().chain(command.get_subcommands()).collect(),
        None => std::iter::once(root).chain(root.get_subcommands()).collect(),
    };
    let mut options = Options::new();
    for argument in commands.into_iter().flat_map(Command::get_arguments) {
        let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
        let short = argument.get_short().map(String::from);
        let names = argument.get_long().map(str::to_owned).into_iter().chain(short);
        options.extend(names.map(|name| (name, takes_value)));
    }
    for name in ["help", "h", "version", "V"] {
        options.insert(name.to_owned(), false);
    }
    options
}

fn unknown(name: &str, verb: Option<&str>, options: &Options) -> Failure {
    let place = verb.map_or(String::new(), |verb| format!(" for `litekeep {verb}`"));
    if let Some((_, reason)) = MEANINGLESS.iter().find(|(known, _)| *known == name) {
        return Failure::invalid(format!("the flag `-{name}` has no meaning{place}: {reason}"));
    }
    let nearest = options
        .keys()
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        // Something of it must be the same: every letter is near every other.
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4 && *distance < known.len())
        .min();
    let failure = Failure::invalid(match nearest {
        Some((_, known)) => format!("unknown flag `-{name}`{place}: did you mean `-{known}`?"),
        None => format!("unknown flag `-{name}`{place}"),
    });
    let verb = verb.map_or(String::new(), |verb| format!(" {verb}"));
    failure.hint(format!("`litekeep{verb} --help` lists all flags"))
}
