//! Collections that are there already, and their indexes.

use bson::{Bson, Document, doc};
use litekeep_schema::portable::mongodb::Table;
use litekeep_sync::{Error, Kind};

use super::{Mongo, documents};
use crate::error;

impl Mongo {
    /// What a collection is; `None`: there is none of this name.
    pub(super) async fn find_collection(&mut self, name: &str) -> Result<Option<Document>, Error> {
        let session = self.session()?;
        let command = doc! { "listCollections": 1, "filter": { "name": name } };
        let said = session.run("look for a collection", command).await?;
        let batch = said.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        Ok(batch.ok().and_then(|batch| batch.first()?.as_document().cloned()))
    }

    /// Refuses a collection that is there, unless it is an ordinary one without documents. `false`: there is none.
    pub(super) async fn check(&mut self, table: &Table) -> Result<bool, Error> {
        let Some(found) = self.find_collection(&table.name).await? else { return Ok(false) };
        let name = &table.name;
        let refused = |why: &str, hint: String| {
            Err(Error::with_hint(Kind::Invalid, format!("the collection `{name}` is there and {why}"), hint))
        };
        let by_litekeep = format!("let litekeep make it: {}", table.create(false));
        let options = found.get_document("options").cloned().unwrap_or_default();
        match found.get_str("type") {
            Ok("collection") => {}
            Ok("view") => return refused("is a view", by_litekeep),
            _ => return refused("is of a kind whose documents cannot be changed one by one", by_litekeep),
        }
        if options.get("capped").is_some_and(|capped| *capped == Bson::Boolean(true)) {
            return refused("is capped: it would drop documents by itself", by_litekeep);
        }
        if let Ok(collation) = options.get_document("collation")
            && !collation.get_str("locale").is_ok_and(|locale| locale == "simple")
        {
            let why = "has a collation: text must be compared byte by byte, to tell apart what SQLite does";
            return refused(why, by_litekeep);
        }
        let session = self.session()?;
        let first =
            session.db().collection::<Document>(name).find_one(doc! {}).projection(doc! { "_id": 1 }).await;
        if first.map_err(|e| session.failed("look into a collection", &e))?.is_some() {
            let collection = serde_json::Value::from(name.as_str());
            let hint = format!("if they can go: db.getCollection({collection}).deleteMany({{}})");
            return refused("has documents, which are not overwritten", hint);
        }
        Ok(true)
    }

    /// Makes the indexes of a collection that are not there; which failed, and why.
    pub(super) async fn make_indexes(&mut self, table: &Table) -> Result<Vec<String>, Error> {
        let mut failed = vec![];
        let session = self.session()?;
        for index in &table.indexes {
            let command = doc! { "createIndexes": &table.name, "indexes": [documents::index(table, index)] };
            match session.try_run(command).await {
                Ok(_) => {}
                Err(e) if error::is_for_later(&e) || error::number(&e) == Some(error::code::UNAUTHORIZED) => {
                    return Err(session.failed("make an index", &e));
                }
                Err(e) => {
                    failed.push(format!("`{}` failed: {}", table.create_index(index), error::cause(&e)))
                }
            }
        }
        Ok(failed)
    }
}
