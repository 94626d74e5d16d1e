//! What a reload does not take: it is held open, or locked, from the beginning to the end.

use litekeep_config::{Config, DatabaseConfig};

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
