//! Waiting for pages.

use super::rig::*;

#[test]
fn who_waits_for_a_page_that_is_gone_looks_where_its_messages_are_now() {
    let mut rig = Rig::new();
    rig.reads_pages = false;
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", [durable("q", "a"), durable("q", "b")]);
    rig.run();
    rig.page_out(1 << 20, 0, |_, _| false);
    rig.attach("anna", consuming(1, "q"));
    rig.run();
    rig.heard("anna");
    let asked = rig.dispatcher.take_wanted_pages();
    assert_eq!(asked.len(), 1);
    // Before it is read, a round empties its file.
    rig.compact(1 << 20);
    rig.run();
    assert!(rig.heard("anna").is_empty());
    rig.dispatcher.page_gone(asked[0]);
    rig.run();
    assert_eq!(rig.heard("anna"), ["consumer 1: a b"]);
}
