//! Where bindings lead: counted, persistent sets of queues and exchanges.

use std::sync::Arc;

use isthmus_model::QueueId;
use rpds::RedBlackTreeMapSync;

/// Where a binding leads, with a queue's name resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Queue(QueueId),
    Exchange(Arc<str>),
}

/// The destinations of some bindings, each with how many of the bindings lead there: several may
/// differ only in what the exchange does not look at.
#[derive(Clone, Debug, Default)]
pub(super) struct Targets {
    queues: QueueCounts,
    /// `None` where there is none, as nearly everywhere.
    exchanges: Option<Arc<ExchangeCounts>>,
}

type ExchangeCounts = RedBlackTreeMapSync<Arc<str>, u32>;

impl Targets {
    /// Counts one binding more to `target`.
    pub(super) fn add(&mut self, target: &Target) {
        match target {
            Target::Queue(id) => self.queues.add(*id),
            Target::Exchange(name) => {
                let exchanges = Arc::make_mut(self.exchanges.get_or_insert_default());
                let count = exchanges.get(name).copied().unwrap_or(0);
                exchanges.insert_mut(name.clone(), count + 1);
            }
        }
    }

    /// Counts one binding less to `target`.
    ///
    /// # Panics
    /// If none was counted: the bindings and what routes by them have come apart.
    pub(super) fn remove(&mut self, target: &Target) {
        match target {
            Target::Queue(id) => self.queues.remove(*id),
            Target::Exchange(name) => {
                let exchanges = Arc::make_mut(self.exchanges.get_or_insert_default());
                match exchanges.get(name) {
                    None => panic!("no binding to exchange '{name}' was counted"),
                    Some(1) => drop(exchanges.remove_mut(name)),
                    Some(count) => {
                        let count = count - 1;
                        exchanges.insert_mut(name.clone(), count);
                    }
                }
                if exchanges.is_empty() {
                    self.exchanges = None;
                }
            }
        }
    }

    /// Whether no binding is counted.
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.exchanges.is_none()
    }

    /// Adds all of them to `reached`.
    pub(super) fn reach<'t>(&'t self, reached: &mut Reached<'t, '_>) {
        if !self.queues.is_empty() {
            reached.any = true;
            self.queues.collect(reached.queues);
        }
        // Not even an iterator is made where there is nothing, as nearly always: it allocates.
        if let Some(exchanges) = &self.exchanges {
            reached.any = true;
            reached.exchanges.extend(exchanges.keys().map(|name| &**name));
        }
    }
}

/// What a message has reached so far on its way.
pub(super) struct Reached<'t, 'o> {
    /// Queues, in no order and perhaps repeated; the order is restored at the end.
    pub(super) queues: &'o mut Vec<QueueId>,
    /// Exchanges to visit yet, perhaps repeated.
    pub(super) exchanges: Vec<&'t str>,
    /// Whether anything at all was reached since this was last cleared.
    pub(super) any: bool,
}

/// Entries of a node at the most: a leaf of this size is 512 bytes, and copying a path of three
/// levels (30,000 queues) about 1.5 KiB.
const WIDTH: usize = 32;

/// A persistent ordered map of queues to counts: a B+-tree whose nodes are copied when shared.
///
/// The ordered maps of `rpds` have one entry a node and allocate to be iterated; this one is
/// what a fanout runs over, so its entries lie side by side. A single queue, which is all that most
/// topics have, lies where the map is.
#[derive(Clone, Debug, Default)]
enum QueueCounts {
    #[default]
    None,
    One(QueueId, u32),
    Many(Arc<Node>),
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Vec<(QueueId, u32)>),
    /// Children, each with a bound that no id in it is below; except that the first takes all that
    /// is below the second's, whatever its own says.
    Branch(Vec<(QueueId, Arc<Node>)>),
}

impl QueueCounts {
    fn is_empty(&self) -> bool {
        matches!(self, QueueCounts::None)
    }

    fn add(&mut self, id: QueueId) {
        match self {
            QueueCounts::None => *self = QueueCounts::One(id, 1),
            QueueCounts::One(one, count) if *one == id => *count += 1,
            QueueCounts::One(one, count) => {
                let mut entries = vec![(*one, *count), (id, 1)];
                entries.sort_unstable();
                *self = QueueCounts::Many(Arc::new(Node::Leaf(entries)));
            }
            QueueCounts::Many(root) => {
                if let Some(right) = Node::add(root, id) {
                    let left = (QueueId(0), root.clone());
                    *root = Arc::new(Node::Branch(vec![left, right]));
                }
            }
        }
    }

    fn remove(&mut self, id: QueueId) {
        match self {
            QueueCounts::One(one, 1) if *one == id => *self = QueueCounts::None,
            QueueCounts::One(one, count) if *one == id => *count -= 1,
            QueueCounts::None | QueueCounts::One(..) => {
                panic!("no binding to queue {id} was counted")
            }
            QueueCounts::Many(root) => {
                Node::remove(root, id);
                while let Node::Branch(children) = &**root
                    && let [(_, only)] = &children[..]
                {
                    *root = only.clone();
                }
                if let Node::Leaf(entries) = &**root
                    && let [(one, count)] = entries[..]
                {
                    *self = QueueCounts::One(one, count);
                }
            }
        }
    }

