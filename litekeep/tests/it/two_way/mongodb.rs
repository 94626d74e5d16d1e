//! The same with MongoDB.

use anyhow::Result;
use litekeep_testkit::mongodb::Mongodb;
use litekeep_testkit::mongodb::bson::{Document, doc};

use super::{Edit, Hub, Told, four_come_to_the_same, goes_in_step_and_says_how};

impl Hub for Mongodb {
    const SCHEME: &'static str = "mongodb";
    const MAKES: &'static str = "db.createCollection(\"t\"";

    fn begin() -> Result<Mongodb> {
        Mongodb::start()
    }

    fn url(&self) -> String {
        self.url("test")
    }

    fn write(&self, rows: &[(u32, &str)]) -> Result<()> {
        rows.iter().try_for_each(|(id, edits)| {
            let set = doc! { "$set": { "edits": edits } };
            let one = doc! { "q": { "_id": i64::from(*id) }, "u": set, "upsert": true };
            self.run("test", durable(doc! { "update": "t", "updates": [one] })).map(drop)
        })
    }

    fn edit(&self, edit: &Edit, name: &str) -> Result<Told> {
        let written = |written: bool| if written { vec![("+".to_owned(), String::new())] } else { vec![] };
        match edit {
            Edit::Delete { id } => {
                let delete =
                    doc! { "findAndModify": "t", "query": { "_id": i64::from(*id) }, "remove": true };
                let said = self.run("test", durable(delete))?;
                let edits = said.get_document("value").and_then(|row| row.get_str("edits"));
                Ok(edits.iter().map(|edits| ("-".to_owned(), (*edits).to_owned())).collect())
            }
            Edit::Insert { id } => {
                let insert = doc! { "insert": "t", "documents": [{ "_id": i64::from(*id), "edits": name }] };
                match self.run("test", durable(insert)) {
                    Ok(_) => Ok(written(true)),
                    Err(error) if error.to_string().contains("duplicate key") => Ok(vec![]),
                    Err(error) => Err(error),
                }
            }
            // A document keeps its key.
            Edit::Append { id } | Edit::Move { id, .. } => {
                let longer = doc! { "$concat": ["$edits", format!(" {name}")] };
                let one = doc! { "q": { "_id": i64::from(*id) }, "u": [{ "$set": { "edits": longer } }] };
                let said = self.run("test", durable(doc! { "update": "t", "updates": [one] }))?;
                Ok(written(said.get_i32("n")? == 1))
            }
        }
    }

    fn rows(&self) -> Result<Vec<String>> {
        let text = |row: &Document| -> Result<String> {
            Ok(format!("{}:{}", row.get_i64("_id")?, row.get_str("edits")?))
        };
        self.documents("test", "t")?.iter().map(text).collect()
    }

    fn stages(&self) -> Result<Vec<String>> {
        let kept = self.documents("test", "_litekeep_sync")?;
        let item = |of: &Document| Some(of.get_document("_id").ok()?.get_str("item").ok()?.to_owned());
        let stages = kept.iter().filter(|of| item(of).as_deref() == Some("stage"));
        stages.map(|of| Ok(of.get_str("content")?.to_owned())).collect()
    }

    fn kill(&mut self) -> Result<()> {
        self.kill()
    }

    fn resume(&mut self) -> Result<()> {
        self.resume()
    }

    fn cut_off(&self) -> Result<()> {
        self.run("admin", doc! { "killAllSessions": [] }).map(drop)
    }

    fn left(&self) -> Result<usize> {
        Ok(usize::try_from(self.count("test", "_litekeep_sync")?)?)
    }
}

/// Nothing else is acknowledged for good.
fn durable(mut command: Document) -> Document {
    command.insert("writeConcern", doc! { "w": "majority", "j": true });
    command
}

#[test]
fn two_sides_go_in_step_and_say_how() {
    goes_in_step_and_says_how::<Mongodb>();
}

#[test]
fn four_come_to_the_same_and_no_edit_is_lost_without_a_word() {
    four_come_to_the_same::<Mongodb>("two-way-mongodb");
}
