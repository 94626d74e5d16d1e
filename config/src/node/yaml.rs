//! YAML to [`Node`], through `saphyr-parser`.
//!
//! Why that crate: it is maintained, passes the YAML test suite and gives each event its span. We take its events
//! and not `saphyr`'s loaded tree, because the tree types plain scalars at once (a secret access key of digits would
//! become a number) and keeps the last of two equal keys in silence. `marked-yaml` builds on the abandoned `yaml-rust`.

use std::collections::HashMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::{Entry, MAX_DEPTH, Node, Value};
use crate::diagnostic::Report;

/// Aliases copy what they name; beyond this many values a file is a "billion laughs", not a configuration.
const MAX_NODES: usize = 100_000;

/// The document's root; `None` after an error, which then stands in `report`. An empty document is [`Value::Null`]. JSON is YAML, too;
/// `language` is what the author of the text writes.
pub(crate) fn parse_yaml(text: &str, language: &str, report: &mut Report<'_>) -> Option<Node> {
    let offsets = ByteOffsets::new(text);
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let at = offsets.byte(error.marker().index());
                report.error(&(at..at), format!("this is not {language}: {}", error.info()));
                return None;
            }
        };
        let span = offsets.range(span);
        if let Err(message) = builder.take(event, span.clone()) {
            report.error(&span, message);
            return None;
        }
    }
    Some(builder.root.unwrap_or(Node { span: 0..0, value: Value::Null }))
}

/// The parser counts characters; spans are bytes.
struct ByteOffsets(Vec<usize>);

impl ByteOffsets {
    fn new(text: &str) -> Self {
        Self(text.char_indices().map(|(at, _)| at).chain([text.len()]).collect())
    }

    fn byte(&self, character: usize) -> usize {
        self.0[character.min(self.0.len() - 1)]
    }

    fn range(&self, span: Span) -> Range<usize> {
        self.byte(span.start.index())..self.byte(span.end.index())
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    nodes: usize,
}

/// A list or table whose end has not come yet.
struct Open {
    start: usize,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Table { entries: Vec<Entry>, key: Option<(String, Range<usize>)> },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Range<usize>) -> Result<(), String> {
        match event {
            Event::SequenceStart(anchor, _) => self.open(span.start, anchor, Content::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.open(span.start, anchor, Content::Table { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span.end),
            Event::Scalar(text, style, anchor, _) => {
                let value = match style {
                    ScalarStyle::Plain if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") => {
                        Value::Null
                    }
                    ScalarStyle::Plain => Value::Plain(text.into_owned()),
                    _ => Value::String(text.into_owned()),
                };
                self.add(Node { span, value }, anchor)
            }
            Event::Alias(anchor) => {
                let named =
                    self.anchors.get(&anchor).ok_or("this alias names a value that is not complete")?;
                let copy = Node { span, value: named.value.clone() };
                self.nodes += count(&copy);
                self.add(copy, 0)
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                Err("a second YAML document begins here: a configuration is one document".into())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, start: usize, anchor: usize, content: Content) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err("values are nested too deeply".into());
        }
        self.open.push(Open { start, anchor, content });
        Ok(())
    }

    fn close(&mut self, end: usize) -> Result<(), String> {
        let Some(Open { start, anchor, content }) = self.open.pop() else { return Ok(()) };
        let value = match content {
            Content::List(items) => Value::Array(items),
            Content::Table { entries, .. } => Value::Table(merge(entries)?),
        };
        self.add(Node { span: start..end.max(start), value }, anchor)
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err("the file has too many values".into());
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Table { entries, key }) => match key.take() {
                None => *key = Some((key_text(&node)?, node.span)),
                Some((key, key_span)) => {
                    if let Some(first) = entries.iter().find(|entry| entry.key == key && key != "<<") {
                        return Err(format!("the key `{}` is given twice", first.key));
                    }
                    entries.push(Entry { key, key_span, node });
                }
            },
        }
        Ok(())
    }
}

fn key_text(node: &Node) -> Result<String, String> {
    match &node.value {
        Value::Plain(text) | Value::String(text) => Ok(text.clone()),
        Value::Null => Err("a key is missing before the `:`".into()),
        _ => Err("a key must be a name".into()),
    }
}

/// Applies `<<: *defaults`: the merged keys stand behind the table's own, which win.
fn merge(entries: Vec<Entry>) -> Result<Vec<Entry>, String> {
    let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.key == "<<");
    for merge in merges {
        let tables = match merge.node.value {
            Value::Array(tables) => tables,
            _ => vec![merge.node],
        };
        for table in tables {
            let Value::Table(merged) = table.value else {
                return Err("`<<` merges a table: write `<<: *name` with the anchor of one".into());
            };
            for entry in merged {
                if own.iter().all(|present| present.key != entry.key) {
                    own.push(entry);
                }
            }
        }
    }
    Ok(own)
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Table(entries) => entries.iter().map(|entry| count(&entry.node)).sum(),
        _ => 0,
    }
}
