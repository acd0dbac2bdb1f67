//! Patterns of LIKE: `%` for any number of characters, `_` for one.

/// A pattern, ready to be compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pattern(Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Any,
    One,
    Char(char),
}

impl Pattern {
    /// Reads a pattern in which `escape` takes the meaning from the character behind it; `None` if
    /// nothing stands behind one.
    pub(crate) fn new(text: &str, escape: Option<char>) -> Option<Pattern> {
        let (mut parts, mut chars) = (Vec::new(), text.chars());
        while let Some(c) = chars.next() {
            let part = match c {
                c if Some(c) == escape => Part::Char(chars.next()?),
                '%' => Part::Any,
                '_' => Part::One,
                c => Part::Char(c),
            };
            // Several in a row are as good as one, and cost more.
            if (part, parts.last()) != (Part::Any, Some(&Part::Any)) {
                parts.push(part);
            }
        }
        Some(Pattern(parts))
    }

    /// Whether all of `text` is like this. When a part does not fit, the last `%` takes one more
    /// character: no more than length times length steps.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let (parts, mut rest, mut at) = (&self.0, text.chars(), 0);
        let mut again: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let before = rest.clone();
            match (parts.get(at), rest.next()) {
                (Some(Part::Any), _) => {
                    rest = before;
                    again = Some((at + 1, rest.clone()));
                    at += 1;
                }
                (None, None) => return true,
                (Some(Part::One), Some(_)) => at += 1,
                (Some(Part::Char(wanted)), Some(c)) if *wanted == c => at += 1,
                _ => {
                    let Some((behind, from)) = &mut again else { return false };
                    if from.next().is_none() {
                        return false;
                    }
                    at = *behind;
                    rest = from.clone();
                }
            }
        }
    }
}
