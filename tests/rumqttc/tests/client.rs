//! What applications do with rumqttc, of 3.1.1 and of 5.0, against a running broker.

use std::time::{Duration, Instant};

use isthmus_test_lapin::Broker;

const PATIENCE: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(200);
/// More than any test has under way: requests must not wait for a connection that is not driven.
const REQUESTS: usize = 1000;

/// What each version's client can do; `$options` makes the options of a session that outlives its
/// connection, and `$will` a will.
macro_rules! suite {
    ($options:expr, $will:expr) => {
        use super::*;

        /// A client, and the messages that have come to it.
        struct Peer {
            client: Client,
            connection: Connection,
            session_present: bool,
            came: Vec<Publish>,
        }

        impl Peer {
            /// Returns once the broker has accepted.
            fn connect(options: MqttOptions) -> Self {
                let (client, connection) = Client::new(options, REQUESTS);
                let mut peer =
                    Self { client, connection, session_present: false, came: Vec::new() };
                let Packet::ConnAck(ack) = peer.wait(|packet| matches!(packet, Packet::ConnAck(_)))
                else {
                    unreachable!("it was a CONNACK");
                };
                assert_eq!(ack.code, ConnectReturnCode::Success);
                peer.session_present = ack.session_present;
                peer
            }

            /// What comes next, within `patience`; publishes are kept.
            fn next(&mut self, patience: Duration) -> Option<Packet> {
                let until = Instant::now() + patience;
                loop {
                    let left = until.saturating_duration_since(Instant::now());
                    let event = self.connection.recv_timeout(left).ok()?;
                    if let Event::Incoming(packet) = event.expect("the connection is whole") {
                        if let Packet::Publish(publish) = &packet {
                            self.came.push(publish.clone());
                        }
                        return Some(packet);
                    }
                }
            }

            fn wait(&mut self, is_it: impl Fn(&Packet) -> bool) -> Packet {
                let until = Instant::now() + PATIENCE;
                loop {
                    let left = until.saturating_duration_since(Instant::now());
                    let packet = self.next(left).expect("the answer comes in time");
                    if is_it(&packet) {
                        return packet;
                    }
                }
            }

            fn subscribe(&mut self, filter: &str, qos: QoS) {
                self.client.subscribe(filter, qos).expect("there is room");
                let Packet::SubAck(ack) = self.wait(|packet| matches!(packet, Packet::SubAck(_)))
                else {
                    unreachable!("it was a SUBACK");
                };
                assert_eq!(ack.return_codes, [SubscribeReasonCode::Success(qos)]);
            }

            /// Publishes all, and waits for the last answer to each.
            fn publish(&mut self, topic: &str, payloads: &[String], qos: QoS, retain: bool) {
                for payload in payloads {
                    let payload = payload.clone().into_bytes();
                    self.client.publish(topic, qos, retain, payload).expect("there is room");
                }
                let mut answered = if qos == QoS::AtMostOnce { payloads.len() } else { 0 };
                while answered < payloads.len() {
                    let packet = self.next(PATIENCE).expect("the answer comes in time");
                    let is_last = match qos {
                        QoS::ExactlyOnce => matches!(packet, Packet::PubComp(_)),
                        _ => matches!(packet, Packet::PubAck(_)),
                    };
                    answered += usize::from(is_last);
                }
            }

            /// The payloads of the first `count` messages, and no more of them for a while.
            fn payloads(&mut self, count: usize) -> Vec<String> {
                while self.came.len() < count {
                    assert!(self.next(PATIENCE).is_some(), "{} of {count} came", self.came.len());
                }
                while self.next(QUIET).is_some() {}
                assert_eq!(self.came.len(), count);
                self.came.iter().map(|publish| text(&publish.payload)).collect()
            }

            /// DISCONNECT.
            fn say_goodbye(mut self) {
                self.client.disconnect().expect("there is room");
                // The end of the connection is all that is left to come.
                while let Ok(Ok(_)) = self.connection.recv_timeout(PATIENCE) {}
            }
        }

        /// One that is gone with its connection.
        fn passing(broker: &Broker, id: &str) -> Peer {
            let mut options = MqttOptions::new(id, "127.0.0.1", broker.port());
            options.set_credentials("guest", "guest");
            Peer::connect(options)
        }

        fn lasting(broker: &Broker, id: &str) -> MqttOptions {
            let mut options = MqttOptions::new(id, "127.0.0.1", broker.port());
            options.set_credentials("guest", "guest");
            let make: fn(&mut MqttOptions) = $options;
            make(&mut options);
            options
        }

        #[test]
        fn messages_of_every_qos_come_once_and_in_order() {
            let broker = Broker::start_mqtt();
            let mut client = passing(&broker, "all");
            for (topic, qos) in
                [("q/0", QoS::AtMostOnce), ("q/1", QoS::AtLeastOnce), ("q/2", QoS::ExactlyOnce)]
            {
                client.subscribe(topic, qos);
                client.publish(topic, &numbers(200), qos, false);
                assert_eq!(client.payloads(200), numbers(200));
                for publish in client.came.drain(..) {
                    assert!(publish.qos == qos && !publish.dup && !publish.retain, "{publish:?}");
                }
            }
        }

        #[test]
        fn what_comes_while_a_client_is_away_waits_for_it() {
            let broker = Broker::start_mqtt();
            let mut first = Peer::connect(lasting(&broker, "away"));
            assert!(!first.session_present);
            first.subscribe("news", QoS::ExactlyOnce);
            first.say_goodbye();
            let mut publisher = passing(&broker, "publisher");
            publisher.publish("news", &numbers(50), QoS::ExactlyOnce, false);
            let mut second = Peer::connect(lasting(&broker, "away"));
            assert!(second.session_present);
            assert_eq!(second.payloads(50), numbers(50));
            second.say_goodbye();
            let mut third = Peer::connect(lasting(&broker, "away"));
            assert_eq!(third.payloads(0), numbers(0), "they were acknowledged");
        }

        #[test]
        fn a_retained_message_comes_to_who_subscribes_later() {
            let broker = Broker::start_mqtt();
            let mut publisher = passing(&broker, "publisher");
            for state in ["old", "new"] {
                publisher.publish("state", &[state.to_owned()], QoS::AtLeastOnce, true);
            }
            let mut client = passing(&broker, "late");
            client.subscribe("state", QoS::AtLeastOnce);
            assert_eq!(client.payloads(1), ["new"]);
            assert!(client.came[0].retain);
            publisher.publish("state", &[String::new()], QoS::AtLeastOnce, true);
            let mut client = passing(&broker, "later");
            client.subscribe("state", QoS::AtLeastOnce);
            assert_eq!(client.payloads(0), numbers(0));
        }

        #[test]
        fn a_will_comes_when_the_connection_breaks_and_not_after_a_goodbye() {
            let broker = Broker::start_mqtt();
            let mut heir = passing(&broker, "heir");
            heir.subscribe("gone/#", QoS::ExactlyOnce);
            let with_will = |id: &str| {
                let mut options = lasting(&broker, id);
                let will: fn(&str) -> LastWill = $will;
                options.set_last_will(will(id));
                Peer::connect(options)
            };
            with_will("polite").say_goodbye();
            drop(with_will("broken"));
            assert_eq!(heir.payloads(1), ["broken"]);
            assert_eq!(heir.came[0].qos, QoS::ExactlyOnce);
        }

        #[test]
        fn members_of_a_shared_subscription_share_its_messages() {
            let broker = Broker::start_mqtt();
            let mut members = [passing(&broker, "one"), passing(&broker, "other")];
            for member in &mut members {
                member.subscribe("$share/all/work", QoS::AtLeastOnce);
            }
            let mut publisher = passing(&broker, "publisher");
            publisher.publish("work", &numbers(60), QoS::AtLeastOnce, false);
            let until = Instant::now() + PATIENCE;
            while members.iter().map(|member| member.came.len()).sum::<usize>() < 60 {
                assert!(Instant::now() < until, "not all has come");
                for member in &mut members {
                    member.next(QUIET / 10);
                }
            }
            assert!(members.iter().all(|member| !member.came.is_empty()), "one has had them all");
            let mut came: Vec<String> =
                members.iter().flat_map(|m| m.came.iter().map(|p| text(&p.payload))).collect();
            came.sort_by_key(|number| number.parse::<u32>().ok());
            assert_eq!(came, numbers(60));
        }

        #[test]
        fn a_wrong_password_is_refused() {
            let broker = Broker::start_mqtt();
            let mut options = MqttOptions::new("wrong", "127.0.0.1", broker.port());
            options.set_credentials("guest", "wrong");
            let (_client, mut connection) = Client::new(options, REQUESTS);
            let refused = connection.recv_timeout(PATIENCE).expect("an answer comes in time");
            let Err(ConnectionError::ConnectionRefused(code)) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(code, ConnectReturnCode::BadUserNamePassword);
        }
    };
}

