//! The grammar: what binds tighter is read by a function further down.

use crate::like::Pattern;
use crate::token::{Placed, Token, syntax, tokens};
use crate::value::Value;
use crate::{DEPTH_MAX, SelectorError};

/// An expression. Chains are lists and no trees, so that none is deeper than what its text puts
/// within each other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    /// A value that stands there.
    Literal(Value),
    /// The value of a header.
    Name(String),
    /// One of them is true.
    Or(Vec<Expr>),
    /// All of them are true.
    And(Vec<Expr>),
    /// It is false.
    Not(Box<Expr>),
    /// A value and what is added to it, multiplied with it and so on.
    Arithmetic(Box<Expr>, Vec<(Operator, Expr)>),
    /// The number with the other sign.
    Negative(Box<Expr>),
    /// Two values compared.
    Compare(Box<Expr>, Comparison, Box<Expr>),
    /// A value that is not below the first and not above the second.
    Between(Box<Expr>, Box<Expr>, Box<Expr>),
    /// A header that is one of these texts.
    In(String, Vec<String>),
    /// A header that is like this.
    Like(String, Pattern),
    /// A header that is not there.
    IsNull(String),
}

/// An operator of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What an expression can be, as far as its text tells.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Truth,
    Number,
    Text,
    /// A header: whatever it is.
    Any,
}

impl Expr {
    fn kind(&self) -> Kind {
        match self {
            Expr::Literal(Value::Bool(_)) => Kind::Truth,
            Expr::Literal(Value::Int(_) | Value::Float(_)) => Kind::Number,
            Expr::Literal(Value::String(_) | Value::Untyped(_)) => Kind::Text,
            Expr::Name(_) => Kind::Any,
            Expr::Arithmetic(..) | Expr::Negative(_) => Kind::Number,
            _ => Kind::Truth,
        }
    }
}

/// Reads a selector.
pub(crate) fn parse(text: &str) -> Result<Expr, SelectorError> {
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, depth: 0 };
    let (expr, at) = (parser.or()?, 0);
    parser.want(&expr, at, Kind::Truth, "a condition, such as a comparison")?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("AND, OR or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Placed>,
    /// The next token.
    at: usize,
    /// Expressions within each other.
    depth: usize,
}

