//! What SQL text would do, as far as it must be known here: read, or anything else.

use rtdb_protocol::hidden;

/// What a text of SQL statements would do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statements {
    /// Nothing but queries.
    Reads,
    /// It names a table that is not for clients.
    Hidden(String),
    /// There is a statement that begins with this word.
    Other(String),
}

/// A token, as far as the distinction needs it.
enum Token<'a> {
    Word(&'a str),
    Semicolon,
    /// A literal, an operator, a parenthesis.
    Rest,
}

/// Looks at the first word of each statement, and at all names.
pub(super) fn classify(sql: &str) -> Statements {
    let mut at_start = true;
    let mut other = None;
    for token in tokens(sql) {
        match token {
            Token::Semicolon => at_start = true,
            Token::Word(word) => {
                if hidden::is_hidden_table(word) {
                    return Statements::Hidden(word.to_owned());
                }
                let reads = word.eq_ignore_ascii_case("select") || word.eq_ignore_ascii_case("show");
                if std::mem::take(&mut at_start) && !reads {
                    other.get_or_insert_with(|| word.to_owned());
                }
            }
            Token::Rest => {
                if std::mem::take(&mut at_start) {
                    other.get_or_insert_with(|| "?".to_owned());
                }
            }
        }
    }
    other.map_or(Statements::Reads, Statements::Other)
}

/// Splits SQL into tokens. Comments and white space are left out; what is not closed goes on to the end.
fn tokens(mut rest: &str) -> impl Iterator<Item = Token<'_>> {
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start();
            if let Some(comment) = rest.strip_prefix("--") {
                rest = comment.split_once('\n').map_or("", |(_, after)| after);
            } else if let Some(comment) = rest.strip_prefix("/*") {
                rest = comment.split_once("*/").map_or("", |(_, after)| after);
            } else {
                break;
            }
        }
        let first = rest.chars().next()?;
        let (token, after) = match first {
            ';' => (Token::Semicolon, &rest[1..]),
            '\'' => (Token::Rest, quoted(&rest[1..], '\'').1),
            '"' | '`' => {
                let (name, after) = quoted(&rest[1..], first);
                (Token::Word(name), after)
            }
            first if is_word(first) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                (Token::Word(&rest[..end]), &rest[end..])
            }
            first => (Token::Rest, &rest[first.len_utf8()..]),
        };
        rest = after;
        Some(token)
    })
}

/// Splits behind the closing quote. A doubled quote reads as two literals, which changes nothing here.
fn quoted(text: &str, quote: char) -> (&str, &str) {
    text.split_once(quote).unwrap_or((text, ""))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(verb: &str) -> Statements {
        Statements::Other(verb.into())
    }

    #[test]
    fn queries_are_told_from_what_writes() {
        assert_eq!(classify("SELECT * FROM counter"), Statements::Reads);
        assert_eq!(
            classify(" -- why\n /* so */ select 1; SELECT 2;"),
            Statements::Reads
        );
        assert_eq!(classify("SHOW row_limit"), Statements::Reads);
        assert_eq!(classify("select ';delete from a' from b"), Statements::Reads);
        assert_eq!(classify("INSERT INTO a VALUES (1)"), other("INSERT"));
        assert_eq!(classify("select 1; delete from a"), other("delete"));
        assert_eq!(classify("select 1 -- x\n; update a set b = 1"), other("update"));
        assert_eq!(classify("select 'it''s'; set row_limit = 1"), other("set"));
        assert_eq!(classify("(select 1)"), other("?"));
    }

    #[test]
    fn the_clusters_own_tables_are_not_there() {
        assert_eq!(
            classify("select * from rtdb_state"),
            Statements::Hidden("rtdb_state".into())
        );
        assert_eq!(
            classify("select a.* from a join \"RTDB_session\" b"),
            Statements::Hidden("RTDB_session".into())
        );
        assert_eq!(
            classify("select * from st_table"),
            Statements::Hidden("st_table".into())
        );
        assert_eq!(
            classify("select * from a where name = 'rtdb_state'"),
            Statements::Reads
        );
    }
}
