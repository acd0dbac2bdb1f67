//! Patterns of topic bindings, asked of one key after the other in the order of their words.

use super::{FIRST, SECOND, turned};

/// A pattern: words between dots, `*` for one, `#` for any number.
///
/// A run of wildcards is kept as its `*`s followed by at most one `#`, which matches the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    steps: Vec<Step>,
    /// How many steps there are before the first [`Step::Any`]: each is for one word.
    fixed: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// This word, turned as it is in keys.
    Word(String),
    One,
    Any,
}

/// What a key is to a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    Matches,
    /// It does not match; the next may.
    Passes,
    /// It does not match, nor does any before this one, which comes behind it.
    Jump(String),
    /// It does not match, nor does any behind it.
    Ends,
}

/// Which steps of a pattern a key's words can have come to. Kept from one key to the next to save
/// allocations.
#[derive(Debug, Default)]
pub(super) struct States {
    now: Vec<bool>,
    next: Vec<bool>,
}

impl Pattern {
    /// Reads a pattern. Any text is one.
    pub(crate) fn new(pattern: &str) -> Pattern {
        let mut steps = Vec::new();
        let mut any = false;
        for word in pattern.split('.').filter(|_| !pattern.is_empty()) {
            match word {
                "#" => any = true,
                "*" => steps.push(Step::One),
                word => {
                    if std::mem::take(&mut any) {
                        steps.push(Step::Any);
                    }
                    steps.push(Step::Word(turned(word)));
                }
            }
        }
        if any {
            steps.push(Step::Any);
        }
        let fixed = steps.iter().position(|step| *step == Step::Any).unwrap_or(steps.len());
        Pattern { steps, fixed }
    }

    /// How many words it has, a run of `#` as one.
    pub(crate) fn words(&self) -> usize {
        self.steps.len()
    }

    /// What a turned key is to the pattern; takes what it costs off `work_left`.
    pub(super) fn look(&self, key: &str, states: &mut States, work_left: &mut u64) -> Look {
        *work_left = work_left.saturating_sub(1);
        // The key that is left, and where in the key it begins; none where its words are used up.
        let mut rest = (!key.is_empty()).then_some((key, 0));
        for step in &self.steps[..self.fixed] {
            *work_left = work_left.saturating_sub(1);
            let Some((left, start)) = rest else { return behind(key, step) };
            let (word, end) = match left.split_once(FIRST) {
                Some((word, _)) => (word, Some(start + word.len() + FIRST.len())),
                None => (left, None),
            };
            if let Step::Word(wanted) = step
                && wanted != word
            {
                return if **wanted > *word {
                    Look::Jump(format!("{}{wanted}", &key[..start]))
                } else {
                    past(key, start)
                };
            }
            rest = end.map(|end| (&key[end..], end));
        }
        match (&self.steps[self.fixed..], rest) {
            ([], None) | ([Step::Any], _) => Look::Matches,
            ([], Some((_, start))) => past(key, start),
            (steps, rest) if fits(steps, rest.map(|(left, _)| left), states, work_left) => {
                Look::Matches
            }
            _ => Look::Passes,
        }
    }
}

/// Where to go on if a key has fewer words than it takes, of which `step` is the next: among the
/// keys that begin with it, which come next.
fn behind(key: &str, step: &Step) -> Look {
    match step {
        Step::Word(wanted) if !key.is_empty() => Look::Jump(format!("{key}{FIRST}{wanted}")),
        Step::Word(wanted) if !wanted.is_empty() => Look::Jump(wanted.clone()),
        _ => Look::Passes,
    }
}

/// Where to go on if nothing from `key` on matches that begins with the words before `start`.
fn past(key: &str, start: usize) -> Look {
    match start.checked_sub(FIRST.len()) {
        None => Look::Ends,
        Some(end) => Look::Jump(format!("{}{SECOND}", &key[..end])),
    }
}

/// Whether the words that are left of a key fit steps of which the first is for any number.
fn fits(steps: &[Step], rest: Option<&str>, states: &mut States, work_left: &mut u64) -> bool {
    let States { now, next } = states;
    now.clear();
    now.resize(steps.len() + 1, false);
    now[0] = true;
    now[1] = true;
    for word in rest.into_iter().flat_map(|rest| rest.split(FIRST)) {
        *work_left = work_left.saturating_sub(steps.len() as u64);
        next.clear();
        next.resize(steps.len() + 1, false);
        for (at, step) in steps.iter().enumerate().filter(|(at, _)| now[*at]) {
            match step {
                Step::Any => next[at] = true,
                Step::One => next[at + 1] = true,
                Step::Word(wanted) => next[at + 1] |= wanted == word,
            }
        }
        // Nothing is a number of words as well; no `#` follows on another.
        for (at, step) in steps.iter().enumerate() {
            next[at + 1] |= next[at] && *step == Step::Any;
        }
        std::mem::swap(now, next);
    }
    now[steps.len()]
}
