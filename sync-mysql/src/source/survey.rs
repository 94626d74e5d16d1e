//! What the server is set to, and which tables it has.

use std::collections::{BTreeMap, HashMap, HashSet};

use litekeep_schema::portable::mysql::{Flavor, Found, Inward, quoted};
use litekeep_schema::portable::{Level, Note};
use litekeep_sql::{MirrorColumn, MirrorRules, MirrorTable};
use litekeep_sync::source::{NO_KEY, Part, SourceTable};
use litekeep_sync::{Error, Kind};

use super::Refused;
use super::catalog::Catalog;
use super::rules;
use crate::binlog::charset::{self, Charset, Charsets};
use crate::codec::Codec;
use crate::error;
use crate::target::statements::literal;

type Row = Vec<Option<String>>;

/// A column as the server describes it.
pub(super) struct FoundColumn {
    pub(super) table: String,
    pub(super) name: String,
    is_not_null: bool,
    pub(super) whole_type: String,
    type_name: String,
    digits: u8,
    charset: Option<String>,
    is_virtual: bool,
    /// It is computed when it is written.
    is_stored: bool,
    pub(super) default: Option<Found>,
    pub(super) numbers_itself: bool,
    /// Each change of the row sets it to the present time.
    pub(super) is_set_again: bool,
}

impl FoundColumn {
    fn of(row: &Row, flavor: Flavor) -> FoundColumn {
        let text = |nth: usize| row.get(nth).cloned().flatten().unwrap_or_default();
        let extra = text(7).to_ascii_uppercase();
        // Of MariaDB, what has none has NULL.
        let told = row.get(8).cloned().flatten();
        let told = told.filter(|text| flavor == Flavor::Mysql || text != "NULL");
        let default = told.map(|text| match flavor {
            Flavor::Mariadb => Found::of_sql(&text),
            Flavor::Mysql if extra.contains("DEFAULT_GENERATED") => Found::Expression(text),
            Flavor::Mysql => Found::Constant(text),
        });
        FoundColumn {
            table: text(0),
            name: text(1),
            is_not_null: text(2) == "NO",
            whole_type: text(3),
            type_name: text(4),
            digits: text(5).parse().unwrap_or(0),
            charset: Some(text(6)).filter(|name| !name.is_empty()),
            is_virtual: extra.contains("VIRTUAL"),
            is_stored: extra.contains("STORED") || extra.contains("PERSISTENT"),
            default,
            numbers_itself: extra.contains("AUTO_INCREMENT"),
            is_set_again: extra.contains("ON UPDATE"),
        }
    }
}