type Parsed = Result<Expr, SelectorError>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        // The last token is the end, and nothing takes it.
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn place(&self) -> usize {
        self.tokens.get(self.at).map_or(self.text.len(), |(_, at)| *at)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    fn takes(&mut self, token: &Token) -> bool {
        let is_next = self.peek() == token;
        self.at += usize::from(is_next);
        is_next
    }

    fn takes_word(&mut self, word: &'static str) -> bool {
        self.takes(&Token::Word(word))
    }

    fn takes_sign(&mut self, sign: &'static str) -> bool {
        self.takes(&Token::Sign(sign))
    }

    fn expect(&mut self, token: &Token, expected: &str) -> Result<(), SelectorError> {
        if self.takes(token) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn unexpected(&self, expected: &str) -> SelectorError {
        let found = match self.peek() {
            Token::End => "the end".to_owned(),
            _ => {
                let end = self.tokens.get(self.at + 1).map_or(self.text.len(), |(_, at)| *at);
                format!("'{}'", self.text[self.place()..end].trim_end())
            }
        };
        syntax(self.text, self.place(), &found, expected)
    }

    /// Refuses an expression, which begins with the token `at`, that can never be of this kind.
    fn want(
        &self,
        expr: &Expr,
        at: usize,
        kind: Kind,
        expected: &str,
    ) -> Result<(), SelectorError> {
        let found = match expr.kind() {
            Kind::Any => return Ok(()),
            own if own == kind => return Ok(()),
            Kind::Truth => "a condition",
            Kind::Number => "a number",
            Kind::Text => "a text",
        };
        let place = self.tokens.get(at).map_or(0, |(_, at)| *at);
        Err(syntax(self.text, place, found, expected))
    }

    /// Reads something that stands within something else.
    fn deeper(&mut self, read: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth >= DEPTH_MAX {
            let at = self.text[..self.place()].chars().count() + 1;
            return Err(SelectorError::TooDeep { at });
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn or(&mut self) -> Parsed {
        self.chain("OR", Parser::and, Expr::Or)
    }

    fn and(&mut self) -> Parsed {
        self.chain("AND", Parser::not, Expr::And)
    }

    fn chain(
        &mut self,
        word: &'static str,
        read: fn(&mut Self) -> Parsed,
        whole: fn(Vec<Expr>) -> Expr,
    ) -> Parsed {
        let condition = "a condition on each side of AND and OR";
        let at = self.at;
        let first = read(self)?;
        if *self.peek() != Token::Word(word) {
            return Ok(first);
        }
        self.want(&first, at, Kind::Truth, condition)?;
        let mut parts = vec![first];
        while self.takes_word(word) {
            let at = self.at;
            let part = read(self)?;
            self.want(&part, at, Kind::Truth, condition)?;
            parts.push(part);
        }
        Ok(whole(parts))
    }

    fn not(&mut self) -> Parsed {
        if !self.takes_word("NOT") {
            return self.predicate();
        }
        let at = self.at;
        let expr = self.deeper(Parser::not)?;
        self.want(&expr, at, Kind::Truth, "a condition behind NOT")?;
        Ok(Expr::Not(Box::new(expr)))
    }

    fn predicate(&mut self) -> Parsed {
        let at = self.at;
        let left = self.sum()?;
        if let Token::Sign(sign) = *self.peek()
            && let Some(comparison) = comparison(sign)
        {
            self.at += 1;
            return self.compare(left, at, comparison);
        }
        if self.takes_word("IS") {
            let negated = self.takes_word("NOT");
            self.expect(&Token::Word("NULL"), "NULL or NOT NULL")?;
            let name = self.name_of(left, at, "IS NULL")?;
            return Ok(negate(Expr::IsNull(name), negated));
        }
        let negated = self.takes_word("NOT");
        let expr = if self.takes_word("BETWEEN") {
            self.between(left, at)?
        } else if self.takes_word("IN") {
            let name = self.name_of(left, at, "IN")?;
            Expr::In(name, self.texts()?)
        } else if self.takes_word("LIKE") {
            let name = self.name_of(left, at, "LIKE")?;
            Expr::Like(name, self.pattern()?)
        } else if negated {
            return Err(self.unexpected("BETWEEN, IN or LIKE behind NOT"));
        } else {
            return Ok(left);
        };
        Ok(negate(expr, negated))
    }

    fn compare(&mut self, left: Expr, at: usize, comparison: Comparison) -> Parsed {
        let right_at = self.at;
        let right = self.sum()?;
        let is_ordered = !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        if is_ordered {
            let expected = "a number: texts and truth values are only equal (=) or not (<>)";
            self.want(&left, at, Kind::Number, expected)?;
            self.want(&right, right_at, Kind::Number, expected)?;
        }
        match left.kind() {
            Kind::Any => {}
            kind => self.want(&right, right_at, kind, "a value of the type on the left")?,
        }
        Ok(Expr::Compare(Box::new(left), comparison, Box::new(right)))
    }

    fn between(&mut self, left: Expr, at: usize) -> Parsed {
        self.want(&left, at, Kind::Number, "a number before BETWEEN")?;
        let low_at = self.at;
        let low = self.sum()?;
        self.want(&low, low_at, Kind::Number, "a number behind BETWEEN")?;
        self.expect(&Token::Word("AND"), "AND and the upper bound of BETWEEN")?;
        let high_at = self.at;
        let high = self.sum()?;
        self.want(&high, high_at, Kind::Number, "a number as the upper bound of BETWEEN")?;
        Ok(Expr::Between(Box::new(left), Box::new(low), Box::new(high)))
    }

    /// The name that an expression is: some operators take nothing else.
    fn name_of(&self, expr: Expr, at: usize, operator: &str) -> Result<String, SelectorError> {
        let Expr::Name(name) = expr else {
            let place = self.tokens.get(at).map_or(0, |(_, at)| *at);
            let expected = format!("the name of a header before {operator}");
            return Err(syntax(self.text, place, "a value", &expected));
        };
        Ok(name)
    }

    fn texts(&mut self) -> Result<Vec<String>, SelectorError> {
        self.expect(&Token::Sign("("), "( and a list of texts behind IN")?;
        let mut texts = Vec::new();
        loop {
            texts.push(self.text("a text in single quotes")?);
            if self.takes_sign(")") {
                return Ok(texts);
            }
            self.expect(&Token::Sign(","), ", or )")?;
        }
    }

    fn text(&mut self, expected: &str) -> Result<String, SelectorError> {
        if !matches!(self.peek(), Token::Text(_)) {
            return Err(self.unexpected(expected));
        }
        match self.take() {
            Token::Text(text) => Ok(text),
            _ => Err(self.unexpected(expected)),
        }
    }

    fn pattern(&mut self) -> Result<Pattern, SelectorError> {
        let place = self.place();
        let text = self.text("a pattern in single quotes")?;
        let mut escape = None;
        if self.takes_word("ESCAPE") {
            let expected = "one character in single quotes behind ESCAPE";
            let before = self.at;
            let escaping = self.text(expected)?;
            let mut chars = escaping.chars();
            escape = chars.next();
            if escape.is_none() || chars.next().is_some() {
                self.at = before;
                return Err(self.unexpected(expected));
            }
        }
        Pattern::new(&text, escape).ok_or_else(|| {
            let expected = "a character behind the last escape character of the pattern";
            syntax(self.text, place, "the end of the pattern", expected)
        })
    }

    fn sum(&mut self) -> Parsed {
        let operator = |sign: &str| match sign {
            "+" => Some(Operator::Add),
            "-" => Some(Operator::Subtract),
            _ => None,
        };
        self.arithmetic(operator, Parser::product)
    }

    fn product(&mut self) -> Parsed {
        let operator = |sign: &str| match sign {
            "*" => Some(Operator::Multiply),
            "/" => Some(Operator::Divide),
            _ => None,
        };
        self.arithmetic(operator, Parser::signed)
    }

    fn arithmetic(
        &mut self,
        operator: fn(&str) -> Option<Operator>,
        read: fn(&mut Self) -> Parsed,
    ) -> Parsed {
        let expected = "numbers on both sides of + - * /";
        let at = self.at;
        let first = read(self)?;
        let mut rest = Vec::new();
        while let Token::Sign(sign) = *self.peek()
            && let Some(operator) = operator(sign)
        {
            if rest.is_empty() {
                self.want(&first, at, Kind::Number, expected)?;
            }
            self.at += 1;
            let at = self.at;
            let next = read(self)?;
            self.want(&next, at, Kind::Number, expected)?;
            rest.push((operator, next));
        }
        if rest.is_empty() { Ok(first) } else { Ok(Expr::Arithmetic(Box::new(first), rest)) }
    }

    fn signed(&mut self) -> Parsed {
        let negative = self.takes_sign("-");
        if !negative && !self.takes_sign("+") {
            return self.primary();
        }
        if negative
            && let Token::Int(n) = *self.peek()
            && n <= i64::MIN.unsigned_abs()
        {
            self.at += 1;
            return Ok(Expr::Literal(Value::Int(0i64.wrapping_sub_unsigned(n))));
        }
        let at = self.at;
        let expr = self.deeper(Parser::signed)?;
        self.want(&expr, at, Kind::Number, "a number behind a sign")?;
        Ok(if negative { Expr::Negative(Box::new(expr)) } else { expr })
    }

    fn primary(&mut self) -> Parsed {
        let expected = "a name, a value or (";
        let literal = match self.peek() {
            Token::Int(n) => match i64::try_from(*n) {
                Ok(n) => Value::Int(n),
                Err(_) => return Err(self.unexpected("a number of no more than 64 bits")),
            },
            Token::Float(x) => Value::Float(*x),
            Token::Text(text) => Value::String(text.clone()),
            Token::Word("TRUE") => Value::Bool(true),
            Token::Word("FALSE") => Value::Bool(false),
            Token::Name(name) => {
                let name = name.clone();
                self.at += 1;
                return Ok(Expr::Name(name));
            }
            Token::Sign("(") => {
                self.at += 1;
                let expr = self.deeper(Parser::or)?;
                self.expect(&Token::Sign(")"), ")")?;
                return Ok(expr);
            }
            _ => return Err(self.unexpected(expected)),
        };
        self.at += 1;
        Ok(Expr::Literal(literal))
    }
}

fn negate(expr: Expr, negated: bool) -> Expr {
    if negated { Expr::Not(Box::new(expr)) } else { expr }
}

fn comparison(sign: &str) -> Option<Comparison> {
    Some(match sign {
        "=" => Comparison::Equal,
        "<>" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ => return None,
    })
}
