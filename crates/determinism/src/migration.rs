//! What `POST …/pre_publish` says of an update from one prepared module to another, turned back into what it would say of
//! the originals.
//!
//! The server's plan is a text for people, with one block of lines a step (SpacetimeDB 2.8.3, `format_plan`). Blocks about
//! hidden tables go; what the preparation takes out of definitions comes back: sequences and schedules.

use crate::HIDDEN_PREFIX;
use crate::module::{Module, Table};
use crate::plan::RawSequence;

/// What the server's steps begin with, in the order in which it takes them.
const ORDER: [&str; 24] = [
    "▸ Removed index",
    "▸ Removed unique constraint",
    REMOVED_SEQUENCE,
    REMOVED_SCHEDULE,
    "▸ ▸ Removed",
    "▸ Removed row level security",
    "▸ Removed table",
    "▸ Changed columns",
    "▸ Changed schema of event table",
    "▸ Created column",
    "▸ Changed index",
    "▸ Changed table accessor",
    "▸ Changed column accessor",
    CREATED_TABLE,
    "▸ Created index",
    "▸ Created unique constraint",
    CREATED_SEQUENCE,
    CREATED_SCHEDULE,
    "▸ ▸ Created",
    "▸ Created row level security",
    "▸ Changed access",
    "▸ Changed primary key",
    WARNING,
    "",
];
const REMOVED_SEQUENCE: &str = "▸ Removed auto-increment constraint";
const REMOVED_SCHEDULE: &str = "▸ Removed schedule";
const CREATED_TABLE: &str = "▸ Created user table: ";
const CREATED_SEQUENCE: &str = "▸ Created auto-increment constraint";
const CREATED_SCHEDULE: &str = "▸ Created schedule";
const WARNING: &str = "!!! Warning";

/// ANSI colours, as far as they are needed.
const RED: u8 = 1;
const GREEN: u8 = 2;
const BLUE: u8 = 4;
const CYAN: u8 = 6;

/// Undoes the preparation in a server's plan of an update.
pub fn original_plan(server: &str, from: &Module, to: &Module) -> String {
    let style = Style {
        ansi: server.contains('\x1b'),
    };
    let mut blocks = vec![String::new()];
    for line in server.split_inclusive('\n') {
        let plain = plain(line);
        match &mut blocks[..] {
            [.., last] if !plain.starts_with('▸') && !plain.starts_with(WARNING) => last.push_str(line),
            _ => blocks.push(line.to_owned()),
        }
    }
    let head = blocks.remove(0);
    let mut steps: Vec<_> = blocks
        .into_iter()
        .filter(|block| !is_hidden(block))
        .map(|block| with_marks(block, to, &style))
        .collect();
    for added in changed_marks(from, to, &style) {
        let place = steps.partition_point(|step| rank(step) <= rank(&added));
        steps.insert(place, added);
    }
    steps.into_iter().fold(head, |text, step| text + &step)
}

/// How the plan is written.
struct Style {
    ansi: bool,
}

