//! Documents of a collection as rows of its table.

use std::collections::HashMap;

use bson::{Bson, Document};
use litekeep_schema::portable::Affinity;
use litekeep_sql::{MirrorColumn, MirrorTable};
use litekeep_sync::source::{SourceTable, SourceType, Unfit};
use litekeep_sync::{Error, Kind, Value};

use super::form::{Inward, is_nothing};
use super::json;

/// The field that is the key.
pub(super) const ID: &str = "_id";
/// Columns that a table of SQLite has at most.
pub(super) const COLUMNS: usize = 2_000;

/// A table, and how documents are its rows.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) table: SourceTable,
    forms: Vec<(Inward, Affinity)>,
    /// The columns beside the key, by the names of their fields.
    fields: HashMap<String, usize>,
}

/// A document as a row.
pub(super) struct Taken {
    pub(super) row: Result<Vec<Value>, Unfit>,
    /// Fields that the table has no column for, with what their columns would be.
    pub(super) more: Vec<(String, Inward)>,
}

/// A part of a document as a part of a row.
pub(super) struct Part {
    pub(super) row: Result<Vec<Option<Value>>, String>,
    pub(super) more: Vec<(String, Inward)>,
}

impl Layout {
    pub(super) fn of(table: &SourceTable) -> Result<Layout, Error> {
        let damaged =
            || Error::new(Kind::Corrupt, format!("read the plan of `{}`: a type is none", table.source));
        let of = |(column, kind): (&MirrorColumn, &SourceType)| {
            let inward = serde_json::from_str(&kind.form).ok()?;
            Some((inward, Affinity::of(&column.declared)))
        };
        let pairs = table.mirror.columns.iter().zip(&table.types);
        let forms: Vec<_> = pairs.map(of).collect::<Option<_>>().ok_or_else(damaged)?;
        let columns = table.mirror.columns.iter().enumerate();
        let beside = columns.filter(|(nth, _)| !table.mirror.key.contains(nth));
        let fields = beside.map(|(nth, column)| (column.name.clone(), nth)).collect();
        Ok(Layout { table: table.clone(), forms, fields })
    }

    fn key_columns(&self) -> &[usize] {
        &self.table.mirror.key
    }

    fn name(&self, nth: usize) -> &str {
        &self.table.mirror.columns[nth].name
    }

    /// The key of a document.
    pub(super) fn key(&self, id: Option<&Bson>) -> Result<Vec<Value>, Unfit> {
        let id = id.unwrap_or(&Bson::Null);
        let unfit = |reason: String| Unfit { key: vec![Value::Text(json::text(id).into_bytes())], reason };
        let part = |nth: usize, value: &Bson| {
            let (inward, affinity) = self.forms[nth];
            inward.key(affinity, value).map_err(|why| unfit(format!("`{}`: {why}", self.name(nth))))
        };
        match (self.key_columns(), id) {
            ([only], id) => Ok(vec![part(*only, id)?]),
            (several, Bson::Document(parts)) => {
                let names = parts.keys().map(String::as_str);
                if !names.eq(several.iter().map(|nth| self.name(*nth))) {
                    let wanted: Vec<&str> = several.iter().map(|nth| self.name(*nth)).collect();
                    let wanted = wanted.join(", ");
                    return Err(unfit(format!("`{ID}`: it has not the fields {wanted}, in this order")));
                }
                several.iter().zip(parts.values()).map(|(nth, value)| part(*nth, value)).collect()
            }
            _ => Err(unfit(format!("`{ID}`: it is no document, and the other keys are"))),
        }
    }

    /// A key as it is there; `None`: none is so.
    pub(super) fn id(&self, key: &[Value]) -> Option<Bson> {
        let part = |(nth, value): (&usize, &Value)| self.forms[*nth].0.bson(value);
        match (self.key_columns(), key) {
            ([only], [value]) => part((only, value)),
            (several, values) if several.len() == values.len() => {
                let mut id = Document::new();
                for (nth, value) in several.iter().zip(values) {
                    id.insert(self.name(*nth), part((nth, value))?);
                }
                Some(Bson::Document(id))
            }
            _ => None,
        }
    }

