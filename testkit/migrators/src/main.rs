//! `migrators sqlx|refinery DATABASE FOLDER [UNDO_TO]`: runs what is pending, or takes it back (sqlx).

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sqlx", database, folder, undo_to @ ..] => by_sqlx(database, folder, undo_to.first().copied()),
        ["refinery", database, folder] => by_refinery(database, folder),
        _ => Err("usage: migrators sqlx|refinery DATABASE FOLDER [UNDO_TO]".into()),
    }
}

fn by_sqlx(database: &str, folder: &str, undo_to: Option<&str>) -> Result<(), Box<dyn Error>> {
    use sqlx::Connection;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let migrator = sqlx::migrate::Migrator::new(Path::new(folder)).await?;
        let mut connection = sqlx::SqliteConnection::connect(&format!("sqlite:{database}?mode=rwc")).await?;
        match undo_to {
            Some(version) => migrator.undo(&mut connection, version.parse()?).await?,
            None => migrator.run(&mut connection).await?,
        }
        Ok(connection.close().await?)
    })
}

fn by_refinery(database: &str, folder: &str) -> Result<(), Box<dyn Error>> {
    let mut config = refinery::config::Config::new(refinery::config::ConfigDbType::Sqlite).set_db_path(database);
    let migrations = refinery::load_sql_migrations(folder)?;
    refinery::Runner::new(&migrations).run(&mut config)?;
    Ok(())
}
