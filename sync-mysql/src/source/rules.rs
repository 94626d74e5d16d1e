//! What tables forbid and supply by themselves, for a copy of which the server is not the keeper any more.

use std::collections::{BTreeMap, HashMap};

use litekeep_schema::portable::mysql::{Found, Inward, default, quoted};
use litekeep_schema::portable::{Level, Note};
use litekeep_sql::{MirrorForeignKey, MirrorRules, MirrorTable};
use litekeep_sync::Error;
use litekeep_sync::source::SourceTable;

use super::catalog::Catalog;
use super::survey::{FoundColumn, FoundIndex, Notes};

/// What the statement that makes a table says beside its columns and indexes. Other than what there is to ask of it, whoever may read the
/// table may see it.
#[derive(Debug, Default)]
pub(super) struct Rules {
    foreign_keys: Vec<ForeignKey>,
    has_checks: bool,
}

#[derive(Debug, PartialEq)]
struct ForeignKey {
    columns: Vec<String>,
    is_to_other_database: bool,
    parent: String,
    parent_columns: Vec<String>,
    actions: String,
}

impl Catalog {
    pub(super) async fn rules(&mut self, table: &str) -> Result<Rules, Error> {
        const READ: &str = "read the rules of a table";
        let rows = self.session().texts(READ, &format!("SHOW CREATE TABLE {}", quoted(table))).await?;
        let statement = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten();
        Ok(Rules::of_statement(&statement.unwrap_or_default()))
    }
}

/// `` `a`, `b` `` up to the end of these names, and what follows.
fn names(mut text: &str) -> (Vec<String>, &str) {
    let mut names = vec![];
    while let Some(rest) = text.strip_prefix('`') {
        let (mut name, mut chars) = (String::new(), rest.char_indices().peekable());
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            if c == '`' && chars.next_if(|(_, next)| *next == '`').is_none() {
                end = at + 1;
                break;
            }
            name.push(c);
        }
        names.push(name);
        text = rest[end..].trim_start_matches([',', '.', ' ']);
    }
    (names, text)
}

impl ForeignKey {
    /// Of `` (`a`) REFERENCES `t` (`b`) ON DELETE CASCADE ``.
    fn of(text: &str) -> Option<ForeignKey> {
        let (columns, rest) = names(text.strip_prefix('(')?);
        let (path, rest) = names(rest.strip_prefix(") REFERENCES ")?);
        let (parent_columns, rest) = names(rest.strip_prefix('(')?);
        let actions = rest.strip_prefix(')')?.trim_end_matches(',');
        // What both do when nothing is said.
        let actions = ["UPDATE", "DELETE"].into_iter().filter_map(|what| {
            let rule = actions.split(" ON ").find_map(|action| action.strip_prefix(what))?.trim();
            (!["NO ACTION", "RESTRICT"].contains(&rule)).then(|| format!(" ON {what} {rule}"))
        });
        let (is_to_other_database, actions) = (path.len() > 1, actions.collect());
        Some(ForeignKey {
            columns,
            is_to_other_database,
            parent: path.last()?.clone(),
            parent_columns,
            actions,
        })
    }
}

impl Rules {
    /// Each rule has a line of its own.
    fn of_statement(statement: &str) -> Rules {
        let mut rules = Rules::default();
        for line in statement.lines().map(str::trim) {
            let rest = match line.strip_prefix("CONSTRAINT ") {
                Some(named) if named.starts_with('`') => match named[1..].split_once("` ") {
                    Some((_, rest)) => rest,
                    None => continue,
                },
                _ => line,
            };
            rules.has_checks |=
                rest.starts_with("CHECK (") || line.starts_with('`') && line.contains(" CHECK (");
            rules.foreign_keys.extend(rest.strip_prefix("FOREIGN KEY ").and_then(ForeignKey::of));
        }
        rules
    }

