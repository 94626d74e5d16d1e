//! Point reads of the same rows in Postgres, by a prepared statement over its own protocol.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio_postgres::NoTls;

use super::load::{Pace, ROWS, pace, random_id};

/// Reads one row after the other from a temporary table, which goes with the connection.
///
/// # Errors
/// When Postgres cannot be reached, wants TLS, or refuses.
pub(super) async fn reads(url: &str, time: Duration) -> Result<Pace> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("connect to Postgres")?;
    let connection = tokio::spawn(connection);
    let table = format!(
        "CREATE TEMPORARY TABLE litekeep_bench(id bigint PRIMARY KEY, n bigint NOT NULL, x bytea NOT NULL);
         INSERT INTO litekeep_bench SELECT id, 0, decode(repeat('07', 180), 'hex') FROM generate_series(1, {ROWS}) id;
         ANALYZE litekeep_bench"
    );
    client.batch_execute(&table).await.context("make a temporary table in Postgres")?;
    let doing = "read from Postgres";
    let statement = client.prepare("SELECT n, x FROM litekeep_bench WHERE id = $1").await.context(doing)?;
    let mut times = Vec::new();
    let begin = Instant::now();
    let mut last = Duration::ZERO;
    while last < time {
        client.query_one(&statement, &[&random_id().cast_signed()]).await.context(doing)?;
        let now = begin.elapsed();
        times.push(now - last);
        last = now;
    }
    drop(client);
    connection.await.context("end the connection")?.context("end the connection")?;
    Ok(pace(times, last))
}
