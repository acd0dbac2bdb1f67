//! Topic bindings by the words of their keys.
//!
//! Words are what stands between dots; an empty key has none. In a binding's key `*` stands for
//! one word and `#` for any number of them. A run of wildcards is kept as its `*`s followed by at
//! most one `#`, which matches the same, so no `#` follows a `#` and every node below a `#` is
//! entered by a literal word first.

use std::collections::HashSet;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use super::targets::{Reached, Target, Targets};

/// Words of a topic binding's key at the most: as many as 255 bytes, a key's length in AMQP 0-9-1,
/// can hold. It bounds the trie's depth and with it the recursion over it.
pub const WORDS_MAX: usize = 256;

/// How many words `key` has.
pub(super) fn words(key: &str) -> usize {
    if key.is_empty() { 0 } else { key.split('.').count() }
}

/// The bindings of a topic exchange.
#[derive(Clone, Debug, Default)]
pub(super) struct Trie {
    root: Node,
}

/// What a key's words so far lead to. A node without bindings at it or below it is removed.
#[derive(Clone, Debug, Default)]
struct Node {
    /// By the next word. `None` rather than an empty map, which would be allocated: most nodes
    /// are leaves.
    words: Option<HashTrieMapSync<Arc<str>, Node>>,
    /// If the next is `*`.
    one: Option<Arc<Node>>,
    /// If the next is `#`.
    any: Option<Arc<Node>>,
    /// Of the bindings whose key ends here.
    targets: Targets,
}

/// A word of a binding's key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step<'k> {
    Word(&'k str),
    One,
    Any,
}

/// A binding's key with runs of wildcards in their one form.
fn steps(key: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    if key.is_empty() {
        return steps;
    }
    let mut any = false;
    for word in key.split('.') {
        match word {
            "#" => any = true,
            "*" => steps.push(Step::One),
            word => {
                if std::mem::take(&mut any) {
                    steps.push(Step::Any);
                }
                steps.push(Step::Word(word));
            }
        }
    }
    if any {
        steps.push(Step::Any);
    }
    steps
}

impl Trie {
    /// Adds a binding with `key` to `target`.
    pub(super) fn add(&mut self, key: &str, target: &Target) {
        self.root.add(&steps(key), target);
    }

    /// Removes a binding with `key` to `target`.
    ///
    /// # Panics
    /// If it was not added.
    pub(super) fn remove(&mut self, key: &str, target: &Target) {
        self.root.remove(&steps(key), target);
    }

    /// Whether no binding is in it, nor a node that one left behind.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Adds the targets of every binding whose key matches `key`.
    ///
    /// Each pair of a node and a position in `key` is visited once at the most, so the cost is
    /// bounded by their product whatever the bindings are.
    pub(super) fn reach<'t>(&'t self, key: &str, reached: &mut Reached<'t, '_>) {
        let mut search = Search { reached, entered: HashSet::new(), nested: false };
        search.visit(&self.root, (!key.is_empty()).then_some(key));
    }
}

impl Node {
    fn add(&mut self, steps: &[Step<'_>], target: &Target) {
        let Some((step, rest)) = steps.split_first() else { return self.targets.add(target) };
        match step {
            Step::One => Arc::make_mut(self.one.get_or_insert_default()).add(rest, target),
            Step::Any => Arc::make_mut(self.any.get_or_insert_default()).add(rest, target),
            Step::Word(word) => {
                let words = self.words.get_or_insert_with(HashTrieMapSync::new_sync);
                if let Some(child) = words.get_mut(*word) {
                    return child.add(rest, target);
                }
                let mut child = Node::default();
                child.add(rest, target);
                words.insert_mut((*word).into(), child);
            }
        }
    }

    fn remove(&mut self, steps: &[Step<'_>], target: &Target) {
        let Some((step, rest)) = steps.split_first() else { return self.targets.remove(target) };
        match step {
            Step::One => Node::remove_wild(&mut self.one, rest, target),
            Step::Any => Node::remove_wild(&mut self.any, rest, target),
            Step::Word(word) => {
                let words = self.words.as_mut().expect("the binding was added");
                let child = words.get_mut(*word).expect("the binding was added");
                child.remove(rest, target);
                if child.is_empty() {
                    words.remove_mut(*word);
                }
                if words.is_empty() {
                    self.words = None;
                }
            }
        }
    }

    fn remove_wild(child: &mut Option<Arc<Node>>, rest: &[Step<'_>], target: &Target) {
        let node = Arc::make_mut(child.as_mut().expect("the binding was added"));
        node.remove(rest, target);
        if node.is_empty() {
            *child = None;
        }
    }

    fn is_empty(&self) -> bool {
        self.words.is_none() && self.one.is_none() && self.any.is_none() && self.targets.is_empty()
    }
}

/// One key's way through the trie. A rest of the key is `None` once no word is left, since an
/// empty text is one empty word.
struct Search<'s, 't, 'o> {
    reached: &'s mut Reached<'t, 'o>,
    /// The nodes of `#` below another `#` that were entered.
    entered: HashSet<*const Node>,
    /// Whether the node visited is below a `#`.
    nested: bool,
}

impl<'t> Search<'_, 't, '_> {
    fn visit(&mut self, node: &'t Node, rest: Option<&str>) {
        match rest {
            None => node.targets.reach(self.reached),
            Some(rest) => {
                let (word, rest) = first_word(rest);
                self.visit_word(node, word, rest);
                if let Some(one) = &node.one {
                    self.visit(one, rest);
                }
            }
        }
        if let Some(any) = &node.any {
            self.enter_any(any, rest);
        }
    }

    fn visit_word(&mut self, node: &'t Node, word: &str, rest: Option<&str>) {
        if let Some(child) = node.words.as_ref().and_then(|words| words.get(word)) {
            self.visit(child, rest);
        }
    }

    /// Visits what follows a `#` with every rest that the `#` may leave of `rest`.
    ///
    /// A node of `#` is reached from the same nearest `#` above it only, by a fixed number of
    /// words, and that one leaves its rests longest first. So the first time that the node is
    /// entered, it is with the longest rest, which covers every later time.
    fn enter_any(&mut self, node: &'t Node, rest: Option<&str>) {
        if self.nested && !self.entered.insert(node) {
            return;
        }
        node.targets.reach(self.reached);
        if node.words.is_none() {
            return;
        }
        let outer = std::mem::replace(&mut self.nested, true);
        let mut left = rest;
        while let Some(rest) = left {
            let (word, next) = first_word(rest);
            self.visit_word(node, word, next);
            left = next;
        }
        self.nested = outer;
    }
}

/// The first word of `rest`, and the words after it.
fn first_word(rest: &str) -> (&str, Option<&str>) {
    match rest.split_once('.') {
        Some((word, rest)) => (word, Some(rest)),
        None => (rest, None),
    }
}