impl Catalog {
    /// Refuses a server that does not tell what is needed; who it is.
    pub(super) async fn check_server(&mut self) -> Result<String, Error> {
        const READ: &str = "read the server's settings";
        let flavor = self.flavor();
        let names = [
            "log_bin",
            "binlog_format",
            "binlog_row_image",
            "binlog_row_metadata",
            "binlog_row_value_options",
            "log_bin_compress",
            "server_id",
            "server_uuid",
            "gtid_mode",
            "gtid_domain_id",
            "log_slave_updates",
            "log_replica_updates",
            "gtid_slave_pos",
        ];
        let listed: Vec<String> = names.iter().map(|name| literal(name)).collect();
        let sql = format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({})", listed.join(", "));
        let rows = self.session.texts(READ, &sql).await?;
        let pair = |row: Row| {
            let mut row = row.into_iter().flatten();
            Some((row.next()?.to_ascii_lowercase(), row.next()?))
        };
        let settings: BTreeMap<String, String> = rows.into_iter().filter_map(pair).collect();
        let is = |name: &str| settings.get(name).map_or("", String::as_str);
        let name = self.address.name();
        let refuse = |what: String, hint: String| Err(Error::with_hint(Kind::Invalid, what, hint));
        if !["ON", "1"].contains(&is("log_bin")) {
            let hint = "in the server's configuration, under [mysqld]: log_bin = binlog, server_id = 1, binlog_format = ROW, \
                        binlog_row_metadata = FULL; then restart it";
            return refuse(format!("{name} keeps no changes of rows: its log_bin is off"), hint.to_owned());
        }
        let set = if flavor == Flavor::Mysql { "SET PERSIST" } else { "SET GLOBAL" };
        let stays = match flavor {
            Flavor::Mysql => "",
            Flavor::Mariadb => " (and in its configuration, under [mysqld], so that it stays)",
        };
        for (setting, wanted, why) in [
            ("binlog_format", "ROW", "logs statements, and no rows"),
            ("binlog_row_image", "FULL", "logs a part of each row"),
            ("binlog_row_metadata", "FULL", "does not log what columns are called"),
            ("binlog_row_value_options", "", "logs a part of each JSON document"),
            ("log_bin_compress", "OFF", "compresses what it logs"),
        ] {
            let found = is(setting);
            if found.eq_ignore_ascii_case(wanted) || wanted == "OFF" && ["", "0"].contains(&found) {
                continue;
            }
            if setting == "binlog_row_metadata" && found.is_empty() {
                let hint = "a sync from MariaDB needs 10.5 or later, one from MySQL 8.0.17".to_owned();
                return refuse(format!("{name} {why}: it has no `{setting}`"), hint);
            }
            let value = match wanted {
                "" => "''",
                word => word,
            };
            let sessions = match setting {
                "binlog_format" | "binlog_row_image" => {
                    "; sessions keep what they began with, so that they have to connect anew"
                }
                _ => "",
            };
            let hint = format!("as an administrator: {set} {setting} = {value};{stays}{sessions}");
            return refuse(format!("{name} {why}: its {setting} is `{found}`"), hint);
        }
        // A replica has what it follows in its own log only where it is told to.
        let is_off = ["log_slave_updates", "log_replica_updates"].iter().any(|name| is(name) == "OFF");
        if is_off && (flavor == Flavor::Mysql || !is("gtid_slave_pos").is_empty()) {
            let hint = "in the server's configuration, under [mysqld]: log_slave_updates = ON; then restart it; or take the changes from the server that it follows";
            return refuse(format!("{name} is a replica that does not log what it follows"), hint.to_owned());
        }
        let server = match flavor {
            Flavor::Mysql => is("server_uuid").to_owned(),
            Flavor::Mariadb => format!("{}-{}", is("gtid_domain_id"), is("server_id")),
        };
        let has_gtids = flavor == Flavor::Mysql && is("gtid_mode").eq_ignore_ascii_case("ON");
        let server_id = is("server_id").parse().unwrap_or(0);
        (self.has_gtids, self.server_id) = (has_gtids, server_id);
        self.read_charsets().await?;
        self.check_rights().await?;
        Ok(server)
    }

