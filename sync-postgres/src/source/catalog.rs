//! What a server is asked of its tables.

use std::collections::HashMap;

use litekeep_schema::portable::postgres::quoted;
use litekeep_sync::Error;
use litekeep_sync::source::{SourceTable, SourceType};

use super::{PostgresSource, kind};

/// A column as the server describes it.
pub(crate) struct FoundColumn {
    pub(crate) table: String,
    pub(crate) name: String,
    pub(super) is_not_null: bool,
    pub(super) kind: SourceType,
    pub(super) is_generated: bool,
}

impl PostgresSource {
    pub(super) async fn columns(&self) -> Result<Vec<FoundColumn>, Error> {
        let sql = "SELECT c.relname::text, a.attname::text, a.attnotnull, format_type(a.atttypid, a.atttypmod), \
                   coalesce(b.typname, t.typname)::text, a.attgenerated <> '' \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
                   JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype \
                   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.relname, a.attnum";
        let rows = self.session()?.rows("read the tables", sql, &[&self.schema]).await?;
        let found = |row: &tokio_postgres::Row| {
            let (name, base): (String, String) = (row.get(3), row.get(4));
            FoundColumn {
                table: row.get(0),
                name: row.get(1),
                is_not_null: row.get(2),
                kind: kind(name, &base),
                is_generated: row.get(5),
            }
        };
        Ok(rows.iter().map(found).collect())
    }

    /// The columns by which a changed row is known, by table; of what is copied once those of the primary key, if there is one.
    pub(super) async fn keys(&self) -> Result<HashMap<String, Vec<String>>, Error> {
        let is_key = match self.is_once {
            false => {
                "i.indimmediate AND (i.indisprimary AND c.relreplident IN ('d', 'f') OR i.indisreplident AND c.relreplident = 'i')"
            }
            true => {
                "(i.indisprimary OR i.indisreplident AND NOT EXISTS (SELECT 1 FROM pg_index p WHERE p.indrelid = c.oid AND p.indisprimary))"
            }
        };
        let sql = format!(
            "SELECT c.relname::text, a.attname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
                   JOIN pg_namespace n ON n.oid = c.relnamespace \
                   CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place) \
                   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum \
                   WHERE n.nspname = $1 AND k.place <= i.indnkeyatts AND {is_key} ORDER BY c.relname, k.place"
        );
        let rows = self.session()?.rows("read the keys of tables", &sql, &[&self.schema]).await?;
        let mut keys: HashMap<String, Vec<String>> = HashMap::new();
        rows.iter().for_each(|row| keys.entry(row.get(0)).or_default().push(row.get(1)));
        Ok(keys)
    }

    /// The indexes on columns, by table.
    pub(super) async fn indexes(&self) -> Result<HashMap<String, Vec<(String, Vec<String>)>>, Error> {
        let sql = "SELECT c.relname::text, o.relname::text, array_agg(a.attname::text ORDER BY k.place) \
                   FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class o ON o.oid = i.indexrelid \
                   JOIN pg_namespace n ON n.oid = c.relnamespace \
                   CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place) \
                   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum \
                   WHERE n.nspname = $1 AND NOT i.indisprimary AND i.indpred IS NULL AND i.indexprs IS NULL \
                   AND k.place <= i.indnkeyatts GROUP BY c.relname, o.relname ORDER BY o.relname";
        let rows = self.session()?.rows("read the indexes of tables", sql, &[&self.schema]).await?;
        let mut indexes: HashMap<String, Vec<(String, Vec<String>)>> = HashMap::new();
        for row in &rows {
            indexes.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
        }
        Ok(indexes)
    }

    /// The statements by which changes of a table come with the whole row as it was, and so with long values that stay as they are;
    /// none where they do, or where no value that comes can be long. Of a partitioned table each part tells for itself.
    pub(super) async fn whole_rows(&self, table: &SourceTable) -> Result<Vec<String>, Error> {
        let sql = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE (c.oid = to_regclass($1[1]) OR c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass($1[1])))) \
                   AND c.relreplident <> 'f' AND EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attlen < 0 \
                   AND a.attstorage <> 'p' AND a.attname::text = ANY($2)) ORDER BY c.oid";
        let columns = table.coming().map(|(column, _)| Some(column.name.clone())).collect();
        let parameters = [vec![Some(self.path(table))], columns];
        let found = self.session()?.rows_of("read how tables tell of rows", sql, &parameters).await?;
        let alter = |row: &tokio_postgres::Row| {
            let (schema, name): (String, String) = (row.get(0), row.get(1));
            format!("ALTER TABLE {}.{} REPLICA IDENTITY FULL;", quoted(&schema), quoted(&name))
        };
        Ok(found.iter().map(alter).collect())
    }
}
