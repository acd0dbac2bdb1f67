//! lapin over TLS, with and without a certificate of its own.

use std::fs;

use futures_lite::StreamExt;
use futures_lite::future::block_on;
use isthmus_test_lapin::{Broker, Certificates};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::publisher_confirm::Confirmation;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};

const MESSAGES: u32 = 500;
/// Several records of TLS.
const BODY_BYTES: usize = 40_000;

/// What a client trusts, and shows of itself.
fn config(certificates: &Certificates, has_identity: bool) -> OwnedTLSConfig {
    let read = |file| fs::read(certificates.path(file)).expect("the file was made");
    let identity = || OwnedIdentity::PKCS8 { pem: read("client.pem"), key: read("client.key") };
    OwnedTLSConfig {
        identity: has_identity.then(identity),
        cert_chain: Some(String::from_utf8(read("ca.pem")).expect("PEM is text")),
    }
}

async fn connect(broker: &Broker, config: OwnedTLSConfig) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default();
    Connection::connect_with_config(&broker.tls_uri(), properties, config).await
}

/// Messages there and back, confirmed and acknowledged.
async fn exchange_messages(connection: &Connection) {
    let channel = connection.create_channel().await.expect("a channel opens");
    let confirmed = ConfirmSelectOptions::default();
    channel.confirm_select(confirmed).await.expect("confirms are on");
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("", exclusive, FieldTable::default()).await;
    let queue = queue.expect("a queue is declared").name().to_string();
    let mut confirms = Vec::new();
    for number in 0..MESSAGES {
        let mut body = vec![0; if number % 100 == 0 { BODY_BYTES } else { 4 }];
        body[..4].copy_from_slice(&number.to_be_bytes());
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent = channel.basic_publish("", &queue, options, &body, properties).await;
        confirms.push(sent.expect("the publish is sent"));
    }
    for confirm in confirms {
        assert_eq!(confirm.await.expect("a confirm comes"), Confirmation::Ack(None));
    }
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(&queue, "", options, arguments).await;
    let mut consumer = consumer.expect("a consumer starts");
    for number in 0..MESSAGES {
        let delivery = consumer.next().await.expect("a delivery").expect("no error");
        assert_eq!(delivery.data[..4], number.to_be_bytes());
        delivery.ack(BasicAckOptions::default()).await.expect("the ack is sent");
    }
}

#[test]
fn messages_pass_over_tls_without_and_with_a_certificate_of_the_client() {
    let certificates = Certificates::make();
    for (client_auth, has_identity) in [("wanted", false), ("required", true)] {
        let broker = Broker::start_with_tls(&certificates, client_auth);
        block_on(async {
            let connected = connect(&broker, config(&certificates, has_identity)).await;
            let connection = connected.unwrap_or_else(|error| panic!("{client_auth}: {error}"));
            exchange_messages(&connection).await;
        });
    }
}

#[test]
fn who_has_no_certificate_or_trusts_another_authority_does_not_get_in() {
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let broker = Broker::start_with_tls(&certificates, "required");
    block_on(async {
        assert!(connect(&broker, config(&certificates, false)).await.is_err());
        assert!(connect(&broker, config(&others, true)).await.is_err());
        assert!(connect(&broker, config(&certificates, true)).await.is_ok());
    });
}