    /// What a replica may do, and whether the database is in the log.
    async fn check_rights(&mut self) -> Result<(), Error> {
        let status = self.log_status().await?.into_iter().next().unwrap_or_default();
        let filter = |nth: usize| status.get(nth).cloned().flatten().filter(|names| !names.is_empty());
        let database = self.address.database();
        let names = |list: &str| list.split(',').any(|name| name == database);
        let is_left_out =
            filter(2).is_some_and(|only| !names(&only)) || filter(3).is_some_and(|not| names(&not));
        if is_left_out {
            let message =
                format!("{} does not log changes of the database `{database}`", self.address.name());
            let hint =
                "take binlog_do_db and binlog_ignore_db out of the server's configuration, and restart it";
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        let now = self.now().await?;
        let replica = self.replica(&format!("{}/{}", self.address.name(), std::process::id()));
        self.try_log(&now, replica).await.map_err(Refused::error)
    }

    pub(super) async fn read_charsets(&mut self) -> Result<(), Error> {
        const READ: &str = "read the character sets";
        let session = &mut self.session;
        let sql = "SELECT id, character_set_name FROM information_schema.collations WHERE id IS NOT NULL";
        let mut rows = session.texts(READ, sql).await?;
        // Newer servers of MariaDB have most of them here only.
        let sql = "SELECT id, character_set_name FROM information_schema.collation_character_set_applicability WHERE id IS NOT NULL";
        if let Ok(more) = session.texts(READ, sql).await {
            rows.extend(more);
        }
        let pair = |row: Row| {
            let mut row = row.into_iter();
            Some((row.next()??.parse().ok()?, row.next()??))
        };
        self.charsets = Charsets::new(rows.into_iter().filter_map(pair).collect());
        Ok(())
    }

    /// A character set by its name; `None`: of more than one byte, and none that is known.
    pub(super) async fn charset(&mut self, name: &str) -> Result<Option<Charset>, Error> {
        const READ: &str = "read a character set";
        if let Some(charset) = self.charsets.get(name) {
            return Ok(Some(charset));
        }
        let sql = format!(
            "SELECT maxlen FROM information_schema.character_sets WHERE character_set_name = {}",
            literal(name)
        );
        let session = &mut self.session;
        let rows = session.texts(READ, &sql).await?;
        if rows.first().and_then(|row| row.first()?.as_deref()) != Some("1") {
            return Ok(None);
        }
        let of = |byte: u8| format!("CONVERT(_{name} x'{byte:02x}' USING utf8mb4)");
        let columns: Vec<String> = (0..=255).map(of).collect();
        let rows = session.texts(READ, &format!("SELECT {}", columns.join(", "))).await?;
        let texts = rows.into_iter().next().unwrap_or_default().into_iter();
        let charset = Charset::Table(texts.map(|text| text.unwrap_or_else(|| "?".to_owned())).collect());
        self.charsets.add(name, charset.clone());
        Ok(Some(charset))
    }

    async fn of_tables(&mut self, doing: &str, sql: &str) -> Result<Vec<Row>, Error> {
        let database = literal(self.address.database());
        let sql = sql.replace("$database", &database);
        self.session.texts(doing, &sql).await
    }

    /// The tables by their names, each with the kind of its engine.
    async fn engines(&mut self) -> Result<HashMap<String, (String, String)>, Error> {
        let sql = "SELECT table_name, table_type, engine FROM information_schema.tables WHERE table_schema = $database \
                   AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')";
        let rows = self.of_tables("read the tables", sql).await?;
        let of = |row: Row| {
            let mut row = row.into_iter();
            let mut text = || row.next().flatten().unwrap_or_default();
            (text(), (text(), text()))
        };
        Ok(rows.into_iter().map(of).collect())
    }

    /// The indexes by table and name, the primary key first: columns, whether they are all of it and cannot be NULL, and whether it is unique.
    async fn indexes(&mut self) -> Result<HashMap<String, Vec<FoundIndex>>, Error> {
        let sql = "SELECT table_name, index_name, column_name, non_unique, sub_part, nullable, index_type FROM information_schema.statistics \
                   WHERE table_schema = $database ORDER BY table_name, index_name <> 'PRIMARY', index_name, seq_in_index";
        let rows = self.of_tables("read the indexes of tables", sql).await?;
        let mut indexes: HashMap<String, Vec<FoundIndex>> = HashMap::new();
        for row in &rows {
            let text = |nth: usize| row.get(nth).cloned().flatten();
            let (Some(table), Some(name)) = (text(0), text(1)) else { continue };
            let of_table = indexes.entry(table).or_default();
            if of_table.last().is_none_or(|last| last.name != name) {
                let is_unique = text(3).as_deref() == Some("0");
                let is_ordered = text(6).as_deref() == Some("BTREE");
                of_table.push(FoundIndex {
                    name,
                    columns: vec![],
                    is_unique,
                    is_ordered,
                    is_whole: true,
                    is_not_null: true,
                });
            }
            if let Some(index) = of_table.last_mut() {
                index.is_whole &= text(2).is_some() && text(4).is_none();
                index.is_not_null &= text(5).as_deref() != Some("YES");
                index.columns.extend(text(2));
            }
        }
        Ok(indexes)
    }

    /// Keys by which a row that changes elsewhere changes rows of a table, by table: their names and what they do.
    async fn cascades(&mut self) -> Result<HashMap<String, Vec<(String, String)>>, Error> {
        // Where the server follows them itself, and not the engine below it, it logs what they do.
        let sql = "SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'";
        let native = self.session.texts("read the server's settings", sql).await?;
        if native.first().and_then(|row| row.get(1)?.as_deref()) == Some("OFF") {
            return Ok(HashMap::new());
        }
        let sql = "SELECT table_name, constraint_name, delete_rule, update_rule FROM information_schema.referential_constraints \
                   WHERE constraint_schema = $database";
        let rows = self.of_tables("read the foreign keys of tables", sql).await?;
        let mut cascades: HashMap<String, Vec<(String, String)>> = HashMap::new();
        for row in rows {
            let [Some(table), Some(name), Some(delete), Some(update)] =
                <[Option<String>; 4]>::try_from(row).unwrap_or_default()
            else {
                continue;
            };
            let acts = |rule: &str| ["CASCADE", "SET NULL", "SET DEFAULT"].contains(&rule);
            let rule = match (acts(&delete), acts(&update)) {
                (true, _) => format!("ON DELETE {delete}"),
                (false, true) => format!("ON UPDATE {update}"),
                (false, false) => continue,
            };
            cascades.entry(table).or_default().push((name, rule));
        }
        Ok(cascades)
    }

    /// The name in SQLite of a table there; `None`: it is not wanted.
    fn wanted(&self, there: &str) -> Option<String> {
        let renamed = self.wanted.names.iter().find(|(_, name)| *name == there);
        let here = renamed.map_or(there, |(here, _)| here);
        let is_wanted = self.wanted.tables.is_empty() || self.wanted.tables.iter().any(|name| name == here);
        (is_wanted && there != litekeep_sql::SYNC_TABLE).then(|| here.to_owned())
    }

    /// The tables that are wanted; all of those that are named must be there.
    pub(super) async fn survey(&mut self) -> Result<Vec<(SourceTable, Vec<Note>)>, Error> {
        let found = self.surveyed().await?;
        self.check_found(&found)?;
        Ok(found)
    }

    /// Those of the tables that are wanted that are there.
    pub(super) async fn surveyed(&mut self) -> Result<Vec<(SourceTable, Vec<Note>)>, Error> {
        let sql = "SELECT table_name, column_name, is_nullable, column_type, data_type, datetime_precision, character_set_name, extra, column_default \
                   FROM information_schema.columns WHERE table_schema = $database ORDER BY table_name, ordinal_position";
        let columns = self.of_tables("read the columns of tables", sql).await?;
        let columns: Vec<FoundColumn> =
            columns.iter().map(|row| FoundColumn::of(row, self.flavor())).collect();
        let (engines, mut indexes, cascades) =
            (self.engines().await?, self.indexes().await?, self.cascades().await?);
        let mut found: Vec<(SourceTable, Vec<Note>)> = vec![];
        let mut seen = HashSet::new();
        for of_table in columns.chunk_by(|a, b| a.table == b.table) {
            let table = &of_table[0].table;
            let (Some((table_type, engine)), Some(here)) = (engines.get(table), self.wanted(table)) else {
                continue;
            };
            let mut notes = Notes { table, notes: vec![] };
            let path = quoted(table);
            if here.to_ascii_lowercase().starts_with("sqlite_") || !seen.insert(here.to_lowercase()) {
                let hint = "give it another name in `rename`";
                notes
                    .no_table(None, format!("SQLite cannot have a table `{here}` beside the others: {hint}"));
            }
            if table_type != "BASE TABLE" {
                notes.no_table(None, "keeps its history, whose rows come too".to_owned());
            }
            if !engine.eq_ignore_ascii_case("InnoDB") && !self.is_once {
                let message = format!(
                    "is {engine}'s, whose changes are logged apart from transactions: ALTER TABLE {path} ENGINE=InnoDB"
                );
                notes.no_table(None, message);
            }
            for (name, rule) in cascades.get(table).into_iter().flatten().filter(|_| !self.is_once) {
                let message = format!(
                    "has the foreign key {} ({rule}), by which rows change that the server does not log: ALTER TABLE {path} DROP FOREIGN KEY {}, \
                     and add it anew without that",
                    quoted(name),
                    quoted(name)
                );
                notes.no_table(None, message);
            }
            let indexes_there = indexes.remove(table).unwrap_or_default();
            let key = indexes_there.iter().find(|index| index.is_key());
            let (mut types, mut forms, mut mirrored) = (vec![], vec![], vec![]);
            for column in of_table {
                let is_only_key = key.is_some_and(|key| key.columns == [column.name.clone()]);
                let Some((form, declared)) = self.column(column, is_only_key, &mirrored, &mut notes).await?
                else {
                    continue;
                };
                forms.push(form);
                types.push(Codec::Theirs(form).kind(column.whole_type.clone()));
                mirrored.push(MirrorColumn {
                    name: column.name.clone(),
                    declared,
                    is_not_null: column.is_not_null,
                });
            }
            let place = |name: &String| mirrored.iter().position(|column| column.name == *name);
            let places = |index: &FoundIndex| index.columns.iter().map(place).collect::<Option<Vec<usize>>>();
            let is_single = |nth: &usize| types[*nth].name.to_ascii_lowercase().starts_with("float");
            let mut key_places = key.and_then(places);
            match &key_places {
                None if self.is_copied => notes.add(None, Level::Info, NO_KEY.to_owned()),
                Some(places) if self.is_copied && places.iter().any(is_single) => {
                    let message = format!("comes without its key, in which is a FLOAT, and {NO_KEY}");
                    notes.add(None, Level::Rule, message);
                    key_places = None;
                }
                None => notes.no_table(
                    None,
                    format!("has no primary key, by which changed rows are known: ALTER TABLE {path} ADD PRIMARY KEY (...)"),
                ),
                Some(places) if places.iter().any(is_single) => {
                    notes.no_table(None, "has a FLOAT in its key, which is not what it is compared to".to_owned());
                }
                Some(_) => {}
            }
            let others = indexes_there.iter().filter(|index| {
                index.is_whole && index.is_ordered && key.is_none_or(|key| key.name != index.name)
            });
            let of = |index: &FoundIndex| Some((index.name_in(&here), places(index)?));
            let indexes = others.filter_map(of).collect();
            let mut mirror = MirrorTable {
                name: here,
                columns: mirrored,
                key: key_places.unwrap_or_default(),
                indexes,
                rules: MirrorRules::default(),
            };
            if self.is_copied {
                let rules = self.rules(table).await?;
                let of = (of_table, forms.as_slice(), indexes_there.as_slice());
                mirror.rules = rules.of(of, &mirror, |there| self.wanted(there), &mut notes);
            }
            let notes = notes.notes;
            let (source, part) = (table.clone(), Part::default());
            found.push((SourceTable { source, types, mirror, part }, notes));
        }
        rules::to_unique_only(&mut found);
        Ok(found)
    }

    /// How a column comes, and what it is in SQLite; `None`: it does not come.
    async fn column(
        &mut self,
        column: &FoundColumn,
        is_only_key: bool,
        before: &[MirrorColumn],
        notes: &mut Notes<'_>,
    ) -> Result<Option<(Inward, String)>, Error> {
        let (name, path) = (column.name.as_str(), quoted(&column.table));
        if column.is_virtual || column.is_stored && self.is_written_to {
            let when = if column.is_virtual { " when it is read" } else { "" };
            notes.add(Some(name), Level::Info, format!("is computed there{when}: left out"));
            return Ok(None);
        }
        if before.iter().any(|other| other.name.to_lowercase() == name.to_lowercase()) {
            let message = "another column has the same name in lower case, which are one for SQLite";
            notes.no_table(Some(name), message.to_owned());
        }
        let is_compressed = column.whole_type.contains("COMPRESSED");
        let form =
            Inward::of(&column.type_name, &column.whole_type, column.digits).filter(|_| !is_compressed);
        let Some(form) = form else {
            // Of the table, for nobody can read past such a value in the log, whether it is wanted or not.
            let message = format!(
                "has the column {}, which is {}, not known here: ALTER TABLE {path} MODIFY {} longtext",
                quoted(name),
                column.whole_type,
                quoted(name)
            );
            notes.no_table(None, message);
            return Ok(Some((Inward::Text, "TEXT".to_owned())));
        };
        if let (Inward::Text, Some(charset)) = (form, &column.charset)
            && charset::known(charset).is_none()
            && self.charset(charset).await?.is_none()
        {
            let message = format!(
                "is in the character set {charset}, which is not read here: ALTER TABLE {path} MODIFY {} {} CHARACTER SET utf8mb4",
                quoted(name),
                column.whole_type
            );
            notes.no_table(Some(name), message);
        }
        Ok(Some((form, form.declared(is_only_key).to_owned())))
    }

    fn check_found(&self, found: &[(SourceTable, Vec<Note>)]) -> Result<(), Error> {
        let (name, database) = (self.address.name(), self.address.database());
        let is_there = |name: &&String| found.iter().any(|(table, _)| table.mirror.name == **name);
        if let Some(missing) = self.wanted.tables.iter().find(|name| !is_there(name)) {
            let there = self.wanted.names.get(missing).unwrap_or(missing);
            let message = format!("there is no table `{there}` in {name}");
            let hint = format!("or the user may not see it: {}", error::grant_log(&self.address));
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        if found.is_empty() {
            let message = format!("there is no table in {name}");
            let hint =
                format!("or the user may see none of `{database}`: {}", error::grant_log(&self.address));
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        Ok(())
    }
}

/// An index as the server describes it.
pub(super) struct FoundIndex {
    pub(super) name: String,
    columns: Vec<String>,
    pub(super) is_unique: bool,
    pub(super) is_ordered: bool,
    /// Of columns as they are, and not of parts of them or of something computed.
    pub(super) is_whole: bool,
    is_not_null: bool,
}

impl FoundIndex {
    /// Its name in SQLite, where names of indexes are the database's; there they are a table's own.
    pub(super) fn name_in(&self, table: &str) -> String {
        format!("{table}_{}", self.name)
    }

    /// A part of a column that is unique makes the column so.
    pub(super) fn is_key(&self) -> bool {
        self.name == "PRIMARY" || self.is_unique && self.is_not_null && self.is_whole
    }
}

pub(super) struct Notes<'a> {
    table: &'a str,
    notes: Vec<Note>,
}

impl Notes<'_> {
    pub(super) fn add(&mut self, column: Option<&str>, level: Level, message: String) {
        let (table, column) = (self.table.to_owned(), column.map(str::to_owned));
        self.notes.push(Note { table, column, level, message });
    }

    fn no_table(&mut self, column: Option<&str>, message: String) {
        self.add(column, Level::Table, message);
    }
}
