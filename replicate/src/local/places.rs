//! Which places the log has been at: one JSON file, replaced as a whole and durable.
//!
//! Promises:
//! - A place that has held the log stays known, so that one where nothing is left of it is not taken for a new one.
//! - Local state says something about the log at a place only if that is named as one of those that it is about. A crash
//!   leaves too few names rather than too many.
//!
//! Losing the file, like that of a litekeep that did not write it, makes every place one that may be new.

use crate::Error;
use litekeep_env::file;
use std::path::{Path, PathBuf};

const NAME: &str = "places.json";

/// Places by their [identity](litekeep_store::Store::identity).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Names {
    /// All that have held the log.
    held: Vec<String>,
    /// Those whose log local state is about.
    current: Vec<String>,
    /// Those whose store ignores conditional writes.
    #[serde(default)]
    unfenced: Vec<String>,
}

/// The file, with what is in it.
#[derive(Debug)]
pub struct Places {
    path: PathBuf,
    /// `None`: nobody has noted anything.
    names: Option<Names>,
}

impl Places {
    /// Reads the file of a folder of local state.
    pub fn read(meta_dir: &Path) -> Places {
        let path = meta_dir.join(NAME);
        let names = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Places { path, names }
    }

    /// Whether the log is known to have been there.
    pub fn has_held(&self, place: &str) -> bool {
        self.names.as_ref().is_some_and(|names| names.held.iter().any(|held| held == place))
    }

    /// Whether local state is about the log there. Where nothing is noted it is taken to be.
    pub fn is_current(&self, place: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.current.iter().any(|current| current == place))
    }

    /// The places whose log local state is about.
    pub fn current(&self) -> &[String] {
        self.names.as_ref().map_or(&[], |names| &names.current)
    }

    /// Whether a second writer there cannot be told apart.
    pub fn is_unfenced(&self, place: &str) -> bool {
        self.names.as_ref().is_some_and(|names| names.unfenced.iter().any(|unfenced| unfenced == place))
    }

    /// Whether the store there ignores conditional writes. Of a place that has never held the log nothing is noted.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note_unfenced(&mut self, place: &str, is_so: bool) -> Result<(), Error> {
        if self.is_unfenced(place) == is_so || !self.has_held(place) {
            return Ok(());
        }
        let mut names = self.names.clone().unwrap_or_default();
        names.unfenced.retain(|unfenced| unfenced != place);
        if is_so {
            names.unfenced.push(place.to_owned());
        }
        self.save(names)
    }

    /// The log is there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note_held(&mut self, place: &str) -> Result<(), Error> {
        if self.has_held(place) {
            return Ok(());
        }
        // What was current without a note still is.
        let mut names = self.names.clone().unwrap_or_default();
        names.held.push(place.to_owned());
        if self.names.is_none() {
            names.current.push(place.to_owned());
        }
        self.save(names)
    }

    /// Local state is about the log there, too.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note_current(&mut self, place: &str) -> Result<(), Error> {
        let mut names = self.names.clone().unwrap_or_default();
        for list in [&mut names.held, &mut names.current] {
            if !list.iter().any(|name| name == place) {
                list.push(place.to_owned());
            }
        }
        self.save(names)
    }

    /// Local state is about the log at none but these places from here on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget_all_but(&mut self, places: &[String]) -> Result<(), Error> {
        let Some(mut names) = self.names.clone() else { return Ok(()) };
        names.current.retain(|current| places.contains(current));
        self.save(names)
    }

    fn save(&mut self, names: Names) -> Result<(), Error> {
        if self.names.as_ref() == Some(&names) {
            return Ok(());
        }
        let text = serde_json::to_vec(&names).expect("strings");
        file::replace(&self.path, &text).map_err(Error::file("write", &self.path))?;
        self.names = Some(names);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut places = Places::read(dir.path());
        assert!(places.is_current("a") && !places.has_held("a"));
        places.note_current("a").unwrap();
        places.note_current("b").unwrap();
        places.forget_all_but(&["b".to_owned()]).unwrap();
        places.note_held("c").unwrap();
        let places = Places::read(dir.path());
        assert_eq!(["a", "b", "c", "d"].map(|place| places.has_held(place)), [true, true, true, false]);
        assert_eq!(places.current(), ["b"]);
        assert!(!places.is_current("a"));
    }

    #[test]
    fn what_an_earlier_litekeep_noted_is_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), r#"{"held":["a","b"],"current":["a"]}"#).unwrap();
        let mut places = Places::read(dir.path());
        assert!(places.has_held("b") && !places.is_unfenced("a"));
        for is_so in [true, true, false] {
            places.note_unfenced("a", is_so).unwrap();
            places.note_unfenced("c", true).unwrap();
            let places = Places::read(dir.path());
            assert_eq!(["a", "c"].map(|place| places.is_unfenced(place)), [is_so, false]);
            assert_eq!(places.current(), ["a"]);
        }
    }
}