    /// A key as it is there. `Err`: why no document can have it.
    pub(super) fn written_key(&self, key: &[Value]) -> Result<Bson, String> {
        let is_null = |value: &Value| *value == Value::Null;
        let id = match key.iter().any(is_null) {
            true => Err(format!("`{ID}`: it is in the primary key and NULL")),
            false => self.id(key).ok_or_else(|| format!("`{ID}`: no key there is so")),
        }?;
        match self.key(Some(&id)) {
            Ok(comes) if comes == key => Ok(id),
            Ok(_) => Err(format!("`{ID}`: it would not come back as it is")),
            Err(unfit) => Err(unfit.reason),
        }
    }

    /// A row as a document.
    pub(super) fn document(&self, row: &[Value]) -> Result<Document, String> {
        let key: Vec<Value> = self.key_columns().iter().map(|nth| row[*nth].clone()).collect();
        let mut document = Document::new();
        document.insert(ID, self.written_key(&key)?);
        for (nth, value) in row.iter().enumerate().filter(|(nth, _)| !self.key_columns().contains(nth)) {
            document.insert(self.name(nth), self.written(nth, value, None)?);
        }
        Ok(document)
    }

    /// The fields that a document gets so that it is a row. What is as it was stays what it is there.
    pub(super) fn change(&self, old: &Document, row: &[Value]) -> Result<Document, String> {
        let mut change = Document::new();
        for (nth, value) in row.iter().enumerate().filter(|(nth, _)| !self.key_columns().contains(nth)) {
            let name = self.name(nth);
            let found = old.get(name);
            let is = found.map_or(Ok(Value::Null), |found| self.value(nth, found));
            if is.as_ref() != Ok(value) {
                change.insert(name, self.written(nth, value, found)?);
            }
        }
        Ok(change)
    }

    fn written(&self, nth: usize, value: &Value, old: Option<&Bson>) -> Result<Bson, String> {
        let (inward, affinity) = self.forms[nth];
        inward.written(affinity, value, old).map_err(|why| format!("`{}`: {why}", self.name(nth)))
    }

    /// A document as a row.
    pub(super) fn row(&self, document: &Document) -> Taken {
        let mut more = vec![];
        let key = match self.key(document.get(ID)) {
            Ok(key) => key,
            Err(unfit) => return Taken { row: Err(unfit), more },
        };
        let mut row = vec![Value::Null; self.forms.len()];
        let mut why = None;
        for (name, value) in document.iter().filter(|(name, _)| *name != ID) {
            match self.fields.get(name) {
                Some(nth) => match self.value(*nth, value) {
                    Ok(value) => row[*nth] = value,
                    Err(reason) => why = why.or(Some(reason)),
                },
                None => more.extend(Inward::of(value).map(|inward| (name.clone(), inward))),
            }
        }
        if let Some(reason) = why {
            return Taken { row: Err(Unfit { key, reason }), more };
        }
        for (nth, value) in self.key_columns().iter().zip(key) {
            row[*nth] = value;
        }
        Taken { row: Ok(row), more }
    }

    /// What of a row is otherwise.
    pub(super) fn part<'a>(&self, fields: impl Iterator<Item = (&'a str, &'a Bson)>) -> Part {
        let mut part = Part { row: Ok(vec![None; self.forms.len()]), more: vec![] };
        for (name, value) in fields {
            let Some(nth) = self.fields.get(name) else {
                part.more.extend(Inward::of(value).map(|inward| (name.to_owned(), inward)));
                continue;
            };
            match (self.value(*nth, value), &mut part.row) {
                (Ok(value), Ok(row)) => row[*nth] = Some(value),
                (Err(reason), row @ Ok(_)) => *row = Err(reason),
                (_, Err(_)) => {}
            }
        }
        part
    }

    fn value(&self, nth: usize, found: &Bson) -> Result<Value, String> {
        if is_nothing(found) {
            return Ok(Value::Null);
        }
        let (inward, affinity) = self.forms[nth];
        inward.value(affinity, found).map_err(|why| format!("`{}`: {why}", self.name(nth)))
    }

    /// With further columns. `Err`: why it cannot have them.
    pub(super) fn with(&self, more: Vec<(String, Inward)>) -> Result<Layout, String> {
        let mut table = self.table.clone();
        for (name, inward) in more {
            if table.mirror.columns[self.forms.len()..].iter().any(|column| column.name == name) {
                continue;
            }
            if let Some(why) = no_column(&table.mirror, &name) {
                return Err(why);
            }
            table.mirror.columns.push(column(&name, inward.declared()));
            table.types.push(kind(inward));
        }
        Layout::of(&table).map_err(|e| e.to_string())
    }
}

