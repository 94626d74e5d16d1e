//! Files whose indentation was lost on the way from a web page.
//!
//! ```yaml
//! dbs:
//! - path: /srv/app.db
//! replicas:
//! - type: s3
//! bucket: backups
//! path: app.db
//! ```
//!
//! This is valid YAML, with `replicas`, `bucket` and `path` at the root. It can only mean one thing as long as there is
//! one database without a replica and one replica; in any other case the file is left as it is, and its keys are
//! reported as misplaced.

use crate::diagnostic::Report;
use crate::node::{Entry, Value, entry};

use super::keys;

/// The root with the replica moved to its database, if that is what was meant; a warning says so.
pub(super) fn repair(root: &[Entry], report: &mut Report<'_>) -> Option<Vec<Entry>> {
    let stray = entry(root, "replicas").or_else(|| entry(root, "replica"))?;
    let mut replica = match &stray.node.value {
        Value::Array(nodes) if nodes.len() == 1 => nodes[0].clone(),
        Value::Table(_) => stray.node.clone(),
        _ => return None,
    };
    let mut databases = entry(root, "dbs")?.clone();
    let Value::Array(nodes) = &mut databases.node.value else { return None };
    let [database] = nodes.as_mut_slice() else { return None };
    let Value::Table(database) = &mut database.value else { return None };
    let Value::Table(settings) = &mut replica.value else { return None };
    if ["replica", "replicas"].iter().any(|key| entry(database, key).is_some()) {
        return None;
    }
    // The settings that the root can have too stay there: they are the defaults of all replicas, so of this one.
    let (moved, mut rest): (Vec<Entry>, Vec<Entry>) = root
        .iter()
        .filter(|found| found.key != stray.key && found.key != "dbs")
        .cloned()
        .partition(is_replicas_only);
    let missing = |found: &Entry| entry(settings, &found.key).is_none();
    if !moved.iter().all(missing) {
        return None;
    }
    settings.extend(moved);
    let key_span = stray.key_span.clone();
    database.push(Entry { key: "replica".into(), key_span, node: replica });
    rest.push(databases);
    let message = format!(
        "`{}` stands at the root, as if its indentation had been lost: it is read as the replica of the only database; \
         indent it to the `path` of the database",
        stray.key
    );
    report.warn(&stray.key_span, message);
    Some(rest)
}

fn is_replicas_only(found: &Entry) -> bool {
    let at_root = keys::ROOT.iter().any(|(name, _)| *name == found.key);
    !at_root && keys::REPLICA.iter().any(|(name, _)| *name == found.key)
}
