//! A table under all names that it had.

use anyhow::Result;
use litekeep_format::TableLayout;
use litekeep_ltx::Point;
use litekeep_rows::feed::Feed;
use litekeep_rows::{Error, Kind, SchemaChange, SchemaRow};
use litekeep_sql::TableReader;

/// How the schema changed, transaction by transaction.
#[derive(Default)]
pub(super) struct Schemas {
    changes: Vec<(Point, Vec<SchemaChange>)>,
    /// Why no more could be read.
    pub(super) failed: Option<Error>,
}

impl Schemas {
    /// Reads what a feed has of them. What cannot be read ends it: what is before that is told all the same.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(super) async fn read(mut feed: Feed) -> Result<Schemas, Error> {
        let mut schemas = Schemas::default();
        loop {
            match feed.next().await {
                Ok(Some(transaction)) if transaction.schema.is_empty() => {}
                Ok(Some(transaction)) => schemas.changes.push((transaction.point(), transaction.schema)),
                Ok(None) => return Ok(schemas),
                Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                Err(error) => {
                    schemas.failed = Some(error);
                    return Ok(schemas);
                }
            }
        }
    }
}

/// A name of the table, and when it was its name.
struct Name {
    name: String,
    after: Option<Point>,
    until: Option<Point>,
}

/// The names that a table had. Empty: all tables are asked for.
#[derive(Default)]
pub(super) struct Names(Vec<Name>);

/// The table as a statement has made it.
pub(super) struct State {
    pub(super) table: String,
    pub(super) sql: String,
    pub(super) layout: TableLayout,
}

impl Names {
    pub(super) fn of(table: &str, schemas: &Schemas) -> Names {
        let mut names = Names(vec![Name { name: table.to_owned(), after: None, until: None }]);
        // Each of them may lead to one more.
        while schemas.changes.iter().any(|(at, schema)| names.add_other(schema, *at)) {}
        names
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.0.iter().map(|own| own.name.clone()).collect()
    }

    /// Whether this is the table, up to a point.
    pub(super) fn has(&self, name: &str, at: Point) -> bool {
        let is_then = |own: &Name| {
            own.after.is_none_or(|after| after < at) && own.until.is_none_or(|until| at <= until)
        };
        self.0.is_empty() || self.0.iter().any(|own| own.name.eq_ignore_ascii_case(name) && is_then(own))
    }

    /// Whether it is from a point on.
    fn has_then(&self, name: &str, at: Point) -> bool {
        let is_then = |own: &Name| {
            own.after.is_none_or(|after| after <= at) && own.until.is_none_or(|until| at < until)
        };
        self.0.iter().any(|own| own.name.eq_ignore_ascii_case(name) && is_then(own))
    }

    /// Adds the other name of a table that was renamed, where it is new.
    fn add_other(&mut self, schema: &[SchemaChange], at: Point) -> bool {
        for change in schema {
            let (Some(old), Some(new)) = (&change.before, &change.new_name) else { continue };
            let is_known = |name: &str| self.0.iter().any(|own| own.name.eq_ignore_ascii_case(name));
            let other = if self.has(new, at) && !is_known(&old.name) {
                Name { name: old.name.clone(), after: None, until: Some(at) }
            } else if self.has(&old.name, at) && !is_known(new) && made(schema, &old.name).is_none() {
                Name { name: new.clone(), after: Some(at), until: None }
            } else {
                continue;
            };
            self.0.push(other);
            return true;
        }
        false
    }

    /// The states of the table, the first of them first. None: it was never altered.
    ///
    /// # Errors
    /// When SQLite cannot read a statement of the schema.
    pub(super) fn states(&self, schemas: &Schemas) -> Result<Vec<State>> {
        let reader = TableReader::new()?;
        let mut states: Vec<State> = Vec::new();
        let alterations = schemas.changes.iter().flat_map(|(at, schema)| self.alterations(schema, *at));
        for row in alterations.flat_map(|(before, after)| [before, after]).flatten() {
            if states.last().is_none_or(|last| (&last.table, &last.sql) != (&row.name, &row.sql)) {
                let layout = reader.read(&row.name, &row.sql, true)?;
                states.push(State { table: row.name.clone(), sql: row.sql.clone(), layout });
            }
        }
        Ok(states)
    }

    /// The table as it was and as it is, where that differs.
    fn alterations<'a>(
        &self,
        schema: &'a [SchemaChange],
        at: Point,
    ) -> Vec<(Option<&'a SchemaRow>, Option<&'a SchemaRow>)> {
        let is_table = |row: &&SchemaRow| row.kind == "table" && row.root.is_some();
        let is_new_name = |name: &str| schema.iter().any(|change| change.new_name.as_deref() == Some(name));
        let of = |change: &'a SchemaChange| {
            let before = change.before.as_ref().filter(is_table);
            let after = change.after.as_ref().filter(is_table);
            match (before, after, &change.new_name) {
                (Some(before), None, Some(new)) if self.has(&before.name, at) => {
                    Some((Some(before), made(schema, new)))
                }
                (Some(before), after, None) if self.has(&before.name, at) => Some((Some(before), after)),
                (None, Some(after), None) if self.has_then(&after.name, at) && !is_new_name(&after.name) => {
                    Some((None, Some(after)))
                }
                _ => None,
            }
        };
        schema.iter().filter_map(of).collect()
    }
}

/// What has come under a name.
fn made<'a>(schema: &'a [SchemaChange], name: &str) -> Option<&'a SchemaRow> {
    let mut new = schema.iter().filter(|change| change.before.is_none()).filter_map(|c| c.after.as_ref());
    new.find(|row| row.name == name)
}