fn numbers(count: u32) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn text(payload: &[u8]) -> String {
    String::from_utf8(payload.to_vec()).expect("what was sent is text")
}

mod v3_1_1 {
    use rumqttc::{
        Client, ConnectReturnCode, Connection, ConnectionError, Event, LastWill, MqttOptions,
        Packet, Publish, QoS, SubscribeReasonCode,
    };

    suite!(
        |options| {
            options.set_clean_session(false);
        },
        |id| LastWill::new(format!("gone/{id}"), id, QoS::ExactlyOnce, false)
    );
}

mod v5_0 {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{
        ConnectReturnCode, LastWill, Packet, Publish, PublishProperties, SubscribeProperties,
        SubscribeReasonCode,
    };
    use rumqttc::v5::{Client, Connection, ConnectionError, Event, MqttOptions};

    suite!(
        |options| {
            options.set_clean_start(false).set_session_expiry_interval(Some(60));
        },
        |id| LastWill::new(format!("gone/{id}"), id, QoS::ExactlyOnce, false, None)
    );

    #[test]
    fn properties_survive() {
        let broker = Broker::start_mqtt();
        let mut client = passing(&broker, "properties");
        let subscription = SubscribeProperties { id: Some(7), user_properties: Vec::new() };
        client
            .client
            .subscribe_with_properties("typed", QoS::AtLeastOnce, subscription)
            .expect("there is room");
        client.wait(|packet| matches!(packet, Packet::SubAck(_)));
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            response_topic: Some("typed/reply".to_owned()),
            correlation_data: Some(vec![0, 255].into()),
            user_properties: vec![("one".into(), "é".into()), ("one".into(), "2".into())],
            content_type: Some("text/plain".to_owned()),
            ..PublishProperties::default()
        };
        client
            .client
            .publish_with_properties("typed", QoS::AtLeastOnce, false, "x", properties.clone())
            .expect("there is room");
        assert_eq!(client.payloads(1), ["x"]);
        let expected = PublishProperties { subscription_identifiers: vec![7], ..properties };
        assert_eq!(client.came[0].properties, Some(expected));
    }
}
