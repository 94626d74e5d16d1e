//! Point reads of the same rows in Postgres, by a prepared statement over its own protocol.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use litekeep_sync_postgres::{Address, connect};

use super::load::{Pace, ROWS, pace, random_id};

/// Reads one row after the other from a temporary table. All of it is one transaction, which is undone: so it leaves nothing, and works
/// through a pooler, too.
///
/// # Errors
/// When Postgres cannot be reached or trusted, or refuses.
pub(super) async fn reads(url: &str, time: Duration) -> Result<Pace> {
    let (mut client, connection) = connect(&Address::parse(url)?).await?;
    let transaction = client.transaction().await.context("begin a transaction in Postgres")?;
    let table = format!(
        "CREATE TEMPORARY TABLE litekeep_bench(id bigint PRIMARY KEY, n bigint NOT NULL, x bytea NOT NULL);
         INSERT INTO litekeep_bench SELECT id, 0, decode(repeat('07', 180), 'hex') FROM generate_series(1, {ROWS}) id;
         ANALYZE litekeep_bench"
    );
    transaction.batch_execute(&table).await.context("make a temporary table in Postgres")?;
    let doing = "read from Postgres";
    let prepared = transaction.prepare("SELECT n, x FROM litekeep_bench WHERE id = $1");
    let statement = prepared.await.context(doing)?;
    let mut times = Vec::new();
    let begin = Instant::now();
    let mut last = Duration::ZERO;
    while last < time {
        transaction.query_one(&statement, &[&random_id().cast_signed()]).await.context(doing)?;
        let now = begin.elapsed();
        times.push(now - last);
        last = now;
    }
    drop(statement);
    transaction.rollback().await.context("end the transaction")?;
    drop(client);
    connection.await.context("end the connection")?;
    Ok(pace(times, last))
}
