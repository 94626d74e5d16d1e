//! What a reload does not take: it is held open, or locked, from the beginning to the end.

use litekeep_config::{Config, DatabaseConfig, Source, Until};

use crate::report::Failure;

/// Refuses what would let processes begin with a database that is not fit: only `litekeep up` restores and replicates one.
///
/// # Errors
/// When a database has come that is not there, or a process waits for one that has come.
pub(super) fn check(begun: &Config, now: &Config) -> Result<(), Failure> {
    const HINT: &str = "`litekeep down` and `litekeep up` restore it, run its migrations and replicate it; nothing has changed now";
    let has_come = |database: &&DatabaseConfig| !is_known(begun, &database.source);
    for database in now.databases.iter().filter(has_come) {
        if let Source::File(path) = &database.source
            && !path.exists()
        {
            let message =
                format!("the database `{}` has come to the configuration and is not there", path.display());
            return Err(Failure::invalid(message).hint(HINT));
        }
    }
    for process in &now.processes {
        for (name, until) in &process.depends_on {
            let is_of_database = matches!(until, Until::DbRestored | Until::Migrated | Until::Replicating);
            let path = std::path::Path::new(name);
            let of = |config: &Config| config.databases.iter().any(|database| database.source.covers(path));
            if is_of_database && of(now) && !of(begun) {
                let message = format!(
                    "`{}` waits for the database `{name}`, which has come to the configuration",
                    process.name
                );
                return Err(Failure::invalid(message).hint(HINT));
            }
        }
    }
    Ok(())
}

/// Whether `up` began with a database or a folder of databases.
pub(super) fn is_known(begun: &Config, source: &Source) -> bool {
    begun.databases.iter().any(|known| known.source == *source)
}

/// What changed in the configuration since `litekeep up` began and is not taken before `down` and `up`, each in words.
pub(super) fn warnings(begun: &Config, now: &Config) -> Vec<String> {
    let settled = |config: &Config| -> Vec<DatabaseConfig> {
        // Migrations are read anew by each reload.
        let databases = config.databases.iter().cloned();
        databases.map(|database| DatabaseConfig { migrations: None, ..database }).collect()
    };
    let (then, wanted) = (settled(begun), settled(now));
    let differs = |own: &&DatabaseConfig, others: &[DatabaseConfig]| !others.contains(own);
    let mut names: Vec<String> = then.iter().filter(|own| differs(own, &wanted)).map(name).collect();
    names.extend(wanted.iter().filter(|own| differs(own, &then)).map(name));
    names.sort();
    names.dedup();
    let mut tables: Vec<String> =
        names.into_iter().map(|name| format!("the [[database]] of `{name}`")).collect();
    let others = [
        ("[[feed]]", begun.feeds != now.feeds),
        ("[[sync]]", begun.syncs != now.syncs),
        ("[cluster]", begun.cluster != now.cluster),
        // The other nodes know where it is by the lease.
        ("[stream]", begun.cluster.is_some() && begun.stream != now.stream),
        ("[supervisor]", begun.state_dir != now.state_dir),
        ("[log]", begun.log != now.log),
    ];
    tables.extend(others.iter().filter(|(_, differs)| *differs).map(|(table, _)| (*table).to_owned()));
    let warning = |table| format!("{table} has changed: it is taken by `litekeep down` and `litekeep up`");
    tables.into_iter().map(warning).collect()
}

fn name(database: &DatabaseConfig) -> String {
    database.source.to_string()
}
