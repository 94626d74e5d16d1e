//! What a check is, and how it is shown.

use serde::Serialize;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Ok,
    /// Good to know, nothing to do.
    Note,
    /// It works, and something is worse than it need be.
    Warning,
    /// Data or the application are in danger.
    Problem,
    NotChecked,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Warning => "warning",
            Verdict::Problem => "PROBLEM",
            Verdict::NotChecked => "not checked",
        }
    }
}

/// What keeps a setting as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hold {
    /// litekeep does it.
    Enforced,
    /// It stands in the database file.
    Persisted,
    /// It is the application's or the machine's, so a look is all that can be done.
    Checked,
}

impl Hold {
    fn word(self) -> &'static str {
        match self {
            Hold::Enforced => "enforced",
            Hold::Persisted => "persisted",
            Hold::Checked => "checked",
        }
    }
}

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Area {
    Settings,
    File,
    Machine,
    Backup,
    Limits,
}

impl Area {
    pub(super) const ALL: [Area; 5] = [Area::Settings, Area::File, Area::Machine, Area::Backup, Area::Limits];

    pub(super) fn title(self) -> &'static str {
        match self {
            Area::Settings => "settings of the application's connections",
            Area::File => "the file",
            Area::Machine => "the machine",
            Area::Backup => "the backup",
            Area::Limits => "limits of SQLite",
        }
    }
}

/// One check with its result.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    pub(super) area: Area,
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    pub(super) hold: Hold,
    /// The driver that was asked, or the backup's URL.
    pub(super) of: Option<String>,
    pub(super) reason: String,
    /// The lines to write or to type.
    pub(super) fix: Vec<String>,
}

impl Check {
    pub(super) fn new(
        area: Area,
        name: &'static str,
        hold: Hold,
        verdict: Verdict,
        reason: impl Into<String>,
    ) -> Check {
        Check { area, name, verdict, hold, of: None, reason: reason.into(), fix: Vec::new() }
    }

    pub(super) fn fix(mut self, line: impl Into<String>) -> Check {
        self.fix.push(line.into());
        self
    }

    /// What helps, where that is known.
    pub(super) fn fixes(mut self, line: Option<String>) -> Check {
        self.fix.extend(line);
        self
    }

    pub(super) fn of(mut self, of: impl Into<String>) -> Check {
        self.of = Some(of.into());
        self
    }

    pub(super) fn text(&self) -> String {
        let Check { name, verdict, hold, reason, .. } = self;
        let mut out = format!("    {:<11} {name} [{}]: {reason}\n", verdict.word(), hold.word());
        for line in &self.fix {
            out.push_str(&format!("                > {line}\n"));
        }
        out
    }
}