/// Why a field can have no column beside the others.
pub(super) fn no_column(mirror: &MirrorTable, name: &str) -> Option<String> {
    if mirror.columns.len() >= COLUMNS {
        return Some(format!("it has more fields than a table of SQLite has columns, which are {COLUMNS}"));
    }
    let other = mirror.columns.iter().find(|other| other.name.to_lowercase() == name.to_lowercase())?;
    Some(match &other.name {
        other if other == name => {
            format!("its field `{name}` has the name of a column of the key: rename it there")
        }
        other => {
            format!("its fields `{other}` and `{name}` are one column for SQLite: rename one of them there")
        }
    })
}

pub(super) fn column(name: &str, declared: &str) -> MirrorColumn {
    MirrorColumn { name: name.to_owned(), declared: declared.to_owned(), is_not_null: false }
}

pub(super) fn kind(inward: Inward) -> SourceType {
    let form = serde_json::to_string(&inward).unwrap_or_default();
    SourceType { name: inward.name().to_owned(), form }
}

#[cfg(test)]
mod tests {
    use super::super::form::DATE;
    use super::*;
    use bson::oid::ObjectId;
    use bson::{bson, doc};
    use litekeep_sql::MirrorRules;
    use litekeep_sync::source::Part;

    fn layout(columns: &[(&str, Inward)], key: &[usize]) -> Layout {
        let mirror = MirrorTable {
            name: "t".to_owned(),
            columns: columns.iter().map(|(name, inward)| column(name, inward.declared())).collect(),
            key: key.to_vec(),
            indexes: vec![],
            rules: MirrorRules::default(),
        };
        let types = columns.iter().map(|(_, inward)| kind(*inward)).collect();
        Layout::of(&SourceTable { source: "t".to_owned(), types, mirror, part: Part::default() }).unwrap()
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn documents_are_rows_whatever_the_order_of_their_fields() {
        let layout = layout(&[("_id", Inward::ObjectId), ("a", Inward::Integer), ("b", Inward::Text)], &[0]);
        let id = ObjectId::parse_str("0123456789abcdef01234567").unwrap();
        let taken = layout.row(&doc! { "b": "x", "_id": id, "a": 7_i32 });
        assert_eq!(taken.row, Ok(vec![text("0123456789abcdef01234567"), Value::Integer(7), text("x")]));
        let taken = layout.row(&doc! { "_id": id, "a": null, "c": 1.5, "d": null });
        assert_eq!(taken.row, Ok(vec![text("0123456789abcdef01234567"), Value::Null, Value::Null]));
        assert_eq!(taken.more, [("c".to_owned(), Inward::Real)]);
        assert_eq!(layout.id(&[text("0123456789abcdef01234567")]), Some(Bson::ObjectId(id)));
        let unfit = layout.row(&doc! { "_id": id, "b": 5_i32, "a": true }).row.unwrap_err();
        assert_eq!(unfit.key, [text("0123456789abcdef01234567")]);
        assert_eq!(unfit.reason, "`b`: it is a number, and the column holds text");
        let unfit = layout.row(&doc! { "_id": "0123456789abcdef01234567" }).row.unwrap_err();
        assert_eq!(unfit.reason, "`_id`: it is text, and the other keys are ObjectIds");
        assert_eq!(unfit.key, [text("\"0123456789abcdef01234567\"")]);
    }

    #[test]
    fn keys_of_several_columns_have_their_order() {
        let layout =
            layout(&[("a", Inward::Integer), ("x", Inward::Any), ("b", Inward::Date(DATE))], &[2, 0]);
        let date = bson::DateTime::from_millis(0);
        let id = bson!({ "b": date, "a": 1_i64 });
        let key = layout.key(Some(&id)).unwrap();
        assert_eq!(key, [text("1970-01-01T00:00:00.000Z"), Value::Integer(1)]);
        assert_eq!(layout.id(&key), Some(id.clone()));
        let row = layout.row(&doc! { "_id": id, "x": [1_i32] }).row.unwrap();
        assert_eq!(row[1], text(r#"[{"$numberInt":"1"}]"#));
        for other in [
            bson!({ "a": 1_i64, "b": date }),
            bson!({ "b": date }),
            bson!(7),
            bson!({ "b": date, "a": null }),
        ] {
            assert!(layout.key(Some(&other)).is_err(), "{other}");
        }
        assert!(layout.key(None).is_err());
    }

    #[test]
    fn what_was_not_changed_stays_as_it_is_there() {
        let columns = [
            ("id", Inward::Integer),
            ("n", Inward::Integer),
            ("any", Inward::Any),
            ("json", Inward::Json),
            ("at", Inward::Date(DATE)),
        ];
        let layout = layout(&columns, &[0]);
        let old = doc! { "any": { "a": 1_i32 }, "_id": 1_i32, "n": 7.0, "json": [1_i32] };
        let mut row = layout.row(&old).row.unwrap();
        assert_eq!(layout.change(&old, &row), Ok(doc! {}));
        row[1] = Value::Integer(8);
        row[2] = text(r#"{"a":{"$numberLong":"2"}}"#);
        row[4] = text("2026-01-01T00:00:00.000Z");
        let date = bson::DateTime::from_millis(1_767_225_600_000);
        assert_eq!(layout.change(&old, &row), Ok(doc! { "n": 8_i64, "any": { "a": 2_i64 }, "at": date }));
        let whole = layout.document(&row).unwrap();
        assert_eq!(layout.row(&whole).row, Ok(row.clone()));
        assert_eq!(
            whole.get("any"),
            Some(&bson!(r#"{"a":{"$numberLong":"2"}}"#)),
            "nobody says what else it is"
        );
        row[3] = text(r#"[1, 2]"#);
        let why = layout.change(&old, &row).unwrap_err();
        assert!(why.contains("canonical extended JSON") && why.contains("numberInt"), "{why}");
        assert!(layout.written_key(&[text("x")]).unwrap_err().contains("text"));
        assert!(layout.written_key(&[Value::Null]).unwrap_err().contains("NULL"));
    }

    #[test]
    fn further_columns_are_those_that_sqlite_can_tell_apart() {
        let layout = layout(&[("_id", Inward::Integer), ("a", Inward::Text)], &[0]);
        let longer =
            layout.with(vec![("b".to_owned(), Inward::Real), ("b".to_owned(), Inward::Text)]).unwrap();
        assert_eq!(longer.table.mirror.columns[2], column("b", "REAL"));
        assert_eq!(longer.row(&doc! { "_id": 1_i32, "b": 2_i32 }).row.unwrap()[2], Value::Real(2.0));
        let why = layout.with(vec![("A".to_owned(), Inward::Real)]).unwrap_err();
        assert!(why.contains("`a` and `A`"), "{why}");
        let many = (0..COLUMNS).map(|nth| (format!("f{nth}"), Inward::Any)).collect();
        assert!(layout.with(many).unwrap_err().contains("more fields than"));
        let part = longer.part([("b", &bson!(1.5)), ("c", &bson!("x"))].into_iter());
        assert_eq!(part.row, Ok(vec![None, None, Some(Value::Real(1.5))]));
        assert_eq!(part.more, [("c".to_owned(), Inward::Text)]);
    }
}
