//! The sentence that the page begins with.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cluster::{ClusterView, Presence};
use crate::report::text;

/// What the sentence says of one database.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    /// How people call it.
    pub(crate) name: String,
    pub(crate) red: Vec<String>,
    /// Something of it is in a backup.
    pub(crate) is_begun: bool,
    /// Since when commits wait, milliseconds since the epoch.
    pub(crate) behind_since_ms: Option<i64>,
    /// Places that have everything that is confirmed.
    pub(crate) places: Vec<String>,
    /// When it was last proven that each of them can be restored.
    pub(crate) proven_ms: Option<i64>,
}

/// Whether everything is safe, and the sentence.
pub(super) fn sentence(facts: &[Fact], now_ms: i64, zone: &TimeZone) -> (bool, String) {
    let red: Vec<&Fact> = facts.iter().filter(|fact| !fact.red.is_empty()).collect();
    match red.first() {
        Some(first) => (false, bad_news(first, red.len() - 1, now_ms, zone)),
        None if facts.is_empty() => (false, "No database is being backed up.".to_owned()),
        None => (true, good_news(facts, now_ms, zone)),
    }
}

/// The same on a node of a cluster that is not the primary: what is here is a copy.
pub(super) fn of_node(cluster: &ClusterView, now_ms: i64, zone: &TimeZone) -> (bool, String) {
    let Some(primary) = cluster.primary.as_ref().filter(|_| cluster.role == "replica" && !cluster.lapsed)
    else {
        let why = match (cluster.role.as_str(), &cluster.primary) {
            ("promoting", _) => "This node is becoming the primary.".to_owned(),
            ("replica", Some(primary)) => format!("Nobody leads: the lease of {primary} has run out."),
            ("replica", None) => "Nobody leads.".to_owned(),
            _ => "Nobody can write on this node until it is known who leads.".to_owned(),
        };
        return (false, why);
    };
    let own =
        cluster.nodes.iter().find(|node| node.told.node == cluster.node && node.presence == Presence::Up);
    let databases = own.map(|node| node.told.databases.as_slice()).unwrap_or_default();
    if let Some(database) =
        databases.iter().find(|database| database.trouble.is_some() || database.txid.is_none())
    {
        let name = super::file_name(&database.path);
        return (false, format!("{name} does not follow {primary}."));
    }
    let behind_ms = databases.iter().filter_map(|database| database.lag_ms).max().unwrap_or_default();
    let what = match databases {
        [one] => super::file_name(&one.path),
        all => text::count(all.len(), "database"),
    };
    let up_to = instant(now_ms - behind_ms, now_ms, zone);
    (true, format!("This node follows {primary} and has all of {what} up to {up_to}."))
}

fn good_news(facts: &[Fact], now_ms: i64, zone: &TimeZone) -> String {
    let up_to_ms = facts.iter().filter_map(|fact| fact.behind_since_ms).min().unwrap_or(now_ms);
    let mut places: Vec<&str> = Vec::new();
    for place in facts.iter().flat_map(|fact| &fact.places) {
        if !places.contains(&place.as_str()) {
            places.push(place);
        }
    }
    let places = match places.as_slice() {
        [] => "the backup".to_owned(),
        [one] => (*one).to_owned(),
        [one, other] => format!("{one} and {other}"),
        [one, rest @ ..] => format!("{one} and {} other places", rest.len()),
    };
    // As a whole it is proven since the oldest proof.
    let proven_ms = facts.iter().map(|fact| fact.proven_ms).min().flatten();
    let proven = match proven_ms {
        Some(at_ms) => format!("last proven restorable {}", when(at_ms, now_ms, zone)),
        None => "not yet proven restorable".to_owned(),
    };
    let what = if facts.len() == 1 { String::new() } else { format!(" of {} databases", facts.len()) };
    format!("Everything{what} up to {} is in {places}, {proven}.", instant(up_to_ms, now_ms, zone))
}

fn bad_news(first: &Fact, others: usize, now_ms: i64, zone: &TimeZone) -> String {
    let name = &first.name;
    let mut said = match first.behind_since_ms {
        _ if !first.is_begun => format!("Nothing of {name} is in a backup yet."),
        Some(since_ms) => {
            format!("Since {} no commit of {name} has reached its backup.", instant(since_ms, now_ms, zone))
        }
        None => format!("Somebody has to look at the backup of {name}."),
    };
    if others > 0 {
        said.push_str(&format!(" {} in trouble too.", text::count(others, "other database")));
    }
    said
}

