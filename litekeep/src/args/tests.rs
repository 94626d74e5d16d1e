use clap::{Arg, ArgAction, Command};
use proptest::prelude::*;

use super::*;

/// A command with Litestream's kinds of flags, independent of which subcommands there are.
fn sample() -> Command {
    let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let valued = |name: &'static str| Arg::new(name).long(name).action(ArgAction::Set);
    Command::new("litekeep").arg(switch("json").global(true)).subcommand(
        Command::new("restore")
            .args([switch("dry-run"), switch("force"), valued("txid"), valued("integrity-check")])
            .arg(valued("config"))
            .arg(Arg::new("output").short('o').long("output").action(ArgAction::Set)),
    )
}

fn normalised(line: &str) -> Result<String, String> {
    let argv = line.split(' ').map(OsString::from).collect();
    match single_dash::normalise(argv, &sample()) {
        Ok(argv) => Ok(argv.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")),
        Err(failure) => Err(failure.to_string()),
    }
}

#[test]
fn flags_with_one_dash_are_taken_in_all_spellings() {
    for (line, expected) in [
        ("litekeep restore -o x db", "litekeep restore -o x db"),
        ("litekeep restore -o=x db", "litekeep restore -o=x db"),
        ("litekeep restore -config f -txid 2a", "litekeep restore --config f --txid 2a"),
        ("litekeep restore -config=f --txid=2a", "litekeep restore --config=f --txid=2a"),
        ("litekeep restore -dry-run=true -force=false -json", "litekeep restore --dry-run --json"),
        ("litekeep restore -integrity-check db", "litekeep restore --integrity-check=quick db"),
        ("litekeep restore -integrity-check full db", "litekeep restore --integrity-check=full db"),
        ("litekeep restore --integrity-check=none", "litekeep restore --integrity-check=none"),
        ("litekeep restore -txid -force", "litekeep restore --txid -force"),
        ("litekeep restore db -- -config -x", "litekeep restore db -- -config -x"),
        ("litekeep -json restore -", "litekeep --json restore -"),
        ("litekeep restore --unknown", "litekeep restore --unknown"),
    ] {
        assert_eq!(normalised(line).as_deref(), Ok(expected), "{line}");
    }
}

#[test]
fn unknown_flags_get_advice() {
    for (line, expected) in [
        ("litekeep restore -txdi 2a", "unknown flag `-txdi` for `litekeep restore`: did you mean `-txid`?"),
        ("litekeep restore -wibble", "unknown flag `-wibble` for `litekeep restore`"),
        // One letter is as near to any other.
        ("litekeep restore -f db", "unknown flag `-f` for `litekeep restore`"),
        (
            "litekeep restore -generation x",
            "the flag `-generation` has no meaning for `litekeep restore`: a backup has one timeline, without generations",
        ),
        (
            "litekeep snapshots db",
            "there is no `litekeep snapshots`: `litekeep history` lists snapshots and all other points",
        ),
    ] {
        assert_eq!(normalised(line).unwrap_err(), expected, "{line}");
    }
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn the_format_is_known_before_the_rest() {
    let format = |line: &str| format_of(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
    assert_eq!(format("litekeep nonsense -json"), Format::Json);
    assert_eq!(format("litekeep run db -- app --json"), Format::Text);
}

proptest! {
    /// No command line makes it panic, and what needs no rewriting is not rewritten.
    #[test]
    fn any_arguments_are_survived(argv in proptest::collection::vec("-{0,2}[a-z=]{0,8}", 0..6)) {
        let argv: Vec<OsString> = argv.into_iter().map(OsString::from).collect();
        if let Ok(once) = single_dash::normalise(argv, &sample()) {
            prop_assert!(single_dash::normalise(once.clone(), &sample()).is_ok());
        }
    }
}