impl Style {
    fn bold(&self, text: &str, colour: u8) -> String {
        match self.ansi {
            true => format!("\x1b[0m\x1b[1m\x1b[3{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// A text without colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    plain
}

fn rank(step: &str) -> usize {
    let plain = plain(step);
    let found = ORDER.iter().position(|begin| plain.starts_with(begin));
    found.unwrap_or(ORDER.len())
}

/// Whether the first line of a step names a table of ours.
fn is_hidden(step: &str) -> bool {
    let line = plain(step.lines().next().unwrap_or_default());
    line.split([' ', '.', ':'])
        .any(|word| word.starts_with(HIDDEN_PREFIX))
}

/// A step with the marks of the table that it creates, if it does.
fn with_marks(mut step: String, to: &Module, style: &Style) -> String {
    let first = plain(step.lines().next().unwrap_or_default());
    let name = first
        .strip_prefix(CREATED_TABLE)
        .and_then(|rest| rest.split(' ').next());
    let Some(table) = name.and_then(|name| to.tables().iter().find(|table| table.name == name)) else {
        return step;
    };
    let mut marks = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            marks.push_str(&format!("    {}\n", style.bold(title, BLUE)));
            for line in lines {
                marks.push_str(&format!("        • {line}\n"));
            }
        }
    };
    let sequences = sequences(table).into_iter();
    let sequences = sequences.map(|(name, column, _)| format!("{name} on {column}"));
    section("Auto-increment constraints:", sequences.collect());
    let schedules = to
        .schedules()
        .iter()
        .filter(|schedule| schedule.table == table.name);
    let schedules =
        schedules.map(|schedule| format!("Calls {}: {}", schedule.kind.word(), schedule.function));
    section("Schedule:", schedules.collect());
    // Before the empty line that ends the step.
    let end = step.trim_end_matches('\n').len();
    step.insert_str((end + 1).min(step.len()), &marks);
    step
}

/// A table's sequences by name, with their columns.
fn sequences(table: &Table) -> Vec<(String, &str, &RawSequence)> {
    let mut named: Vec<_> = table
        .sequences
        .iter()
        .filter_map(|sequence| {
            let column = table.columns.get(usize::from(sequence.column))?;
            Some((format!("{}_{column}_seq", table.name), column.as_str(), sequence))
        })
        .collect();
    named.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    named
}

/// The steps for sequences and schedules of tables that both modules have.
fn changed_marks(from: &Module, to: &Module, style: &Style) -> Vec<String> {
    let action = |word: &str, colour| format!("▸ {}", style.bold(word, colour));
    let (removed, created) = (action("Removed", RED), action("Created", GREEN));
    let mut steps = Vec::new();
    for new in to.tables() {
        let Some(old) = from.tables().iter().find(|old| old.name == new.name) else {
            continue;
        };
        let table = style.bold(&new.name, CYAN);
        let (was, is) = (sequences(old), sequences(new));
        for (action, of, others) in [(&removed, &was, &is), (&created, &is, &was)] {
            let changed = of.iter().filter(|it| !others.contains(it));
            steps.extend(changed.map(|(name, column, _)| {
                format!("{action} auto-increment constraint {name} on column {column} of table {table}\n")
            }));
        }
        let schedule = |module: &Module| {
            let mut all = module.schedules().iter();
            let found = all.find(|schedule| schedule.table == new.name)?;
            Some((found.at_column, found.kind.word(), found.function.clone()))
        };
        let (was, is) = (schedule(from), schedule(to));
        for (action, it) in [(&removed, &was), (&created, &is)] {
            steps.extend(it.iter().filter(|_| was != is).map(|(_, kind, function)| {
                format!("{action} schedule for table {table} calling {kind} {function}\n")
            }));
        }
    }
    steps.sort_by_key(|step| (rank(step), plain(step)));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use spacetimedb_lib::RawModuleDef;
    use spacetimedb_lib::bsatn;
    use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9Builder;
    use spacetimedb_sats::{AlgebraicType, ProductType};

    /// A module with tables of `id` and `of`; those with an index of their own have a sequence in that column.
    fn module(tables: &[(&'static str, Option<u16>)]) -> Module {
        let mut def = RawModuleDefV9Builder::new();
        for (name, sequence) in tables {
            let row = ProductType::from([("id", AlgebraicType::U64), ("of", AlgebraicType::U32)]);
            let table = def.build_table_with_new_type(*name, row, true);
            match sequence {
                Some(column) => table.with_column_sequence(*column).finish(),
                None => table.finish(),
            };
        }
        let def = bsatn::to_vec(&RawModuleDef::V9(def.finish())).unwrap();
        Module::from_def(&def).unwrap()
    }

    const HEAD: &str = "━━\nDatabase Migration Plan\n━━\n\n";

    #[test]
    fn hidden_tables_go_and_sequences_come_back() {
        let from = module(&[("kept", None), ("counted", Some(0))]);
        let to = module(&[("kept", Some(1)), ("counted", None), ("new", Some(0))]);
        let server = format!(
            "{HEAD}▸ Removed index kept_id on [id] of table kept\n\
             ▸ Created user table: new (public)\n    Columns:\n        • id: U64\n        • of: U32\n\n\
             ▸ Created user table: rtdb_claims (private)\n    Columns:\n        • session: U64\n\n\
             ▸ Created index kept_of on [of] of table kept\n\
             !!! Warning: All clients will be disconnected due to breaking schema changes\n"
        );
        let expected = format!(
            "{HEAD}▸ Removed index kept_id on [id] of table kept\n\
             ▸ Removed auto-increment constraint counted_id_seq on column id of table counted\n\
             ▸ Created user table: new (public)\n    Columns:\n        • id: U64\n        • of: U32\n    \
             Auto-increment constraints:\n        • new_id_seq on id\n\n\
             ▸ Created index kept_of on [of] of table kept\n\
             ▸ Created auto-increment constraint kept_of_seq on column of of table kept\n\
             !!! Warning: All clients will be disconnected due to breaking schema changes\n"
        );
        assert_eq!(original_plan(&server, &from, &to), expected);
    }

    #[test]
    fn colours_are_the_servers() {
        let from = module(&[("a", None)]);
        let to = module(&[("a", Some(0))]);
        let server = format!("{HEAD}\x1b[0m\x1b[1m\x1b[41m!!! Warning: x\x1b[0m\n");
        let expected = format!(
            "{HEAD}▸ \x1b[0m\x1b[1m\x1b[32mCreated\x1b[0m auto-increment constraint a_id_seq on column id of table \
             \x1b[0m\x1b[1m\x1b[36ma\x1b[0m\n\x1b[0m\x1b[1m\x1b[41m!!! Warning: x\x1b[0m\n"
        );
        assert_eq!(original_plan(&server, &from, &to), expected);
        assert_eq!(original_plan(HEAD, &to, &to), HEAD);
    }
}
