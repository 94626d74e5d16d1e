//! Connections that syncs with one server have together.
//!
//! Promise: whoever says `max_connections` says it of the server, for all syncs of the configuration with it.

use anyhow::Result;
use litekeep_config::OtherSide;
use litekeep_sync::Budget;

use super::DatabaseSync;
use crate::args::ConfigArgs;
use crate::report::{self, Failure, Format};
use crate::settings::Settings;

/// The server of a sync, as all that are with it name it.
fn server(other: &OtherSide) -> Result<String> {
    Ok(match other {
        OtherSide::Postgres(url) => litekeep_sync_postgres::Address::parse(url.expose())?.server(),
        OtherSide::Mysql(url) => litekeep_sync_mysql::Address::parse(url.expose())?.server(),
        #[cfg(feature = "mongodb")]
        OtherSide::Mongodb(url) => litekeep_sync_mongodb::Address::parse(url.expose())?.server(),
        #[cfg(not(feature = "mongodb"))]
        OtherSide::Mongodb(_) => return Err(super::no_client().into()),
    })
}

/// Gives the syncs of a configuration the budgets of their servers.
///
/// # Errors
/// When two of them say otherwise of one server.
pub(super) fn share(syncs: &mut [DatabaseSync]) -> Result<()> {
    if syncs.iter().all(|sync| sync.config.max_connections.is_none()) {
        return Ok(());
    }
    // What is no address is told by whoever uses it.
    let servers: Vec<Option<String>> = syncs.iter().map(|sync| server(&sync.config.other).ok()).collect();
    for nth in 0..syncs.len() {
        let Some(server) = &servers[nth] else { continue };
        let with_it = || (0..syncs.len()).filter(|other| servers[*other].as_ref() == Some(server));
        let said = |other: usize| Some((other, syncs[other].config.max_connections?));
        let Some((first, most)) = with_it().find_map(said) else { continue };
        if let Some((other, otherwise)) = with_it().filter_map(said).find(|(_, otherwise)| *otherwise != most)
        {
            let (first, other) = (&syncs[first].config.name, &syncs[other].config.name);
            let message = format!(
                "`max_connections` is {most} for the sync `{first}` and {otherwise} for `{other}`, which are with one server, {server}"
            );
            let hint = "it counts for all syncs with the server together: say it once, or the same";
            return Err(Failure::invalid(message).hint(hint).into());
        }
        // All processes with this configuration find the same place.
        let Some(holder) = with_it().next() else { continue };
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        let file = format!("connections-{}", server.chars().map(plain).take(200).collect::<String>());
        let file = syncs[holder].database.meta_dir.join("sync").join(file);
        syncs[nth].budget = Budget::new(server.clone(), most, file);
    }
    Ok(())
}

/// Refuses syncs that can never all have their connections: those that keep them have them at the same time, and of those that let go one at a
/// time. `sync` is one of `all`.
///
/// # Errors
/// When there are not enough, with how many are needed.
pub(crate) fn is_enough(sync: &DatabaseSync, all: &[DatabaseSync]) -> Result<()> {
    let Some(most) = sync.budget.most() else { return Ok(()) };
    let own = server(&sync.config.other)?;
    let (mut kept, mut at_times, mut names) = (0, 0, vec![]);
    for other in all {
        if server(&other.config.other).ok().as_ref() != Some(&own) {
            continue;
        }
        let needed = other.connections()?;
        match &other.config.schedule {
            Some(_) => at_times = needed.max(at_times),
            None => kept += needed,
        }
        names.push(format!("`{}` {needed}", other.config.name));
    }
    let needed = kept + at_times;
    if needed <= most {
        return Ok(());
    }
    let message = format!(
        "the syncs with {own} need {needed} connections together ({}), and `max_connections` is {most}",
        names.join(", ")
    );
    let hint = format!(
        "max_connections = {needed}, or more; or give some of them `every` or `cron`, so that they let go of theirs in between"
    );
    Err(Failure::invalid(message).hint(hint).into())
}

/// What the configuration in its usual place says of a server, for commands that need none.
pub(crate) fn of_server(other: &OtherSide, format: Format) -> Budget {
    let args = ConfigArgs { config: None, no_expand_env: false };
    let found = match Settings::find(&args, Format::Json) {
        Ok(Some(settings)) => of_configuration(&settings, other),
        Ok(None) => Ok(Budget::default()),
        Err(error) => Err(error),
    };
    found.unwrap_or_else(|error| {
        let message =
            format!("the configuration cannot be read, so its `max_connections` are not heeded: {error:#}");
        report::warning(&message, format);
        Budget::default()
    })
}

/// The same of a configuration.
///
/// # Errors
/// As [`DatabaseSync::all`].
pub(crate) fn of_configuration(settings: &Settings, other: &OtherSide) -> Result<Budget> {
    let own = server(other)?;
    let all = DatabaseSync::all(settings)?;
    let with_it = all.into_iter().find(|sync| server(&sync.config.other).ok().as_ref() == Some(&own));
    Ok(with_it.map(|sync| sync.budget).unwrap_or_default())
}
