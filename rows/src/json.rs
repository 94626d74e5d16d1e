//! Changes as JSON.
//!
//! A blob is `{"blob": "HEX"}`, an infinite real `{"real": "inf"}` or `{"real": "-inf"}`; all else is JSON's own. Text that is
//! no UTF-8 is shown with replacement characters.

use crate::feed::{RowEvent, Transaction};
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
/// the schema come first; of a part only its own. `name`: of the database; `now_ms`: when this is written, milliseconds since the epoch.
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
    let before = transaction.before + transaction.schema.len();
    let rows = transaction.rows.iter().enumerate().map(move |(nth, event)| {
        json!({
            "op": event.op(),
            "key": object(&event.key),
            "before": event.before.as_ref().map(|row| object(row)),
            "after": event.after.as_ref().map(|row| object(row)),
            "source": source(Some(&event.table)),
            "transaction": order(before + nth),
            "ts_ms": now_ms,
        })
    });
    schema.chain(rows)
}

impl RowEvent {
    /// Debezium's letter: create, update, delete.
    fn op(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "c",
            (_, None) => "d",
            _ => "u",
        }
    }
}

/// `{"schema", "name", "old_sql", "new_sql"}`.
pub fn schema_change(change: &SchemaChange) -> Json {
    let row = change.after.as_ref().or(change.before.as_ref());
    json!({
        "schema": row.map(|row| &row.kind),
        "name": row.map(|row| &row.name),
        "old_sql": change.before.as_ref().map(|row| &row.sql),
        "new_sql": change.after.as_ref().map(|row| &row.sql),
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
        Value::Text(text) => json!(String::from_utf8_lossy(text)),
        Value::Blob(bytes) => {
            let literal = statements::literal(&Value::Blob(bytes.clone()));
            json!({ "blob": literal[2..literal.len() - 1] })
        }
    }
}