/// `14:03:07 UTC (2 s ago)`.
fn instant(at_ms: i64, now_ms: i64, zone: &TimeZone) -> String {
    let day = match days_ago(at_ms, now_ms, zone) {
        0 => "",
        _ => "%Y-%m-%d ",
    };
    let age = match now_ms - at_ms {
        ..1000 => "this second".to_owned(),
        ms => format!("{} ago", text::age(ms)),
    };
    format!("{} ({age})", format(at_ms, zone, &format!("{day}%H:%M:%S %Z")))
}

/// `06:00 today`.
fn when(at_ms: i64, now_ms: i64, zone: &TimeZone) -> String {
    let time = format(at_ms, zone, "%H:%M");
    match days_ago(at_ms, now_ms, zone) {
        0 => format!("{time} today"),
        1 => format!("{time} yesterday"),
        _ => format(at_ms, zone, "on %Y-%m-%d"),
    }
}

fn days_ago(at_ms: i64, now_ms: i64, zone: &TimeZone) -> i64 {
    let day = |ms: i64| Timestamp::from_millisecond(ms).ok().map(|at| at.to_zoned(zone.clone()).date());
    match (day(at_ms), day(now_ms)) {
        (Some(then), Some(today)) => then.until(today).map_or(i64::MAX, |span| span.get_days().into()),
        _ => i64::MAX,
    }
}

fn format(at_ms: i64, zone: &TimeZone, format: &str) -> String {
    match Timestamp::from_millisecond(at_ms) {
        Ok(at) => at.to_zoned(zone.clone()).strftime(format).to_string(),
        Err(_) => text::rfc3339(at_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21T14:03:09Z.
    const NOW_MS: i64 = 1_795_269_789_000;
    const HOUR_MS: i64 = 3_600_000;

    fn fact(name: &str, place: &str) -> Fact {
        Fact {
            name: name.into(),
            red: vec![],
            is_begun: true,
            behind_since_ms: None,
            places: vec![place.into()],
            proven_ms: Some(NOW_MS - 8 * HOUR_MS - 189_000),
        }
    }

    fn said(facts: &[Fact]) -> (bool, String) {
        sentence(facts, NOW_MS, &TimeZone::UTC)
    }

    #[test]
    fn good_news_names_the_instant_the_place_and_the_proof() {
        let behind = Fact { behind_since_ms: Some(NOW_MS - 2000), ..fact("app.db", "s3://b/app") };
        let expected =
            "Everything up to 14:03:07 UTC (2 s ago) is in s3://b/app, last proven restorable 06:00 today.";
        assert_eq!(said(std::slice::from_ref(&behind)), (true, expected.to_owned()));
        let other = Fact { proven_ms: Some(NOW_MS - 30 * HOUR_MS), ..fact("b.db", "s3://b/b") };
        let (_, both) = said(&[fact("app.db", "s3://b/app"), other.clone()]);
        let expected = "Everything of 2 databases up to 14:03:09 UTC (this second) is in s3://b/app and s3://b/b, \
                        last proven restorable 08:03 yesterday.";
        assert_eq!(both, expected);
        let unproven = Fact { proven_ms: None, ..other };
        assert!(said(&[behind, unproven]).1.ends_with("not yet proven restorable."));
    }

    #[test]
    fn bad_news_comes_first() {
        let waiting = Fact {
            red: vec!["s3://b/app: connection refused".into()],
            behind_since_ms: Some(NOW_MS - 95_000),
            ..fact("app.db", "s3://b/app")
        };
        let expected = "Since 14:01:34 UTC (95 s ago) no commit of app.db has reached its backup.";
        assert_eq!(said(&[fact("b.db", "x"), waiting.clone()]), (false, expected.to_owned()));
        let long = Fact { behind_since_ms: Some(NOW_MS - 26 * HOUR_MS), ..waiting.clone() };
        assert!(said(&[long]).1.starts_with("Since 2026-11-20 12:03:09 UTC (26 h ago)"));
        let none = Fact { is_begun: false, ..waiting.clone() };
        assert_eq!(
            said(&[none, waiting]).1,
            "Nothing of app.db is in a backup yet. 1 other database in trouble too."
        );
        assert!(!said(&[]).0);
    }
}