    /// Those of a table; what has no like is told. `here`: the name of a table that is wanted.
    pub(super) fn of(
        &self,
        (columns, types, indexes): (&[FoundColumn], &[Inward], &[FoundIndex]),
        mirror: &MirrorTable,
        here: impl Fn(&str) -> Option<String>,
        notes: &mut Notes<'_>,
    ) -> MirrorRules {
        let place = |name: &String| mirror.columns.iter().position(|column| column.name == *name);
        let mut defaults = BTreeMap::new();
        for column in columns {
            let Some(nth) = place(&column.name) else { continue };
            let is_rowid = mirror.key == [nth] && mirror.columns[nth].declared == "INTEGER";
            let name = Some(column.name.as_str());
            if column.numbers_itself && !is_rowid {
                notes.add(name, Level::Rule, "numbers itself there, and not here".to_owned());
            }
            if column.is_set_again {
                let message = "is set to the present time by each change there, and not here";
                notes.add(name, Level::Rule, message.to_owned());
            }
            let Some(found) = &column.default else { continue };
            match default(found, types[nth], &column.whole_type) {
                Some(text) => _ = defaults.insert(nth, text),
                None => {
                    let (Found::Constant(text) | Found::Expression(text)) = found;
                    notes.add(name, Level::Rule, format!("its default `{text}` is not translated"));
                }
            }
        }
        let mut unique = vec![];
        for index in indexes.iter().filter(|index| index.is_unique || !index.is_whole || !index.is_ordered) {
            let is_it = |(name, _): &(String, _)| *name == index.name_in(&mirror.name);
            match mirror.indexes.iter().position(is_it) {
                Some(nth) => unique.push(nth),
                None if index.is_key() => {}
                None => {
                    let what = if index.is_unique { "unique index" } else { "index" };
                    let message =
                        format!("its {what} `{}` is not one of whole columns, and left out", index.name);
                    notes.add(None, Level::Rule, message);
                }
            }
        }
        let mut foreign_keys = vec![];
        for key in &self.foreign_keys {
            let of: Option<Vec<usize>> = key.columns.iter().map(place).collect();
            let parent = if key.is_to_other_database { None } else { here(&key.parent) };
            match (of, parent) {
                (Some(columns), Some(parent)) => {
                    let (parent_columns, actions) = (key.parent_columns.clone(), key.actions.clone());
                    foreign_keys.push(MirrorForeignKey { columns, parent, parent_columns, actions });
                }
                _ => {
                    let message =
                        format!("its foreign key to `{}`, which does not come, is left out", key.parent);
                    notes.add(None, Level::Rule, message);
                }
            }
        }
        if self.has_checks {
            notes.add(None, Level::Rule, "its CHECK constraints are not translated".to_owned());
        }
        MirrorRules { defaults, unique, foreign_keys }
    }
}

/// Leaves out the foreign keys to what is not unique, which InnoDB has and SQLite takes for a mistake at each write.
pub(super) fn to_unique_only(tables: &mut [(SourceTable, Vec<Note>)]) {
    let uniques: HashMap<String, Vec<Vec<String>>> = tables
        .iter()
        .map(|(table, _)| {
            let mirror = &table.mirror;
            let indexes = mirror.rules.unique.iter().map(|nth| &mirror.indexes[*nth].1);
            let keys = indexes.chain([&mirror.key]).map(|columns| {
                let mut names: Vec<String> =
                    columns.iter().map(|nth| mirror.columns[*nth].name.to_lowercase()).collect();
                names.sort();
                names
            });
            (mirror.name.clone(), keys.collect())
        })
        .collect();
    for (table, notes) in tables {
        let name = table.source.clone();
        table.mirror.rules.foreign_keys.retain(|key| {
            let mut columns: Vec<String> =
                key.parent_columns.iter().map(|name| name.to_lowercase()).collect();
            columns.sort();
            let is_unique = uniques.get(&key.parent).is_some_and(|keys| keys.contains(&columns));
            if !is_unique {
                let message =
                    format!("its foreign key to `{}` is to what is not unique, and left out", key.parent);
                notes.push(Note { table: name.clone(), column: None, level: Level::Rule, message });
            }
            is_unique
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_tell_of_foreign_keys() {
        let statement = "CREATE TABLE `t` (\n  `a` int DEFAULT NULL COMMENT 'CONSTRAINT `x` FOREIGN KEY (`a`)',\n  `b``,` int,\n  PRIMARY KEY (`a`),\n  KEY `k` (`b``,`),\n  \
            CONSTRAINT `one` FOREIGN KEY (`a`, `b``,`) REFERENCES `p` (`x`, `y`) ON DELETE CASCADE ON UPDATE SET NULL,\n  \
            CONSTRAINT `two` FOREIGN KEY (`a`) REFERENCES `other`.`p` (`x`) ON DELETE RESTRICT\n) ENGINE=InnoDB";
        let rules = Rules::of_statement(statement);
        let key =
            |columns: &[&str], is_to_other_database, parent_columns: &[&str], actions: &str| ForeignKey {
                columns: columns.iter().map(|name| (*name).to_owned()).collect(),
                is_to_other_database,
                parent: "p".to_owned(),
                parent_columns: parent_columns.iter().map(|name| (*name).to_owned()).collect(),
                actions: actions.to_owned(),
            };
        let both = key(&["a", "b`,"], false, &["x", "y"], " ON UPDATE SET NULL ON DELETE CASCADE");
        assert_eq!(rules.foreign_keys, [both, key(&["a"], true, &["x"], "")]);
        assert!(!rules.has_checks);
        for check in ["`a` int CHECK (`a` > 0),", "CONSTRAINT `c` CHECK (`a` > 0)", "CHECK (`a` > 0)"] {
            assert!(Rules::of_statement(&format!("CREATE TABLE `t` (\n  {check}\n)")).has_checks, "{check}");
        }
    }
}
