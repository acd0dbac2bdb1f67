//! What an expression is for one message: true, false, or neither, which SQL calls unknown.
//!
//! Recursion is as deep as the text put things within each other
//! ([`DEPTH_MAX`](crate::DEPTH_MAX), a few calls each).

use std::cmp::Ordering;

use crate::parse::{Comparison, Expr, Operator};
use crate::value::{Number, Pair, Value};

type Header<'a> = dyn Fn(&str) -> Option<Value> + 'a;

/// Whether `expr` is true; `None` for unknown.
pub(crate) fn truth(expr: &Expr, header: &Header<'_>) -> Option<bool> {
    match expr {
        Expr::Or(parts) => any(parts, header, true),
        Expr::And(parts) => any(parts, header, false),
        Expr::Not(inner) => truth(inner, header).map(|b| !b),
        Expr::Compare(left, comparison, right) => {
            compare(&value(left, header)?, *comparison, &value(right, header)?)
        }
        Expr::Between(of, low, high) => {
            let of = value(of, header)?;
            // As of >= low AND of <= high, where one that is false decides.
            let above =
                value(low, header).and_then(|low| compare(&of, Comparison::GreaterOrEqual, &low));
            let below =
                value(high, header).and_then(|high| compare(&of, Comparison::LessOrEqual, &high));
            match (above, below) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            }
        }
        Expr::In(name, texts) => {
            let of = header(name)?;
            Some(of.text().is_some_and(|of| texts.iter().any(|text| text == of)))
        }
        Expr::Like(name, pattern) => {
            let of = header(name)?;
            Some(of.text().is_some_and(|of| pattern.matches(of)))
        }
        Expr::IsNull(name) => Some(header(name).is_none()),
        Expr::Literal(_) | Expr::Name(_) | Expr::Arithmetic(..) | Expr::Negative(_) => {
            value(expr, header)?.truth()
        }
    }
}

/// `decides` if any of `parts` is that; the other if all are; else unknown.
fn any(parts: &[Expr], header: &Header<'_>, decides: bool) -> Option<bool> {
    let mut is_known = true;
    for part in parts {
        match truth(part, header) {
            Some(b) if b == decides => return Some(decides),
            Some(_) => {}
            None => is_known = false,
        }
    }
    is_known.then_some(!decides)
}

fn value(expr: &Expr, header: &Header<'_>) -> Option<Value> {
    match expr {
        Expr::Literal(value) => Some(value.clone()),
        Expr::Name(name) => header(name),
        Expr::Arithmetic(first, rest) => {
            let mut so_far = value(first, header)?.number()?;
            for (operator, next) in rest {
                so_far = calculate(so_far, *operator, value(next, header)?.number()?)?;
            }
            Some(so_far.value())
        }
        Expr::Negative(inner) => Some(match value(inner, header)?.number()? {
            Number::Int(n) => Value::Int(n.checked_neg()?),
            Number::Float(x) => Value::Float(-x),
        }),
        condition => truth(condition, header).map(Value::Bool),
    }
}

/// Whole numbers stay whole. What has no result (a division by zero, or one that does not fit) is
/// unknown.
fn calculate(left: Number, operator: Operator, right: Number) -> Option<Number> {
    if let (Number::Int(a), Number::Int(b)) = (left, right) {
        return match operator {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            Operator::Multiply => a.checked_mul(b),
            Operator::Divide => a.checked_div(b),
        }
        .map(Number::Int);
    }
    let (a, b) = (left.as_f64(), right.as_f64());
    Some(Number::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
    }))
}

/// Values of different types are not equal, nor unequal (section 3.8.1.1: the result is false).
fn compare(left: &Value, comparison: Comparison, right: &Value) -> Option<bool> {
    let ordering = match left.alike(right) {
        None => return Some(false),
        Some(Pair::Number(a, b)) => a.compare(b),
        Some(Pair::Text(a, b)) => match comparison {
            Comparison::Equal | Comparison::NotEqual => Some(a.cmp(b)),
            // Texts have no order, unless both look like numbers.
            _ => match (left.number(), right.number()) {
                (Some(a), Some(b)) => a.compare(b),
                _ => return Some(false),
            },
        },
        Some(Pair::Bool(a, b)) => match comparison {
            Comparison::Equal | Comparison::NotEqual => Some(a.cmp(&b)),
            _ => return Some(false),
        },
    };
    // Not a number is not equal to anything.
    let Some(ordering) = ordering else { return Some(comparison == Comparison::NotEqual) };
    Some(match comparison {
        Comparison::Equal => ordering == Ordering::Equal,
        Comparison::NotEqual => ordering != Ordering::Equal,
        Comparison::Less => ordering == Ordering::Less,
        Comparison::LessOrEqual => ordering != Ordering::Greater,
        Comparison::Greater => ordering == Ordering::Greater,
        Comparison::GreaterOrEqual => ordering != Ordering::Less,
    })
}
