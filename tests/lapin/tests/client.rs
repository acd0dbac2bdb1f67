//! What applications do with lapin, against a running broker.

use std::time::{Duration, Instant};

use futures_lite::StreamExt;
use futures_lite::future::block_on;
use isthmus_test_lapin::Broker;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::publisher_confirm::Confirmation;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ErrorKind, ExchangeKind,
};

const PERSISTENT: u8 = 2;

/// A connection, a channel of it, and the name of an empty queue that goes with it.
struct Fixture {
    connection: Connection,
    channel: Channel,
    queue: String,
    _broker: Broker,
}

impl Fixture {
    fn new() -> Self {
        let broker = Broker::start();
        block_on(async {
            let connection = Connection::connect(&broker.uri(), ConnectionProperties::default())
                .await
                .expect("guest may connect");
            let channel = connection.create_channel().await.expect("a channel opens");
            let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
            let queue = channel
                .queue_declare("", exclusive, FieldTable::default())
                .await
                .expect("a queue is declared")
                .name()
                .to_string();
            Self { connection, channel, queue, _broker: broker }
        })
    }

    async fn publish(&self, exchange: &str, key: &str, body: &[u8]) -> Confirmation {
        let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        self.channel
            .basic_publish(exchange, key, mandatory, body, properties)
            .await
            .expect("the publish is sent")
            .await
            .expect("a confirm comes")
    }

    async fn confirm_select(&self) {
        self.channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .expect("confirms are on");
    }

    async fn consume(&self) -> Consumer {
        self.channel
            .basic_consume(&self.queue, "", BasicConsumeOptions::default(), FieldTable::default())
            .await
            .expect("the consumer starts")
    }
}

async fn next(consumer: &mut Consumer) -> Delivery {
    consumer.next().await.expect("the consumer goes on").expect("a delivery")
}

#[test]
fn ten_thousand_confirmed_messages_arrive_in_order() {
    let fixture = Fixture::new();
    block_on(async {
        fixture.confirm_select().await;
        fixture.channel.basic_qos(500, BasicQosOptions::default()).await.expect("qos");
        let mut consumer = fixture.consume().await;
        let mut confirms = Vec::new();
        for number in 0..10_000_u32 {
            let confirm = fixture
                .channel
                .basic_publish(
                    "",
                    &fixture.queue,
                    BasicPublishOptions::default(),
                    &number.to_be_bytes(),
                    BasicProperties::default().with_delivery_mode(PERSISTENT),
                )
                .await
                .expect("the publish is sent");
            confirms.push(confirm);
        }
        for number in 0..10_000_u32 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.data, number.to_be_bytes());
            assert!(!delivery.redelivered);
            if number % 100 == 99 {
                let multiple = BasicAckOptions { multiple: true };
                delivery.ack(multiple).await.expect("the ack is sent");
            }
        }
        for confirm in confirms {
            assert_eq!(confirm.await.expect("a confirm comes"), Confirmation::Ack(None));
        }
    });
}

#[test]
fn a_mandatory_message_that_reaches_no_queue_comes_back_with_its_confirm() {
    let fixture = Fixture::new();
    block_on(async {
        fixture.confirm_select().await;
        let confirmation = fixture.publish("amq.direct", "nobody", b"back").await;
        let returned = confirmation.take_message().expect("the message is returned");
        assert_eq!(returned.reply_code, 312);
        assert_eq!(returned.delivery.data, b"back");
        assert_eq!(fixture.publish("", &fixture.queue, b"x").await, Confirmation::Ack(None));
    });
}

#[test]
fn a_rejected_delivery_returns_flagged() {
    let fixture = Fixture::new();
    block_on(async {
        fixture.confirm_select().await;
        fixture.publish("", &fixture.queue, b"again").await;
        let mut consumer = fixture.consume().await;
        let first = next(&mut consumer).await;
        let requeue = BasicNackOptions { requeue: true, ..Default::default() };
        first.nack(requeue).await.expect("the nack is sent");
        let second = next(&mut consumer).await;
        assert_eq!((first.redelivered, second.redelivered), (false, true));
        second.ack(BasicAckOptions::default()).await.expect("the ack is sent");
    });
}

#[test]
fn headers_and_properties_survive() {
    let fixture = Fixture::new();
    block_on(async {
        let mut headers = FieldTable::default();
        headers.insert("short".into(), AMQPValue::ShortInt(-7));
        headers.insert("unsigned".into(), AMQPValue::LongUInt(u32::MAX));
        headers.insert("long".into(), AMQPValue::LongLongInt(i64::MIN));
        headers.insert("text".into(), AMQPValue::LongString("é".into()));
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_correlation_id("c".into())
            .with_timestamp(1_700_000_000);
        fixture.confirm_select().await;
        fixture
            .channel
            .basic_publish(
                "",
                &fixture.queue,
                BasicPublishOptions::default(),
                b"x",
                properties.clone(),
            )
            .await
            .expect("the publish is sent")
            .await
            .expect("a confirm comes");
        let got = fixture
            .channel
            .basic_get(&fixture.queue, BasicGetOptions { no_ack: true })
            .await
            .expect("the get is answered")
            .expect("a message is there");
        assert_eq!(got.delivery.properties, properties);
    });
}

#[test]
fn a_topic_exchange_routes_by_pattern() {
    let fixture = Fixture::new();
    block_on(async {
        let exchange = fixture.queue.replace("amq.gen-", "topic.");
        let auto_delete = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
        fixture
            .channel
            .exchange_declare(&exchange, ExchangeKind::Topic, auto_delete, FieldTable::default())
            .await
            .expect("the exchange is declared");
        fixture
            .channel
            .queue_bind(
                &fixture.queue,
                &exchange,
                "*.eu.#",
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("the queue is bound");
        fixture.confirm_select().await;
        for key in ["orders.eu", "orders.us", "orders.eu.new.paid", "eu"] {
            fixture.publish(&exchange, key, key.as_bytes()).await;
        }
        let mut consumer = fixture.consume().await;
        assert_eq!(next(&mut consumer).await.data, b"orders.eu");
        assert_eq!(next(&mut consumer).await.data, b"orders.eu.new.paid");
    });
}

#[test]
fn an_error_closes_the_channel_and_leaves_the_connection() {
    let fixture = Fixture::new();
    block_on(async {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let error = fixture
            .channel
            .queue_declare("no-such-queue", passive, FieldTable::default())
            .await
            .expect_err("the queue is missing");
        let ErrorKind::ProtocolError(closed) = error.kind() else { panic!("{error}") };
        assert_eq!(closed.get_id(), 404);
        assert!(fixture.connection.status().connected());
        fixture.connection.create_channel().await.expect("another channel opens");
    });
}

#[test]
fn a_confirm_takes_no_longer_than_a_write_to_disk() {
    let fixture = Fixture::new();
    block_on(async {
        fixture.confirm_select().await;
        let mut took = Vec::new();
        for _ in 0..50 {
            let started = Instant::now();
            fixture.publish("", &fixture.queue, b"x").await;
            took.push(started.elapsed());
        }
        took.sort();
        // Far above any disk, and well below a delayed acknowledgement of TCP (40 ms).
        assert!(took[25] < Duration::from_millis(30), "{took:?}");
    });
}
