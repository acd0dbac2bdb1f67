//! MQTT messages as the broker and other protocols see them.
//!
//! [`topic`] is the bijection between topics and routing keys, [`stored`] how a message lies in a
//! batch, [`properties`] what its properties mean elsewhere and how those of other protocols'
//! messages are told to MQTT clients; [`MqttEncoding`] lets the broker read them.

mod encoding;
pub mod properties;
pub mod stored;
pub mod topic;

pub use encoding::MqttEncoding;
