//! Lasting sessions after whatever happens to them, in the ledger, its replays and checkpoints.

use isthmus_model::{NEVER_EXPIRES, Note, OpenSession};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::clients::*;
use super::rig::*;
use crate::clients::{Client, Clients, Presence};
use crate::testing::cases;

/// Something that happens to one of a few clients.
#[derive(Clone, Debug)]
enum Step {
    Connect { client: u8, clean: bool, expiry_ms: u64, will_ms: Option<u64> },
    Note { client: u8, key: u8, remove: bool },
    Hold { client: u8, queue: u8, release: bool },
    Disconnect { client: u8 },
    Goodbye { client: u8, expiry_ms: Option<u64>, publish_will: bool },
    Pass { ms: u64 },
    Propose,
    Commit,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..3u8;
    let ms = || prop::sample::select(vec![0, 0, 5, 50, 10_000, NEVER_EXPIRES]);
    prop_oneof![
        4 => (client.clone(), any::<bool>(), ms(), option::of(ms())).prop_map(
            |(client, clean, expiry_ms, will_ms)| Step::Connect { client, clean, expiry_ms, will_ms }
        ),
        2 => (client.clone(), 0..3u8, any::<bool>())
            .prop_map(|(client, key, remove)| Step::Note { client, key, remove }),
        2 => (client.clone(), 0..2u8, any::<bool>())
            .prop_map(|(client, queue, release)| Step::Hold { client, queue, release }),
        2 => client.clone().prop_map(|client| Step::Disconnect { client }),
        1 => (client, option::of(ms()), any::<bool>()).prop_map(
            |(client, expiry_ms, publish_will)| Step::Goodbye { client, expiry_ms, publish_will }
        ),
        2 => prop::sample::select(vec![1, 5, 45, 6_000, 20_000]).prop_map(|ms| Step::Pass { ms }),
        2 => Just(Step::Propose),
        2 => Just(Step::Commit),
        1 => Just(Step::Crash),
    ]
}

impl Rig {
    /// Takes a step; `n` tells it from all others.
    fn take(&mut self, n: usize, step: &Step) {
        let name = |client: &u8| format!("c{client}");
        match step {
            Step::Connect { client, clean, expiry_ms, will_ms } => {
                let open =
                    OpenSession { clean: *clean, expiry_ms: *expiry_ms, ..lasting(&name(client)) };
                let open = match will_ms {
                    Some(ms) => with_will(open, &n.to_string(), *ms),
                    None => open,
                };
                // Whoever was connected before hears that he is not any more, or never does.
                self.open(&name(client));
                self.open_client(&name(client), open);
            }
            Step::Note { client, key, remove } if self.knows(&name(client)) => {
                let key = key.to_string();
                let noted = if *remove { forget(&key) } else { note(&key, &n.to_string()) };
                self.note(&name(client), None, &[noted]);
            }
            Step::Hold { client, queue, release } if self.knows(&name(client)) => {
                let queue = format!("q{queue}");
                if *release {
                    self.release(&name(client), &queue);
                } else {
                    self.topology(&name(client), own_queue(&queue));
                }
            }
            Step::Disconnect { client } if self.knows(&name(client)) => self.close(&name(client)),
            Step::Goodbye { client, expiry_ms, publish_will } if self.knows(&name(client)) => {
                self.goodbye(&name(client), *expiry_ms, *publish_will);
            }
            Step::Pass { ms } => self.advance_ms(*ms),
            Step::Propose => drop(self.propose()),
            Step::Commit => drop(self.commit()),
            Step::Crash => self.crash(),
            _ => {}
        }
        self.dispatch();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    /// Every replay of the log says the same (which [`Rig::crash`] checks), the leader's copy is
    /// the ledger's once all is committed, and no will is published twice.
    #[test]
    fn leader_and_ledger_agree_on_sessions(steps in vec(step(), 1..60)) {
        let mut rig = rig();
        for (n, step) in steps.iter().enumerate() {
            rig.take(n, step);
        }
        rig.run();
        let words = |clients: &Clients| -> Vec<String> {
            clients.iter().map(|(key, client)| format!("{key:?}: {client:?}")).collect()
        };
        prop_assert_eq!(words(rig.dispatcher.clients()), words(rig.ledger.clients()));
        let there: Vec<_> = rig.dispatcher.queue_statuses().iter().map(|s| s.id).collect();
        let held: Vec<_> = rig.ledger.clients().iter().flat_map(|(_, c)| c.held.clone()).collect();
        prop_assert!(held.iter().all(|id| there.contains(id)), "held and gone: {:?}", held);
        let open = rig.dispatcher.open_clients();
        let connected = |client: &Client| client.presence == Presence::Connected;
        let lasting = rig.ledger.clients().iter().filter(|(_, c)| connected(c)).count();
        prop_assert_eq!(rig.ledger.clients().connected(), lasting);
        prop_assert!(open >= lasting, "{open} connections have {lasting} sessions open");
        rig.crash();
        rig.after_ms(HOUR_MS);
        let wills = rig.drain("wills");
        let mut once = wills.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(wills.len(), once.len(), "published twice: {:?}", wills);
        rig.crash();
    }
}

#[test]
fn what_a_checkpoint_says_of_sessions_is_what_was_there() {
    let mut rig = rig();
    for n in 0..20u64 {
        let client = format!("c{n}");
        let expiry_ms = [0, 10, HOUR_MS, NEVER_EXPIRES][n as usize % 4];
        let open = OpenSession { expiry_ms, ..lasting(&client) };
        rig.connect(&client, with_will(open, "will", n * 100));
        rig.topology(&client, own_queue(&format!("q{}", n % 7)));
        let notes: Vec<Note> = (0..n * 150).map(|k| note(&k.to_string(), "value")).collect();
        rig.note(&client, None, &notes);
        if n % 3 == 0 {
            rig.disconnect(&client);
        }
        if n % 5 == 0 {
            rig.crash();
        }
    }
    rig.run();
    rig.page_out(1000, 0, |_, _| false);
    rig.after_ms(1_000);
    rig.crash();
    rig.run();
    assert_eq!(rig.dispatcher.clients().len(), rig.ledger.clients().len());
    rig.after_ms(HOUR_MS);
    let left: Vec<u64> = rig.ledger.clients().iter().map(|(_, c)| c.expiry_ms).collect();
    assert!(left.len() >= 4 && left.iter().all(|ms| *ms == NEVER_EXPIRES), "{left:?}");
}
