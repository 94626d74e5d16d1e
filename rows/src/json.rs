//! Changes as JSON.
//!
//! A blob is `{"blob": "HEX"}`, an infinite real `{"real": "inf"}` or `{"real": "-inf"}`, text that is
//! no UTF-8 `{"text": "HEX"}`; all else is JSON's own.

use crate::feed::Transaction;
use crate::{Change, Error, Pair, RowRef, SchemaChange, Value, key, row, statements};
use serde_json::{Map, Value as Json, json};

/// `{"table", "op", "key", "old", "new"}`.
///
/// # Errors
/// `Corrupt` for a damaged row.
pub fn change(pair: Pair<'_>, change: &Change<'_>) -> Result<Json, Error> {
    let (op, old, new) = match change {
        Change::Inserted(new) => ("insert", None, Some(new)),
        Change::Updated(old, new) => ("update", Some(old), Some(new)),
        Change::Deleted(old) => ("delete", Some(old), None),
    };
    let key: Map<String, Json> =
        key(&row(change))?.iter().map(|(name, v)| (name.clone(), value(v))).collect();
    let columns = |row: Option<&RowRef<'_>>| row.map(columns).transpose();
    Ok(json!({
        "table": pair.either().name,
        "op": op,
        "key": key,
        "old": columns(old)?,
        "new": columns(new)?,
    }))
}

/// The events of a transaction, each as Debezium's envelope without its schema
/// (<https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-create-events>); changes of
/// the schema come first; of a part only its own. A row that gets another key is deleted, and created as another, as Debezium has it
/// (<https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-primary-key-updates>). `name`: of the database; `now_ms`: when this is written, milliseconds since the epoch.
pub fn envelopes<'a>(
    name: &'a str,
    transaction: &'a Transaction,
    now_ms: i64,
) -> impl Iterator<Item = Json> + 'a {
    let source = move |table: Option<&str>| {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "connector": "litekeep",
            "name": name,
            "ts_ms": transaction.time_ms,
            "table": table,
            "txid": transaction.txid.to_string(),
            "first_txid": transaction.first.to_string(),
            "seq": transaction.seq,
            "position": transaction.point().to_string(),
        })
    };
    let order = move |nth: usize| json!({ "id": transaction.point().to_string(), "total_order": nth + 1 });
    let schema = transaction.schema.iter().enumerate().map(move |(nth, change)| {
        let mut event = schema_change(change);
        event["source"] = source(Some(change.of_table()));
        event["transaction"] = order(transaction.before + nth);
        event["ts_ms"] = json!(now_ms);
        event
    });
    let before_rows = transaction.before + transaction.schema.len();
    let rows = transaction.rows.iter().enumerate().map(move |(nth, event)| {
        let (before, after) = (event.before.as_deref(), event.after.as_deref());
        json!({
            // Debezium's letters: create, update, delete.
            "op": match (before, after) {
                (None, _) => "c",
                (_, None) => "d",
                _ => "u",
            },
            "key": object(&event.key),
            "before": before.map(object),
            "after": after.map(object),
            "source": source(Some(&event.table)),
            "transaction": order(before_rows + nth),
            "ts_ms": now_ms,
        })
    });
    schema.chain(rows)
}

/// `{"schema", "name", "old_sql", "new_sql", "new_name"}`.
pub fn schema_change(change: &SchemaChange) -> Json {
    let row = change.after.as_ref().or(change.before.as_ref());
    json!({
        "schema": row.map(|row| &row.kind),
        "name": row.map(|row| &row.name),
        "old_sql": change.before.as_ref().map(|row| &row.sql),
        "new_sql": change.after.as_ref().map(|row| &row.sql),
        "new_name": change.new_name,
    })
}

/// Named values.
pub fn object(values: &[(String, Value)]) -> Map<String, Json> {
    values.iter().map(|(name, v)| (name.clone(), value(v))).collect()
}

/// The columns of a row by their names.
///
/// # Errors
/// `Corrupt` for a damaged row.
pub fn columns(row: &RowRef<'_>) -> Result<Map<String, Json>, Error> {
    Ok(object(&crate::named(row)?))
}

/// One value.
pub fn value(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(i) => json!(i),
        Value::Real(f) if f.is_finite() => json!(f),
        Value::Real(f) => json!({ "real": if *f > 0.0 { "inf" } else { "-inf" } }),
        Value::Text(text) => match str::from_utf8(text) {
            Ok(text) => json!(text),
            Err(_) => json!({ "text": hex(text) }),
        },
        Value::Blob(bytes) => json!({ "blob": hex(bytes) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    let literal = statements::literal(&Value::Blob(bytes.to_vec()));
    literal[2..literal.len() - 1].to_owned()
}
