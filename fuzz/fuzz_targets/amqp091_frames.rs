//! Whatever follows a valid handshake: nothing breaks the session, and how the bytes are split
//! changes nothing that it asks of the broker.

#![no_main]

use isthmus_amqp091::{Amqp091Session, SessionConfig};
use isthmus_contract::{Command, Credit, Event, Input, Reply, Session, TopologyChange, TransactOp};
use isthmus_model::{SessionId, Time};
use libfuzzer_sys::fuzz_target;

const NOW: Time = Time(1_000_000_000);

/// Protocol header, start-ok, tune-ok, open, and channel 1 open in confirm mode.
const HANDSHAKE: &[u8] = b"AMQP\0\0\x09\x01\
    \x01\0\0\0\0\0\x1c\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x04\0a\0b\x05en_US\xce\
    \x01\0\0\0\0\0\x0c\0\x0a\0\x1f\x07\xff\0\x02\0\0\0\0\xce\
    \x01\0\0\0\0\0\x08\0\x0a\0\x28\x01/\0\0\xce\
    \x01\0\x01\0\0\0\x05\0\x14\0\x0a\0\xce\
    \x01\0\x01\0\0\0\x05\0\x55\0\x0a\0\xce";

/// What a broker that takes everything and holds nothing says to `command`.
fn answer(command: Command, asked: &mut Vec<String>) -> Vec<Event> {
    let (token, reply) = match command {
        Command::Authenticate { token, .. } => (token, Reply::Authenticated { user: "a".into() }),
        Command::Publish(publish) => {
            let batch = &publish.batch;
            for r in &batch.records {
                let (exchange, key) = (batch.exchange(r), batch.routing_key(r));
                let (head, body) = (batch.head(r), batch.body(r));
                asked.push(format!("{exchange:?} {key:?} {head:?} {body:?} {:?}", r.flags));
            }
            (publish.token, Reply::Published { exceptions: vec![] })
        }
        Command::Attach(attach) => {
            let mut events = vec![Event::Done { token: attach.token, result: Ok(Reply::Attached) }];
            if let Credit::Explicit { .. } = attach.credit {
                let consumer = attach.consumer;
                events.push(Event::CreditState { consumer, credit: 0, drained: true, ready: 0 });
            }
            return events;
        }
        Command::Topology { token, change } => {
            asked.push(format!("{change:?}"));
            let reply = match change {
                TopologyChange::DeclareQueue(def) => {
                    Reply::Queue { name: def.name, ready: 0, consumers: 0, is_new: false }
                }
                TopologyChange::LookUpQueue { name } => {
                    Reply::Queue { name, ready: 0, consumers: 0, is_new: false }
                }
                TopologyChange::DeleteQueue { .. } => Reply::Messages(0),
                _ => Reply::Ok,
            };
            (token, reply)
        }
        Command::Transact { token, op: TransactOp::Commit, .. } => {
            (token, Reply::Published { exceptions: vec![] })
        }
        Command::Manage { token, .. } => (token, Reply::Messages(0)),
        Command::Credit { .. } | Command::Window { .. } => return vec![],
        Command::Enter { token, .. }
        | Command::Detach { token, .. }
        | Command::Settle { token, .. }
        | Command::Extend { token, .. }
        | Command::Transact { token, .. } => (token, Reply::Ok),
    };
    vec![Event::Done { token, result: Ok(reply) }]
}

fn pump(session: &mut Amqp091Session, input: &mut Input, asked: &mut Vec<String>) {
    loop {
        session.handle_bytes(NOW, input);
        let before = input.len();
        let mut answered = false;
        while let Some(command) = session.poll_command() {
            for event in answer(command, asked) {
                answered = true;
                session.handle_event(NOW, event);
            }
        }
        let written = session.outbox().len();
        session.outbox().advance(written);
        if !answered && written == 0 && input.len() == before {
            return;
        }
    }
}

fn run(data: &[u8], piece: usize) -> (Vec<String>, bool) {
    let mut session = Amqp091Session::new(SessionConfig::new(SessionId(1)), NOW);
    let mut input = Input::new();
    let mut asked = Vec::new();
    input.extend(HANDSHAKE);
    pump(&mut session, &mut input, &mut asked);
    assert!(!session.is_closed() && input.is_empty());
    for piece in data.chunks(piece) {
        input.extend(piece);
        pump(&mut session, &mut input, &mut asked);
    }
    (asked, session.is_closed())
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, data)) = data.split_first() else { return };
    let whole = run(data, data.len().max(1));
    let split = run(data, usize::from(piece).max(1));
    assert_eq!(whole, split);
});
