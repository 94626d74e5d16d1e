//! Rows as documents.

use bson::oid::ObjectId;
use bson::raw::{CStr, RawBinaryRef, RawBsonRef, RawDocument, RawDocumentBuf};
use bson::spec::BinarySubtype;
use bson::{Bson, DateTime, Decimal128, Document, RawArrayBuf, doc, rawdoc};
use litekeep_schema::portable::mongodb::{Column, MongoType, Stored, Table};
use litekeep_sync::{Refused, Value};

/// The field that is the key.
pub(super) const ID: &str = "_id";
/// Bytes that a document has at most.
pub(super) const LARGEST: usize = 16 << 20;
/// What a field is taken for that is not there: the type `undefined`.
const ABSENT: u8 = 6;

/// The document of a row. `key`: what the row is known by. One of a table without a key gets a number of its own.
pub(super) fn of_row(
    (nth, table): (usize, &Table),
    key: &[Value],
    row: &[Value],
) -> Result<RawDocumentBuf, Refused> {
    let refused = |reason: String| Refused { table: nth, key: key.to_vec(), reason };
    let mut document = match &table.key[..] {
        [] => rawdoc! { "_id": ObjectId::new() },
        key => {
            let values: Vec<Value> = key.iter().map(|nth| row[*nth].clone()).collect();
            of_key(table, &values).map_err(refused)?
        }
    };
    for (nth, (column, value)) in table.columns.iter().zip(row).enumerate() {
        if table.key.contains(&nth) {
            continue;
        }
        let stored = stored(column, value).map_err(refused)?;
        if table.key.is_empty() && matches!(stored, Stored::Double(f) if f == 0.0 && f.is_sign_negative()) {
            let name = &column.name;
            return Err(refused(format!(
                "`{name}`: a negative zero cannot be told from zero there, and the table has no key"
            )));
        }
        append(&mut document, &column.name, &stored).map_err(refused)?;
    }
    let size = document.as_bytes().len();
    if size > LARGEST {
        return Err(refused(format!("it has {size} bytes, and a document there {LARGEST} at most")));
    }
    Ok(document)
}

/// A document that has only the key of a row.
pub(super) fn of_key(table: &Table, key: &[Value]) -> Result<RawDocumentBuf, String> {
    let mut document = RawDocumentBuf::new();
    let parts = table.key.iter().map(|nth| &table.columns[*nth]).zip(key);
    match &table.key[..] {
        [_] => {
            for (column, value) in parts {
                append(&mut document, ID, &key_part(column, value)?)?;
            }
        }
        _ => {
            let mut id = RawDocumentBuf::new();
            for (column, value) in parts {
                append(&mut id, &column.name, &key_part(column, value)?)?;
            }
            document.append(bson::cstr!("_id"), &id);
        }
    }
    Ok(document)
}

/// What finds documents of a table without a key that are exactly a row.
pub(super) fn whole(table: &Table, row: &[Value]) -> Result<RawDocumentBuf, String> {
    let mut conditions = RawArrayBuf::new();
    for (column, value) in table.columns.iter().zip(row) {
        let stored = stored(column, value)?;
        let mut is = RawDocumentBuf::new();
        append(&mut is, "$eq", &stored)?;
        // A number is equal to the same one of another type, and null to a field that is not there.
        append(&mut is, "$type", &Stored::Text(type_of(&stored).into()))?;
        let mut condition = RawDocumentBuf::new();
        condition.append(name(&column.name)?, &is);
        conditions.push(condition);
    }
    Ok(match row.is_empty() {
        true => RawDocumentBuf::new(),
        false => rawdoc! { "$and": conditions },
    })
}

/// The value of a field, for a document that is put together of others.
pub(super) fn bson(column: MongoType, value: &Value) -> Option<Bson> {
    Some(match column.encode(value).ok()? {
        Stored::Null => Bson::Null,
        Stored::Long(i) => Bson::Int64(i),
        Stored::Double(f) => Bson::Double(f),
        Stored::Text(text) => Bson::String(text.into_owned()),
        Stored::Bytes(bytes) => {
            Bson::Binary(bson::Binary { subtype: BinarySubtype::Generic, bytes: bytes.into_owned() })
        }
        Stored::Bool(is) => Bson::Boolean(is),
        Stored::Millis(millis) => Bson::DateTime(DateTime::from_millis(millis)),
        Stored::Decimal(text) => Bson::Decimal128(text.parse().ok()?),
    })
}

/// The row of a document. What is no value of its column is a blob of what it is.
pub(super) fn row(table: &Table, document: &RawDocument) -> Vec<Value> {
    let fields = fields(document);
    let id = fields.iter().find(|(name, _)| *name == ID).map(|(_, value)| *value);
    let parts = match id {
        Some(RawBsonRef::Document(parts)) if table.key.len() > 1 => self::fields(parts),
        _ => vec![],
    };
    let found = |nth: usize, column: &Column| match (table.key.contains(&nth), table.key.len()) {
        (true, 1) => id,
        (true, _) => field(&parts, nth, &column.name),
        (false, _) => field(&fields, nth, &column.name),
    };
    table.columns.iter().enumerate().map(|(nth, column)| value(column.kind, found(nth, column))).collect()
}

