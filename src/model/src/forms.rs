//! What a protocol has made of a batch, for all receivers that get the same.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::Span;

/// A batch as it goes to receivers: all of its messages one after the other.
#[derive(Debug)]
pub struct Form {
    bytes: Bytes,
    /// Where each message ends.
    ends: Vec<u32>,
    largest: u32,
}

impl Form {
    /// The messages in `bytes`, of which the first ends at the first of `ends`.
    pub fn new(bytes: Bytes, ends: Vec<u32>) -> Form {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let largest = ends.iter().zip(starts).map(|(end, start)| end.saturating_sub(start)).max();
        Form { bytes, ends, largest: largest.unwrap_or_default() }
    }

    /// The bytes of all messages.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where `len` messages lie in them from the record `first` on; `None` if there are fewer.
    pub fn span(&self, first: u32, len: u32) -> Option<Span> {
        let end_of = |records: u32| match records.checked_sub(1) {
            None => Some(0),
            Some(last) => self.ends.get(last as usize).copied(),
        };
        let (start, end) = (end_of(first)?, end_of(first.checked_add(len)?)?);
        Some(Span { start, len: end.checked_sub(start)? })
    }

    /// `len` messages from the record `first` on, one by one; fewer if there are not as many.
    pub fn messages(&self, first: u32, len: u32) -> impl Iterator<Item = &[u8]> {
        let those = (0..len).map_while(move |n| self.span(first.checked_add(n)?, 1));
        those.map_while(|span| self.bytes.get(span.start as usize..span.end() as usize))
    }

    /// Bytes of the largest message.
    pub fn largest(&self) -> u32 {
        self.largest
    }
}

/// The forms of a batch, each made when it is first asked for. A copy of the batch has none, since
/// its records may be others; and what has been made of a batch does not make it another one.
#[derive(Debug, Default)]
pub struct Forms([OnceLock<Option<Box<Form>>>; Forms::COUNT]);

impl Forms {
    /// How many forms there may be; protocols agree on which is whose.
    pub const COUNT: usize = 4;

    /// The form `number`, below [`Forms::COUNT`], if it was asked for: `Some(None)` if the batch
    /// does not have it.
    pub fn get(&self, number: usize) -> Option<Option<&Form>> {
        Some(self.0.get(number)?.get()?.as_deref())
    }

    /// The form `number`, below [`Forms::COUNT`], which `make` makes if nobody has.
    pub fn get_or_make(&self, number: usize, make: impl FnOnce() -> Option<Form>) -> Option<&Form> {
        self.0.get(number)?.get_or_init(|| make().map(Box::new)).as_deref()
    }
}

impl Clone for Forms {
    fn clone(&self) -> Forms {
        Forms::default()
    }
}

impl PartialEq for Forms {
    fn eq(&self, _: &Forms) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_by_their_records() {
        let form = Form::new(Bytes::from_static(b"abcdef"), vec![1, 1, 4, 6]);
        assert_eq!(form.span(0, 4), Some(Span { start: 0, len: 6 }));
        assert_eq!(form.span(2, 1), Some(Span { start: 1, len: 3 }));
        assert_eq!(form.span(1, 1), Some(Span { start: 1, len: 0 }));
        assert_eq!(form.span(3, 2), None);
        assert_eq!(form.span(u32::MAX, 1), None);
        assert_eq!(form.messages(2, 9).collect::<Vec<_>>(), [&b"bcd"[..], b"ef"]);
        assert_eq!(form.largest(), 3);
    }

    #[test]
    fn a_form_is_made_once_and_not_copied() {
        let forms = Forms::default();
        assert!(forms.get(1).is_none());
        assert!(forms.get_or_make(1, || None).is_none());
        assert!(forms.get_or_make(1, || panic!("made before")).is_none());
        assert!(forms.get(1).is_some_and(|found| found.is_none()));
        assert!(forms.get(0).is_none() && forms.clone().get(1).is_none());
        assert!(forms.get_or_make(Forms::COUNT, || None).is_none());
    }
}
