//! What keeps the parser from going deep, or from trying for ever.
//!
//! It limits how deep expressions in brackets and queries are by itself, but not signs before operands, types in types, or
//! brackets around tables; and where it tries one way and then another, the work doubles at every level, and an error of
//! depth switches its own limit off. All of that is SQL that SpacetimeDB has not, or has in small measure: so what is not
//! to be had is refused before it is parsed.

use super::{Language, SqlError};
use sqlparser::keywords::Keyword;
use sqlparser::parser::ParserError;
use sqlparser::tokenizer::{Token, TokenWithLocation};

/// Brackets in brackets, and signs before operands in them: as many as the parser takes of expressions in expressions.
const NESTING_MAX: usize = 50;

/// Types in types.
const TYPES_MAX: usize = 4;

/// What a statement may begin with for it to be parsed. Of the others none is served.
const OPENINGS: [Keyword; 9] = [
    Keyword::NoKeyword,
    Keyword::SELECT,
    Keyword::SHOW,
    Keyword::INSERT,
    Keyword::UPDATE,
    Keyword::DELETE,
    Keyword::SET,
    Keyword::WITH,
    Keyword::VALUES,
];

/// What begins a query in brackets.
const QUERIES: [Keyword; 6] = [
    Keyword::SELECT,
    Keyword::WITH,
    Keyword::VALUES,
    Keyword::TABLE,
    Keyword::INSERT,
    Keyword::UPDATE,
];

/// What makes expressions nest without brackets. Columns of such names are to be quoted, or named with their table.
const NESTING: [Keyword; 4] = [
    Keyword::CASE,
    Keyword::INTERVAL,
    Keyword::DISTINCT,
    Keyword::INSERT,
];

pub(super) fn check(tokens: &[TokenWithLocation], text: &str, language: Language) -> Result<(), SqlError> {
    let mut nesting = Nesting::default();
    let mut types = 0;
    let mut before = &Token::SemiColon;
    let tokens = tokens.iter().map(|token| &token.token);
    for token in tokens.filter(|token| !matches!(token, Token::Whitespace(_))) {
        if *before == Token::SemiColon && !opens(token) {
            return Err(match language {
                Language::Sql => SqlError::unsupported("", text),
                Language::Subscription => SqlError::NotSelect,
            });
        }
        if nests(before, token) {
            return Err(SqlError::unsupported_select(text, language));
        }
        types += usize::from(*token == Token::Lt && is_any(before, &[Keyword::ARRAY]));
        nesting.take(token);
        if nesting.depth > NESTING_MAX || types > TYPES_MAX {
            return Err(ParserError::RecursionLimitExceeded.into());
        }
        before = token;
    }
    Ok(())
}

/// Whether a statement may begin so.
fn opens(token: &Token) -> bool {
    !matches!(token, Token::Word(_)) || is_any(token, &OPENINGS)
}

/// Whether a token begins a query in brackets, or what nests without them.
fn nests(before: &Token, token: &Token) -> bool {
    match token {
        Token::Word(_) if *before == Token::LParen && is_any(token, &QUERIES) => true,
        Token::Word(_) if matches!(before, Token::SemiColon | Token::Period) => false,
        Token::Word(_) => is_any(token, &NESTING),
        Token::Arrow | Token::LongArrow | Token::HashArrow | Token::HashLongArrow => true,
        Token::AtArrow | Token::ArrowAt | Token::HashMinus | Token::AtQuestion | Token::AtAt => true,
        _ => false,
    }
}

/// Whether it is one of these words, unquoted.
fn is_any(token: &Token, keywords: &[Keyword]) -> bool {
    matches!(token, Token::Word(word) if keywords.contains(&word.keyword))
}

/// Brackets, and signs before operands.
#[derive(Default)]
struct Nesting {
    depth: usize,
    /// Signs since the last bracket or operand.
    signs: usize,
    /// Those before each open bracket.
    outside: Vec<usize>,
}

impl Nesting {
    fn take(&mut self, token: &Token) {
        match token {
            Token::Plus | Token::Minus | Token::Tilde | Token::AtSign | Token::DoubleExclamationMark => {
                self.sign()
            }
            Token::PGSquareRoot | Token::PGCubeRoot => self.sign(),
            Token::Word(_) if is_any(token, &[Keyword::NOT]) => self.sign(),
            Token::LParen | Token::LBracket | Token::LBrace => {
                self.depth += 1;
                self.outside.push(std::mem::take(&mut self.signs));
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                self.operand();
                if let Some(signs) = self.outside.pop() {
                    self.depth -= 1;
                    self.signs = signs;
                    self.operand();
                }
            }
            _ => self.operand(),
        }
    }

    fn sign(&mut self) {
        self.depth += 1;
        self.signs += 1;
    }

    fn operand(&mut self) {
        self.depth -= std::mem::take(&mut self.signs);
    }
}
