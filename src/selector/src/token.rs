//! The words of a selector.

use winnow::Parser;
use winnow::ascii::{digit1, hex_digit1, multispace0};
use winnow::combinator::{alt, delimited, opt, preceded, repeat, terminated};
use winnow::token::{one_of, take_while};

use crate::SelectorError;

/// A word.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name of a header.
    Name(String),
    /// A word of the language, in capitals.
    Word(&'static str),
    /// Text.
    Text(String),
    /// A whole number, without its sign.
    Int(u64),
    /// Any other number.
    Float(f64),
    /// An operator, a parenthesis or a comma.
    Sign(&'static str),
    /// Nothing more.
    End,
}

/// A word and where it begins, in bytes.
pub(crate) type Placed = (Token, usize);

const WORDS: [&str; 11] =
    ["AND", "OR", "NOT", "BETWEEN", "LIKE", "ESCAPE", "IN", "IS", "NULL", "TRUE", "FALSE"];

const SIGNS: [&str; 13] = ["<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "+", "-", "*", "/"];

/// The words of `text`, the last of them [`Token::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Placed>, SelectorError> {
    let mut rest = text;
    let mut all = Vec::new();
    loop {
        skip_blanks(&mut rest);
        let at = text.len() - rest.len();
        if rest.is_empty() {
            all.push((Token::End, at));
            return Ok(all);
        }
        let token = token.parse_next(&mut rest).map_err(|_| unknown(text, at))?;
        // A number that a letter follows at once is neither number nor name.
        if matches!(token, Token::Int(_) | Token::Float(_)) && rest.starts_with(is_name_part) {
            let at = text.len() - rest.len();
            return Err(syntax(text, at, &first_char(rest), "a blank or an operator"));
        }
        all.push((token, at));
    }
}

fn skip_blanks(rest: &mut &str) {
    let blanks: winnow::Result<&str> = multispace0.parse_next(rest);
    debug_assert!(blanks.is_ok(), "no blanks are blanks, too");
}

/// Says what is wrong where no word begins.
fn unknown(text: &str, at: usize) -> SelectorError {
    let rest = &text[at..];
    let expected = match rest.chars().next() {
        Some('\'') => "a second quote at the end of the text ('' stands for one within it)",
        Some('"') => "a second quote at the end of the name",
        Some('!') => "<> for what is not equal",
        Some('0'..='9') => "a number of no more than 64 bits",
        _ => "a name, a value or an operator",
    };
    syntax(text, at, &first_char(rest), expected)
}

fn first_char(rest: &str) -> String {
    rest.chars().next().map_or("the end".to_owned(), |c| format!("'{}'", c.escape_debug()))
}

/// An error at the byte `at`.
pub(crate) fn syntax(text: &str, at: usize, found: &str, expected: &str) -> SelectorError {
    let at = text[..at].chars().count() + 1;
    SelectorError::Syntax { at, found: found.to_owned(), expected: expected.to_owned() }
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || matches!(c, '_' | '$')
}

fn is_name_part(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '.')
}

fn token(input: &mut &str) -> winnow::Result<Token> {
    alt((number, quoted('\'').map(Token::Text), quoted('"').map(Token::Name), name, sign))
        .parse_next(input)
}

/// What stands between two quotes; a doubled one stands for one.
fn quoted<'a>(quote: char) -> impl Parser<&'a str, String, winnow::error::ContextError> {
    let part = alt((
        take_while(1.., move |c| c != quote),
        (quote, quote).take().map(|two: &str| &two[..1]),
    ));
    let parts = repeat(0.., part).fold(String::new, |mut text, part: &str| {
        text.push_str(part);
        text
    });
    delimited(quote, parts, quote)
}

fn name(input: &mut &str) -> winnow::Result<Token> {
    let name: &str =
        (one_of(is_name_start), take_while(0.., is_name_part)).take().parse_next(input)?;
    let word = WORDS.iter().find(|word| word.eq_ignore_ascii_case(name));
    Ok(match word {
        None => Token::Name(name.to_owned()),
        Some(word) => Token::Word(word),
    })
}

fn sign(input: &mut &str) -> winnow::Result<Token> {
    // Those of two characters come first.
    let sign = SIGNS.iter().find(|sign| input.starts_with(**sign));
    let Some(sign) = sign else { return Err(winnow::error::ContextError::new()) };
    *input = &input[sign.len()..];
    Ok(Token::Sign(sign))
}

/// A number as Java writes one.
fn number(input: &mut &str) -> winnow::Result<Token> {
    alt((hexadecimal, floating, integer)).parse_next(input)
}

fn hexadecimal(input: &mut &str) -> winnow::Result<Token> {
    let digits = preceded(alt(("0x", "0X")), hex_digit1);
    terminated(digits, opt(one_of(['l', 'L'])))
        .try_map(|digits: &str| u64::from_str_radix(digits, 16).map(Token::Int))
        .parse_next(input)
}

fn floating(input: &mut &str) -> winnow::Result<Token> {
    let exponent = || (one_of(['e', 'E']), opt(one_of(['+', '-'])), digit1).void();
    let suffix = || opt(one_of(['d', 'D', 'f', 'F']));
    let mantissa = alt((
        (digit1, '.', opt(digit1), opt(exponent())).void(),
        ('.', digit1, opt(exponent())).void(),
        (digit1, exponent()).void(),
    ));
    terminated(mantissa.take(), suffix())
        .try_map(|text: &str| text.parse().map(Token::Float))
        .parse_next(input)
}

fn integer(input: &mut &str) -> winnow::Result<Token> {
    terminated(digit1, opt(one_of(['l', 'L'])))
        .try_map(|text: &str| text.parse().map(Token::Int))
        .parse_next(input)
}