    fn collect(&self, out: &mut Vec<QueueId>) {
        match self {
            QueueCounts::None => {}
            QueueCounts::One(one, _) => out.push(*one),
            QueueCounts::Many(root) => root.collect(out),
        }
    }
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Branch(children) => children.len(),
        }
    }

    /// The child that `id` is in if it is in any.
    fn child_of(children: &[(QueueId, Arc<Node>)], id: QueueId) -> usize {
        children.partition_point(|(bound, _)| *bound <= id).saturating_sub(1)
    }

    /// Counts `id`; returns the right half if the node had to be split.
    fn add(node: &mut Arc<Node>, id: QueueId) -> Option<(QueueId, Arc<Node>)> {
        match Arc::make_mut(node) {
            Node::Leaf(entries) => {
                match entries.binary_search_by_key(&id, |(id, _)| *id) {
                    Ok(at) => entries[at].1 += 1,
                    Err(at) => entries.insert(at, (id, 1)),
                }
                let right = split(entries)?;
                Some((right[0].0, Arc::new(Node::Leaf(right))))
            }
            Node::Branch(children) => {
                let at = Node::child_of(children, id);
                let right = Node::add(&mut children[at].1, id)?;
                children.insert(at + 1, right);
                let right = split(children)?;
                Some((right[0].0, Arc::new(Node::Branch(right))))
            }
        }
    }

    fn remove(node: &mut Arc<Node>, id: QueueId) {
        match Arc::make_mut(node) {
            Node::Leaf(entries) => {
                let Ok(at) = entries.binary_search_by_key(&id, |(id, _)| *id) else {
                    panic!("no binding to queue {id} was counted");
                };
                entries[at].1 -= 1;
                if entries[at].1 == 0 {
                    entries.remove(at);
                }
            }
            Node::Branch(children) => {
                let at = Node::child_of(children, id);
                Node::remove(&mut children[at].1, id);
                Node::close_gap(children, at);
            }
        }
    }

    /// Removes the child at `at` if it is empty, or joins it with a neighbour if both are small,
    /// so that a set that shrank is no deeper and no sparser than one that never grew.
    fn close_gap(children: &mut Vec<(QueueId, Arc<Node>)>, at: usize) {
        if children[at].1.len() == 0 {
            children.remove(at);
            return;
        }
        let left = if at + 1 < children.len() { at } else { at.saturating_sub(1) };
        let Some((_, right)) = children.get(left + 1) else { return };
        // Half full after the join: a few additions do not split it at once.
        if children[left].1.len() + right.len() > WIDTH / 2 {
            return;
        }
        let (bound, right) = children.remove(left + 1);
        match (Arc::make_mut(&mut children[left].1), &*right) {
            (Node::Leaf(left), Node::Leaf(right)) => left.extend_from_slice(right),
            (Node::Branch(left), Node::Branch(right)) => {
                let seam = left.len();
                left.extend_from_slice(right);
                // What was a first child, which needs no bound of its own, now needs one.
                left[seam].0 = bound;
            }
            _ => unreachable!("siblings are of one height"),
        }
    }

    fn collect(&self, out: &mut Vec<QueueId>) {
        match self {
            Node::Leaf(entries) => out.extend(entries.iter().map(|(id, _)| *id)),
            Node::Branch(children) => children.iter().for_each(|(_, child)| child.collect(out)),
        }
    }
}

/// The second half of `entries`, taken off, if they are too many.
fn split<T>(entries: &mut Vec<T>) -> Option<Vec<T>> {
    (entries.len() > WIDTH).then(|| entries.split_off(WIDTH / 2))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ids(counts: &QueueCounts) -> Vec<QueueId> {
        let mut out = Vec::new();
        counts.collect(&mut out);
        out
    }

    proptest! {
        #[test]
        fn counts_are_those_of_an_ordered_map(ops in prop::collection::vec((0u64..400, 0u8..5), 0..3000)) {
            let mut counts = QueueCounts::default();
            let mut model = BTreeMap::<QueueId, u32>::new();
            let mut earlier = Vec::new();
            // The first half mostly grows, the second mostly shrinks.
            for (i, (id, dice)) in ops.iter().enumerate() {
                let id = QueueId(*id);
                let grow = if i < ops.len() / 2 { *dice < 4 } else { *dice < 1 };
                if grow {
                    counts.add(id);
                    *model.entry(id).or_default() += 1;
                } else if let Some(count) = model.get_mut(&id) {
                    counts.remove(id);
                    *count -= 1;
                    if *count == 0 {
                        model.remove(&id);
                    }
                }
                if i % 97 == 0 {
                    earlier.push((counts.clone(), model.clone()));
                }
            }
            earlier.push((counts, model));
            for (counts, model) in &earlier {
                prop_assert_eq!(ids(counts), model.keys().copied().collect::<Vec<_>>());
            }
            let (mut counts, model) = earlier.pop().expect("the last was pushed");
            for (id, count) in model {
                (0..count).for_each(|_| counts.remove(id));
            }
            prop_assert!(counts.is_empty());
        }
    }
}
