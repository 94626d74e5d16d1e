//! What is delivered.

use std::hash::Hasher as _;

use litekeep_rows::feed::Transaction;
use litekeep_rows::json;
use serde_json::Value as Json;
use siphasher::sip::SipHasher13;

/// What stands behind the content of an event.
const SOURCE: &str = ",\"source\":{";

/// One change of a row or of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `TXID-ORDER-HASH`: transaction, place in it, and a hash of the change. The hash keeps events apart that others
    /// would take for repeated ones: of another table, or of transactions that the log has merged since.
    pub id: String,
    /// The table.
    pub table: String,
    /// The event as JSON, without a line break.
    pub line: String,
}

impl Event {
    /// The events of a transaction or of a part of it. `name`: of the database; `now_ms`: the time, milliseconds since the
    /// epoch.
    pub fn of(name: &str, transaction: &Transaction, now_ms: i64) -> Vec<Event> {
        json::envelopes(name, transaction, now_ms)
            .filter_map(|event| Event::new(&event, event.to_string()))
            .collect()
    }

    /// An event that was written as this line, also as JSON; `None` when it is none of ours.
    pub fn read(line: &str) -> Option<(Event, Json)> {
        let json: Json = serde_json::from_str(line).ok()?;
        Some((Event::new(&json, line.to_owned())?, json))
    }

    fn new(json: &Json, line: String) -> Option<Event> {
        let (content, _) = line.rsplit_once(SOURCE)?;
        let (of, source) = (&json["transaction"], &json["source"]);
        if source["connector"] != "litekeep" {
            return None;
        }
        let table = source["table"].as_str()?.to_owned();
        let mut hasher = SipHasher13::new();
        hasher.write(table.as_bytes());
        hasher.write(content.as_bytes());
        let (txid, order) = (of["id"].as_str()?, of["total_order"].as_u64()?);
        Some(Event { id: format!("{txid}-{order}-{:016x}", hasher.finish()), table, line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_ltx::Txid;
    use litekeep_rows::Value;
    use litekeep_rows::feed::RowEvent;

    fn inserted(table: &str, text: &str) -> RowEvent {
        let row = vec![
            ("id".to_owned(), Value::Integer(7)),
            ("source".to_owned(), Value::Blob(text.as_bytes().to_vec())),
        ];
        RowEvent { table: table.to_owned(), key: row[..1].to_vec(), before: None, after: Some(row) }
    }

    fn transaction(rows: Vec<RowEvent>, before: usize) -> Transaction {
        let txid = Txid::new(0x2a).unwrap();
        Transaction {
            txid,
            seq: None,
            end: txid.into(),
            first: txid,
            time_ms: 1,
            schema: vec![],
            rows,
            before,
            is_last: true,
        }
    }

    #[test]
    fn an_id_is_the_events_own_and_stays() {
        let rows = || vec![inserted("a", "x"), inserted("b", "x"), inserted("b", "y")];
        let first = Event::of("app.db", &transaction(rows(), 0), 1000);
        let again = Event::of("app.db", &transaction(rows(), 0), 2000);
        let ids = |events: &[Event]| events.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&first), ids(&again));
        assert_ne!(first[0].line, again[0].line, "they tell when they were written");
        assert!(first[0].id.starts_with("000000000000002a-1-"), "{}", first[0].id);
        let hashes: Vec<_> = first.iter().map(|event| event.id.rsplit('-').next().unwrap()).collect();
        assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2], "{hashes:?}");
        let later = Event::of("app.db", &transaction(rows(), 1000), 1000);
        assert!(later[0].id.starts_with("000000000000002a-1001-"), "{}", later[0].id);
    }

    #[test]
    fn a_line_is_read_back() {
        let events = Event::of("app.db", &transaction(vec![inserted("a", "x")], 0), 1000);
        assert_eq!(Event::read(&events[0].line).unwrap().0, events[0]);
        for other in ["", "x", "{}", "{\"name\":\"x\",\"source\":{}}"] {
            assert_eq!(Event::read(other), None, "{other}");
        }
    }
}
