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
    /// By the next word.
    words: Words,
    /// If the next is `*`.
    one: Option<Arc<Node>>,
    /// If the next is `#`.
    any: Option<Arc<Node>>,
    /// Of the bindings whose key ends here.
    targets: Targets,
}

/// Nodes by the words that lead to them. Most nodes are leaves, and of the others most have one node
/// below them: brokers have hundreds of thousands of topics with a word of their own somewhere in
/// the middle.
#[derive(Clone, Debug, Default)]
enum Words {
    #[default]
    None,
    One(Arc<str>, Arc<Node>),
    /// It does not become one again before it is empty.
    Many(Arc<Map>),
}

type Map = HashTrieMapSync<Arc<str>, Node>;

impl Words {
    fn is_empty(&self) -> bool {
        matches!(self, Words::None)
    }

    fn get(&self, word: &str) -> Option<&Node> {
        match self {
            Words::None => None,
            Words::One(one, node) => (**one == *word).then_some(&**node),
            Words::Many(map) => map.get(word),
        }
    }

    /// The node for `word`, from now on at the latest.
    fn get_or_default(&mut self, word: &str) -> &mut Node {
        match self {
            Words::None => *self = Words::One(word.into(), Arc::default()),
            Words::One(one, node) if **one != *word => {
                let mut map = Map::new_sync();
                map.insert_mut(one.clone(), (**node).clone());
                *self = Words::Many(Arc::new(map));
            }
            Words::One(..) | Words::Many(_) => {}
        }
        match self {
            Words::One(_, node) => Arc::make_mut(node),
            Words::Many(map) => {
                let map = Arc::make_mut(map);
                if !map.contains_key(word) {
                    map.insert_mut(word.into(), Node::default());
                }
                map.get_mut(word).expect("it was just inserted")
            }
            Words::None => unreachable!("it has one by now"),
        }
    }

    /// Changes the node for `word`, which is there, and removes it if it is empty then.
    fn change(&mut self, word: &str, change: impl FnOnce(&mut Node)) {
        match self {
            Words::One(one, node) if **one == *word => {
                let node = Arc::make_mut(node);
                change(node);
                if node.is_empty() {
                    *self = Words::None;
                }
            }
            Words::Many(map) => {
                let map = Arc::make_mut(map);
                let node = map.get_mut(word).expect("the binding was added");
                change(node);
                if node.is_empty() {
                    map.remove_mut(word);
                }
                if map.is_empty() {
                    *self = Words::None;
                }
            }
            Words::None | Words::One(..) => panic!("the binding was added"),
        }
    }
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
            Step::Word(word) => self.words.get_or_default(word).add(rest, target),
        }
    }

    fn remove(&mut self, steps: &[Step<'_>], target: &Target) {
        let Some((step, rest)) = steps.split_first() else { return self.targets.remove(target) };
        match step {
            Step::One => Node::remove_wild(&mut self.one, rest, target),
            Step::Any => Node::remove_wild(&mut self.any, rest, target),
            Step::Word(word) => self.words.change(word, |child| child.remove(rest, target)),
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
        self.words.is_empty() && self.one.is_none() && self.any.is_none() && self.targets.is_empty()
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
        if let Some(child) = node.words.get(word) {
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
        if node.words.is_empty() {
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
