//! `Procfile`: lines `NAME: COMMAND`.

use super::{Table, Translation, escaped};
use crate::node::Value;

impl Translation<'_> {
    pub(super) fn procfile(&mut self) {
        let mut start = 0;
        for line in self.input.text.split_inclusive('\n') {
            self.procfile_line(start, line.trim_end());
            start += line.len();
        }
        if self.tables.is_empty() {
            self.remark(None, &(0..0), "there is no line `NAME: COMMAND`, so there is nothing to run".into());
        }
    }

    fn procfile_line(&mut self, start: usize, line: &str) {
        let span = start..start + line.len();
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            return;
        }
        let Some((name, command)) = line.split_once(':').filter(|(name, _)| !name.trim().contains(' '))
        else {
            self.report.error(&span, "this is not `NAME: COMMAND`");
            return;
        };
        let mut table: Table = self.name(name.trim(), &(start..start + name.len()));
        let command = command.trim();
        if command.contains("$PORT") || command.contains("${PORT") {
            let message = format!(
                "nothing sets `PORT` for `{}`: write it in `env`, or proxy = \":3000\", which gives each instance its own",
                table.name
            );
            self.remark(Some(&mut table), &span, message);
        }
        if name.trim() == "release" {
            let message = "`release` runs at each start: set restart = \"never\", and let the others wait with \
                           depends_on = { release = \"completed_successfully\" }, if it is to run before them";
            self.remark(Some(&mut table), &span, message.into());
        }
        table.set("command", &span, Value::String(escaped(command)));
        self.working_directory(&mut table, None);
        self.push(table);
    }
}