type Fields<'a> = Vec<(&'a str, RawBsonRef<'a>)>;

fn fields(document: &RawDocument) -> Fields<'_> {
    document.iter().map_while(Result::ok).map(|(name, value)| (name.as_str(), value)).collect()
}

/// Near its own place, where it is as we have written it.
fn field<'a>(fields: &Fields<'a>, near: usize, name: &str) -> Option<RawBsonRef<'a>> {
    let first = near.saturating_sub(2).min(fields.len());
    let found = fields[first..].iter().chain(&fields[..first]).find(|(found, _)| *found == name);
    found.map(|(_, value)| *value)
}

fn value(kind: MongoType, found: Option<RawBsonRef<'_>>) -> Value {
    let Some(found) = found else { return Value::Blob(vec![ABSENT]) };
    let stored = match found {
        RawBsonRef::Null => Stored::Null,
        RawBsonRef::Int64(i) => Stored::Long(i),
        RawBsonRef::Double(f) => Stored::Double(f),
        RawBsonRef::String(text) => Stored::Text(text.into()),
        RawBsonRef::Binary(RawBinaryRef { subtype: BinarySubtype::Generic, bytes }) => {
            Stored::Bytes(bytes.into())
        }
        RawBsonRef::Boolean(is) => Stored::Bool(is),
        RawBsonRef::DateTime(time) => Stored::Millis(time.timestamp_millis()),
        RawBsonRef::Decimal128(decimal) => Stored::Decimal(decimal.to_string().into()),
        other => return foreign(other),
    };
    kind.decode(&stored).unwrap_or_else(|| foreign(found))
}

/// The type and the words of a value that is none of ours.
fn foreign(found: RawBsonRef<'_>) -> Value {
    let mut bytes = vec![found.element_type() as u8];
    bytes.extend_from_slice(format!("{found:?}").as_bytes());
    Value::Blob(bytes)
}

fn key_part<'a>(column: &Column, value: &'a Value) -> Result<Stored<'a>, String> {
    match value {
        Value::Null => Err(format!("`{}`: it is in the primary key and NULL", column.name)),
        value => stored(column, value),
    }
}

fn stored<'a>(column: &Column, value: &'a Value) -> Result<Stored<'a>, String> {
    column.kind.encode(value).map_err(|refusal| format!("`{}`: {refusal}", column.name))
}

fn name(name: &str) -> Result<&CStr, String> {
    name.try_into().map_err(|_| format!("`{name}`: no field can be called so"))
}

fn append(document: &mut RawDocumentBuf, field: &str, stored: &Stored<'_>) -> Result<(), String> {
    let name = name(field)?;
    match stored {
        Stored::Null => document.append(name, RawBsonRef::Null),
        Stored::Long(i) => document.append(name, *i),
        Stored::Double(f) => document.append(name, *f),
        Stored::Text(text) => document.append(name, &**text),
        Stored::Bytes(bytes) => {
            document.append(name, RawBinaryRef { subtype: BinarySubtype::Generic, bytes })
        }
        Stored::Bool(is) => document.append(name, *is),
        Stored::Millis(millis) => document.append(name, DateTime::from_millis(*millis)),
        Stored::Decimal(text) => {
            let decimal: Decimal128 =
                text.parse().map_err(|_| format!("`{field}`: it is no decimal number there"))?;
            document.append(name, decimal);
        }
    }
    Ok(())
}

fn type_of(stored: &Stored<'_>) -> &'static str {
    match stored {
        Stored::Null => "null",
        Stored::Long(_) => "long",
        Stored::Double(_) => "double",
        Stored::Text(_) => "string",
        Stored::Bytes(_) => "binData",
        Stored::Bool(_) => "bool",
        Stored::Millis(_) => "date",
        Stored::Decimal(_) => "decimal",
    }
}

/// What an index is made of.
pub(crate) fn index(table: &Table, index: &litekeep_schema::portable::mongodb::Index) -> Document {
    let mut key = Document::new();
    for part in &index.parts {
        key.insert(table.path(part.column), if part.is_descending { -1 } else { 1 });
    }
    let mut made = doc! { "key": key, "name": &index.name };
    if index.is_unique {
        made.insert("unique", true);
    }
    let mut filter = Document::new();
    for nth in table.not_null_in(index) {
        filter.insert(table.path(nth), doc! { "$type": Table::values().to_vec() });
    }
    if !filter.is_empty() {
        made.insert("partialFilterExpression", filter);
    }
    made
}
