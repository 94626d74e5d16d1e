//! What tables of PostgreSQL forbid and supply by themselves, for a copy of which the server is not the keeper any more.

use std::collections::{BTreeMap, HashMap, HashSet};

use litekeep_schema::portable::Level;
use litekeep_schema::portable::postgres::{Inward, default};
use litekeep_sql::{MirrorForeignKey, MirrorRules, MirrorTable};
use litekeep_sync::Error;
use litekeep_sync::source::SourceType;

use crate::session::Session;

/// The rules of a schema.
pub(crate) struct Rules {
    /// By table and column.
    defaults: HashMap<(String, String), String>,
    /// Indexes by their names, which are one space.
    unique: HashSet<String>,
    /// By table.
    foreign_keys: HashMap<String, Vec<ForeignKey>>,
    /// How many CHECKs a table has.
    checks: HashMap<String, i64>,
}

struct ForeignKey {
    columns: Vec<String>,
    schema_is_other: bool,
    parent: String,
    parent_columns: Vec<String>,
    actions: String,
}

impl Rules {
    pub(crate) async fn read(session: &Session, schema: &str) -> Result<Rules, Error> {
        const READ: &str = "read the rules of tables";
        let sql = "SELECT c.relname::text, a.attname::text, pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d \
                   JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                   JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
                   WHERE n.nspname = $1 AND a.attgenerated = ''";
        let rows = session.rows(READ, sql, &[schema]).await?;
        let defaults = rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
        // Where two NULLs are the same, SQLite has not the like.
        let sql = "SELECT o.relname::text FROM pg_index i JOIN pg_class o ON o.oid = i.indexrelid \
                   JOIN pg_namespace n ON n.oid = o.relnamespace \
                   WHERE n.nspname = $1 AND i.indisunique AND NOT coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)";
        let unique = session.rows(READ, sql, &[schema]).await?.iter().map(|row| row.get(0)).collect();
        let sql = "SELECT c.relname::text, n2.nspname <> $1, p.relname::text, k.confupdtype::text, k.confdeltype::text, k.condeferrable, \
                   (SELECT array_agg(a.attname::text ORDER BY x.place) FROM unnest(k.conkey) WITH ORDINALITY AS x(attnum, place) \
                    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.attnum), \
                   (SELECT array_agg(a.attname::text ORDER BY x.place) FROM unnest(k.confkey) WITH ORDINALITY AS x(attnum, place) \
                    JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.attnum) \
                   FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                   JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace n2 ON n2.oid = p.relnamespace \
                   WHERE k.contype = 'f' AND k.conparentid = 0 AND n.nspname = $1 ORDER BY k.conname";
        let mut foreign_keys: HashMap<String, Vec<ForeignKey>> = HashMap::new();
        for row in session.rows(READ, sql, &[schema]).await? {
            let action = |what: &str, letter: &str| match letter {
                "r" => format!(" ON {what} RESTRICT"),
                "c" => format!(" ON {what} CASCADE"),
                "n" => format!(" ON {what} SET NULL"),
                "d" => format!(" ON {what} SET DEFAULT"),
                _ => String::new(),
            };
            let deferrable = if row.get(5) { " DEFERRABLE INITIALLY DEFERRED" } else { "" };
            let actions =
                format!("{}{}{deferrable}", action("UPDATE", row.get(3)), action("DELETE", row.get(4)));
            let (schema_is_other, parent) = (row.get(1), row.get(2));
            let key = ForeignKey {
                columns: row.get(6),
                schema_is_other,
                parent,
                parent_columns: row.get(7),
                actions,
            };
            foreign_keys.entry(row.get(0)).or_default().push(key);
        }
        let sql = "SELECT c.relname::text, count(*) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
                   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE k.contype = 'c' AND n.nspname = $1 GROUP BY 1";
        let checks =
            session.rows(READ, sql, &[schema]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(Rules { defaults, unique, foreign_keys, checks })
    }

    /// Those of a table; what has no like is told. `here`: the name of a table that is wanted.
    pub(crate) fn of(
        &self,
        (table, types): (&str, &[SourceType]),
        mirror: &MirrorTable,
        here: impl Fn(&str) -> Option<String>,
        mut note: impl FnMut(Option<&str>, Level, String),
    ) -> MirrorRules {
        let mut defaults = BTreeMap::new();
        for (nth, (column, kind)) in mirror.columns.iter().zip(types).enumerate() {
            let Some(expression) = self.defaults.get(&(table.to_owned(), column.name.clone())) else {
                continue;
            };
            // A rowid numbers itself.
            if mirror.key == [nth] && expression.starts_with("nextval(") {
                continue;
            }
            let form = serde_json::from_str(&kind.form).unwrap_or(Inward::Text);
            match default(expression, form) {
                Some(text) => _ = defaults.insert(nth, text),
                None => note(
                    Some(&column.name),
                    Level::Rule,
                    format!("its default `{expression}` is not translated"),
                ),
            }
        }
        let is_unique = |nth: &usize| self.unique.contains(&mirror.indexes[*nth].0);
        let unique = (0..mirror.indexes.len()).filter(is_unique).collect();
        let mut foreign_keys = vec![];
        for key in self.foreign_keys.get(table).into_iter().flatten() {
            let place = |name: &String| mirror.columns.iter().position(|column| column.name == *name);
            let columns: Option<Vec<usize>> = key.columns.iter().map(place).collect();
            let parent = if key.schema_is_other { None } else { here(&key.parent) };
            match (columns, parent) {
                (Some(columns), Some(parent)) => {
                    let (parent_columns, actions) = (key.parent_columns.clone(), key.actions.clone());
                    foreign_keys.push(MirrorForeignKey { columns, parent, parent_columns, actions });
                }
                _ => {
                    let message =
                        format!("its foreign key to `{}`, which does not come, is left out", key.parent);
                    note(None, Level::Rule, message);
                }
            }
        }
        if self.checks.contains_key(table) {
            note(None, Level::Rule, "its CHECK constraints are not translated".to_owned());
        }
        MirrorRules { defaults, unique, foreign_keys }
    }
}
